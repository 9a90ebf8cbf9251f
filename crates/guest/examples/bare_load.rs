//! PID 1 of the bare virtual machine of `cargo xtask bench lab-net`: configures the network card as the product's PID 1
//! does, runs the loads, and ends the machine.
//!
//! Reads `/shares/0/card`, `MAC ADDRESS PREFIX GATEWAY MTU`, and `/shares/0/loads`, a line of arguments for
//! `/shares/0/net_load` each. What those print goes to the console; the line `end` is the last. Not part of the product.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program"
)]

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use agent_vm_guest::{kernel_settings, network, power_off, root};
use agent_vm_protocol::{Ipv4Config, Network};
use rustix::mount::MountFlags;

/// How long the host may take to read the last line.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    if std::process::id() == 1 {
        if let Err(error) = measure() {
            println!("{error}");
        }
        println!("end");
        // The host ends the machine when it has read that.
        std::thread::sleep(PATIENCE);
        power_off::reset();
    }
}

fn measure() -> Result<(), Box<dyn Error>> {
    root::mount_early()?;
    rustix::mount::mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    let card = fs_err::read_to_string("/shares/0/card")?;
    network::configure(Some(&parse(&card)?))?;
    drop(kernel_settings::apply(&[]));
    for load in fs_err::read_to_string("/shares/0/loads")?.lines() {
        let mut command = Command::new("/shares/0/net_load");
        let status = command.args(load.split_whitespace()).status()?;
        if !status.success() {
            println!("{load}: {status}");
        }
    }
    Ok(())
}

fn parse(card: &str) -> Result<Network, Box<dyn Error>> {
    let words: Vec<_> = card.split_whitespace().collect();
    let [mac, address, prefix, gateway, mtu] = words[..] else {
        return Err("MAC ADDRESS PREFIX GATEWAY MTU".into());
    };
    let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<_> = bytes.collect::<Result<_, _>>()?;
    Ok(Network {
        mac: bytes.try_into().map_err(|_| "a MAC has six bytes")?,
        mtu: mtu.parse()?,
        ipv4: Ipv4Config {
            address: address.parse()?,
            prefix: prefix.parse()?,
            gateway: gateway.parse()?,
        },
        ipv6: None,
        dns: Vec::new(),
        search: Vec::new(),
        ndots: 1,
    })
}
