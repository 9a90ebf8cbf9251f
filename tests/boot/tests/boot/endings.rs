//! Every way a guest can end gives a code and a reason, never a silent 0; nothing is left behind.

use agent_vm_boot_tests::{Machine, vmm_of};
use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

fn pid(number: u32) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(number)?).expect("a process id is positive"))
}

#[test]
fn a_guest_panic_is_a_failure_with_its_reason() -> Result<()> {
    let machine = Machine::new()?;
    let script = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero; sleep 1000";
    let finished = machine
        .script(&["--memory", "256MiB"], script)
        .run()?
        .expect_code(125)?;
    assert!(finished.stderr.contains("panic"), "{}", finished.stderr);
    assert!(
        finished.stderr.to_lowercase().contains("out of memory"),
        "the kernel's own words: {}",
        finished.stderr
    );
    Ok(())
}

#[test]
fn a_crash_of_the_guests_first_program_is_a_failure() -> Result<()> {
    let machine = Machine::new()?;
    // Its code is overwritten page by page, as guest root can.
    let script = "range=$(grep r-xp /proc/1/maps | head -1 | cut -d' ' -f1); \
        start=$((0x${range%-*} / 4096)); end=$((0x${range#*-} / 4096)); \
        dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$start count=$((end - start)) conv=notrunc; sleep 1000";
    let finished = machine.script(&[], script).run()?.expect_code(125)?;
    assert!(
        finished.stderr.contains("virtual machine"),
        "{}",
        finished.stderr
    );
    Ok(())
}

#[test]
fn a_reset_of_the_machine_by_the_guest_is_a_failure() -> Result<()> {
    let machine = Machine::new()?;
    let finished = machine
        .script(&[], "busybox reboot -f; sleep 1000")
        .run()?
        .expect_code(125)?;
    assert!(
        finished.stderr.contains("virtual machine"),
        "{}",
        finished.stderr
    );
    Ok(())
}

#[test]
fn a_killed_vmm_is_a_failure_that_names_the_signal() -> Result<()> {
    let machine = Machine::new()?;
    let mut running = machine.script(&[], "echo up; sleep 1000").start()?;
    std::io::Read::read_exact(&mut running.stdout()?, &mut [0; 3])?;
    kill_process(pid(vmm_of(running.pid())?)?, Signal::KILL)?;
    let finished = running.finish()?.expect_code(125)?;
    assert!(
        finished.stderr.contains("signal 9") || finished.stderr.contains("SIGKILL"),
        "{}",
        finished.stderr
    );
    Ok(())
}

#[test]
fn a_killed_launcher_takes_its_vmm_with_it_and_the_next_launch_works() -> Result<()> {
    let machine = Machine::new()?;
    let mut running = machine.script(&[], "echo up; sleep 1000").start()?;
    std::io::Read::read_exact(&mut running.stdout()?, &mut [0; 3])?;
    let vmm = vmm_of(running.pid())?;
    kill_process(pid(running.pid())?, Signal::KILL)?;
    assert_eq!(running.finish()?.code, 137);
    let started = std::time::Instant::now();
    while std::path::Path::new(&format!("/proc/{vmm}")).exists() {
        assert!(
            started.elapsed().as_secs() < 30,
            "the VMM outlives its launcher"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    machine.script(&[], "true").run()?.expect_code(0)?;
    Ok(())
}
