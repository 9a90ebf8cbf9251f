//! What of a repository is read-only in the guest.

use std::path::Path;

use super::watched::{GIT_RUNS, SUBMODULES};

/// Most submodules that are protected one by one; with more, no submodule's repository can be written. A mount has at most
/// `vmm::MAX_PROTECTED` such paths.
const MAX_SUBMODULES: usize = 6;
/// How deep repositories of submodules are looked for below `.git/modules`: names have slashes, submodules have submodules.
const MAX_DEPTH: usize = 8;
/// Most directories that are looked at for that.
const MAX_LOOKED_AT: usize = 256;

/// Paths relative to the project that must stay as they are, also where there is nothing. Without a repository there are
/// none: a new one can be made.
#[must_use]
pub(crate) fn protected_paths(project: &Path) -> Vec<String> {
    let git = project.join(".git");
    let Ok(kind) = fs_err::symlink_metadata(&git) else {
        return Vec::new();
    };
    if !kind.is_dir() {
        // A file that says where the repository is (worktrees, submodules), or a link to it.
        let linked = GIT_RUNS.iter().map(|name| format!(".git/{name}"));
        return if kind.is_symlink() && git.is_dir() {
            [".git".to_owned()].into_iter().chain(linked).collect()
        } else {
            vec![".git".to_owned()]
        };
    }
    let mut protected = runs(".git");
    let mut search = Search::default();
    search.below(&project.join(SUBMODULES), SUBMODULES, 0);
    if search.incomplete || search.found.len() > MAX_SUBMODULES {
        protected.push(SUBMODULES.to_owned());
    } else {
        protected.extend(search.found.iter().flat_map(|module| runs(module)));
    }
    protected
}

fn runs(repository: &str) -> Vec<String> {
    let names = GIT_RUNS.iter();
    names.map(|name| format!("{repository}/{name}")).collect()
}

/// A bounded search for repositories of submodules.
#[derive(Default)]
struct Search {
    found: Vec<String>,
    looked_at: usize,
    incomplete: bool,
}

impl Search {
    fn below(&mut self, directory: &Path, name: &str, depth: usize) {
        let real = fs_err::symlink_metadata(directory).is_ok_and(|kind| kind.is_dir());
        if !real {
            return;
        }
        self.looked_at += 1;
        if depth > MAX_DEPTH || self.looked_at > MAX_LOOKED_AT {
            self.incomplete = true;
            return;
        }
        let Ok(entries) = fs_err::read_dir(directory) else {
            self.incomplete = true;
            return;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let Ok(entry_name) = entry.file_name().into_string() else {
                self.incomplete = true;
                continue;
            };
            let (path, name) = (entry.path(), format!("{name}/{entry_name}"));
            if path.join("HEAD").exists() {
                self.below(&path.join("modules"), &format!("{name}/modules"), depth + 2);
                self.found.push(name);
            } else {
                self.below(&path, &name, depth + 1);
            }
            if self.incomplete {
                return;
            }
        }
    }
}
