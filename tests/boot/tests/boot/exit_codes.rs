//! A4: the exit code tells who failed and how.

use agent_vm_boot_tests::Machine;
use anyhow::Result;

#[test]
fn runs_a_program_on_the_guest_kernel() -> Result<()> {
    let machine = Machine::new()?;
    let finished = machine
        .agent_vm(&["run", "--image", machine.image(), "--", "uname", "-a"])
        .run()?
        .expect_code(0)?;
    let host = std::process::Command::new("uname").arg("-r").output()?;
    let host = String::from_utf8_lossy(&host.stdout).trim().to_owned();
    assert!(finished.stdout.starts_with("Linux "), "{}", finished.stdout);
    assert!(
        !finished.stdout.contains(&host),
        "this is the host's kernel: {}",
        finished.stdout
    );
    Ok(())
}

#[test]
fn passes_the_programs_own_code_through() -> Result<()> {
    let machine = Machine::new()?;
    for code in [0, 1, 42] {
        machine
            .script(&[], &format!("exit {code}"))
            .run()?
            .expect_code(code)?;
    }
    Ok(())
}

#[test]
fn answers_127_when_there_is_no_such_program() -> Result<()> {
    let machine = Machine::new()?;
    let finished = machine
        .agent_vm(&["run", "--image", machine.image(), "--", "no-such-program"])
        .run()?;
    let finished = finished.expect_code(127)?;
    assert!(
        finished.stderr.contains("no-such-program"),
        "{}",
        finished.stderr
    );
    Ok(())
}

#[test]
fn answers_126_when_it_cannot_be_executed() -> Result<()> {
    let machine = Machine::new()?;
    let finished = machine
        .agent_vm(&["run", "--image", machine.image(), "--", "/etc/passwd"])
        .run()?;
    let finished = finished.expect_code(126)?;
    assert!(
        finished.stderr.contains("/etc/passwd"),
        "{}",
        finished.stderr
    );
    Ok(())
}

#[test]
fn answers_128_plus_the_signal_that_killed_it() -> Result<()> {
    let machine = Machine::new()?;
    machine
        .script(&[], "kill -TERM $$")
        .run()?
        .expect_code(143)?;
    machine
        .script(&[], "kill -KILL $$")
        .run()?
        .expect_code(137)?;
    Ok(())
}

#[test]
fn answers_125_for_its_own_failures() -> Result<()> {
    let machine = Machine::new()?;
    let bad_memory = machine
        .script(&["--memory", "lots"], "true")
        .run()?
        .expect_code(125)?;
    assert!(
        bad_memory.stderr.contains("--memory"),
        "{}",
        bad_memory.stderr
    );
    let tiny = machine
        .script(&["--memory", "1MiB"], "true")
        .run()?
        .expect_code(125)?;
    assert!(tiny.stderr.contains("memory"), "{}", tiny.stderr);
    let missing = machine
        .script(&["--mount", "/no/such/directory"], "true")
        .run()?
        .expect_code(125)?;
    assert!(
        missing.stderr.contains("/no/such/directory"),
        "{}",
        missing.stderr
    );
    Ok(())
}
