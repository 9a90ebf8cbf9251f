//! A5 without a terminal: standard input is forwarded to its end, output streams stay apart, nothing is lost.

use std::io::Read as _;

use agent_vm_boot_tests::Machine;
use anyhow::Result;

#[test]
fn forwards_standard_input_and_its_end() -> Result<()> {
    let machine = Machine::new()?;
    let finished = machine
        .agent_vm(&["run", "--image", machine.image(), "--", "cat"])
        .input(b"x\n")
        .run()?;
    assert_eq!(finished.expect_code(0)?.stdout, "x\n");
    Ok(())
}

#[test]
fn keeps_standard_output_and_standard_error_apart() -> Result<()> {
    let machine = Machine::new()?;
    let finished = machine
        .script(&[], "echo out; echo err >&2")
        .run()?
        .expect_code(0)?;
    assert_eq!(finished.stdout, "out\n");
    assert_eq!(
        finished.stderr, "err\n",
        "nothing but the program's own bytes"
    );
    Ok(())
}

#[test]
fn carries_a_megabyte_both_ways_unchanged() -> Result<()> {
    let machine = Machine::new()?;
    let sent: Vec<u8> = (0..1_u32 << 20)
        .map(|i| b'a' + (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)
        .collect();
    let finished = machine
        .agent_vm(&["run", "--image", machine.image(), "--", "cat"])
        .input(&sent)
        .run()?;
    assert!(
        finished.expect_code(0)?.stdout.into_bytes() == sent,
        "the bytes came back changed"
    );
    Ok(())
}

#[test]
fn shows_output_while_the_program_runs() -> Result<()> {
    let machine = Machine::new()?;
    let mut running = machine
        .script(&[], "echo now; cat >/dev/null; sleep 1000")
        .start()?;
    let mut first = [0; 4];
    running.stdout()?.read_exact(&mut first)?;
    assert_eq!(&first, b"now\n");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(running.pid())?)
            .expect("a process id is positive"),
        rustix::process::Signal::TERM,
    )?;
    running.finish()?.expect_code(143)?;
    Ok(())
}
