//! What is measured, one thing with one stack at a time.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use super::stack::{Kind, Stack};
use super::world::{PORT, World};
use crate::shell;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Case {
    /// One stream from the guest.
    Up1,
    /// Eight streams from the guest.
    Up8,
    /// One stream to the guest.
    Down1,
    /// Eight streams to the guest.
    Down8,
    /// Connections that are made and closed.
    Connect,
    /// Round trips of 64 bytes.
    Rtt,
    /// Datagrams.
    Udp,
    /// A thousand idle connections.
    Idle,
    /// Ten thousand connections, each proved by bytes of its own, twice.
    Held,
}

/// Metrics by name; nothing where the stack failed.
pub(super) type Sample = Vec<(&'static str, Option<f64>)>;

/// Seconds beyond its own time that a measurement may take before it counts as failed.
const PATIENCE: f64 = 20.0;

/// Connections of [`Case::Idle`] and [`Case::Held`].
const IDLE: u32 = 1_000;
const HELD: u32 = 10_000;

impl Case {
    pub(super) const ALL: &[Self] = &[
        Self::Up1,
        Self::Up8,
        Self::Down1,
        Self::Down8,
        Self::Connect,
        Self::Rtt,
        Self::Udp,
        Self::Idle,
        Self::Held,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Up1 => "up-1",
            Self::Up8 => "up-8",
            Self::Down1 => "down-1",
            Self::Down8 => "down-8",
            Self::Connect => "connect",
            Self::Rtt => "rtt",
            Self::Udp => "udp",
            Self::Idle => "idle",
            Self::Held => "held",
        }
    }

    /// Only throughput depends on the MTU.
    pub(super) fn runs_at(self, mtu: u32) -> bool {
        let bulk = matches!(self, Self::Up1 | Self::Up8 | Self::Down1 | Self::Down8);
        bulk || mtu > 1_500
    }

    pub(super) fn runs_with(self, kind: Kind) -> bool {
        match self {
            Self::Idle => matches!(
                kind,
                Kind::Ours | Kind::Other | Kind::Passt | Kind::Pasta | Kind::Slirp4netns
            ),
            Self::Held => kind == Kind::Ours,
            _ => true,
        }
    }

    /// Measures it once.
    ///
    /// # Errors
    /// When it cannot be measured at all; a peer that fails is a sample without values.
    pub(super) fn run(self, world: &World, stack: &Stack, seconds: f64) -> Result<Sample> {
        let time = seconds.to_string();
        match self {
            Self::Up1 => self.bulk(world, stack, &["up", "1", &time]),
            Self::Up8 => self.bulk(world, stack, &["up", "8", &time]),
            Self::Down1 => self.bulk(world, stack, &["down", "1", &time]),
            Self::Down8 => self.bulk(world, stack, &["down", "8", &time]),
            Self::Connect => {
                let metrics = ["connections_s", "p50_us", "p99_us"];
                self.figures(world, stack, &["connect", "4", &time], &metrics)
            }
            Self::Rtt => self.figures(world, stack, &["rtt", &time], &["p50_us", "p99_us"]),
            Self::Udp => {
                let metrics = ["p50_us", "p99_us", "datagrams_s"];
                self.figures(world, stack, &["udp", &time], &metrics)
            }
            Self::Idle => held(world, stack, IDLE),
            Self::Held => held(world, stack, HELD),
        }
    }

    fn bulk(self, world: &World, stack: &Stack, load: &[&str]) -> Result<Sample> {
        let before = stack.cpu_seconds()?;
        let result = self.load(world, stack, load)?;
        let after = stack.cpu_seconds()?;
        let figure = |name: &str| result.as_ref().and_then(|result| result[name].as_f64());
        let spent = before.zip(after).map(|(before, after)| after - before);
        let mut sample = vec![("gbit_s", figure("gbit_s"))];
        if let Some(spent) = spent {
            sample.push((
                "cpu_s_per_gb",
                figure("bytes").map(|bytes| spent / (bytes / 1e9)),
            ));
        }
        if load[1] != "1" {
            sample.push(("fairness", figure("fairness")));
        }
        Ok(sample)
    }

    fn figures(
        self,
        world: &World,
        stack: &Stack,
        load: &[&str],
        metrics: &[&'static str],
    ) -> Result<Sample> {
        let before = stack.cpu_seconds()?;
        let result = self.load(world, stack, load)?;
        let after = stack.cpu_seconds()?;
        let value = |name: &str| result.as_ref().and_then(|result| result[name].as_f64());
        let mut sample: Sample = metrics
            .iter()
            .map(|metric| (*metric, value(metric)))
            .collect();
        if let (Some(before), Some(after), Some(rate)) = (before, after, value("connections_s")) {
            let seconds: f64 = load[load.len() - 1].parse()?;
            sample.push((
                "cpu_us_each",
                Some((after - before) * 1e6 / (rate * seconds)),
            ));
        }
        Ok(sample)
    }

    /// Runs the load in the guest; nothing if a peer fails.
    fn load(self, world: &World, stack: &Stack, load: &[&str]) -> Result<Option<Value>> {
        let seconds: f64 = load[load.len() - 1].parse()?;
        let mut command = guest_load(world, stack, &(seconds + PATIENCE).to_string());
        command
            .args(load)
            .args([stack.server.to_string(), PORT.to_string()]);
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            let text = String::from_utf8(output.stdout)?;
            return Ok(Some(serde_json::from_str(text.trim())?));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = format!(
            "{} with {}: {}",
            self.name(),
            stack.kind.name(),
            said.trim_end()
        );
        let ours = matches!(
            stack.kind,
            Kind::Ours | Kind::OursSocket | Kind::OursStream | Kind::OursCrowded
        );
        if ours && self != Self::Udp {
            bail!("{said}");
        }
        eprintln!("bench net: {said}");
        Ok(None)
    }
}

/// The unit of a metric.
pub(super) fn unit(metric: &str) -> &'static str {
    match metric {
        "gbit_s" => "Gbit/s",
        "cpu_s_per_gb" => "s/GB",
        "connections_s" | "datagrams_s" => "1/s",
        "fairness" => "ratio",
        "resident" | "before" | "each" => "bytes",
        _ => "us",
    }
}

/// The load generator in the guest, ended after this many seconds.
fn guest_load(world: &World, stack: &Stack, seconds: &str) -> Command {
    let mut command = stack
        .guest
        .command(&shell::find("timeout").unwrap_or_default());
    command.arg(seconds).arg(&world.programs.load);
    command
}

/// Memory without and with so many connections; those are proved before and after.
fn held(world: &World, stack: &Stack, count: u32) -> Result<Sample> {
    let before = stack.resident_bytes()?;
    let mut command = guest_load(world, stack, "120");
    command.args([
        "hold",
        &count.to_string(),
        "64",
        &stack.server.to_string(),
        &PORT.to_string(),
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut output = std::io::BufReader::new(child.stdout.take().context("it was piped")?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line)?;
    let with = stack.resident_bytes()?;
    drop(child.stdin.take().map(|mut stdin| stdin.flush()));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest)?;
    let proved = child.wait()?.success() && rest.contains("proved");
    if !proved && stack.kind == Kind::Ours {
        bail!("{count} connections were not held: {line}{rest}");
    }
    let each = before
        .zip(with)
        .map(|(before, with)| (with - before) / f64::from(count));
    let only_if_proved = |value: Option<f64>| value.filter(|_| proved);
    Ok(vec![
        ("before", only_if_proved(before)),
        ("resident", only_if_proved(with)),
        ("each", only_if_proved(each)),
    ])
}
