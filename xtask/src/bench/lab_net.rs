//! The network of a whole launch against libkrun with passt, guest to host, both in one emulated host.
//!
//! Ours is the product as it is: `agent-vm run` of a small image, a program in it that connects to an address of the
//! host that `--allow-egress` allows. The peer is the same engine and kernel with as much memory and as many processors,
//! the same program, started by a first program that does nothing else, and Debian's passt behind libkrun's own stream
//! link, with the offloads libkrun offers behind passt unless told otherwise and the same MTU.
//!
//! The clock counts instructions and one processor does everything: guest, virtual machine, network stack and server.
//! So a throughput is the cost of all of them together, and a ratio is nearer to 1 than that of the stacks alone.
//! A copied byte would count as an instruction where a processor has [`BYTEWISE`], as it costs none; without, copies move
//! eight bytes or more an instruction, which is about their real price.
//! Leaving a guest and entering it again costs a real processor far more than the few instructions counted here.
//! With `--smp` there are several processors and the clock is real.
//!
//! Each round has an emulated host of its own, and more than one try: QEMU's counting clock and nested SVM sometimes lock
//! up, in either machine (its processor's loop is entered and left without running anything).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::measure::median;
use crate::boot::pull_small_image;
use crate::lab::{self, Ending, LabArguments, Programs};
use crate::{build, setup, shell, vendor};

#[derive(Debug, Args)]
pub(crate) struct LabNetArguments {
    /// how often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// how long one measurement takes, by the guest's clock
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// processors of the emulated host; with more than one the clock is real
    #[arg(long, default_value_t = 1)]
    smp: u8,
}

/// A load: arguments of `net_load` without time and place, and what is taken of its result.
struct Load {
    name: &'static str,
    words: &'static str,
    metrics: &'static [(&'static str, &'static str)],
}

const LOADS: &[Load] = &[
    Load {
        name: "up-1",
        words: "up 1",
        metrics: &[("gbit_s", "Gbit/s")],
    },
    Load {
        name: "up-8",
        words: "up 8",
        metrics: &[("gbit_s", "Gbit/s")],
    },
    Load {
        name: "down-1",
        words: "down 1",
        metrics: &[("gbit_s", "Gbit/s")],
    },
    Load {
        name: "down-8",
        words: "down 8",
        metrics: &[("gbit_s", "Gbit/s")],
    },
    Load {
        name: "rtt",
        words: "rtt",
        metrics: &[("p50_us", "us"), ("p99_us", "us")],
    },
    Load {
        name: "connect",
        words: "connect 4",
        metrics: &[("connections_s", "1/s")],
    },
];

/// Memory of both guests.
const MEMORY_MIB: u32 = 512;
/// The product's, and what passt is told.
const MTU: u32 = 65_520;
/// First port of the servers.
const PORT: u16 = 9_000;
/// The host's address where the servers are, and a router that is not there.
const ADDRESS: &str = "10.200.0.1";
const ROUTER: &str = "10.200.0.2";
/// The peer's guest and its router.
const GUEST: &str = "10.0.2.15";
const GATEWAY: &str = "10.0.2.2";
/// The card of every guest.
const MAC: &str = "02:76:6d:00:00:02";
/// Seconds an emulated host may take for a round and the one before it that warms up.
const ROUND_SECONDS: u64 = 400;
/// Hosts that a round is tried in.
const TRIES: usize = 5;

/// Fast copies by bytes (`rep movsb`), by QEMU's name: its clock counts each byte of them.
const BYTEWISE: &str = "erms";

/// passt, and the build for processors with AVX2 it runs instead of itself where it can.
const PASST: &[&str] = &["passt", "passt.avx2"];

const SCRIPT: &str = include_str!("lab_net.sh");

/// The task.
///
/// # Errors
/// When something does not build or a measurement fails.
pub(super) fn run(arguments: &LabNetArguments) -> Result<Vec<Value>> {
    setup::install_missing(&[("passt", "passt")])?;
    ensure!(arguments.rounds > 0, "no rounds");
    let (agent_vm, kernel) = (build::agent_vm()?, vendor::kernel()?);
    let directory = tempfile::tempdir()?;
    let (stage, out) = (directory.path().join("bench"), directory.path().join("out"));
    prepare(&stage, &agent_vm, arguments.seconds)?;
    let variables = format!(
        "export MEMORY={MEMORY_MIB} MTU={MTU} PORT={PORT} ADDRESS={ADDRESS} ROUTER={ROUTER} \
        GUEST={GUEST} GATEWAY={GATEWAY}"
    );
    let lab = LabArguments {
        smp: arguments.smp,
        icount: arguments.smp == 1,
        without: vec![BYTEWISE.to_owned()],
        files: vec![stage],
        out: Some(out.clone()),
        timeout: ROUND_SECONDS,
        script: vec![format!("{variables}\n{SCRIPT}")],
        ..LabArguments::default()
    };
    let programs = Programs {
        agent_vm: Some(agent_vm),
        kernel: Some(kernel),
    };
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        one_round(&lab, &programs)?;
        for (stack, figures_of) in [("ours", &mut ours), ("bare", &mut bare)] {
            let file = out.join(stack);
            let text = fs_err::read_to_string(&file)?;
            figures_of.push(figures(&text).with_context(|| format!("{}", file.display()))?);
        }
        eprintln!("bench lab-net: round {round} of {}", arguments.rounds);
    }
    Ok(lines(&ours, &bare))
}

/// Both stacks in a host of their own, in another one when it locks up.
fn one_round(lab: &LabArguments, programs: &Programs) -> Result<()> {
    for attempt in 1..=TRIES {
        match lab::start(lab, programs, &mut std::io::stderr())? {
            Ending::Exited { status: 0, .. } => return Ok(()),
            Ending::TimedOut => {
                eprintln!("bench lab-net: the emulated host of try {attempt} stopped")
            }
            other => bail!("the measurement ended with {other:?}"),
        }
    }
    bail!("{TRIES} emulated hosts stopped in the same round")
}

/// Everything the emulated host needs, in one directory.
fn prepare(stage: &Path, agent_vm: &Path, seconds: f64) -> Result<()> {
    fs_err::create_dir_all(stage.join("store"))?;
    fs_err::write(
        stage.join("image"),
        pull_small_image(agent_vm, &stage.join("store"))?,
    )?;
    let programs = [
        build::static_example("agent-vm-gateway", "net_load")?,
        build::static_example("agent-vm-guest", "bare_load")?,
        build::example("agent-vm-vmm", "bare_net")?,
    ];
    for program in &programs {
        let name = program.file_name().context("a program has a name")?;
        fs_err::copy(program, stage.join(name))?;
    }
    for name in PASST {
        if let Some(program) = shell::find(name) {
            fs_err::copy(program, stage.join(name))?;
        }
    }
    let loads = LOADS.iter().map(|load| {
        let words = load.words;
        format!("{words} {seconds} {ADDRESS} {PORT}\n")
    });
    fs_err::write(stage.join("loads"), loads.collect::<String>())?;
    fs_err::write(
        stage.join("card"),
        format!("{MAC} {GUEST} 24 {GATEWAY} {MTU}\n"),
    )?;
    Ok(())
}

/// Values of one round by load and metric, in the order of [`LOADS`].
type Figures = BTreeMap<(&'static str, &'static str), f64>;

/// Reads what the loads of one round printed.
fn figures(text: &str) -> Result<Figures> {
    let results: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
    ensure!(
        results.len() == LOADS.len(),
        "{} of {} loads have a result:\n{text}",
        results.len(),
        LOADS.len()
    );
    let mut figures = Figures::new();
    for (load, result) in LOADS.iter().zip(results) {
        let result: Value = serde_json::from_str(result.trim())?;
        for (metric, _) in load.metrics {
            let value = result[metric].as_f64();
            let value = value.with_context(|| format!("{} without {metric}", load.name))?;
            figures.insert((load.name, metric), value);
        }
    }
    Ok(figures)
}

/// A line for each metric: medians, the median of the rounds' ratios, all values.
fn lines(ours: &[Figures], bare: &[Figures]) -> Vec<Value> {
    let metrics = LOADS.iter().flat_map(|load| {
        let metrics = load.metrics.iter();
        metrics.map(|(metric, unit)| (load.name, *metric, *unit))
    });
    let line = |(load, metric, unit)| {
        let of = |rounds: &[Figures]| -> Vec<f64> {
            rounds.iter().map(|round| round[&(load, metric)]).collect()
        };
        let (ours, bare) = (of(ours), of(bare));
        let ratios = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare);
        json!({
            "name": format!("lab-net {load} {metric}"), "unit": unit,
            "value": median(ours.iter().copied()),
            "peer": "libkrun with passt", "peer_value": median(bare.iter().copied()),
            "ratio": median(ratios), "values": ours, "peer_values": bare,
        })
    };
    metrics.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: &str = r#"{"bytes":1,"gbit_s":2.0}
noise
{"gbit_s":4.0}
{"gbit_s":6.0}
{"gbit_s":8.0}
{"trips":9,"p50_us":50.0,"p99_us":90.0}
{"connections_s":1000.0}
"#;

    #[test]
    fn results_are_those_of_the_loads_in_order() {
        let figures = figures(ROUND).unwrap();
        assert_eq!(figures[&("down-8", "gbit_s")], 8.0);
        assert_eq!(figures[&("rtt", "p99_us")], 90.0);
    }

    #[test]
    fn a_round_without_every_result_is_no_round() {
        let without_last = ROUND.rsplit_once("{\"conn").unwrap().0;
        assert!(figures(without_last).is_err());
        assert!(figures(&ROUND.replace("p99_us", "p98_us")).is_err());
    }

    #[test]
    fn ratios_are_of_rounds_not_of_medians() {
        let round = |text: &str| figures(&ROUND.replace("2.0", text)).unwrap();
        let (ours, bare) = (
            [round("2.0"), round("8.0"), round("9.0")],
            [round("1.0"), round("8.0"), round("3.0")],
        );
        let lines = lines(&ours, &bare);
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[0]["name"], "lab-net up-1 gbit_s");
        assert_eq!(lines[0]["ratio"], 2.0);
        assert_eq!(lines[0]["value"], 8.0);
        assert_eq!(lines[0]["peer_value"], 3.0);
    }
}
