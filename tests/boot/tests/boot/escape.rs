//! The share cannot be escaped: guest root takes the file device away from its kernel and speaks to it by hand.

use agent_vm_boot_tests::{HELPERS_VARIABLE, Machine};
use agent_vm_test_support::canary::Canary;
use anyhow::{Context as _, Result};

#[test]
fn guest_root_driving_the_device_by_hand_sees_nothing_outside_the_shares() -> Result<()> {
    let machine = Machine::new()?;
    let canary = Canary::mint("outside-the-shares-");
    let outside = machine.home().join("outside");
    machine.write(&outside, canary.token(), 0o644)?;
    let read_only = machine.home().join("read-only");
    machine.write(&read_only.join("kept"), "kept\n", 0o644)?;
    let helpers = std::env::var(HELPERS_VARIABLE).context(HELPERS_VARIABLE)?;
    // Shares are numbered by the depth of their guest path, then in the order given; the project is the deepest.
    let probe = format!("{helpers}/escape_probe:/probe:ro");
    let shared = format!("{}:/read-only:ro", read_only.display());
    let script = format!(
        "cp /probe /dev/shm/probe && exec /dev/shm/probe --read-write 2 --read-only 1 --canary {} --canary /etc/hostname",
        outside.display()
    );
    let finished = machine
        .script(&["--mount", &probe, "--mount", &shared], &script)
        .run()?;
    let said = format!(
        "code {}\n{}\n{}",
        finished.code, finished.stdout, finished.stderr
    );
    let result = finished
        .stdout
        .lines()
        .find(|line| line.starts_with("escape: operations="));
    let result = result.with_context(|| format!("the probe gave no result: {said}"))?;
    let number = |name: &str| -> Result<u64> {
        let value = result
            .split(' ')
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("no {name} in {result}"))
    };
    assert!(
        number("operations")? >= 12 && number("names")? >= 20,
        "{result}"
    );
    assert!(number("requests")? >= 500, "{result}");
    assert_eq!(
        (number("answered_ok")?, number("host_bytes")?),
        (0, 0),
        "{said}"
    );
    assert!(!finished.stdout.contains("SUCCESS"), "{said}");
    assert!(!canary.is_in(&said), "{said}");
    assert_eq!(fs_err::read_to_string(&outside)?, canary.token());
    assert_eq!(fs_err::read_to_string(read_only.join("kept"))?, "kept\n");
    assert_eq!(
        fs_err::read_dir(&read_only)?.count(),
        1,
        "the read-only share was changed"
    );
    println!("{result}");
    Ok(())
}
