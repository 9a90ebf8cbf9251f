//! `demo`: the main job on this machine, from nothing. Builds agent-vm, makes a small image from this machine's packages,
//! pushes it to a real registry, pulls it, boots it, and sends one HTTPS request with a secret to a fake upstream. Ends
//! with three lines: what the guest held, what the upstream received, how long each phase took.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::boot::pull_small_image;
use crate::lab::{self, Ending, LabArguments, Programs};
use crate::{build, kvm, setup, shell, vendor};

/// What the user would do. `DEMO` has the programs and the store, `WORK` is a directory to write to, `OUT` takes the
/// results.
const SCRIPT: &str = r#"set -eu
cp -r "$DEMO/store" "$WORK/data"
mkdir "$WORK/project"; cd "$WORK/project"
mkfifo "$WORK/hold"
"$DEMO/fake-upstream" "$OUT/upstream.jsonl" "$WORK" 127.0.0.1:8443 - api.example.test < "$WORK/hold" > "$WORK/said" &
exec 9> "$WORK/hold"
while [ ! -s "$WORK/said" ]; do sleep 0.1; done
export XDG_DATA_HOME="$WORK/data" XDG_STATE_HOME="$WORK/state" TOK="$REAL_TOKEN"
agent-vm run --image "$(cat "$DEMO/image")" --profile-launch \
    --secret TOK@api.example.test --resolve api.example.test:443:127.0.0.1:8443 --upstream-ca "$WORK/upstream-ca.pem" \
    -- sh -c 'echo "$TOK"; uname -sr; curl -sS https://api.example.test/hello -H "Authorization: Bearer $TOK"' \
    > "$OUT/guest" 2> "$OUT/phases"
"#;

/// What stands for the user's real token.
const REAL_TOKEN: &str = "real-token-that-must-not-enter-the-vm";

/// Seconds the demo may take in the emulated host.
const LAB_TIMEOUT_SECONDS: u64 = 300;

/// The task.
///
/// # Errors
/// When a step does not work; it names itself.
pub(crate) fn run() -> Result<ExitCode> {
    setup::run()?;
    eprintln!("demo: building agent-vm");
    let (agent_vm, kernel) = (build::agent_vm()?, vendor::kernel()?);
    let directory = tempfile::tempdir()?;
    let stage = directory.path().join("demo");
    fs_err::create_dir_all(stage.join("store"))?;
    eprintln!("demo: making a small image, pushing it to a local registry, pulling it by agent-vm");
    let reference = pull_small_image(&agent_vm, &stage.join("store"))?;
    fs_err::write(stage.join("image"), &reference)?;
    fs_err::copy(
        build::test_program("fake-upstream")?,
        stage.join("fake-upstream"),
    )?;
    let out = directory.path().join("out");
    fs_err::create_dir_all(&out)?;
    match kvm::probe(&agent_vm)? {
        Ok(word) => {
            eprintln!("demo: booting it here ({word})");
            natively(&stage, &out, &agent_vm, &kernel)?;
        }
        Err(reason) => {
            eprintln!("demo: booting it in an emulated host, no guest runs here: {reason}");
            let programs = Programs {
                agent_vm: Some(agent_vm),
                kernel: Some(kernel),
            };
            in_lab(&stage, &out, &programs)?;
        }
    }
    report(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn natively(stage: &Path, out: &Path, agent_vm: &Path, kernel: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let beside = agent_vm.parent().context("agent-vm lies in a directory")?;
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", beside.display());
    let mut script = Command::new("sh");
    script
        .args(["-c", SCRIPT])
        .env("PATH", path)
        .env("AGENT_VM_KERNEL", kernel);
    script
        .env("DEMO", stage)
        .env("WORK", work.path())
        .env("OUT", out)
        .env("REAL_TOKEN", REAL_TOKEN);
    shell::run(&mut script).with_context(|| said(out))
}

fn in_lab(stage: &Path, out: &Path, programs: &Programs) -> Result<()> {
    let setting = format!("export DEMO=/files/demo WORK=$HOME OUT=/out REAL_TOKEN={REAL_TOKEN}\n");
    let lab = LabArguments {
        smp: 2,
        files: vec![stage.to_path_buf()],
        out: Some(out.to_path_buf()),
        timeout: LAB_TIMEOUT_SECONDS,
        script: vec![format!("{setting}{SCRIPT}")],
        ..LabArguments::default()
    };
    match lab::start(&lab, programs, &mut std::io::stderr())? {
        Ending::Exited { status: 0, .. } => Ok(()),
        Ending::Exited { status, .. } => bail!("the launch ended with {status}\n{}", said(out)),
        Ending::TimedOut => bail!("the launch did not end within {LAB_TIMEOUT_SECONDS} s"),
    }
}

/// What the launch said, for an error.
fn said(out: &Path) -> String {
    let text = |name: &str| fs_err::read_to_string(out.join(name)).unwrap_or_default();
    format!("{}{}", text("guest"), text("phases"))
}

/// The three lines, and the proof that they are what they should be.
fn report(out: &Path) -> Result<()> {
    let guest = fs_err::read_to_string(out.join("guest"))?;
    let mut lines = guest.lines();
    let (held, system, answer) = (lines.next(), lines.next(), lines.next());
    let (held, system) = held
        .zip(system)
        .with_context(|| format!("the guest printed {guest:?}"))?;
    let requests = fs_err::read_to_string(out.join("upstream.jsonl"))?;
    let request: Value = serde_json::from_str(
        requests
            .lines()
            .next()
            .context("the upstream saw no request")?,
    )?;
    let received = request["headers"]["authorization"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        answer == Some("hello from api.example.test"),
        "the guest was answered {answer:?}"
    );
    ensure!(
        !guest.contains(REAL_TOKEN),
        "the guest saw the real token:\n{guest}"
    );
    ensure!(
        received == format!("Bearer {REAL_TOKEN}"),
        "the upstream received {received:?}"
    );
    let phases = fs_err::read_to_string(out.join("phases"))?;
    let phases: Vec<String> = phases
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    println!("the guest ({system}) holds    TOK={held}");
    println!("the upstream received    authorization: {received}");
    println!("the phases took    {}", phases.join(", "));
    Ok(())
}
