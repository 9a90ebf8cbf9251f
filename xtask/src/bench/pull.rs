//! `bench pull`: the template from a local registry into an empty store, in turn with what people would use otherwise.
//!
//! All cases run in every round, each in a directory of its own that did not exist before, after what the last one wrote is on the
//! disk. What another process does to the machine meanwhile hits all of them, so medians compare; processor time and bytes hardly vary.

use std::path::{Path, PathBuf};
use std::process::Command;

use agent_vm_test_support::registry::Registry;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::measure::{self, Cost, median};
use crate::{build, setup, shell};

mod case;

use case::{Case, Images, Programs};

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// pull: the image, an OCI layout with zstd layers (`cargo xtask image build --output DIR`)
    #[arg(long, value_name = "DIR")]
    layout: Option<PathBuf>,
    /// pull: the same with gzip layers, for tools that read nothing else
    #[arg(long, value_name = "DIR")]
    gzip: Option<PathBuf>,
    /// pull: the same with one layer changed, to be pulled after the first
    #[arg(long, value_name = "DIR")]
    changed: Option<PathBuf>,
    /// pull: measure this program instead of building it
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// pull: measure only these (repeatable)
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<Case>,
    /// pull: how often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// What the figures of a case are compared with.
const TARGETS: &[(Case, Case)] = &[
    (Case::AgentVm, Case::Msb),
    (Case::AgentVmGzip, Case::MsbGzip),
    (Case::AgentVmGzip, Case::Umoci),
    (Case::AgentVm, Case::Buildah),
];

/// One case in one round.
struct Sample {
    case: Case,
    cost: Cost,
    result_bytes: f64,
}

/// The task.
///
/// # Errors
/// When a program is missing or does not do its part.
pub(super) fn run(arguments: &PullArguments) -> Result<Vec<Value>> {
    setup::install_missing(case::NEEDED)?;
    let programs = Programs {
        agent_vm: match &arguments.program {
            Some(program) => program.clone(),
            None => build::agent_vm()?,
        },
        msb: case::msb()?,
    };
    let registry = Registry::start()?;
    let layout = arguments
        .layout
        .as_ref()
        .context("--layout DIR is needed: `cargo xtask image build --output DIR` makes one")?;
    let images = Images {
        zstd: push(&registry, layout, "zstd")?,
        gzip: match &arguments.gzip {
            Some(layout) => Some(push(&registry, layout, "gzip")?),
            None => None,
        },
    };
    // Nobody is to be the first to read what the registry serves.
    shell::output(
        Command::new("sh")
            .args(["-c", "find \"$1\" -type f -exec cat {} + | wc -c", "-"])
            .arg(registry.data()),
    )?;
    let mut samples = Vec::new();
    for round in 0..arguments.rounds {
        let mut cases = Case::all(&images);
        cases.retain(|case| arguments.cases.is_empty() || arguments.cases.contains(case));
        ensure!(!cases.is_empty(), "there is no image for these cases");
        let count = cases.len();
        cases.rotate_left(round % count);
        for case in cases {
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                arguments.rounds,
                case.name()
            );
            samples.push(sample(case, &programs, &images)?);
        }
    }
    let mut lines = report(&samples);
    if let Some(changed) = &arguments.changed {
        let changed = push(&registry, changed, "changed")?;
        lines.extend(second_pull(&registry, &programs, [&images.zstd, &changed])?);
    }
    Ok(lines)
}

/// Puts a layout into the registry; gives its reference.
fn push(registry: &Registry, layout: &Path, tag: &str) -> Result<String> {
    let reference = registry.reference("bench/template", tag);
    let mut copy = Command::new("skopeo");
    copy.args([
        "copy",
        "--quiet",
        "--preserve-digests",
        "--dest-tls-verify=false",
    ])
    .arg(format!("oci:{}", layout.display()))
    .arg(format!("docker://{reference}"));
    shell::output(&mut copy)?;
    Ok(reference)
}

fn sample(case: Case, programs: &Programs, images: &Images) -> Result<Sample> {
    let place = tempfile::tempdir()?;
    let directory = place.path().join("work");
    fs_err::create_dir(&directory)?;
    // What the last one left to be written is not ours to wait for.
    shell::output(&mut Command::new("sync"))?;
    let command = case.command(programs, images, &directory)?;
    let cost = measure::run(&command, &place.path().join("log"))
        .with_context(|| case.name().to_owned())?;
    let result_bytes = measure::allocated(&case.result(&directory))?;
    ensure!(result_bytes > 1e6, "{} left no image", case.name());
    Ok(Sample {
        case,
        cost,
        result_bytes,
    })
}

/// A name, a unit, and how a sample tells the value.
type Figure = (&'static str, &'static str, fn(&Sample) -> f64);

const FIGURES: &[Figure] = &[
    ("wall", "s", |sample| sample.cost.wall_seconds),
    ("cpu", "s", |sample| sample.cost.cpu_seconds),
    ("written", "MB", |sample| sample.cost.written_bytes / 1e6),
    ("peak memory", "MiB", |sample| {
        sample.cost.peak_bytes / f64::from(1 << 20)
    }),
    ("result", "MB", |sample| sample.result_bytes / 1e6),
];

fn report(samples: &[Sample]) -> Vec<Value> {
    let of = |case: Case, value: fn(&Sample) -> f64| {
        median(
            samples
                .iter()
                .filter(|sample| sample.case == case)
                .map(value),
        )
    };
    let mut lines = Vec::new();
    for &(ours, peer) in TARGETS {
        if !samples.iter().any(|sample| sample.case == ours)
            || !samples.iter().any(|sample| sample.case == peer)
        {
            continue;
        }
        for &(name, unit, value) in FIGURES {
            let (mine, theirs) = (of(ours, value), of(peer, value));
            lines.push(json!({
                "name": format!("{} {name}", ours.name()), "unit": unit, "value": mine,
                "peer": peer.name(), "peer_value": theirs, "ratio": mine / theirs,
            }));
        }
        let written = of(ours, |sample| {
            sample.cost.written_bytes / sample.result_bytes
        });
        let theirs = of(peer, |sample| {
            sample.cost.written_bytes / sample.result_bytes
        });
        lines.push(json!({
            "name": format!("{} written per result", ours.name()), "unit": "ratio", "value": written,
            "peer": peer.name(), "peer_value": theirs, "ratio": written / theirs,
        }));
    }
    lines
}

/// The first image, then the changed one into the same store: what the registry was asked for the second time.
fn second_pull(registry: &Registry, programs: &Programs, images: [&str; 2]) -> Result<Vec<Value>> {
    let place = tempfile::tempdir()?;
    let log = place.path().join("log");
    let mut costs = Vec::new();
    let mut sent = Vec::new();
    for image in images {
        let before = registry.sent()?;
        let command = case::agent_vm(programs, image, place.path());
        costs.push(measure::run(&command, &log)?);
        sent.push(registry.sent()? - before);
    }
    let line = |name: &str, unit: &str, value: f64, first: f64| {
        json!({"name": format!("second pull {name}"), "unit": unit, "value": value,
            "peer": "first pull", "peer_value": first, "ratio": value / first})
    };
    Ok(vec![
        line("wall", "s", costs[1].wall_seconds, costs[0].wall_seconds),
        line("cpu", "s", costs[1].cpu_seconds, costs[0].cpu_seconds),
        line(
            "written",
            "MB",
            costs[1].written_bytes / 1e6,
            costs[0].written_bytes / 1e6,
        ),
        line(
            "downloaded",
            "MB",
            sent[1] as f64 / 1e6,
            sent[0] as f64 / 1e6,
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_peers_value_of_the_same_run() {
        let sample = |case, wall_seconds| Sample {
            case,
            cost: Cost {
                wall_seconds,
                cpu_seconds: 1.0,
                written_bytes: 3e6,
                peak_bytes: 1e6,
            },
            result_bytes: 2e6,
        };
        let samples = [
            sample(Case::AgentVm, 1.0),
            sample(Case::Msb, 3.0),
            sample(Case::AgentVm, 2.0),
            sample(Case::Msb, 4.0),
            sample(Case::AgentVm, 9.0),
            sample(Case::Msb, 5.0),
        ];
        let lines = report(&samples);
        assert_eq!(lines.len(), FIGURES.len() + 1, "only cases that were run");
        let wall = &lines[0];
        assert_eq!(
            (
                wall["name"].as_str(),
                wall["value"].as_f64(),
                wall["peer_value"].as_f64()
            ),
            (Some("agent-vm pull wall"), Some(2.0), Some(4.0))
        );
        assert_eq!(wall["ratio"], 0.5);
    }
}
