//! Both ends, the peers and the load of `cargo xtask bench egress`. One program; each part is a process of its own, so that
//! what it costs can be told apart.
//!
//! `upstream DIR` serves HTTP/1.1 and HTTP/2 over TLS for `localhost` and writes `DIR/upstream.pem`, its authority. `ours`,
//! `relay` and `hudsucker` write `DIR/NAME.pem`, their authority, and lead to the upstream. All print one line,
//! `ADDRESS TOKEN`, when they listen, and run until they are killed; the token is what requests through them have to carry.
//! `load` is described in its file.

#![forbid(unsafe_code)]

mod hudsucker_peer;
mod load;
mod ours;
mod payload;
mod relay;
mod tls;
mod upstream;

use std::path::Path;

use anyhow::{Result, bail};

/// The host that everything is about.
const HOST: &str = "localhost";

/// What the upstream has to be shown with every request. Only the product's guest does not know it.
const REAL_TOKEN: &str = "the-real-token";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["upstream", directory] => one_thread(upstream::run(Path::new(directory))),
        ["ours", directory, to] => one_thread(ours::run(Path::new(directory), to.parse()?)),
        ["relay", directory, to] => one_thread(relay::run(Path::new(directory), to.parse()?)),
        ["hudsucker", directory] => hudsucker_peer::run(Path::new(directory)),
        ["load", case, protocol, seconds, ref target @ ..] => {
            let target = load::Target::new(protocol, target)?;
            println!("{}", one_thread(load::run(case, seconds.parse()?, target))?);
            Ok(())
        }
        _ => bail!(
            "upstream DIR | ours|relay DIR ADDRESS | hudsucker DIR | load CASE PROTOCOL SECONDS ADDRESS AUTHORITY CA TOKEN"
        ),
    }
}

/// Runs on one thread, as the product's launcher does.
fn one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}
