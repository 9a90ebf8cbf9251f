//! The host's own ideas about names: the text of `/etc/resolv.conf` and `/etc/hosts`, read by whoever embeds us.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::resolver::Family;

/// Name servers of a `resolv.conf` (resolv.conf(5)), at most three; the local host if it names none. Addresses with a
/// zone are left out.
pub(crate) fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = lines(resolv_conf, &['#', ';'])
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = (words.next() == Some("nameserver")).then(|| words.next())??;
            Some(SocketAddr::new(address.parse().ok()?, DNS_PORT))
        })
        .take(MAX_SERVERS)
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT));
    }
    servers
}

/// Names of a `hosts` file (hosts(5)).
#[derive(Debug, Clone, Default)]
pub(crate) struct HostsFile {
    addresses: HashMap<String, Vec<IpAddr>>,
}

impl HostsFile {
    pub(crate) fn parse(text: &str) -> Self {
        let mut addresses: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in lines(text, &['#']) {
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                addresses.entry(name).or_default().push(address);
            }
        }
        Self { addresses }
    }

    /// Addresses of `name` in one family; `None` if the file does not know the name.
    pub(crate) fn lookup(&self, name: &str, family: Family) -> Option<Vec<IpAddr>> {
        let known = self.addresses.get(name)?;
        let wanted = known.iter().filter(|address| match family {
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        });
        Some(wanted.copied().collect())
    }
}

fn lines<'a>(text: &'a str, comment: &'static [char]) -> impl Iterator<Item = &'a str> {
    text.lines()
        .map(move |line| line.split(comment).next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
}

/// As many as the C library uses.
const MAX_SERVERS: usize = 3;

/// DNS.
const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_servers_in_order_and_skips_comments() {
        let text = "# nameserver 9.9.9.9\nsearch a.test\nnameserver 192.0.2.1 # first\n\
                    nameserver fd00::1\n; nameserver 8.8.8.8\nnameserver fe80::1%eth0\n";
        let servers: Vec<_> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[fd00::1]:53"]);
    }

    #[test]
    fn asks_the_local_host_when_no_server_is_named() {
        assert_eq!(
            name_servers("options edns0\n")[0].to_string(),
            "127.0.0.1:53"
        );
    }

    #[test]
    fn uses_no_more_servers_than_the_c_library() {
        let text = "nameserver 192.0.2.1\n".repeat(9);
        assert_eq!(name_servers(&text).len(), 3);
    }

    #[test]
    fn hosts_file_gives_addresses_by_family() {
        let file = HostsFile::parse(
            "192.0.2.7 Printer.test printer # upstairs\nfd00::7 printer.test\nnonsense x\n",
        );
        let v4 = file.lookup("printer.test", Family::V4);
        assert_eq!(v4, Some(vec![IpAddr::from([192, 0, 2, 7])]));
        assert_eq!(file.lookup("printer", Family::V6), Some(vec![]));
        assert_eq!(file.lookup("x", Family::V4), None);
    }
}
