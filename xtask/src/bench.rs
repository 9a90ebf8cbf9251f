//! `bench`: measurements that can be compared: every line has the peer's value from the same run.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

mod egress;
mod lab_net;
mod measure;
mod net;
mod process;
mod pull;

use crate::boot::pull_small_image;
use crate::lab::{self, Ending, LabArguments, Programs};
use crate::{build, setup, vendor};

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// What to measure.
    #[command(subcommand)]
    benchmark: Benchmark,
    /// One JSON object a line; without, the same as text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// A warm launch to the first byte of its program, against the bare engine to its first instruction.
    Launch,
    /// The network of a launch against libkrun with passt, guest to host, in the emulated host.
    LabNet(lab_net::LabNetArguments),
    /// The template from a local registry into an empty store, against other tools.
    Pull(pull::PullArguments),
    /// The gateway against passt, pasta, slirp4netns and a plain veth pair.
    Net(net::NetArguments),
    /// Interception against a blind relay, hudsucker, mitmproxy and no interception.
    Egress(egress::EgressArguments),
    /// The gateway under churn; nothing may be left of it.
    Soak(net::soak::SoakArguments),
}

/// The workspace of what `bench egress` measures: both ends and the peers.
pub(crate) const PEERS: &str = "bench/egress/Cargo.toml";

/// Rounds of a launch benchmark; the clock counts instructions, so few are enough. Odd, for the median.
const ROUNDS: usize = 5;
/// Memory of both guests.
const MEMORY_MIB: u32 = 512;
/// Seconds of the emulated host.
const TIMEOUT_SECONDS: u64 = 900;

/// Both in turn, so that whatever drifts drifts for both. The first pair warms caches and is not counted.
const SCRIPT: &str = r#"set -eu
cp -r /files/bench/store "$HOME/data"; export XDG_DATA_HOME="$HOME/data"
mkdir "$HOME/project"; cd "$HOME/project"
kernel=/usr/local/lib/agent-vm/libkrunfw.so
image=$(cat /files/bench/image)
for round in $(seq 0 "$ROUNDS"); do
    /files/bench/first-byte 1 /files/bench/bare_boot "$kernel" "$MEMORY" > bare.json
    /files/bench/first-byte 1 agent-vm run --image "$image" --memory "${MEMORY}MiB" --cpus 1 --profile-launch \
        -- echo first 2> phases.txt > ours.json
    [ "$round" = 0 ] && continue
    cat bare.json >> /out/bare; cat ours.json >> /out/ours; cat phases.txt >> /out/phases
done
"#;

/// The task.
///
/// # Errors
/// When something does not build or a measurement fails.
pub(crate) fn run(arguments: &BenchArguments) -> Result<()> {
    setup::run()?;
    let lines = match &arguments.benchmark {
        Benchmark::Launch => launch()?,
        Benchmark::LabNet(net) => lab_net::run(net)?,
        Benchmark::Pull(pull) => pull::run(pull)?,
        Benchmark::Net(net) => net::run(net)?,
        Benchmark::Egress(egress) => egress::run(egress)?,
        Benchmark::Soak(soak) => net::soak::run(soak)?,
    };
    for line in lines {
        if arguments.json {
            println!("{line}");
        } else {
            let (name, unit) = (line["name"].as_str(), line["unit"].as_str());
            println!(
                "{:<42} {:>12} {:<6}{}",
                name.unwrap_or_default(),
                number(&line["value"]),
                unit.unwrap_or_default(),
                compared(&line)
            );
        }
    }
    Ok(())
}

/// The peer's part of a line, if it has one.
fn compared(line: &Value) -> String {
    match (line["peer"].as_str(), line["ratio"].as_f64()) {
        (Some(peer), Some(ratio)) => {
            let version = line["peer_version"].as_str().unwrap_or_default();
            let space = if version.is_empty() { "" } else { " " };
            let value = &line["peer_value"];
            format!(
                "{ratio:.3} of {peer}{space}{version} ({value:.3}){}",
                target(line)
            )
        }
        _ => target(line),
    }
}

fn number(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

/// What was promised, if something was, and whether it is so.
fn target(line: &Value) -> String {
    match (line["target"].as_str(), line["met"].as_bool()) {
        (Some(target), Some(true)) => format!(", {target}: met"),
        (Some(target), _) => format!(", {target}: MISSED"),
        (None, _) => String::new(),
    }
}

fn launch() -> Result<Vec<Value>> {
    let (agent_vm, kernel) = (build::agent_vm()?, vendor::kernel()?);
    let directory = tempfile::tempdir()?;
    let (stage, out) = (directory.path().join("bench"), directory.path().join("out"));
    fs_err::create_dir_all(stage.join("store"))?;
    fs_err::write(
        stage.join("image"),
        pull_small_image(&agent_vm, &stage.join("store"))?,
    )?;
    fs_err::copy(build::test_program("first-byte")?, stage.join("first-byte"))?;
    fs_err::copy(
        build::example("agent-vm-vmm", "bare_boot")?,
        stage.join("bare_boot"),
    )?;
    let lab = LabArguments {
        icount: true,
        files: vec![stage],
        out: Some(out.clone()),
        timeout: TIMEOUT_SECONDS,
        script: vec![format!(
            "export ROUNDS={ROUNDS} MEMORY={MEMORY_MIB}\n{SCRIPT}"
        )],
        ..LabArguments::default()
    };
    let programs = Programs {
        agent_vm: Some(agent_vm),
        kernel: Some(kernel),
    };
    match lab::start(&lab, &programs, &mut std::io::stderr())? {
        Ending::Exited { status: 0, .. } => {}
        other => bail!("the measurement ended with {other:?}"),
    }
    let (ours, bare) = (median(&out.join("ours"))?, median(&out.join("bare"))?);
    let mut lines = vec![
        json!({"name": "launch", "unit": "ratio", "value": ours / bare, "peer": "bare engine", "peer_value": 1.0}),
        json!({"name": "launch-first-byte", "unit": "ms", "value": ours, "peer": "bare engine", "peer_value": bare}),
    ];
    lines.extend(phases(&fs_err::read_to_string(out.join("phases"))?));
    Ok(lines)
}

/// The median of the first bytes, in milliseconds.
fn median(file: &Path) -> Result<f64> {
    let mut values = Vec::new();
    for line in fs_err::read_to_string(file)?.lines() {
        let value: Value = serde_json::from_str(line)?;
        values.push(value["first_byte_ns"].as_f64().context("first_byte_ns")? / 1e6);
    }
    ensure!(
        values.len() == ROUNDS,
        "{} rounds instead of {ROUNDS}",
        values.len()
    );
    values.sort_by(f64::total_cmp);
    Ok(values[values.len() / 2])
}

/// The median of each phase, as `--profile-launch` prints them: `NAME MILLISECONDS ms`.
fn phases(text: &str) -> Vec<Value> {
    let mut phases: Vec<(String, Vec<f64>)> = Vec::new();
    for line in text.lines() {
        let Some((rest, "ms")) = line.trim_end().rsplit_once(' ') else {
            continue;
        };
        let Some((name, value)) = rest.trim_end().rsplit_once(' ') else {
            continue;
        };
        let (name, Ok(value)) = (name.trim(), value.parse()) else {
            continue;
        };
        match phases.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => phases.push((name.to_owned(), vec![value])),
        }
    }
    let line = |(name, mut values): (String, Vec<f64>)| {
        values.sort_by(f64::total_cmp);
        json!({"name": format!("phase {name}"), "unit": "ms", "value": values[values.len() / 2]})
    };
    phases.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_as_they_are_printed() {
        let text = "resolve                        2.0 ms\nboot                         150.0 ms\n";
        let text = format!("{text}{text}resolve                        4.0 ms\n");
        let values: Vec<_> = phases(&text)
            .iter()
            .map(|line| line["value"].as_f64().unwrap())
            .collect();
        assert_eq!(values, [2.0, 150.0]);
    }
}
