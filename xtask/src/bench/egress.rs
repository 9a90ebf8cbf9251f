//! `bench egress`: the interception and its peers on loopback, in turn, against the same upstream.
//!
//! `ours` is the product's egress behind a plain socket, without the gateway: every connection is to a host with a
//! credential, every request is judged, given its token and recorded; the upstream refuses requests without the token, and
//! the records are counted. `relay` ends TLS and begins it again and looks at nothing; `hudsucker` and `mitmproxy` are spoken
//! to by CONNECT and let bodies stream; `direct` is the upstream itself. The parts are processes (`bench/egress`), new in
//! every round, so each one's processor time and memory are its own. Every case runs with every way in every round, one
//! after the other; only ratios of one run are facts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::{PEERS, process};
use crate::{build, shell, workspace};

mod case;
mod mitmproxy;
mod report;
mod way;

use case::{Case, Measured, Protocol};
use way::{Parts, Route, Way};

#[derive(Debug, Args)]
pub(crate) struct EgressArguments {
    /// how often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// measure only these (repeatable)
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<Case>,
    /// measure only these (repeatable)
    #[arg(long = "protocol", value_name = "PROTOCOL")]
    protocols: Vec<Protocol>,
    /// measure only these (repeatable)
    #[arg(long = "way", value_name = "WAY")]
    ways: Vec<Way>,
    /// way `other`: an `egress-bench` built elsewhere, to compare with
    #[arg(long, value_name = "PATH")]
    other: Option<PathBuf>,
    /// how long one measurement takes
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Values of all rounds by what was measured, then by way; nothing where a peer failed.
type Figures = BTreeMap<(Measured, &'static str), BTreeMap<Way, Vec<Option<f64>>>>;

/// One measurement: metrics with their values.
type Sample = Vec<(&'static str, Option<f64>)>;

/// The task.
///
/// # Errors
/// When ours does not do its part; a peer that fails is left out.
pub(super) fn run(arguments: &EgressArguments) -> Result<Vec<Value>> {
    let directory = tempfile::Builder::new().prefix("bench-egress-").tempdir()?;
    let mut bench = Bench {
        arguments,
        parts: Parts::new(program()?, arguments.other.clone(), directory.path()),
        figures: Figures::new(),
    };
    for round in 0..=arguments.rounds {
        let begun = Instant::now();
        bench.round(round)?;
        let (rounds, took) = (arguments.rounds, begun.elapsed().as_secs());
        eprintln!("bench egress: round {round} of {rounds}, {took} s");
    }
    let mut lines = report::lines(&bench.figures);
    if let Some(version) = bench.parts.mitmproxy_version() {
        report::tell_version(&mut lines, Way::Mitmproxy, &version);
    }
    Ok(lines)
}

/// The peers' workspace, built for release. Its Cargo.lock follows when a manifest of the product changed.
fn program() -> Result<PathBuf> {
    let manifest = workspace::root().join(PEERS);
    let manifest = manifest
        .to_str()
        .context("the checkout's path is no text")?;
    let target = workspace::cache("bench-egress");
    let target = target.to_str().context("the checkout's path is no text")?;
    let mut arguments = vec!["build", "--release"];
    arguments.extend(["--manifest-path", manifest, "--target-dir", target]);
    let built = build::cargo(&arguments)?;
    let found = built.into_iter().find(|built| built.name == "egress-bench");
    Ok(found.context("cargo made no egress-bench")?.path)
}

struct Bench<'a> {
    arguments: &'a EgressArguments,
    parts: Parts,
    figures: Figures,
}

impl Bench<'_> {
    /// Measures everything once, with parts of its own. The first round warms up and is not counted.
    fn round(&mut self, round: usize) -> Result<()> {
        let warming = round == 0;
        let mut routes = self.parts.routes(&self.ways(), round)?;
        let seconds = if warming {
            WARMING_SECONDS
        } else {
            self.arguments.seconds
        };
        for measured in self.measured() {
            for route in &routes {
                let sample = sample(&self.parts, measured, route, seconds)?;
                for (metric, value) in sample.into_iter().filter(|_| !warming) {
                    let by_way = self.figures.entry((measured, metric)).or_default();
                    by_way.entry(route.way).or_default().push(value);
                }
            }
            // Whoever comes first after another case has its caches cold.
            routes.rotate_left(1);
        }
        routes.iter().try_for_each(Route::check_records)
    }

    fn ways(&self) -> Vec<Way> {
        let mut ways = chosen(&self.arguments.ways);
        if self.arguments.other.is_none() {
            ways.retain(|way| *way != Way::Other);
        }
        ways
    }

    fn measured(&self) -> Vec<Measured> {
        let protocols = chosen(&self.arguments.protocols);
        let all = protocols.into_iter().flat_map(|protocol| {
            let cases = chosen(&self.arguments.cases);
            cases
                .into_iter()
                .map(move |case| Measured { protocol, case })
        });
        all.collect()
    }
}

/// What is asked for, or everything.
fn chosen<T: clap::ValueEnum>(asked: &[T]) -> Vec<T> {
    if asked.is_empty() {
        T::value_variants().to_vec()
    } else {
        asked.to_vec()
    }
}

/// How long a measurement takes that is not counted.
const WARMING_SECONDS: f64 = 0.2;

/// Seconds after which a load counts as failed.
const PATIENCE: &str = "60";

/// Measures one case on one way, once.
fn sample(parts: &Parts, measured: Measured, route: &Route, seconds: f64) -> Result<Sample> {
    let id = route.process();
    id.map(process::forget_peak).transpose()?;
    let before = id.map(process::cpu_seconds).transpose()?;
    let mut load = shell::tool("timeout");
    load.arg(PATIENCE).arg(parts.program());
    load.args(["load", measured.case.name(), measured.protocol.name()]);
    load.args([&seconds.to_string(), &route.address, &route.authority]);
    load.arg(&route.ca).arg(&route.token);
    let output = load.stdin(Stdio::null()).output()?;
    let spent = id.map(process::cpu_seconds).transpose()?.zip(before);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let told = format!("{measured} with {}: {}", route.way.name(), said.trim_end());
        ensure!(route.way != Way::Ours, "{told}");
        eprintln!("bench egress: {told}");
    }
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    route.count(result["count"].as_u64().unwrap_or(0));
    let of = |key: &str| result[key].as_f64();
    let mut sample: Sample = (measured.case.metrics().iter())
        .map(|metric| (*metric, of(metric)))
        .collect();
    if let Some((after, before)) = spent {
        let (metric, amount, scale) = measured.case.cost();
        let cost = of(amount).map(|amount| (after - before) * scale / amount);
        sample.push((metric, cost));
    }
    if let Some(id) = id {
        let peak = process::peak_bytes(id)?;
        sample.push(("peak_bytes", output.status.success().then_some(peak)));
    }
    Ok(sample)
}

/// A fresh directory for the parts of one round.
fn round_directory(directory: &Path, round: usize) -> Result<PathBuf> {
    let path = directory.join(format!("round-{round}"));
    fs_err::create_dir(&path)?;
    Ok(path)
}
