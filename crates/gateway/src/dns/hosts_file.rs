//! The host's table of names: `/etc/hosts` (hosts(5)).

use std::collections::HashMap;
use std::net::IpAddr;

use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::resolv_conf::lines;
use super::resolver::{Answer, Existence, Family, Question};
use super::reverse::address_of;

/// Names of a `hosts` file, in both directions.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostsFile {
    addresses: HashMap<String, Vec<IpAddr>>,
    names: HashMap<IpAddr, String>,
}

impl HostsFile {
    pub(crate) fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in lines(text, &['#']) {
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                read.names.entry(address).or_insert_with(|| name.clone());
                read.addresses.entry(name).or_default().push(address);
            }
        }
        read
    }

    /// What the file says; `None` if it does not know the name. A name of the file has no addresses but those in it.
    pub(crate) fn answer(&self, question: &Question) -> Option<Answer> {
        if question.kind == RecordType::PTR {
            let name = self.names.get(&address_of(&question.name)?)?;
            let target = Name::from_ascii(format!("{name}.")).ok()?;
            return Some(answer(question, [RData::PTR(PTR(target))]));
        }
        let family = question.family();
        if family.is_none() && !question.is_service() {
            return None;
        }
        let known = self.addresses.get(&question.host()?)?;
        let Some(family) = family else {
            return Some(Answer::empty(Existence::Exists));
        };
        let wanted = known.iter().filter_map(|address| match (address, family) {
            (IpAddr::V4(v4), Family::V4) => Some(RData::A((*v4).into())),
            (IpAddr::V6(v6), Family::V6) => Some(RData::AAAA((*v6).into())),
            _ => None,
        });
        Some(answer(question, wanted))
    }
}

fn answer(question: &Question, data: impl IntoIterator<Item = RData>) -> Answer {
    let record = |data| Record::from_rdata(question.name.clone(), HOSTS_TTL, data);
    Answer::of(data.into_iter().map(record).collect())
}

/// Time to live told for names of the file, in seconds.
const HOSTS_TTL: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(file: &HostsFile, name: &str, kind: RecordType) -> Option<Vec<String>> {
        let name = Name::from_ascii(name).unwrap();
        let answer = file.answer(&Question::new(&name, kind))?;
        Some(
            answer
                .records
                .iter()
                .map(|record| record.data.to_string())
                .collect(),
        )
    }

    #[test]
    fn gives_addresses_by_family_and_the_first_name_of_an_address() {
        let file = HostsFile::parse(
            "192.0.2.7 Printer.test printer # upstairs\nfd00::7 printer.test\nnonsense x\n",
        );
        let some = |text: &str| Some(vec![text.to_owned()]);
        assert_eq!(
            ask(&file, "PRINTER.test.", RecordType::A),
            some("192.0.2.7")
        );
        assert_eq!(ask(&file, "printer.", RecordType::AAAA), Some(vec![]));
        assert_eq!(ask(&file, "x.", RecordType::A), None);
        assert_eq!(
            ask(&file, "7.2.0.192.in-addr.arpa.", RecordType::PTR),
            some("printer.test.")
        );
        assert_eq!(ask(&file, "8.2.0.192.in-addr.arpa.", RecordType::PTR), None);
    }

    #[test]
    fn its_names_have_no_service_records_and_leave_other_types_to_dns() {
        let file = HostsFile::parse("192.0.2.7 printer.test\n");
        assert_eq!(ask(&file, "printer.test.", RecordType::HTTPS), Some(vec![]));
        assert_eq!(ask(&file, "printer.test.", RecordType::MX), None);
    }
}
