//! Images in tests are judged by others: `fsck.erofs`, and the kernel that mounts them.

#![expect(
    clippy::disallowed_methods,
    reason = "tests start the tools that judge"
)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image; unmounted on drop.
pub(crate) struct Mounted {
    directory: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.directory.path()))
            .expect("what was mounted can be unmounted");
    }
}

/// Runs a tool; gives all it said.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().expect("the tool is installed");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

/// Has `fsck.erofs` look at an image.
pub(crate) fn fsck(image: &[u8]) {
    fsck_file(file_of(image).path());
}

/// As [`fsck`], for an image in a file.
pub(crate) fn fsck_file(image: &Path) {
    let checked = run(Command::new("fsck.erofs").arg(image));
    assert!(
        checked.as_ref().is_ok_and(|said| !said.contains("<E>")),
        "fsck.erofs: {checked:?}"
    );
}

fn file_of(image: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), image).unwrap();
    file
}

impl Mounted {
    /// Mounts an image with the kernel. Needs root and a kernel with EROFS: without them tests fail, they do not pass by.
    pub(crate) fn new(image: &[u8]) -> Self {
        Self::file(file_of(image))
    }

    /// As [`Self::new`], of an image in a file.
    pub(crate) fn file(image: tempfile::NamedTempFile) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "erofs", "-o", "ro"])
            .arg(image.path())
            .arg(directory.path());
        if let Err(refused) = run(&mut mount) {
            panic!(
                "the kernel does not mount the image (root and EROFS are needed for this test): {refused}"
            );
        }
        Self {
            directory,
            _image: image,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn stat(&self, path: &str) -> std::fs::Metadata {
        fs_err::symlink_metadata(self.at(path)).unwrap()
    }

    pub(crate) fn xattrs(&self, path: &str) -> BTreeMap<String, Vec<u8>> {
        let mut names = vec![0; 64 << 10];
        let length = rustix::fs::llistxattr(self.at(path), &mut names[..]).unwrap();
        let names = names[..length]
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty());
        let read = |name: &[u8]| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(self.at(path), name, &mut value[..]).unwrap();
            value.truncate(length);
            value
        };
        names
            .map(|name| (String::from_utf8(name.to_vec()).unwrap(), read(name)))
            .collect()
    }

    pub(crate) fn names(&self, path: &str) -> Vec<Vec<u8>> {
        let entries = fs_err::read_dir(self.at(path)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
            .collect();
        names.sort();
        names
    }

    /// All files, one line each, sorted by path: `a/ 755`, `a/f 644 1:2 x3 {user.x=y} "content"`, `l -> t`; owners other than 0:0, links
    /// other than one, and extended attributes only where there are any.
    pub(crate) fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut ahead = vec![String::new()];
        while let Some(path) = ahead.pop() {
            lines.push(self.line(&path));
            if self.stat(&path).is_dir() {
                let below = self.names(&path);
                let below = below.iter().map(|name| {
                    let name = String::from_utf8_lossy(name);
                    format!("{path}/{name}").trim_start_matches('/').to_owned()
                });
                ahead.extend(below);
            }
        }
        lines.sort();
        lines
    }

    fn line(&self, path: &str) -> String {
        let stat = self.stat(path);
        let shown = if path.is_empty() { "." } else { path };
        let mut line = match stat.is_dir() {
            true => format!("{shown}/ {:o}", stat.mode() & 0o7777),
            false if stat.is_symlink() => {
                let target = fs_err::read_link(self.at(path)).unwrap();
                format!("{shown} -> {}", target.display())
            }
            false => format!("{shown} {:o}", stat.mode() & 0o7777),
        };
        if (stat.uid(), stat.gid()) != (0, 0) {
            line += &format!(" {}:{}", stat.uid(), stat.gid());
        }
        if !stat.is_dir() && stat.nlink() != 1 {
            line += &format!(" x{}", stat.nlink());
        }
        for (name, value) in self.xattrs(path) {
            line += &format!(" {{{name}={}}}", String::from_utf8_lossy(&value));
        }
        if stat.is_file() {
            let content = fs_err::read(self.at(path)).unwrap();
            line += &format!(" {:?}", String::from_utf8_lossy(&content));
        }
        line
    }
}
