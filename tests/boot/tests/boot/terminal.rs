//! A5 with a terminal: one pty, its size, resize, control keys, and a terminal that is always restored.

use agent_vm_boot_tests::{Machine, Pty};
use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn gives_the_program_a_terminal_of_the_same_size_and_follows_it() -> Result<()> {
    let machine = Machine::new()?;
    let script = "stty size; trap 'stty size' WINCH; echo ready; while [ ! -e /tmp/end ]; do sleep 0.1; done";
    let mut pty = Pty::start(&machine.script(&[], script), 33, 111)?;
    pty.wait_for("33 111")?;
    pty.wait_for("ready")?;
    pty.resize(44, 77)?;
    pty.wait_for("44 77")?;
    pty.type_text("\x03")?;
    let (code, seen) = pty.finish()?;
    assert_eq!(code, 130, "{seen}");
    assert!(pty.is_restored()?, "the terminal was left changed");
    Ok(())
}

#[test]
fn opens_a_login_shell_with_a_prompt() -> Result<()> {
    let machine = Machine::new()?;
    let mut pty = Pty::start(
        &machine.agent_vm(&["shell", "--image", machine.image()]),
        24,
        80,
    )?;
    // The prompt of the small image's shell.
    pty.wait_for("$ ")?;
    pty.type_text("echo $((6*7)) in $PWD\n")?;
    pty.wait_for(&format!("42 in {}", machine.project().display()))?;
    pty.type_text("exit 7\n")?;
    let (code, seen) = pty.finish()?;
    assert_eq!(code, 7, "{seen}");
    assert!(pty.is_restored()?, "the terminal was left changed");
    Ok(())
}

#[test]
fn restores_the_terminal_when_the_launcher_is_killed() -> Result<()> {
    let machine = Machine::new()?;
    let mut pty = Pty::start(&machine.script(&[], "echo ready; sleep 1000"), 24, 80)?;
    pty.wait_for("ready")?;
    assert!(
        !pty.is_restored()?,
        "the terminal is raw while the program runs"
    );
    let launcher = Pid::from_raw(i32::try_from(pty.pid())?).expect("a process id is positive");
    kill_process(launcher, Signal::KILL)?;
    assert_eq!(pty.finish()?.0, 137);
    let started = std::time::Instant::now();
    while !pty.is_restored()? {
        assert!(
            started.elapsed().as_secs() < 20,
            "the terminal stays raw after kill -9 of the launcher"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}
