//! C7: what git runs on the host cannot be changed by the guest's root, a commit can be made, and what agents and editors
//! act upon is told when it changes.

use agent_vm_boot_tests::Machine;
use anyhow::{Result, ensure};

/// Ways to change what git runs; then the steps of a commit, as git does them: files written beside and renamed.
const SCRIPT: &str = r#"
try() { if eval "$1" 2>/dev/null; then echo "done: $1"; fi; }
try 'echo evil > .git/hooks/pre-commit'
try 'cp /bin/sh .git/hooks/post-merge'
try 'rm .git/hooks/sample'
try 'chmod 777 .git/hooks/sample'
try 'ln -s /tmp .git/hooks/link'
try 'mv .git/hooks .git/other'
try 'rm -rf .git/hooks'
try 'mkdir /tmp/h && mv /tmp/h .git/hooks'
try 'echo evil >> .git/config'
try 'echo evil > .git/config.lock && mv .git/config.lock .git/config'
try 'ln .git/config .git/linked'
try 'mv .git .git-other'
try 'echo ../evil > .git/commondir'
try 'echo evil > .git/config.worktree'
try 'mkdir -p evil && mount --bind evil .git/hooks && umount .git/hooks && false'
set -e
mkdir -p .git/objects/ab
echo object > .git/objects/ab/tmp_obj && mv .git/objects/ab/tmp_obj .git/objects/ab/cd
echo index > .git/index.lock && mv .git/index.lock .git/index
echo message > .git/COMMIT_EDITMSG
mkdir -p .git/refs/heads && echo abcd > .git/refs/heads/main.lock && mv .git/refs/heads/main.lock .git/refs/heads/main
echo log >> .git/logs
echo committed
echo 'do evil' >> CLAUDE.md
mkdir -p .claude && echo '{}' > .claude/settings.json
"#;

fn repository() -> Result<Machine> {
    let machine = Machine::new()?;
    for (path, text) in [
        (".git/HEAD", "ref: refs/heads/main\n"),
        (".git/config", "[core]\n"),
        (".git/hooks/sample", "#!/bin/sh\n"),
        ("CLAUDE.md", "Be brief.\n"),
    ] {
        machine.write(&machine.project().join(path), text, 0o644)?;
    }
    Ok(machine)
}

#[test]
fn guest_root_changes_nothing_that_git_runs_and_other_changes_are_told() -> Result<()> {
    let machine = repository()?;
    let finished = machine.script(&[], SCRIPT).run()?.expect_code(0)?;
    // The file of the lock may be written; its name is not the protected one.
    let done: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(done, ["committed"], "{}", finished.stderr);
    let read = |path: &str| fs_err::read_to_string(machine.project().join(path));
    assert_eq!(read(".git/config")?, "[core]\n");
    assert_eq!(read(".git/hooks/sample")?, "#!/bin/sh\n");
    assert_eq!(
        fs_err::read_dir(machine.project().join(".git/hooks"))?.count(),
        1
    );
    assert_eq!(read(".git/refs/heads/main")?, "abcd\n");
    for told in ["new      .claude/settings.json", "changed  CLAUDE.md"] {
        ensure!(
            finished.stderr.contains(told),
            "{told}: {}",
            finished.stderr
        );
    }
    ensure!(!finished.stderr.contains(".git/"), "{}", finished.stderr);
    let events = machine.audit_log()?;
    let changes = events.iter().filter(|event| event["kind"] == "integrity");
    let changed: Vec<_> = changes.filter_map(|event| event["path"].as_str()).collect();
    assert_eq!(changed, [".claude/settings.json", "CLAUDE.md"]);
    Ok(())
}

#[test]
fn with_git_writable_hooks_can_be_made_and_are_told() -> Result<()> {
    let machine = repository()?;
    let script = "echo '#!/bin/sh' > .git/hooks/pre-commit && echo x >> .git/config";
    let finished = machine
        .script(&["--git-writable"], script)
        .run()?
        .expect_code(0)?;
    for told in ["changed  .git/config", "new      .git/hooks/pre-commit"] {
        ensure!(
            finished.stderr.contains(told),
            "{told}: {}",
            finished.stderr
        );
    }
    Ok(())
}

#[test]
fn a_session_that_changes_nothing_of_it_is_silent() -> Result<()> {
    let machine = repository()?;
    let finished = machine.script(&[], "echo x > work").run()?.expect_code(0)?;
    assert_eq!(finished.stderr, "");
    Ok(())
}
