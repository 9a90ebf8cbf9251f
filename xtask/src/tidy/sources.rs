//! Rules on the text of files. Test code, from `#[cfg(test)]` on or in files of its own, is bound only where it says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Findings;
use crate::{shell, workspace};

/// The most lines of a source file, not counting its tests.
const MAX_LINES: usize = 500;

/// The only files with unsafe code.
const UNSAFE_FILES: &[&str] = &[
    "crates/image/src/memory/allocator.rs",
    "crates/vmm/src/ffi.rs",
    "crates/guest/src/sys.rs",
    "xtask/src/netns/ffi.rs",
    "tests/boot/src/bin/escape_probe/device.rs",
];

/// The only crate that reads the environment.
const ENVIRONMENT_CRATE: &str = "crates/cli";

/// Functions that read what belongs to the process and not to an argument.
const ENVIRONMENT_CALLS: &[&str] = &[
    "env::var",
    "env::args",
    "env::current_dir",
    "env::temp_dir",
    "env::home_dir",
];

/// A tracked file and its text.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    pub(super) text: String,
}

impl File {
    pub(super) fn is_rust(&self) -> bool {
        self.path
            .extension()
            .is_some_and(|extension| extension == "rs")
    }

    /// Part of what users run: in `crates`, neither a test, an example nor a build script.
    fn is_product(&self) -> bool {
        let mut parts = self.path.iter();
        let outside =
            |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs" || part == "examples";
        self.is_rust()
            && parts.next().is_some_and(|part| part == "crates")
            && !parts.any(outside)
            && self.path.file_name().is_some_and(|name| name != "build.rs")
    }

    /// The text before the tests.
    fn source(&self) -> &str {
        self.text
            .split("#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default()
    }

    pub(super) fn is(&self, path: &str) -> bool {
        self.path == Path::new(path)
    }

    /// Lines of code, numbered from 1; comments left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self
            .source()
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path.display())
    }
}

/// Every text file git knows, new ones included.
///
/// # Errors
/// When this is no git checkout.
pub(crate) fn tracked_files() -> Result<Vec<File>> {
    let root = workspace::root();
    let mut command = Command::new("git");
    command.current_dir(&root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let names = shell::output(&mut command)?;
    let paths = names.split('\0').filter(|name| !name.is_empty());
    let files = paths.filter_map(|name| {
        let text = fs_err::read_to_string(root.join(name)).ok()?;
        Some(File {
            path: name.into(),
            text,
        })
    });
    Ok(files.collect())
}

pub(crate) fn lengths(files: &[File]) -> Result<Findings> {
    each(files, File::is_rust, |file, found| {
        let is_tests =
            file.path.ends_with("tests.rs") || file.path.iter().any(|part| part == "tests");
        let lines = file.source().lines().count();
        if lines > MAX_LINES && !is_tests {
            found(format!(
                "{}: {lines} lines, at most {MAX_LINES}",
                file.path.display()
            ));
        }
    })
}

pub(crate) fn unsafe_code(files: &[File]) -> Result<Findings> {
    each(files, File::is_rust, |file, found| {
        let exempt = UNSAFE_FILES.iter().any(|path| file.is(path));
        let is_root = ["lib.rs", "main.rs"]
            .iter()
            .any(|name| file.path.ends_with(Path::new("src").join(name)));
        let may_hold_unsafe = UNSAFE_FILES.iter().any(|path| {
            file.path
                .parent()
                .is_some_and(|folder| Path::new(path).starts_with(folder))
        });
        if is_root && !may_hold_unsafe && !file.text.contains("#![forbid(unsafe_code)]") {
            found(file.at(1, "no #![forbid(unsafe_code)]"));
        }
        for (number, line) in file.code().filter(|_| !exempt) {
            if holds_unsafe(line) {
                found(file.at(number, "unsafe code outside its file"));
            }
        }
    })
}

const KEYWORD: &str = "unsafe";

fn holds_unsafe(line: &str) -> bool {
    let spaced = line.replace('{', " { ");
    let separates = |c: char| !(c.is_alphanumeric() || c == '_' || c == '{');
    let mut words = spaced.split(separates).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word == KEYWORD {
            let next = words.next().unwrap_or_default();
            return ["{", "fn", "impl", "extern", "trait"].contains(&next);
        }
    }
    line.contains(concat!("#[", "unsafe("))
}

pub(crate) fn environment_reads(files: &[File]) -> Result<Findings> {
    each(files, File::is_product, |file, found| {
        if file.path.starts_with(ENVIRONMENT_CRATE) {
            return;
        }
        for (number, line) in file.code() {
            if ENVIRONMENT_CALLS.iter().any(|call| line.contains(call)) {
                found(file.at(number, "reads the environment"));
            }
        }
    })
}

pub(crate) fn open_ends(files: &[File]) -> Result<Findings> {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    each(files, File::is_rust, |file, found| {
        for (index, line) in file.text.lines().enumerate() {
            let mut comment = line.split("//").skip(1);
            let open = comment.any(|comment| {
                let first = comment.trim_start_matches(['/', '!', ' ']);
                words
                    .iter()
                    .any(|word| first.starts_with(word) && !first[word.len()..].starts_with("(#"))
            });
            if open {
                found(file.at(index + 1, "names no issue, as (#N)"));
            }
        }
    })
}

pub(crate) fn foreign_places(files: &[File]) -> Result<Findings> {
    let place = concat!("/work", "/shared");
    each(
        files,
        |_| true,
        |file, found| {
            for (index, line) in file.text.lines().enumerate() {
                if line.contains(place) {
                    found(file.at(index + 1, "names a place outside the project"));
                }
            }
        },
    )
}

/// Looks at each file `of` wants; the look gets a function that takes breaches.
fn each(
    files: &[File],
    of: impl Fn(&File) -> bool,
    look: impl Fn(&File, &mut dyn FnMut(String)),
) -> Result<Findings> {
    let mut findings = Findings::default();
    for file in files.iter().filter(|file| of(file)) {
        findings.checked += 1;
        look(file, &mut |breach| findings.breaches.push(breach));
    }
    anyhow::ensure!(findings.checked > 0, "there is no file to check");
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Vec<File> {
        vec![File {
            path: path.into(),
            text: text.to_owned(),
        }]
    }

    #[test]
    fn counts_lines_up_to_the_tests() {
        let code = "x\n".repeat(MAX_LINES);
        let fits = file(
            "crates/a/src/b.rs",
            &format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}"),
        );
        assert!(lengths(&fits).unwrap().breaches.is_empty());
        let long = file("crates/a/src/b.rs", &format!("{code}x\n"));
        assert_eq!(lengths(&long).unwrap().breaches.len(), 1);
        let tests = file("crates/a/src/b/tests.rs", &format!("{code}x\n"));
        assert!(lengths(&tests).unwrap().breaches.is_empty());
    }

    #[test]
    fn finds_unsafe_code_but_not_the_word() {
        for code in [
            "unsafe { f() }",
            "let x = unsafe{",
            "pub unsafe fn f()",
            "unsafe impl Send for X {}",
        ] {
            assert!(holds_unsafe(code), "{code}");
        }
        for code in [
            "let unsafe_code = 1;",
            "#![forbid(unsafe_code)]",
            "print(\"unsafe things\")",
        ] {
            assert!(!holds_unsafe(code), "{code}");
        }
        let in_its_file = file("crates/vmm/src/ffi.rs", "unsafe { f() }");
        assert!(unsafe_code(&in_its_file).unwrap().breaches.is_empty());
        let elsewhere = file("crates/vmm/src/child.rs", "unsafe { f() }");
        assert_eq!(unsafe_code(&elsewhere).unwrap().breaches.len(), 1);
    }

    #[test]
    fn each_root_forbids_unsafe_code() {
        assert_eq!(
            unsafe_code(&file("crates/a/src/lib.rs", ""))
                .unwrap()
                .breaches
                .len(),
            1
        );
        let forbids = file("crates/a/src/lib.rs", "#![forbid(unsafe_code)]");
        assert!(unsafe_code(&forbids).unwrap().breaches.is_empty());
    }

    #[test]
    fn only_the_command_reads_the_environment() {
        let read = "let home = std::env::var_os(\"HOME\");";
        let breaches =
            |path: &str| environment_reads(&file(path, read)).map(|found| found.breaches.len());
        assert_eq!(breaches("crates/a/src/lib.rs").unwrap(), 1);
        assert_eq!(breaches("crates/cli/src/env_vars.rs").unwrap(), 0);
        assert!(breaches("tests/support/src/lib.rs").is_err());
    }

    #[test]
    fn open_ends_name_an_issue() {
        let word = concat!("TO", "DO");
        let open = file(
            "crates/a/src/lib.rs",
            &format!("x(); // {word}: later\n// {word}(#7): fine\n"),
        );
        assert_eq!(open_ends(&open).unwrap().breaches.len(), 1);
    }
}
