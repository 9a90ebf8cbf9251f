//! Static network: loopback, and the one card with the address the host gave. Nothing is waited for or discovered.

use std::io;

use agent_vm_protocol::Network;
use thiserror::Error;

use crate::kernel_settings;
use crate::netlink::Netlink;

/// A step of the configuration did not work.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// No card has the address the host announced.
    #[error("no network card has the address {0}")]
    NoCard(String),
    /// The kernel refused a step.
    #[error("cannot {action}")]
    Step {
        /// Which.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Sets up loopback and the card. Needs `/sys` and `/proc`.
///
/// # Errors
/// The card is missing or the kernel refused a step.
pub fn configure(network: Option<&Network>) -> Result<(), NetworkError> {
    let mut netlink = step("open a netlink socket", Netlink::open())?;
    let loopback = interfaces().into_iter().find(|card| card.name == "lo");
    if let Some(loopback) = loopback {
        step("bring up loopback", netlink.link_up(loopback.index, None))?;
    }
    match network {
        Some(network) => configure_card(&mut netlink, network),
        None => Ok(()),
    }
}

fn configure_card(netlink: &mut Netlink, network: &Network) -> Result<(), NetworkError> {
    let mac = network.mac.map(|byte| format!("{byte:02x}")).join(":");
    let card = interfaces()
        .into_iter()
        .find(|card| card.mac == mac)
        .ok_or(NetworkError::NoCard(mac))?;
    // The configuration is complete: no router advertisement may change it.
    for setting in ["accept_ra", "autoconf", "accept_dad"] {
        let _ = kernel_settings::write(&format!("net/ipv6/conf/{}/{setting}", card.name), "0");
    }
    step(
        "set the MTU and bring up the card",
        netlink.link_up(card.index, Some(network.mtu)),
    )?;
    let v4 = network.ipv4;
    step(
        "set the IPv4 address",
        netlink.add_address(card.index, v4.address.into(), v4.prefix),
    )?;
    step(
        "set the IPv4 route",
        netlink.add_default_route(card.index, v4.gateway.into()),
    )?;
    if let Some(v6) = network.ipv6 {
        step(
            "set the IPv6 address",
            netlink.add_address(card.index, v6.address.into(), v6.prefix),
        )?;
        step(
            "set the IPv6 route",
            netlink.add_default_route(card.index, v6.gateway.into()),
        )?;
    }
    Ok(())
}

/// `/etc/resolv.conf` with these servers and search domains.
#[must_use]
pub fn resolv_conf(network: &Network) -> String {
    let mut text = String::new();
    for server in &network.dns {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !network.search.is_empty() {
        text.push_str(&format!("search {}\n", network.search.join(" ")));
    }
    text.push_str(&format!("options edns0 trust-ad ndots:{}\n", network.ndots));
    text
}

/// `/etc/hosts` of a machine called `hostname`.
#[must_use]
pub fn hosts(hostname: &str, network: Option<&Network>) -> String {
    let own = network.map_or_else(
        || "127.0.1.1".to_owned(),
        |network| network.ipv4.address.to_string(),
    );
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}\t{hostname}\n")
}

struct Interface {
    name: String,
    index: u32,
    mac: String,
}

fn interfaces() -> Vec<Interface> {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| {
            let read = |file| kernel_settings::read_line(&format!("/sys/class/net/{name}/{file}"));
            let (index, mac) = (read("ifindex")?.parse().ok()?, read("address")?);
            Some(Interface { name, index, mac })
        })
        .collect()
}

fn step<T>(action: &'static str, result: io::Result<T>) -> Result<T, NetworkError> {
    result.map_err(|source| NetworkError::Step { action, source })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use agent_vm_protocol::Ipv4Config;

    use super::*;

    fn network() -> Network {
        let address = Ipv4Addr::new(10, 118, 0, 2);
        Network {
            mac: [0; 6],
            mtu: 1500,
            ipv4: Ipv4Config {
                address,
                prefix: 30,
                gateway: address,
            },
            ipv6: None,
            dns: Vec::new(),
            search: Vec::new(),
            ndots: 1,
        }
    }

    #[test]
    fn resolv_conf_lists_servers_and_search_domains_in_order() {
        let mut network = network();
        network.dns = vec![
            IpAddr::from([10, 118, 0, 1]),
            "fd76:6d00::1".parse().unwrap(),
        ];
        assert_eq!(
            resolv_conf(&network),
            "nameserver 10.118.0.1\nnameserver fd76:6d00::1\noptions edns0 trust-ad ndots:1\n"
        );
        network.dns.pop();
        network.search = vec!["corp.test".to_owned(), "lan".to_owned()];
        network.ndots = 2;
        assert_eq!(
            resolv_conf(&network),
            "nameserver 10.118.0.1\nsearch corp.test lan\noptions edns0 trust-ad ndots:2\n"
        );
    }

    #[test]
    fn hosts_names_the_machine_at_its_own_address() {
        let network = network();
        assert!(hosts("box", Some(&network)).ends_with("10.118.0.2\tbox\n"));
        assert!(hosts("box", None).ends_with("127.0.1.1\tbox\n"));
    }

    #[test]
    fn loopback_is_found_by_name() {
        assert!(
            interfaces()
                .iter()
                .any(|card| card.name == "lo" && card.mac == "00:00:00:00:00:00")
        );
    }

    #[test]
    fn a_card_that_is_not_there_is_named() {
        let mut network = network();
        network.mac = [2, 0xfe, 0, 0, 0, 9];
        let error = configure_card(&mut Netlink::open().unwrap(), &network).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no network card has the address 02:fe:00:00:00:09"
        );
    }
}
