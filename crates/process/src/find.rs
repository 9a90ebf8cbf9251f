//! Looks a program up in a search path given by the caller, never in this process' environment.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// The first executable regular file called `name` in the directories of `search_path`
/// (colon-separated, as in `PATH`).
///
/// Relative and empty entries are skipped: a program must not depend on the working directory,
/// which may be a project the user does not trust. `name` must be a plain file name.
#[must_use]
pub fn find_program(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    std::env::split_paths(search_path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable_file(candidate))
}

fn is_executable_file(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory_with(name: &str, mode: u32) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        fs_err::write(&file, "#!/bin/true\n").unwrap();
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        directory
    }

    #[test]
    fn finds_first_executable_in_order() {
        let plain = directory_with("tool", 0o644);
        let good = directory_with("tool", 0o755);
        let later = directory_with("tool", 0o755);
        let path = std::env::join_paths([plain.path(), good.path(), later.path()]).unwrap();
        assert_eq!(find_program("tool", &path), Some(good.path().join("tool")));
    }

    #[test]
    fn ignores_relative_and_empty_entries() {
        assert_eq!(find_program("Cargo.toml", OsStr::new("::.:src")), None);
        assert_eq!(find_program("sh", OsStr::new("bin:")), None);
    }

    #[test]
    fn refuses_names_with_a_slash() {
        assert_eq!(find_program("../bin/sh", OsStr::new("/usr/bin")), None);
        assert_eq!(find_program("", OsStr::new("/usr/bin")), None);
    }
}
