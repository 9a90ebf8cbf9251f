//! What a session leaves otherwise than it was is told, whatever it makes of the tree; what git runs is protected.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

struct Session {
    directory: tempfile::TempDir,
    watch: Watch,
}

impl Session {
    /// A session in a project with these files, which has begun.
    fn with(files: &[(&str, &str)], logins: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            write(directory.path(), path, text);
        }
        let settings = IntegritySettings {
            login_files: logins
                .iter()
                .map(|name| directory.path().join(name))
                .collect(),
            git: GitAccess::ReadOnly,
        };
        let watch = Watch::begin(directory.path(), &settings);
        watch.settle("5e551014");
        Self { directory, watch }
    }

    fn write(&self, path: &str, text: &str) {
        write(self.directory.path(), path, text);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn told(&self) -> Vec<String> {
        let (report, session) = self.watch.finish().unwrap();
        assert_eq!(session, "5e551014");
        let told = |change: &Change| {
            let path = change.path.strip_prefix(self.directory.path());
            format!("{} {}", change.kind, path.unwrap_or(&change.path).display())
        };
        let gaps = report.gaps.iter().map(ToString::to_string);
        report.changes.iter().map(told).chain(gaps).collect()
    }
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

const REPOSITORY: &[(&str, &str)] = &[
    (".git/HEAD", "ref: refs/heads/main"),
    (".git/config", "[core]"),
    (".git/hooks/pre-commit.sample", "#!/bin/sh"),
    ("CLAUDE.md", "Be brief."),
    ("src/main.rs", "fn main() {}"),
];

#[test]
fn what_was_changed_made_and_removed_is_told_and_nothing_else() {
    let session = Session::with(REPOSITORY, &[]);
    session.write(".git/config", "[core]\n\tfsmonitor = ./evil");
    session.write(".git/hooks/pre-commit", "#!/bin/sh\nevil");
    session.write(".claude/settings.json", "{}");
    session.write("src/main.rs", "fn main() { work() }");
    session.write(".git/index", "work");
    fs_err::remove_file(session.path("CLAUDE.md")).unwrap();
    assert_eq!(
        session.told(),
        [
            "new .claude/settings.json",
            "changed .git/config",
            "new .git/hooks/pre-commit",
            "removed CLAUDE.md",
        ]
    );
}

#[test]
fn a_session_that_changes_nothing_is_not_told_of() {
    let session = Session::with(REPOSITORY, &[]);
    assert_eq!(session.told(), Vec::<String>::new());
    assert_eq!(session.watch.finish(), None, "told once");
}

#[test]
fn a_file_that_becomes_executable_a_link_a_pipe_or_is_behind_a_link_has_changed() {
    let session = Session::with(
        &[
            (".git/hooks/a", "#!/bin/sh"),
            (".claude/settings.json", "{}"),
            ("AGENTS.md", "x"),
            (".mcp.json", "{}"),
            ("elsewhere/settings.json", "{}"),
        ],
        &[],
    );
    let hook = session.path(".git/hooks/a");
    fs_err::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    fs_err::remove_dir_all(session.path(".claude")).unwrap();
    symlink("elsewhere", session.path(".claude")).unwrap();
    fs_err::remove_file(session.path("AGENTS.md")).unwrap();
    symlink("/etc/passwd", session.path("AGENTS.md")).unwrap();
    fs_err::remove_file(session.path(".mcp.json")).unwrap();
    let fifo = session.path(".mcp.json");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(
        session.told(),
        [
            "new .claude",
            "removed .claude/settings.json",
            "changed .git/hooks/a",
            "changed .mcp.json",
            "changed AGENTS.md",
        ]
    );
}

#[test]
fn submodules_are_watched_for_what_git_runs() {
    let session = Session::with(
        &[
            (".git/modules/lib/a/HEAD", "x"),
            (".git/modules/lib/a/config", "x"),
        ],
        &[],
    );
    session.write(".git/modules/lib/a/config", "y");
    session.write(".git/modules/lib/a/HEAD", "y");
    session.write(".git/modules/lib/a/hooks/post-checkout", "y");
    assert_eq!(
        session.told(),
        [
            "changed .git/modules/lib/a/config",
            "new .git/modules/lib/a/hooks/post-checkout",
        ]
    );
}

#[test]
fn a_tree_that_is_too_large_is_told_and_does_not_take_long() {
    let session = Session::with(&[], &[]);
    for index in 0..3000 {
        session.write(&format!(".claude/x/{index}"), "x");
    }
    let large = fs_err::File::create(session.path("AGENTS.md")).unwrap();
    large.set_len(1 << 40).unwrap();
    let told = session.told();
    assert_eq!(told.last().unwrap(), fingerprint::TOO_MUCH);
    assert!(told.len() <= MAX_TOLD + 1);
}

#[test]
fn a_refreshed_login_is_as_it_was_and_one_with_other_fields_or_mode_is_not() {
    let login = r#"{"oauth":{"accessToken":"a","expiresAt":1,"scopes":["x"]}}"#;
    let files = [("l.json", login), ("m.json", login), ("gh.yml", "token: a")];
    let session = Session::with(&files, &["l.json", "m.json", "gh.yml", "none"]);
    session.write(
        "l.json",
        r#"{"oauth":{"accessToken":"b","expiresAt":2,"scopes":["x","y"]}}"#,
    );
    assert_eq!(session.told(), Vec::<String>::new());

    let session = Session::with(&files, &["l.json", "m.json", "gh.yml", "none"]);
    session.write(
        "l.json",
        r#"{"oauth":{"accessToken":"","expiresAt":2,"scopes":[]}}"#,
    );
    let readable = std::fs::Permissions::from_mode(0o666);
    fs_err::set_permissions(session.path("m.json"), readable).unwrap();
    session.write("gh.yml", "token: b");
    session.write("none", "{}");
    assert_eq!(
        session.told(),
        [
            "changed gh.yml",
            "changed l.json",
            "changed m.json",
            "new none"
        ]
    );
}

#[test]
fn changes_are_in_the_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.jsonl");
    let report = IntegrityReport {
        changes: vec![Change {
            path: ".git/hooks/\u{1b}[2J".into(),
            kind: ChangeKind::New,
        }],
        ..IntegrityReport::default()
    };
    record(&report, &log, ("s", "p"));
    let text = fs_err::read_to_string(&log).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = ("integrity", "new", ".git/hooks/\u{1b}[2J");
    let field = |name: &str| line[name].as_str().unwrap().to_owned();
    assert_eq!(
        (&*field("kind"), &*field("change"), &*field("path")),
        expected
    );
}

fn protected(files: &[&str]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    for path in files {
        write(directory.path(), path, "x");
    }
    protected_paths(directory.path())
}

#[test]
fn what_git_runs_is_protected_where_there_is_a_repository() {
    assert_eq!(protected(&["README"]), Vec::<String>::new());
    assert_eq!(protected(&[".git"]), [".git"]);
    let own = [
        ".git/hooks",
        ".git/config",
        ".git/config.worktree",
        ".git/commondir",
    ];
    assert_eq!(protected(&[".git/HEAD"]), own);
    let with_modules = protected(&[
        ".git/HEAD",
        ".git/modules/lib/a/HEAD",
        ".git/modules/lib/a/modules/b/HEAD",
    ]);
    assert!(with_modules.contains(&".git/modules/lib/a/hooks".to_owned()));
    assert!(with_modules.contains(&".git/modules/lib/a/modules/b/config".to_owned()));
    assert_eq!(with_modules.len(), 12);
}

#[test]
fn more_submodules_than_can_be_protected_one_by_one_are_protected_together() {
    let names: Vec<String> = (0..20).map(|i| format!(".git/modules/{i}/HEAD")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push(".git/HEAD");
    assert_eq!(protected(&names).last().unwrap(), ".git/modules");
}
