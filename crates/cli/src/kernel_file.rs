//! Where the guest kernel is: named by a variable, installed beside this program, or fetched into the
//! build directory of a source tree. Never searched by `PATH` or in system directories.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// File name beside an installed program.
const FILE_NAME: &str = "libkrunfw.so";

/// There is no kernel.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum KernelMissing {
    /// The variable names a file that is not there.
    #[error("the guest kernel {} named by AGENT_VM_KERNEL does not exist", path.display())]
    Named { path: PathBuf },
    /// None of the usual places has one.
    #[error("the guest kernel is not installed: there is no {}", expected.display())]
    NotInstalled {
        /// Where it would be looked for first.
        expected: PathBuf,
    },
}

/// Finds the kernel.
///
/// # Errors
/// [`KernelMissing`].
pub(crate) fn locate(
    named: Option<PathBuf>,
    program: Option<&Path>,
) -> Result<PathBuf, KernelMissing> {
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(KernelMissing::Named { path })
        };
    }
    let directory = program
        .and_then(Path::parent)
        .unwrap_or(Path::new("/usr/bin"));
    let beside = directory.join(FILE_NAME);
    let prefix = directory.parent().unwrap_or(directory);
    let installed = prefix.join("lib/agent-vm").join(FILE_NAME);
    if beside.is_file() {
        return Ok(beside);
    }
    if installed.is_file() {
        return Ok(installed);
    }
    fetched(directory).ok_or(KernelMissing::NotInstalled {
        expected: installed,
    })
}

/// `TARGET/vendor/VERSION-libkrunfw.so.*`, for a program in `TARGET/PROFILE` or, a test, in
/// `TARGET/PROFILE/deps`; the greatest name when there are several.
fn fetched(directory: &Path) -> Option<PathBuf> {
    let vendor = directory
        .ancestors()
        .skip(1)
        .take(2)
        .map(|target| target.join("vendor"));
    let files = vendor
        .filter_map(|vendor| fs_err::read_dir(vendor).ok())
        .flatten()
        .flatten();
    let kernel = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains("-libkrunfw.so") && path.is_file()
    };
    files.map(|entry| entry.path()).filter(kernel).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs_err::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
            fs_err::write(dir.path().join(file), "").unwrap();
        }
        dir
    }

    fn found(files: &[&str], program: &str) -> Option<String> {
        let dir = tree(files);
        let path = locate(None, Some(&dir.path().join(program))).ok()?;
        Some(path.strip_prefix(dir.path()).unwrap().display().to_string())
    }

    #[test]
    fn places_are_tried_in_order() {
        let all = [
            "bin/libkrunfw.so",
            "lib/agent-vm/libkrunfw.so",
            "vendor/6.12-libkrunfw.so.5",
        ];
        for first in 0..3 {
            assert_eq!(
                found(&all[first..], "bin/agent-vm").as_deref(),
                Some(all[first])
            );
        }
        assert_eq!(found(&["vendor/unrelated"], "bin/agent-vm"), None);
        assert_eq!(
            found(&all[2..], "debug/deps/cli-123").as_deref(),
            Some(all[2])
        );
    }

    #[test]
    fn named_kernel_wins_and_must_exist() {
        let dir = tree(&["k", "bin/libkrunfw.so"]);
        let program = dir.path().join("bin/agent-vm");
        assert_eq!(
            locate(Some(dir.path().join("k")), Some(&program)),
            Ok(dir.path().join("k"))
        );
        let missing = dir.path().join("none");
        assert_eq!(
            locate(Some(missing.clone()), Some(&program)),
            Err(KernelMissing::Named { path: missing })
        );
    }
}
