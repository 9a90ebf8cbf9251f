//! `fake-upstream LOG CA-DIR TLS-ADDRESS PLAIN-ADDRESS|- NAME…`: the fake HTTPS upstream as a program, for scripts in
//! the lab. Prints one line with its address when it listens and runs until its standard input ends.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use agent_vm_test_support::upstream::{Upstream, UpstreamConfig};
use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| {
        arguments
            .next()
            .with_context(|| format!("missing argument: {what}"))
    };
    let log = PathBuf::from(next("log file")?);
    let ca_dir = PathBuf::from(next("CA directory")?);
    let tls_listen = next("TLS address")?.parse().context("TLS address")?;
    let plain_listen = match next("plain address or -")?.as_str() {
        "-" => None,
        address => Some(address.parse().context("plain address")?),
    };
    let names: Vec<String> = arguments.collect();
    let upstream = Upstream::start(UpstreamConfig {
        tls_listen,
        plain_listen,
        names,
        log,
        ca_dir,
    })?;
    writeln!(std::io::stdout(), "listening on {}", upstream.address())?;
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .context("standard input")?;
    Ok(())
}
