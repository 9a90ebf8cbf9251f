//! The host's resolver settings: `/etc/resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// What the file says, where it concerns us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// Name servers, in the order of the file, at most three; the local host if it names none.
    pub(crate) servers: Vec<SocketAddr>,
    /// Domains that short names are tried in. For the guest's own resolver: a name server is asked for whole names.
    pub(crate) search: Vec<String>,
    /// Names with fewer dots are tried in the search domains first.
    pub(crate) ndots: u8,
    /// How long to wait for one server.
    pub(crate) timeout: Duration,
    /// How often to go through the servers.
    pub(crate) attempts: u32,
    /// Start with another server each time.
    pub(crate) rotate: bool,
    /// TCP only.
    pub(crate) use_tcp: bool,
    /// The servers are believed when they say that an answer is verified.
    pub(crate) trust_ad: bool,
    /// IPv6 addresses are not asked for.
    pub(crate) no_aaaa: bool,
}

impl ResolvConf {
    /// Reads the text; what it does not understand is left out. `zone_index` gives the index of a network interface,
    /// for link-local servers (`fe80::1%eth0`).
    pub(crate) fn parse(text: &str, zone_index: impl Fn(&str) -> Option<u32>) -> Self {
        let mut read = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: DEFAULT_TIMEOUT,
            attempts: DEFAULT_ATTEMPTS,
            rotate: false,
            use_tcp: false,
            trust_ad: false,
            no_aaaa: false,
        };
        for line in lines(text, &['#', ';']) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| server(word, &zone_index));
                    read.servers.extend(server);
                }
                // The last of them counts.
                Some("search" | "domain") => {
                    let domains = words.filter_map(domain).take(MAX_SEARCH);
                    read.search = domains.collect();
                }
                Some("options") => words.for_each(|option| read.option(option)),
                _ => {}
            }
        }
        read.servers.truncate(MAX_SERVERS);
        if read.servers.is_empty() {
            let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT);
            read.servers.push(local);
        }
        read
    }

    fn option(&mut self, option: &str) {
        let (key, value) = option.split_once(':').unwrap_or((option, ""));
        let number = value.parse::<u32>();
        match (key, number) {
            ("ndots", Ok(ndots)) => self.ndots = ndots.min(MAX_NDOTS) as u8,
            ("timeout", Ok(seconds)) => {
                self.timeout =
                    Duration::from_secs(u64::from(seconds)).clamp(MIN_TIMEOUT, MAX_TIMEOUT);
            }
            ("attempts", Ok(attempts)) => self.attempts = attempts.clamp(1, MAX_ATTEMPTS),
            ("rotate", _) => self.rotate = true,
            ("use-vc" | "usevc", _) => self.use_tcp = true,
            ("trust-ad", _) => self.trust_ad = true,
            ("no-aaaa", _) => self.no_aaaa = true,
            _ => {}
        }
    }
}

fn server(word: &str, zone_index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, DNS_PORT));
    }
    let (address, zone) = word.split_once('%')?;
    let address = address.parse().ok()?;
    let index = zone.parse().ok().or_else(|| zone_index(zone))?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into())
}

fn domain(word: &str) -> Option<String> {
    let name = word.trim_end_matches('.').to_ascii_lowercase();
    let proper = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!name.is_empty() && name.len() <= MAX_DOMAIN && name.bytes().all(proper)).then_some(name)
}

/// Lines without comments and white space around them, and not empty.
pub(super) fn lines<'a>(text: &'a str, comment: &'static [char]) -> impl Iterator<Item = &'a str> {
    text.lines()
        .map(move |line| line.split(comment).next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
}

/// As many as the C library uses.
const MAX_SERVERS: usize = 3;

/// Search domains taken.
const MAX_SEARCH: usize = 16;

/// Longest search domain, in bytes.
const MAX_DOMAIN: usize = 253;

/// As resolv.conf(5).
const MAX_NDOTS: u32 = 15;

/// Half of what the C library waits: the guest's own resolver waits for us meanwhile.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Shortest wait for one server.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest wait for one server.
const MAX_TIMEOUT: Duration = Duration::from_secs(5);

/// As resolv.conf(5).
const DEFAULT_ATTEMPTS: u32 = 2;

/// As resolv.conf(5).
const MAX_ATTEMPTS: u32 = 5;

/// DNS.
const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ResolvConf {
        ResolvConf::parse(text, |zone| (zone == "eth0").then_some(7))
    }

    fn servers(text: &str) -> Vec<String> {
        parse(text)
            .servers
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn reads_name_servers_in_order_and_skips_comments() {
        let text = "# nameserver 9.9.9.9\nsearch a.test\nnameserver 192.0.2.1 # first\n\
                    nameserver fd00::1\n; nameserver 8.8.8.8\nnameserver fe80::1%eth0\n";
        assert_eq!(
            servers(text),
            ["192.0.2.1:53", "[fd00::1]:53", "[fe80::1%7]:53"]
        );
        assert_eq!(
            servers("nameserver fe80::1%gone\nnameserver 192.0.2.1"),
            ["192.0.2.1:53"]
        );
    }

    #[test]
    fn asks_the_local_host_when_no_server_is_named() {
        assert_eq!(servers("options edns0\n"), ["127.0.0.1:53"]);
    }

    #[test]
    fn uses_no_more_servers_than_the_c_library() {
        assert_eq!(servers(&"nameserver 192.0.2.1\n".repeat(9)).len(), 3);
    }

    #[test]
    fn options_are_read_and_kept_within_their_bounds() {
        let read = parse(
            "options edns0 trust-ad timeout:1 attempts:9 rotate\noptions ndots:99 use-vc no-aaaa x:y\n",
        );
        assert!(read.trust_ad && read.rotate && read.use_tcp && read.no_aaaa);
        assert_eq!((read.ndots, read.attempts), (15, 5));
        assert_eq!(read.timeout, Duration::from_secs(1));
        assert_eq!(parse("options timeout:0").timeout, MIN_TIMEOUT);
        assert_eq!(parse("options timeout:900").timeout, MAX_TIMEOUT);
        let plain = parse("");
        assert!(!(plain.trust_ad || plain.rotate || plain.use_tcp || plain.no_aaaa));
        assert_eq!((plain.ndots, plain.attempts), (1, 2));
    }

    #[test]
    fn the_last_search_list_counts_without_what_is_no_domain() {
        let read = parse("search old.test\nsearch Corp.Test. . a/b lan\n");
        assert_eq!(read.search, ["corp.test", "lan"]);
    }
}
