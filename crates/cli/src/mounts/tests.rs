use std::collections::BTreeMap;
use std::time::SystemTime;

use agent_vm_launch::ShareAccess;

use super::*;

struct Tree {
    _guard: tempfile::TempDir,
    root: PathBuf,
    environment: HostEnvironment,
}

fn tree() -> Tree {
    let guard = tempfile::tempdir().unwrap();
    let root = fs_err::canonicalize(guard.path()).unwrap();
    for directory in ["home/docs", "project"] {
        fs_err::create_dir_all(root.join(directory)).unwrap();
    }
    fs_err::write(root.join("home/file"), "x").unwrap();
    let environment = HostEnvironment {
        home: root.join("home"),
        vars: BTreeMap::new(),
        now: SystemTime::UNIX_EPOCH,
    };
    Tree {
        _guard: guard,
        root,
        environment,
    }
}

impl Tree {
    fn resolve(&self, specs: &[&str]) -> Result<Vec<Mount>, MountError> {
        let specs: Vec<MountSpec> = specs.iter().map(|spec| spec.parse().unwrap()).collect();
        let project = self.root.join("project");
        resolve(&specs, &project, &project, &self.environment)
    }

    fn refusal(&self, specs: &[&str]) -> String {
        let text = self.resolve(specs).unwrap_err().to_string();
        text.replace(self.root.to_str().unwrap(), "ROOT")
    }
}

#[test]
fn home_and_relative_sources_are_made_absolute() {
    let tree = tree();
    let mounts = tree
        .resolve(&["~/docs:/docs:ro", "~/file", "../home/docs"])
        .unwrap();
    assert_eq!(mounts[0].host, tree.root.join("home/docs"));
    assert_eq!(
        (mounts[0].guest.to_str(), mounts[0].access),
        (Some("/docs"), ShareAccess::ReadOnly)
    );
    assert_eq!(
        (mounts[1].kind, &mounts[1].guest),
        (ShareKind::File, &tree.root.join("home/file"))
    );
    assert_eq!(mounts[2].guest, tree.root.join("home/docs"));
}

#[test]
fn symlinked_source_keeps_its_typed_place_in_the_guest() {
    let tree = tree();
    std::os::unix::fs::symlink(tree.root.join("home/docs"), tree.root.join("link")).unwrap();
    let spec = tree.root.join("link").display().to_string();
    let mounts = tree.resolve(&[&spec]).unwrap();
    assert_eq!(mounts[0].host, tree.root.join("home/docs"));
    assert_eq!(mounts[0].guest, tree.root.join("link"));
}

#[test]
fn missing_source_is_named() {
    assert_eq!(
        tree().refusal(&["/no/such/directory"]),
        "cannot mount /no/such/directory"
    );
}

#[test]
fn pipe_is_refused() {
    let tree = tree();
    let path = tree.root.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let refusal = tree.refusal(&[path.to_str().unwrap()]);
    assert_eq!(
        refusal,
        "cannot mount ROOT/pipe: it is a pipe, not a directory or regular file"
    );
}

#[test]
fn guest_keeps_its_own_paths() {
    let tree = tree();
    for guest in ["/", "/proc", "/dev/x", "/sys/", "//"] {
        let refusal = tree.refusal(&[&format!("~/docs:{guest}")]);
        assert!(
            refusal.ends_with("the guest needs that path itself"),
            "{guest}: {refusal}"
        );
    }
    assert!(
        tree.refusal(&["~/docs:/a/../b"])
            .ends_with("the guest path has `..`")
    );
    assert!(tree.resolve(&["~/docs:/devices"]).is_ok());
}

#[test]
fn two_mounts_at_one_place_are_refused() {
    let tree = tree();
    assert_eq!(
        tree.refusal(&["~/docs:/a", "~/file:/a/"]),
        "cannot mount ~/file:/a/ at /a: ~/docs:/a is there already"
    );
    let project = format!("~/docs:{}", tree.root.join("project").display());
    assert!(
        tree.refusal(&[&project])
            .ends_with("the project is there already")
    );
}

#[test]
fn share_that_holds_real_tokens_is_refused() {
    let tree = tree();
    fs_err::create_dir_all(tree.root.join("home/.claude")).unwrap();
    fs_err::write(tree.root.join("home/.claude/.credentials.json"), "{}").unwrap();
    for spec in ["~", "~/.claude:/c:ro", "~/.claude/.credentials.json"] {
        let refusal = tree.refusal(&[spec]);
        assert!(
            refusal.ends_with("tokens in ROOT/home/.claude/.credentials.json"),
            "{refusal}"
        );
    }
    assert!(tree.resolve(&["~/docs"]).is_ok());
    let home = tree.root.join("home");
    assert!(resolve(&[], &home, &home, &tree.environment).is_err());
}

#[test]
fn symlinked_token_file_is_protected_where_it_really_lies() {
    let tree = tree();
    fs_err::create_dir_all(tree.root.join("home/.claude")).unwrap();
    fs_err::write(tree.root.join("home/docs/token"), "{}").unwrap();
    let link = tree.root.join("home/.claude/.credentials.json");
    std::os::unix::fs::symlink(tree.root.join("home/docs/token"), link).unwrap();
    assert!(
        tree.refusal(&["~/docs"])
            .ends_with("tokens in ROOT/home/docs/token")
    );
}
