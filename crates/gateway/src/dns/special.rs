//! Names and types that are answered here and never asked of anyone.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::HINFO;
use hickory_proto::rr::{RData, Record, RecordType};

use super::resolver::{Answer, Existence, Question};

/// The answer to a question that concerns nobody outside.
pub(crate) fn answer(question: &Question) -> Option<Answer> {
    let one = |data| {
        let record = Record::from_rdata(question.name.clone(), TTL, data);
        Some(Answer::of(vec![record]))
    };
    if question.kind == RecordType::ANY {
        // RFC 8482 §4.2.
        let hardware = HINFO::new("RFC8482".to_owned(), String::new());
        return one(RData::HINFO(hardware));
    }
    let host = question.host()?;
    let within = |zone: &str| {
        host.strip_suffix(zone)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within("localhost") {
        // RFC 6761 §6.3: the guest's own loopback, whatever anyone says.
        return match question.kind {
            RecordType::A => one(RData::A(Ipv4Addr::LOCALHOST.into())),
            RecordType::AAAA => one(RData::AAAA(Ipv6Addr::LOCALHOST.into())),
            _ => Some(Answer::empty(Existence::Exists)),
        };
    }
    if ABSENT.iter().any(|zone| within(zone)) {
        return Some(Answer::empty(Existence::NoSuchName));
    }
    // RFC 9462 §6.4: the host's name server may offer itself to the host's programs, not to the guest's.
    within("resolver.arpa").then(|| Answer::empty(Existence::Exists))
}

/// Names that no server is asked for: RFC 6761 §6.4, RFC 7686, RFC 9476, and the name that tells browsers not to look
/// for a name server of their own.
const ABSENT: [&str; 4] = ["invalid", "onion", "alt", "use-application-dns.net"];

/// Time to live of these answers, in seconds.
const TTL: u32 = 3_600;

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;

    use super::*;

    fn ask(name: &str, kind: RecordType) -> Option<(Existence, Vec<String>)> {
        let answer = answer(&Question::new(&Name::from_ascii(name).unwrap(), kind))?;
        let data = answer.records.iter().map(|record| record.data.to_string());
        Some((answer.existence, data.collect()))
    }

    #[test]
    fn localhost_is_the_guests_own() {
        let of = |text: &str| Some((Existence::Exists, vec![text.to_owned()]));
        assert_eq!(ask("LocalHost.", RecordType::A), of("127.0.0.1"));
        assert_eq!(ask("web.localhost.", RecordType::AAAA), of("::1"));
        assert_eq!(
            ask("localhost.", RecordType::MX),
            Some((Existence::Exists, vec![]))
        );
        assert_eq!(ask("notlocalhost.", RecordType::A), None);
    }

    #[test]
    fn some_names_never_exist_and_no_other_resolver_is_offered() {
        for name in ["a.onion.", "x.invalid.", "use-application-dns.net."] {
            assert_eq!(
                ask(name, RecordType::A),
                Some((Existence::NoSuchName, vec![]))
            );
        }
        let kind = RecordType::SVCB;
        assert_eq!(
            ask("_dns.resolver.arpa.", kind),
            Some((Existence::Exists, vec![]))
        );
        assert_eq!(ask("a.test.", RecordType::A), None);
    }

    #[test]
    fn any_is_answered_with_one_record_that_says_nothing() {
        let (existence, data) = ask("a.test.", RecordType::ANY).unwrap();
        assert_eq!((existence, data.len()), (Existence::Exists, 1));
    }
}
