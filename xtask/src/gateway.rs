//! `gateway`: the bare gateway on a framed unix stream socket, for other tools' network benches against passt and others.
//!
//! The framing is that of libkrun's `unixstream` back end and of passt: each Ethernet frame behind its length (4 bytes, big
//! endian), without a virtio header. The guest is 198.18.9.2/24 with any Ethernet address, the gateway 198.18.9.1. The
//! process becomes the gateway, so that its processor time and memory are what `/proc` says of this one.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::build;

#[derive(Debug, Args)]
pub(crate) struct GatewayArguments {
    /// where the socket is made; guests connect to it one after the other
    #[arg(long, value_name = "SOCK")]
    listen: PathBuf,
    /// MTU of the guest's card
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1_280..))]
    mtu: u16,
    /// the guest's card sends and takes TCP frames larger than its MTU (`HOST_TSO4`, `GUEST_TSO4`); checksums may come
    /// unfinished in any case and always go whole
    #[arg(long)]
    tso: bool,
    /// 198.18.9.1 is the host's loopback, on every port but 53
    #[arg(long)]
    allow_host: bool,
}

/// The task; does not return when it succeeds.
///
/// # Errors
/// When the gateway does not build or start.
pub(crate) fn run(arguments: &GatewayArguments) -> Result<ExitCode> {
    let path = &arguments.listen;
    ensure!(
        path.as_os_str().len() <= MAX_SOCKET_PATH,
        "{} is too long for a socket: {MAX_SOCKET_PATH} bytes are the most",
        path.display()
    );
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    ensure!(
        directory.is_none_or(|directory| directory.is_dir()),
        "the directory of {} does not exist",
        path.display()
    );
    let program = build::example("agent-vm-gateway", "bare_gateway")?;
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, all).context("cannot raise the limit of open files")?;
    let mut command = Command::new(program);
    command.arg("--listen").arg(path);
    command.args(["--mtu", &arguments.mtu.to_string()]);
    command.args(arguments.tso.then_some("--tso"));
    command.args(arguments.allow_host.then_some("--allow-host"));
    Err(command.exec()).context("cannot become the gateway")
}

/// Bytes of the longest path of a socket: `sun_path` of unix(7) less its NUL.
const MAX_SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        gateway: GatewayArguments,
    }

    fn refusal(line: &str) -> String {
        let words = ["gateway"].into_iter().chain(line.split_whitespace());
        match Line::try_parse_from(words) {
            Ok(parsed) => format!("{:#}", run(&parsed.gateway).unwrap_err()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn wrong_usage_is_told() {
        assert!(refusal("--mtu 1500").contains("--listen <SOCK>"));
        assert!(refusal("--listen /tmp/s").contains("--mtu <N>"));
        assert!(refusal("--listen /tmp/s --mtu 1279").contains("1279"));
        assert!(refusal("--listen /tmp/s --mtu 65536").contains("65536"));
        assert_eq!(
            refusal("--listen /nowhere/s --mtu 1500"),
            "the directory of /nowhere/s does not exist"
        );
        let long = format!("--listen /tmp/{} --mtu 1500", "x".repeat(120));
        assert!(refusal(&long).contains("107 bytes are the most"));
    }
}
