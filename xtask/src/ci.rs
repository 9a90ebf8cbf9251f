//! `ci`: everything a change must pass, in phases. All phases run, so one report tells all that is wrong: it comes last,
//! with the name of each test that failed, and its last line counts the tests.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::boot::BootArguments;
use crate::tee::Tee;
use crate::totals::{Totals, failed_by_nextest};
use crate::{bench, boot, clients, setup, shell, tidy, workspace};

/// One phase: its name and what it does; tests give their totals.
type Phase = (&'static str, fn() -> Result<Totals>);

const PHASES: &[Phase] = &[
    ("setup", || setup::run().map(none)),
    ("fmt", || cargo(&["fmt", "--all", "--check"], &[]).map(none)),
    ("clippy", || {
        let arguments = [
            "clippy",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-Dwarnings",
        ];
        cargo(&arguments, &[]).map(none)
    }),
    ("peers", || peers().map(none)),
    ("tidy", || tidy::run().map(none)),
    ("test", test),
    ("doc", || {
        let arguments = ["doc", "--quiet", "--locked", "--workspace", "--no-deps"];
        cargo(&arguments, &[("RUSTDOCFLAGS", "-Dwarnings")]).map(none)
    }),
    ("clients", clients::light),
    ("boot", || boot::cases(&BootArguments::default())),
];

/// The task.
///
/// # Errors
/// Never; what failed is printed and becomes the exit code.
pub(crate) fn run() -> Result<ExitCode> {
    let mut report = Vec::new();
    let mut totals = Totals::default();
    let mut succeeded = true;
    for (name, phase) in PHASES {
        println!("ci: {name}");
        let started = Instant::now();
        let outcome = phase();
        let took = started.elapsed();
        match outcome {
            Ok(found) => {
                totals += found;
                report.push(line(name, took, "ok"));
            }
            Err(error) => {
                succeeded = false;
                eprintln!("error: {error:#}");
                report.push(line(name, took, "FAILED"));
                match error.downcast::<TestsFailed>() {
                    Ok(tests) => {
                        totals += tests.totals;
                        report.extend(
                            tests
                                .names
                                .iter()
                                .map(|test| format!("    test {test} ... FAILED")),
                        );
                    }
                    Err(other) => {
                        // It counts as a test, so that the last line never looks good.
                        totals.failed += 1;
                        report.push(format!("    {other:#}"));
                    }
                }
            }
        }
    }
    println!("ci: phases\n{}", report.join("\n"));
    println!("{totals}");
    Ok(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A test run that failed: its totals, and which tests those were.
#[derive(Debug)]
pub(crate) struct TestsFailed {
    pub(crate) totals: Totals,
    pub(crate) names: Vec<String>,
}

impl std::error::Error for TestsFailed {}

impl std::fmt::Display for TestsFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tests: {}", self.totals)
    }
}

fn none((): ()) -> Totals {
    Totals::default()
}

fn line(name: &str, took: Duration, verdict: &str) -> String {
    format!("  {name:<8}{:>5} s  {verdict}", took.as_secs())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(arguments);
    command.envs(environment.iter().copied());
    shell::run(&mut command)
}

/// What a benchmark is compared with is a workspace of its own: format and warnings.
fn peers() -> Result<()> {
    let manifest = ["--manifest-path", bench::PEERS];
    let target = workspace::cache("bench-egress");
    let target = target.to_str().context("the checkout's path is no text")?;
    cargo(&[&["fmt", "--check"][..], &manifest].concat(), &[])?;
    let warnings = ["--target-dir", target, "--all-targets", "--", "-Dwarnings"];
    let clippy = ["clippy", "--quiet", "--locked"];
    let checked = cargo(&[&clippy[..], &manifest, &warnings].concat(), &[]);
    checked.context("where only Cargo.lock of bench/egress is behind, `cargo metadata --manifest-path` with its manifest mends it")
}

/// Everything but the boot cases, which need a virtual machine.
fn test() -> Result<Totals> {
    let mut command = Command::new("cargo");
    command
        .current_dir(workspace::root())
        .args([
            "nextest",
            "run",
            "--locked",
            "--workspace",
            "--color",
            "never",
        ])
        .args(["--cargo-quiet", "--status-level", "fail"])
        .args(["-E", "not (package(agent-vm-boot-tests) & kind(test))"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo nextest")?;
    let mut stderr = child.stderr.take().expect("the standard error is a pipe");
    let mut said = Tee::new(std::io::stderr());
    std::io::copy(&mut stderr, &mut said)?;
    let status = child.wait()?;
    let text = said.text();
    let totals = Totals::from_nextest(&text);
    if status.success() && totals.passed > 0 {
        return Ok(totals);
    }
    if totals == Totals::default() {
        bail!("cargo nextest ended with {status} and ran no test");
    }
    let names = failed_by_nextest(&text);
    Err(TestsFailed { totals, names }.into())
}
