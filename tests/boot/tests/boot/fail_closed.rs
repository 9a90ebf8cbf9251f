//! G3: no program starts unless its session's policy was seen to refuse what it must, and that is recorded.

use agent_vm_boot_tests::Machine;
use anyhow::{Result, ensure};

#[test]
fn every_session_begins_with_two_recorded_refusals_of_its_own() -> Result<()> {
    let machine = Machine::new()?;
    for options in [&[][..], &["--offline"], &["--allow-lan", "--allow-host"]] {
        machine.script(options, "true").run()?.expect_code(0)?;
    }
    let events = machine.audit_log()?;
    let canaries = || events.iter().filter(|event| event["kind"] == "canary");
    assert_eq!(canaries().count(), 6, "{events:?}");
    ensure!(
        canaries().all(|event| event["verdict"] == "deny"),
        "{events:?}"
    );
    let mut sessions: Vec<_> = canaries()
        .map(|event| event["session"].to_string())
        .collect();
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), 3, "{events:?}");
    let mut names: Vec<_> = canaries()
        .filter_map(|event| event["host"].as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 3, "{events:?}");
    Ok(())
}

#[test]
fn a_session_whose_decisions_cannot_be_recorded_does_not_start_its_program() -> Result<()> {
    let machine = Machine::new()?;
    let state = machine.home().join(".local/state/agent-vm");
    machine.make_directory(&machine.home().join(".local"))?;
    machine.make_directory(&machine.home().join(".local/state"))?;
    machine.make_directory(&state)?;
    std::os::unix::fs::symlink("/dev/full", state.join("audit.jsonl"))?;
    let finished = machine
        .script(&[], "echo started > started")
        .run()?
        .expect_code(125)?;
    let told = "cannot be recorded";
    ensure!(finished.stderr.contains(told), "{}", finished.stderr);
    ensure!(!machine.project().join("started").exists());
    Ok(())
}
