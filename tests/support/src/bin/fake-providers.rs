//! `fake-providers ADDRESS LOG CA-DIR BEHAVIOUR`: the fakes of the agents' services as a program, for scripts in the lab.
//! BEHAVIOUR is a file with `agent_vm_test_support::providers::Behaviour` as JSON. Prints one line with its address when it listens and runs until its
//! standard input ends.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use agent_vm_test_support::providers::{Providers, ProvidersConfig};
use anyhow::{Context as _, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, log, ca_dir, behaviour] = &arguments[..] else {
        bail!("usage: fake-providers ADDRESS LOG CA-DIR BEHAVIOUR");
    };
    let behaviour = fs_err::read(behaviour)?;
    let providers = Providers::start(ProvidersConfig {
        listen: address.parse().context("address")?,
        log: PathBuf::from(log),
        ca_dir: PathBuf::from(ca_dir),
        behaviour: serde_json::from_slice(&behaviour).context("behaviour")?,
    })?;
    writeln!(std::io::stdout(), "listening on {}", providers.address())?;
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .context("standard input")?;
    Ok(())
}
