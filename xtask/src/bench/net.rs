//! `bench net`: the gateway, its peers and a plain veth pair, in turn, on this machine.
//!
//! A network namespace is the host: servers listen on its loopback, the stacks run in it. Each stack has a namespace of
//! its own as the guest, where ordinary programs are the load, at native speed. Every case runs with every stack in every
//! round, one after the other, so that what else the machine does hits all of them; only ratios of one run are facts.
//!
//! `ours` and `pasta` and `slirp4netns` work on the guest's TAP device itself, ours with the virtio header as behind a
//! virtual machine. `ours-socket` and `passt` have a pump in between that is the virtual machine's network worker: one
//! message a call, ours with the header over a packet socket, passt's with its framing and without. `ours-stream` is ours
//! exactly as passt is used: `cargo xtask gateway`.

use std::collections::BTreeMap;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::measure::median;
use crate::{build, setup};

mod case;
pub(super) mod soak;
mod stack;
mod world;

use case::{Case, Sample};
use stack::{Kind, Stack};
use world::{Programs, World};

#[derive(Debug, Args)]
pub(crate) struct NetArguments {
    /// how often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// measure only these (repeatable)
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<Case>,
    /// measure only these (repeatable)
    #[arg(long = "stack", value_name = "STACK")]
    stacks: Vec<Kind>,
    /// MTU of the guest (repeatable)
    #[arg(long = "mtu", value_name = "BYTES", default_values_t = [65_520, 1_500])]
    mtus: Vec<u32>,
    /// stack `other`: a `bare_gateway` built elsewhere, to compare with
    #[arg(long, value_name = "PATH")]
    other: Option<PathBuf>,
    /// how long one measurement takes
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Debian's packages of the peers.
const NEEDED: &[(&str, &str)] = &[("passt", "passt"), ("slirp4netns", "slirp4netns")];

/// What the figures of a stack are compared with.
const COMPARED: &[(Kind, Kind)] = &[
    (Kind::Ours, Kind::Other),
    (Kind::Ours, Kind::Passt),
    (Kind::Ours, Kind::Pasta),
    (Kind::Ours, Kind::Slirp4netns),
    (Kind::Ours, Kind::Veth),
    (Kind::OursSocket, Kind::Passt),
    (Kind::OursStream, Kind::Passt),
    (Kind::OursCrowded, Kind::Ours),
    (Kind::Passt, Kind::Veth),
];

/// Values of all rounds by case, MTU and metric, then by stack; nothing where a stack failed.
type Figures = BTreeMap<(Case, u32, &'static str), BTreeMap<Kind, Vec<Option<f64>>>>;

/// The task.
///
/// # Errors
/// When a stack does not start or ours does not do its part.
pub(super) fn run(arguments: &NetArguments) -> Result<Vec<Value>> {
    setup::install_missing(NEEDED)?;
    let world = World::make(programs(arguments.other.clone())?)?;
    let cases = chosen(&arguments.cases, Case::ALL);
    let mut kinds = chosen(&arguments.stacks, Kind::ALL);
    kinds.retain(|kind| *kind != Kind::Other || arguments.other.is_some());
    let mut figures = Figures::new();
    for &mtu in &arguments.mtus {
        let stacks: Vec<_> = kinds
            .iter()
            .map(|kind| {
                Stack::start(&world, *kind, mtu).with_context(|| format!("cannot start {kind:?}"))
            })
            .collect::<Result<_>>()?;
        for round in 0..=arguments.rounds {
            let samples = one_round(&world, &cases, &stacks, arguments.seconds)?;
            // The first round warms up.
            for ((case, kind), sample) in samples.into_iter().filter(|_| round > 0) {
                add(&mut figures, (case, mtu), kind, sample);
            }
            let rounds = arguments.rounds;
            eprintln!("bench net: mtu {mtu}, round {round} of {rounds}");
        }
    }
    Ok(figures
        .iter()
        .flat_map(|(what, by_stack)| lines(*what, by_stack))
        .collect())
}

/// What stacks and loads are made of.
fn programs(other: Option<PathBuf>) -> Result<Programs> {
    ensure!(
        setup::is_root(),
        "network namespaces and TAP devices need root"
    );
    Ok(Programs {
        gateway: build::example("agent-vm-gateway", "bare_gateway")?,
        other,
        load: build::example("agent-vm-gateway", "net_load")?,
        pump: build::example("agent-vm-gateway", "net_pump")?,
    })
}

/// Every case with every stack, in turn.
fn one_round(
    world: &World,
    cases: &[Case],
    stacks: &[Stack],
    seconds: f64,
) -> Result<Vec<((Case, Kind), Sample)>> {
    let mut samples = Vec::new();
    for case in cases {
        for stack in stacks {
            if case.runs_at(stack.mtu) && case.runs_with(stack.kind) {
                samples.push(((*case, stack.kind), case.run(world, stack, seconds)?));
            }
        }
    }
    Ok(samples)
}

fn chosen<T: Copy>(asked: &[T], all: &[T]) -> Vec<T> {
    if asked.is_empty() {
        all.to_vec()
    } else {
        asked.to_vec()
    }
}

fn add(figures: &mut Figures, (case, mtu): (Case, u32), kind: Kind, sample: Sample) {
    for (metric, value) in sample {
        let by_stack = figures.entry((case, mtu, metric)).or_default();
        by_stack.entry(kind).or_default().push(value);
    }
}

/// A line for each pair that is compared, and one for each stack that is not.
fn lines(
    (case, mtu, metric): (Case, u32, &'static str),
    by_stack: &BTreeMap<Kind, Vec<Option<f64>>>,
) -> Vec<Value> {
    let name = |kind: Kind| format!("net {} {mtu} {metric} {}", case.name(), kind.name());
    let middle = |values: &[Option<f64>]| median(values.iter().flatten().copied());
    let mut lines = Vec::new();
    for (kind, values) in by_stack {
        let failed = values.iter().filter(|value| value.is_none()).count();
        let mut line = json!({
            "name": name(*kind), "unit": case::unit(metric), "value": middle(values),
        });
        if failed > 0 {
            line["failed_rounds"] = json!(failed);
        }
        let peers = COMPARED.iter().filter(|(ours, _)| ours == kind);
        let mut compared = false;
        for (_, peer) in peers {
            let Some(theirs) = by_stack.get(peer) else {
                continue;
            };
            let both = values.iter().zip(theirs);
            let ratios = both.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?));
            let mut line = line.clone();
            line["peer"] = json!(peer.name());
            line["peer_value"] = json!(middle(theirs));
            line["ratio"] = json!(median(ratios));
            lines.push(line);
            compared = true;
        }
        if !compared {
            lines.push(line);
        }
    }
    lines
}
