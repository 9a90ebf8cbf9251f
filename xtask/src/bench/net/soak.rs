//! `bench soak`: connections come, carry bytes, are broken off and go, for as long as is asked; then nothing may be left
//! of them: not one descriptor, and no more memory in the last third of the rounds than in the first.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::stack::{Kind, Stack};
use super::world::{PORT, World};
use crate::bench::measure::median;
use crate::shell;

#[derive(Debug, Args)]
pub(crate) struct SoakArguments {
    /// how long
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// MTU of the guest
    #[arg(long, default_value_t = 65_520)]
    mtu: u32,
}

/// What one round does; each part is checked by itself.
const PARTS: &[&[&str]] = &[
    &["connect", "8", "1"],
    &["up", "8", "0.5"],
    &["down", "8", "0.5"],
    &["rtt", "0.3"],
    &["udp", "0.3"],
    &["hold", "500", "4096"],
];

/// Parts that are killed in the middle, so that connections break off in every state.
const BROKEN_OFF: &[&[&str]] = &[
    &["up", "16", "9"],
    &["down", "16", "9"],
    &["connect", "8", "9"],
    &["hold", "3000", "64"],
];

/// How long a broken part lives, in seconds.
const BREAK_AFTER: &str = "0.4";

/// Rounds until memory has reached what it stays at.
const WARM_UP: u32 = 5;

/// Memory that a soak may add: what allocators round.
const GROWTH: f64 = 4.0 * 1024.0 * 1024.0;

/// How long flows may take to be gone: longer than an answered flow of datagrams lives (180 s).
const SETTLE: Duration = Duration::from_secs(200);

/// The task.
///
/// # Errors
/// When a part fails, memory grows, or a flow is left.
pub(crate) fn run(arguments: &SoakArguments) -> Result<Vec<Value>> {
    let world = World::make(super::programs(None)?)?;
    let stack = Stack::start(&world, Kind::Ours, arguments.mtu)?;
    let before = at_rest(&world, &stack)?;
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut rounds = 0;
    let mut memory = Vec::new();
    while rounds <= WARM_UP || Instant::now() < end {
        round(&world, &stack)?;
        rounds += 1;
        let resident = stack.resident_bytes()?.context("the stack is a process")?;
        if rounds > WARM_UP {
            memory.push(resident);
        }
        if rounds % 10 == 0 {
            let flows = stack.descriptors()? - before;
            eprintln!("bench soak: round {rounds}: {resident} bytes, {flows} descriptors more");
        }
    }
    let left = settled(&stack, before)?;
    let resident = stack.resident_bytes()?.context("the stack is a process")?;
    let third = memory.len().div_ceil(3);
    let first = median(memory[..third].iter().copied());
    let last = median(memory[memory.len() - third..].iter().copied());
    let most = memory.iter().copied().fold(0.0, f64::max);
    let growth = last.max(resident) - first;
    ensure!(left == 0, "{left} descriptors are left of {rounds} rounds");
    ensure!(
        growth <= GROWTH,
        "memory grew by {growth} bytes in {rounds} rounds"
    );
    let line = |what: &str, unit: &str, value: f64| json!({"name": format!("soak {what}"), "unit": unit, "value": value});
    Ok(vec![
        line("minutes", "min", arguments.minutes),
        line("rounds", "1", f64::from(rounds)),
        line("descriptors left", "1", left as f64),
        line("memory in the first third", "bytes", first),
        line("memory in the last third", "bytes", last),
        line("memory at most", "bytes", most),
        line("memory at the end", "bytes", resident),
    ])
}

/// Descriptors of the stack once it has begun: right after it was started it has not opened all it keeps.
fn at_rest(world: &World, stack: &Stack) -> Result<usize> {
    let begun = load(world, stack, &["connect", "1", "0.1"], "60").output()?;
    ensure!(begun.status.success(), "the stack does not answer");
    std::thread::sleep(Duration::from_secs(2));
    stack.descriptors()
}

fn round(world: &World, stack: &Stack) -> Result<()> {
    for part in PARTS {
        let output = load(world, stack, part, "60").output()?;
        ensure!(
            output.status.success(),
            "{part:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    let mut broken = Vec::new();
    for part in BROKEN_OFF {
        let mut command = load(world, stack, part, BREAK_AFTER);
        broken.push(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
    }
    for mut part in broken {
        part.wait()?;
    }
    Ok(())
}

/// A load in the guest, killed after this many seconds.
fn load(world: &World, stack: &Stack, part: &[&str], seconds: &str) -> std::process::Command {
    let timeout = shell::find("timeout").unwrap_or_default();
    let mut command = stack.guest.command(&timeout);
    command.args(["--signal=KILL", seconds]);
    command.arg(&world.programs.load).args(part);
    command.args([stack.server.to_string(), PORT.to_string()]);
    command.stdin(Stdio::null());
    command
}

/// Descriptors more than there were, once no more go.
fn settled(stack: &Stack, before: usize) -> Result<usize> {
    let end = Instant::now() + SETTLE;
    loop {
        let left = stack.descriptors()?.saturating_sub(before);
        if left == 0 || Instant::now() > end {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
