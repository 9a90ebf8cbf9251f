//! What may be told of an answer: no address that policy forbids, in whatever record it is written, and of an
//! intercepted name nothing that leads its connections past the egress.
//!
//! Addresses are in A, AAAA and in the hints of HTTPS and SVCB (RFC 9460). Types that carry addresses for special
//! uses (WKS, A6, APL, IPSECKEY, ILNP, AMTRELAY) are left out altogether.

use std::net::IpAddr;

use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS};
use hickory_proto::rr::{RData, Record, RecordType};

use super::resolver::Answer;
use crate::handler::NameTreatment;

/// Takes out of `answer` what may not be told. `allowed` judges each address with the time it may be kept, in seconds.
pub(crate) fn sift(
    answer: &mut Answer,
    treatment: NameTreatment,
    mut allowed: impl FnMut(IpAddr, u32) -> bool,
) {
    let before = answer.records.clone();
    let mut sift = Sift {
        treatment,
        allowed: &mut allowed,
    };
    answer.records = std::mem::take(&mut answer.records)
        .into_iter()
        .filter_map(|record| sift.record(record))
        .collect();
    // What was changed is no longer what was verified.
    answer.authentic &= answer.records == before;
}

struct Sift<'a> {
    treatment: NameTreatment,
    allowed: &'a mut dyn FnMut(IpAddr, u32) -> bool,
}

impl Sift<'_> {
    fn record(&mut self, mut record: Record) -> Option<Record> {
        let ttl = record.ttl;
        record.data = match record.data {
            RData::A(a) => (self.allowed)(a.0.into(), ttl).then_some(RData::A(a))?,
            RData::AAAA(aaaa) => (self.allowed)(aaaa.0.into(), ttl).then_some(RData::AAAA(aaaa))?,
            RData::SVCB(service) => RData::SVCB(self.service(service, &record.name, ttl)?),
            RData::HTTPS(HTTPS(service)) => {
                RData::HTTPS(HTTPS(self.service(service, &record.name, ttl)?))
            }
            other if carries_addresses(other.record_type()) => return None,
            other => other,
        };
        Some(record)
    }

    fn service(
        &mut self,
        mut service: SVCB,
        owner: &hickory_proto::rr::Name,
        ttl: u32,
    ) -> Option<SVCB> {
        let intercepted = self.treatment >= NameTreatment::Intercepted;
        let own = service.target_name.is_root() || service.target_name == *owner;
        if intercepted && (service.svc_priority == 0 || !own) {
            // It sends the client to another name, under which its connections would arrive.
            return None;
        }
        let had_alpn = has(&service, SvcParamKey::Alpn);
        service.svc_params = std::mem::take(&mut service.svc_params)
            .into_iter()
            .filter_map(|(key, value)| {
                let value = if intercepted {
                    passable(value)?
                } else {
                    self.hints(value, ttl)?
                };
                Some((key, value))
            })
            .collect();
        // Without the protocols it is for, or without what it needs, the record says something else.
        let lost_alpn = had_alpn && !has(&service, SvcParamKey::Alpn);
        if lost_alpn && has(&service, SvcParamKey::NoDefaultAlpn) {
            return None;
        }
        let whole = |needed: &SvcParamKey| has(&service, *needed);
        let complete = service.svc_params.iter().all(|(_, value)| match value {
            SvcParamValue::Mandatory(keys) => keys.0.iter().all(whole),
            _ => true,
        });
        complete.then_some(service)
    }

    /// Leaves out hints that are not allowed.
    fn hints(&mut self, value: SvcParamValue, ttl: u32) -> Option<SvcParamValue> {
        match value {
            SvcParamValue::Ipv4Hint(mut hints) => {
                hints.0.retain(|A(v4)| (self.allowed)((*v4).into(), ttl));
                (!hints.0.is_empty()).then_some(SvcParamValue::Ipv4Hint(hints))
            }
            SvcParamValue::Ipv6Hint(mut hints) => {
                hints.0.retain(|AAAA(v6)| (self.allowed)((*v6).into(), ttl));
                (!hints.0.is_empty()).then_some(SvcParamValue::Ipv6Hint(hints))
            }
            other => Some(other),
        }
    }
}

/// What of a service may be told when its name is intercepted: its port and the protocols that the egress speaks.
fn passable(value: SvcParamValue) -> Option<SvcParamValue> {
    match value {
        SvcParamValue::Mandatory(_) | SvcParamValue::NoDefaultAlpn | SvcParamValue::Port(_) => {
            Some(value)
        }
        SvcParamValue::Alpn(mut alpn) => {
            alpn.0
                .retain(|protocol| protocol == "h2" || protocol == "http/1.1");
            (!alpn.0.is_empty()).then_some(SvcParamValue::Alpn(alpn))
        }
        SvcParamValue::Ipv4Hint(_)
        | SvcParamValue::Ipv6Hint(_)
        | SvcParamValue::EchConfigList(_)
        | SvcParamValue::Unknown(_) => None,
    }
}

fn has(service: &SVCB, key: SvcParamKey) -> bool {
    service.svc_params.iter().any(|(known, _)| *known == key)
}

/// WKS, A6, APL, IPSECKEY, the locators of ILNP (RFC 6742), AMTRELAY.
fn carries_addresses(kind: RecordType) -> bool {
    matches!(u16::from(kind), 11 | 38 | 42 | 45 | 104..=107 | 260)
}

#[cfg(test)]
mod tests;
