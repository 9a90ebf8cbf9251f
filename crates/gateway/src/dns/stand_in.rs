//! Addresses for names that the host's name servers do not answer and that the handler connects to by name.
//!
//! Where a host reaches the world only through a proxy, often only the proxy can resolve names. A program in the guest wants
//! an address all the same: it gets one of [`STAND_IN_NETWORK`], which is bound to that name for as long as the gateway
//! lives, is never another's, and leads nowhere by itself. What the guest may hold of them is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::Instant;

use super::resolver::{Answer, Existence, Question};
use crate::config::{MAX_STAND_INS, STAND_IN_NETWORK};

/// Names with an address of their own.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    by_name: HashMap<String, StandIn>,
    /// The name of each address, from the first.
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct StandIn {
    address: Ipv4Addr,
    /// When the name servers last had no answer.
    failed: Instant,
}

/// Whether an address is a stand-in, bound or not.
pub(super) fn is_stand_in(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets().starts_with(&STAND_IN_NETWORK))
}

/// Whether a question about a name may be answered by a stand-in: for addresses, and for what else leads to them.
pub(super) fn concerns(question: &Question) -> bool {
    question.family().is_some() || question.is_service()
}

impl StandIns {
    /// The name that an address is bound to.
    pub(super) fn name(&self, address: IpAddr) -> Option<&str> {
        let IpAddr::V4(v4) = address else { return None };
        let [a, b, c, d] = v4.octets();
        let number = usize::from(u16::from_be_bytes([c, d])).checked_sub(1)?;
        let bound = [a, b] == STAND_IN_NETWORK;
        bound.then(|| self.names.get(number))?.map(String::as_str)
    }

    /// The answer for a name whose servers failed not long ago: they are not asked again at once.
    pub(super) fn known(&self, question: &Question, name: &str, now: Instant) -> Option<Answer> {
        let known = self.by_name.get(name)?;
        (now < known.failed + ASKED_AGAIN).then(|| answer(question, known.address))
    }

    /// The answer for a name whose servers fail now; nothing when too many names have an address.
    pub(super) fn bind(&mut self, question: &Question, name: &str, now: Instant) -> Option<Answer> {
        if let Some(known) = self.by_name.get_mut(name) {
            known.failed = now;
            return Some(answer(question, known.address));
        }
        if self.names.len() >= MAX_STAND_INS {
            return None;
        }
        self.names.push(name.to_owned());
        let [a, b] = STAND_IN_NETWORK;
        let [c, d] = u16::try_from(self.names.len()).ok()?.to_be_bytes();
        let address = Ipv4Addr::new(a, b, c, d);
        let made = StandIn {
            address,
            failed: now,
        };
        self.by_name.insert(name.to_owned(), made);
        Some(answer(question, address))
    }
}

/// The address for a question for one; that there is none of another family, and no service record.
fn answer(question: &Question, address: Ipv4Addr) -> Answer {
    let answer = Answer::of_addresses(question, [IpAddr::V4(address)], ASKED_AGAIN);
    if answer.records.is_empty() {
        return Answer::empty(Existence::Exists);
    }
    answer
}

/// How long the name servers are not asked again for a name they failed to answer.
const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// How long the name servers may take while a stand-in is at hand: less than the five seconds after which a program's
/// resolver gives up (resolv.conf(5), `timeout`).
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn asked(name: &str) -> Question {
        Question::new(&Name::from_ascii(name).unwrap(), RecordType::A)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_one_names_for_ever_and_their_number_is_bounded() {
        let mut table = StandIns::default();
        let now = Instant::now();
        for number in 0..MAX_STAND_INS {
            let name = format!("n{number}.test");
            assert!(table.bind(&asked(&name), &name, now).is_some());
        }
        assert!(table.bind(&asked("more.test"), "more.test", now).is_none());
        let again = table.bind(&asked("n0.test"), "n0.test", now).unwrap();
        assert_eq!(
            again,
            answer(&asked("n0.test"), Ipv4Addr::new(198, 19, 0, 1))
        );
        for (address, name) in [
            ([198, 19, 0, 0], None),
            ([198, 19, 0, 1], Some("n0.test")),
            ([198, 19, 1, 0], Some("n255.test")),
            ([198, 18, 0, 1], None),
            ([198, 19, 255, 255], None),
        ] {
            assert_eq!(table.name(address.into()), name, "{address:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn name_servers_are_asked_again_after_a_while() {
        let mut table = StandIns::default();
        let now = Instant::now();
        let question = asked("a.test");
        assert!(table.known(&question, "a.test", now).is_none());
        table.bind(&question, "a.test", now);
        assert!(table.known(&question, "a.test", now).is_some());
        let later = now + ASKED_AGAIN;
        assert!(table.known(&question, "a.test", later).is_none());
    }
}
