//! In which order the host's name servers are asked: as the host says, those that do not answer last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::resolv_conf::ResolvConf;

/// What is known of the servers.
#[derive(Debug, Default)]
pub(crate) struct ServerOrder {
    /// Of the servers that did not answer lately. They are of the host's settings, so at most three.
    ailing: HashMap<SocketAddr, Ailing>,
    /// Questions so far, for `rotate`.
    turn: usize,
}

#[derive(Debug)]
struct Ailing {
    strikes: u32,
    last: Instant,
}

impl ServerOrder {
    /// The servers for one question.
    pub(crate) fn next(&mut self, settings: &ResolvConf, now: Instant) -> Vec<SocketAddr> {
        let mut servers = settings.servers.clone();
        if settings.rotate && !servers.is_empty() {
            servers.rotate_left(self.turn % settings.servers.len());
            self.turn = self.turn.wrapping_add(1);
        }
        servers.sort_by_key(|server| self.is_dead(server, now));
        servers
    }

    /// The server has said something.
    pub(crate) fn answered(&mut self, server: SocketAddr) {
        self.ailing.remove(&server);
    }

    /// The server was slower than another, or too slow.
    pub(crate) fn late(&mut self, server: SocketAddr, now: Instant) {
        self.strike(server, 1, now);
    }

    /// The server cannot be reached.
    pub(crate) fn gone(&mut self, server: SocketAddr, now: Instant) {
        self.strike(server, DEAD_STRIKES, now);
    }

    fn strike(&mut self, server: SocketAddr, strikes: u32, now: Instant) {
        let known = self.ailing.entry(server).or_insert(Ailing {
            strikes: 0,
            last: now,
        });
        known.strikes = known.strikes.saturating_add(strikes);
        known.last = now;
    }

    fn is_dead(&self, server: &SocketAddr, now: Instant) -> bool {
        self.ailing
            .get(server)
            .is_some_and(|known| known.strikes >= DEAD_STRIKES && now < known.last + DEAD_TIME)
    }
}

/// Questions in a row without an answer after which a server is thought dead.
const DEAD_STRIKES: u32 = 2;

/// How long a server that is thought dead is asked last.
const DEAD_TIME: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &str) -> ResolvConf {
        let servers = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        ResolvConf::parse(&format!("{servers}options {options}\n"), |_| None)
    }

    fn order(order: &mut ServerOrder, settings: &ResolvConf, now: Instant) -> Vec<u8> {
        let last = |server: &SocketAddr| match server {
            SocketAddr::V4(v4) => v4.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        };
        order.next(settings, now).iter().map(last).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_hosts_order_stands_until_a_server_is_dead_and_returns_after_a_while() {
        let (settings, now) = (settings(""), Instant::now());
        let mut known = ServerOrder::default();
        let first = settings.servers[0];
        known.late(first, now);
        assert_eq!(
            order(&mut known, &settings, now),
            [1, 2, 3],
            "one loss is nothing"
        );
        known.late(first, now);
        assert_eq!(order(&mut known, &settings, now), [2, 3, 1]);
        known.gone(settings.servers[2], now);
        assert_eq!(order(&mut known, &settings, now), [2, 1, 3]);
        assert_eq!(order(&mut known, &settings, now + DEAD_TIME), [1, 2, 3]);
        known.late(first, now + DEAD_TIME);
        assert_eq!(
            order(&mut known, &settings, now + DEAD_TIME),
            [2, 3, 1],
            "still dead"
        );
        known.answered(first);
        assert_eq!(order(&mut known, &settings, now), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn rotates_only_when_the_host_says_so() {
        let (plain, rotating, now) = (settings(""), settings("rotate"), Instant::now());
        let mut known = ServerOrder::default();
        assert_eq!(
            order(&mut known, &plain, now),
            order(&mut known, &plain, now)
        );
        let orders = [0; 3].map(|_| order(&mut known, &rotating, now));
        assert_eq!(orders, [[1, 2, 3], [2, 3, 1], [3, 1, 2]]);
    }
}
