//! Which project a directory belongs to: the git toplevel that holds it, else the directory.
//!
//! Must hold: git is never run (the configuration of an untrusted tree would run with it); only the
//! presence and owner of `.git` is looked at. As git does, the search ends at a file system boundary
//! and passes over a repository of another user, who could have planted it above (`/tmp/.git`).

use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Why a directory cannot be a project.
#[derive(Debug, Error)]
pub enum ProjectError {
    /// The current directory is gone or unreadable.
    #[error("cannot resolve directory {}", path.display())]
    Unresolvable {
        /// The directory as given.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The directory's path is not UTF-8, so the guest cannot have it at the same path.
    #[error("the path {path:?} is not valid UTF-8")]
    NotUtf8 {
        /// The directory.
        path: PathBuf,
    },
    /// The project would be `/`: the whole host.
    #[error("the project directory would be /, the whole host")]
    FileSystemRoot,
}

/// Stable name of a project: 16 hexadecimal digits of the SHA-256 of its path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(String);

impl ProjectId {
    fn of(root: &Path) -> Self {
        let digest = Sha256::digest(root.as_os_str().as_bytes());
        let mut text = String::with_capacity(16);
        for byte in digest.iter().take(8) {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A directory tree the agent works on. Paths are absolute, canonical, UTF-8 and not `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    root: PathBuf,
    working_directory: PathBuf,
    id: ProjectId,
}

impl Project {
    /// Finds the project that holds `cwd`.
    ///
    /// # Errors
    /// [`ProjectError`] when `cwd` does not exist, is not UTF-8, or the project would be `/`.
    pub fn discover(cwd: &Path) -> Result<Self, ProjectError> {
        let working_directory = canonical(cwd)?;
        let root = git_toplevel(&working_directory)?.unwrap_or_else(|| working_directory.clone());
        Self::rooted(root, working_directory)
    }

    /// Takes `directory` itself, whatever repository it may lie in.
    ///
    /// # Errors
    /// As [`Project::discover`].
    pub fn exactly(directory: &Path) -> Result<Self, ProjectError> {
        let root = canonical(directory)?;
        Self::rooted(root.clone(), root)
    }

    fn rooted(root: PathBuf, working_directory: PathBuf) -> Result<Self, ProjectError> {
        if root.parent().is_none() {
            return Err(ProjectError::FileSystemRoot);
        }
        let id = ProjectId::of(&root);
        Ok(Self {
            root,
            working_directory,
            id,
        })
    }

    /// The directory that is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the agent starts: `root` or below it.
    #[must_use]
    pub fn working_directory(&self) -> &Path {
        &self.working_directory
    }

    /// Name of the project in the state directory.
    #[must_use]
    pub fn id(&self) -> &ProjectId {
        &self.id
    }
}

fn canonical(directory: &Path) -> Result<PathBuf, ProjectError> {
    let path = fs_err::canonicalize(directory).map_err(|source| ProjectError::Unresolvable {
        path: directory.to_owned(),
        source,
    })?;
    if path.to_str().is_none() {
        return Err(ProjectError::NotUtf8 { path });
    }
    Ok(path)
}

fn git_toplevel(directory: &Path) -> Result<Option<PathBuf>, ProjectError> {
    let device = |path: &Path| {
        fs_err::metadata(path)
            .map(|metadata| metadata.dev())
            .map_err(|source| ProjectError::Unresolvable {
                path: path.to_owned(),
                source,
            })
    };
    let start_device = device(directory)?;
    for candidate in directory.ancestors() {
        if device(candidate)? != start_device {
            return Ok(None);
        }
        if holds_repository(candidate) && candidate.parent().is_some() {
            return Ok(Some(candidate.to_owned()));
        }
    }
    Ok(None)
}

/// Whether `directory/.git` is a repository (a directory with `HEAD`) or points to one (a file, as
/// in worktrees and submodules), of this user or of root.
fn holds_repository(directory: &Path) -> bool {
    let git = directory.join(".git");
    let Ok(metadata) = fs_err::metadata(&git) else {
        return false;
    };
    let user = rustix::process::geteuid().as_raw();
    let trusted = user == 0 || metadata.uid() == user || metadata.uid() == 0;
    trusted && (metadata.is_file() || git.join("HEAD").symlink_metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(path: &Path) {
        fs_err::create_dir_all(path.join(".git")).unwrap();
        fs_err::write(path.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    }

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = fs_err::canonicalize(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn project_is_the_git_toplevel_above_the_directory() {
        let (_guard, root) = tree();
        repository(&root.join("repo"));
        fs_err::create_dir_all(root.join("repo/a/b")).unwrap();
        let project = Project::discover(&root.join("repo/a/b")).unwrap();
        assert_eq!(project.root(), root.join("repo"));
        assert_eq!(project.working_directory(), root.join("repo/a/b"));
    }

    #[test]
    fn inner_repository_wins_over_outer() {
        let (_guard, root) = tree();
        repository(&root);
        repository(&root.join("inner"));
        assert_eq!(
            Project::discover(&root.join("inner")).unwrap().root(),
            root.join("inner")
        );
    }

    #[test]
    fn worktree_file_marks_a_toplevel() {
        let (_guard, root) = tree();
        fs_err::create_dir_all(root.join("w/sub")).unwrap();
        fs_err::write(root.join("w/.git"), "gitdir: /elsewhere/.git/worktrees/w\n").unwrap();
        assert_eq!(
            Project::discover(&root.join("w/sub")).unwrap().root(),
            root.join("w")
        );
    }

    #[test]
    fn directory_without_repository_is_its_own_project() {
        let (_guard, root) = tree();
        fs_err::create_dir_all(root.join("plain/sub")).unwrap();
        assert_eq!(
            Project::discover(&root.join("plain/sub")).unwrap().root(),
            root.join("plain/sub")
        );
    }

    #[test]
    fn empty_git_directory_is_no_repository() {
        let (_guard, root) = tree();
        fs_err::create_dir_all(root.join("p/.git")).unwrap();
        fs_err::create_dir_all(root.join("p/sub")).unwrap();
        assert_eq!(
            Project::discover(&root.join("p/sub")).unwrap().root(),
            root.join("p/sub")
        );
    }

    #[test]
    fn exact_project_ignores_the_repository_around_it() {
        let (_guard, root) = tree();
        repository(&root);
        fs_err::create_dir_all(root.join("inner")).unwrap();
        assert_eq!(
            Project::exactly(&root.join("inner")).unwrap().root(),
            root.join("inner")
        );
    }

    #[test]
    fn symlinked_directory_is_resolved() {
        let (_guard, root) = tree();
        repository(&root.join("repo"));
        std::os::unix::fs::symlink(root.join("repo"), root.join("link")).unwrap();
        let project = Project::discover(&root.join("link")).unwrap();
        assert_eq!(project.root(), root.join("repo"));
    }

    #[test]
    fn any_utf8_path_is_a_project() {
        let (_guard, root) = tree();
        let path = root.join("мой проект 🦀");
        fs_err::create_dir_all(&path).unwrap();
        assert_eq!(Project::discover(&path).unwrap().root(), path);
    }

    #[test]
    fn refuses_a_path_that_is_not_utf8() {
        let (_guard, root) = tree();
        let path = root.join(std::ffi::OsStr::from_bytes(b"\xff"));
        fs_err::create_dir_all(&path).unwrap();
        assert!(matches!(
            Project::discover(&path),
            Err(ProjectError::NotUtf8 { .. })
        ));
    }

    #[test]
    fn refuses_the_file_system_root() {
        assert!(matches!(
            Project::discover(Path::new("/")),
            Err(ProjectError::FileSystemRoot)
        ));
    }

    #[test]
    fn names_a_missing_directory() {
        let error = Project::discover(Path::new("/nonexistent/x")).unwrap_err();
        assert_eq!(error.to_string(), "cannot resolve directory /nonexistent/x");
    }

    #[test]
    fn id_depends_on_the_path_only() {
        let (_guard, root) = tree();
        repository(&root.join("a"));
        fs_err::create_dir_all(root.join("a/sub")).unwrap();
        fs_err::create_dir_all(root.join("b")).unwrap();
        let from_root = Project::discover(&root.join("a")).unwrap();
        let from_sub = Project::discover(&root.join("a/sub")).unwrap();
        let other = Project::discover(&root.join("b")).unwrap();
        assert_eq!(from_root.id(), from_sub.id());
        assert_ne!(from_root.id(), other.id());
        assert_eq!(from_root.id().as_str().len(), 16);
    }
}
