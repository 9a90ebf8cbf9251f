//! The image store around a real machine: no registry is asked before the program runs, and nothing in use is removed.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_vm_boot_tests::Machine;
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Says that it runs, then waits for a file.
const HOLD: &str = "echo up; while [ ! -e end ]; do sleep 0.1; done; echo end";
/// How long the tests wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(300);

/// A copy of the prepared store, for what must not be shared with other tests. Nobody has asked for updates of it.
fn own_store(machine: &Machine) -> Result<PathBuf> {
    let own = machine.home().join("data");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(machine.store())
        .arg(&own)
        .status()?;
    ensure!(copied.success(), "cp: {copied}");
    let updates = own.join("agent-vm/images/updates");
    if updates.exists() {
        fs_err::remove_dir_all(updates)?;
    }
    Ok(own)
}

#[test]
fn no_registry_is_asked_before_the_program_runs_and_nothing_waits_for_its_answer() -> Result<()> {
    let machine = Machine::new()?;
    let store = own_store(&machine)?.display().to_string();
    let (registry, _) = machine
        .image()
        .split_once('/')
        .context("the image has no registry")?;
    // Takes connections and never says a word.
    let silent = TcpListener::bind(registry)?;
    silent.set_nonblocking(true)?;
    let begun = Instant::now();
    let launch = machine.script(&[], HOLD).env("XDG_DATA_HOME", &store);
    let mut running = launch.start()?;
    let mut stdout = running.stdout()?;
    stdout.read_exact(&mut [0; 3])?;
    ensure!(silent.accept().is_err(), "asked before the program ran");
    let connection = loop {
        match silent.accept() {
            Ok(connection) => break connection,
            Err(_) => ensure!(begun.elapsed() < PATIENCE, "it never asked"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    machine.write(&machine.project().join("end"), "", 0o644)?;
    running.finish()?.expect_code(0)?;
    drop(connection);
    // It was asked today; and who does not want it to be asked is obeyed.
    machine
        .script(&[], "true")
        .env("XDG_DATA_HOME", &store)
        .run()?
        .expect_code(0)?;
    ensure!(silent.accept().is_err(), "asked twice in a day");
    Ok(())
}

#[test]
fn an_image_whose_own_files_are_of_another_version_is_refused() -> Result<()> {
    let machine = Machine::new()?;
    let file = machine.home().join("version");
    machine.write(&file, "2\n", 0o644)?;
    let mount = format!("{}:/etc/agent-vm-image-version:ro", file.display());
    let refused = machine.script(&["--mount", &mount], "echo ran").run()?;
    let refused = refused.expect_code(125)?;
    ensure!(
        refused.stdout.is_empty()
            && refused
                .stderr
                .contains("says version 2, this agent-vm knows"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_running_machine_keeps_its_image_and_a_killed_one_lets_it_go() -> Result<()> {
    let machine = Machine::new()?;
    let store = own_store(&machine)?.display().to_string();
    let image = |arguments: &[&str]| {
        let all = [&["image"], arguments].concat();
        machine.agent_vm(&all).env("XDG_DATA_HOME", &store).run()
    };
    let script = machine.script(&["--no-update-check"], HOLD);
    let mut running = script.env("XDG_DATA_HOME", &store).start()?;
    running.stdout()?.read_exact(&mut [0; 3])?;
    let pruned = image(&["prune", "--all"])?.expect_code(0)?;
    ensure!(!pruned.stdout.contains(machine.image()), "{pruned:?}");
    let refused = image(&["rm", machine.image()])?.expect_code(125)?;
    ensure!(
        refused.stderr.contains("a virtual machine runs from it"),
        "{refused:?}"
    );
    let listed = image(&["ls"])?.expect_code(0)?;
    ensure!(listed.stdout.contains("in use by 1"), "{listed:?}");
    let pid = Pid::from_raw(i32::try_from(running.pid())?).context("a process id is positive")?;
    kill_process(pid, Signal::KILL)?;
    running.finish()?.expect_code(137)?;
    // The machine ends just after its launcher, and holds its image until then.
    let killed = Instant::now();
    loop {
        let pruned = image(&["prune", "--all"])?.expect_code(0)?;
        if pruned.stdout.contains(machine.image()) {
            return Ok(());
        }
        ensure!(killed.elapsed() < PATIENCE, "never let go: {pruned:?}");
    }
}
