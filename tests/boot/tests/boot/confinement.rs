//! G1: the VMM child as seen from outside while a guest runs.

use agent_vm_boot_tests::{Machine, vmm_of};
use anyhow::Result;

#[test]
fn the_vmm_has_no_environment_no_privileges_and_only_named_descriptors() -> Result<()> {
    let machine = Machine::new()?;
    let mut running = machine
        .script(&[], "echo up; while [ ! -e end ]; do sleep 0.1; done")
        .start()?;
    std::io::Read::read_exact(&mut running.stdout()?, &mut [0; 3])?;
    let vmm = vmm_of(running.pid())?;
    let status = fs_err::read_to_string(format!("/proc/{vmm}/status"))?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(field("Seccomp"), "2", "{status}");
    assert_eq!(field("NoNewPrivs"), "1", "{status}");
    assert_eq!(field("CapEff"), "0000000000000000", "{status}");
    assert_eq!(
        fs_err::read(format!("/proc/{vmm}/environ"))?,
        b"",
        "the environment is empty"
    );
    let mut open = Vec::new();
    for entry in fs_err::read_dir(format!("/proc/{vmm}/fd"))? {
        let target = fs_err::read_link(entry?.path())?;
        open.push(target.display().to_string());
    }
    open.sort();
    let project = machine.project().display().to_string();
    for target in &open {
        let named = target.starts_with("socket:")
            || target.starts_with("pipe:")
            || target.starts_with("anon_inode:")
            || target.starts_with("/memfd:")
            || target == "/dev/null"
            // The file server's way from a node to a readable descriptor: its own, through the kernel.
            || *target == format!("/proc/{vmm}/fd")
            || target == "/dev/kvm"
            || target.starts_with(&project)
            || target.ends_with(".erofs")
            || target.contains(".ext4")
            || target.contains("/sessions/");
        assert!(named, "an unexpected descriptor {target} among {open:#?}");
    }
    assert!(
        open.contains(&project),
        "the project is one of them: {open:#?}"
    );
    fs_err::write(machine.project().join("end"), "")?;
    running.finish()?.expect_code(0)?;
    Ok(())
}
