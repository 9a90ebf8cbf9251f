use agent_vm_policy::{AddressClass, classify};
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, Mandatory, Unknown};
use hickory_proto::rr::rdata::{CNAME, NULL};

use super::super::resolver::Existence;
use super::super::test_server::{a, name, record};
use super::*;

fn is_public(address: IpAddr, _ttl: u32) -> bool {
    classify(address.to_canonical()) == AddressClass::Global
}

fn sifted(data: RData, treatment: NameTreatment) -> Option<RData> {
    let mut answer = Answer::of(vec![record("a.test.", 60, data)]);
    sift(&mut answer, treatment, is_public);
    answer.records.pop().map(|record| record.data)
}

fn told(data: &RData) -> bool {
    sifted(data.clone(), NameTreatment::Plain).as_ref() == Some(data)
}

fn v6(text: &str) -> RData {
    RData::AAAA(text.parse::<std::net::Ipv6Addr>().unwrap().into())
}

#[test]
fn private_addresses_are_not_told_in_any_notation() {
    for text in [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
    ] {
        let v4: std::net::Ipv4Addr = text.parse().unwrap();
        assert!(!told(&RData::A(v4.into())), "{text}");
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        for prefix in ["::ffff:", "64:ff9b::", "::"] {
            let mapped = format!("{prefix}{high:x}:{low:x}");
            assert!(!told(&v6(&mapped)), "{mapped}");
        }
        let tunnelled = format!("2002:{high:x}:{low:x}::1");
        assert!(!told(&v6(&tunnelled)), "{tunnelled}");
    }
    for text in [
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "64:ff9b:1::1",
        "2001:db8::1",
    ] {
        assert!(!told(&v6(text)), "{text}");
    }
    for text in ["2606:4700::1111", "2a00:1450::1"] {
        assert!(told(&v6(text)), "{text}");
    }
    assert!(told(&RData::A(A::new(8, 8, 8, 8))));
}

#[test]
fn an_alias_of_a_private_address_is_told_without_it() {
    let mut answer = Answer::of(vec![
        record("a.test.", 60, RData::CNAME(CNAME(name("printer.lan.")))),
        record("printer.lan.", 60, RData::A(A::new(192, 168, 0, 9))),
        record("printer.lan.", 60, RData::A(A::new(8, 8, 8, 8))),
    ]);
    answer.authentic = true;
    sift(&mut answer, NameTreatment::Plain, is_public);
    let left: Vec<_> = answer
        .records
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(left, ["printer.lan.", "8.8.8.8"]);
    assert_eq!(answer.existence, Existence::Exists);
    assert!(!answer.authentic, "what was changed is no longer verified");
}

#[test]
fn types_that_carry_addresses_for_special_uses_are_left_out() {
    for code in [11, 38, 42, 45, 104, 105, 106, 107, 260] {
        let code = RecordType::from(code);
        let data = RData::Unknown {
            code,
            rdata: NULL::with(vec![127, 0, 0, 1]),
        };
        assert!(!told(&data), "{code}");
    }
    let code = RecordType::from(65_280);
    assert!(told(&RData::Unknown {
        code,
        rdata: NULL::with(vec![127, 0, 0, 1])
    }));
}

fn alpn(protocols: &[&str]) -> (SvcParamKey, SvcParamValue) {
    let protocols = protocols.iter().map(ToString::to_string).collect();
    (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(protocols)))
}

fn hints(addresses: &[[u8; 4]]) -> (SvcParamKey, SvcParamValue) {
    let hints = addresses.iter().map(|octets| A((*octets).into())).collect();
    (
        SvcParamKey::Ipv4Hint,
        SvcParamValue::Ipv4Hint(IpHint(hints)),
    )
}

fn hints6(addresses: &[&str]) -> (SvcParamKey, SvcParamValue) {
    let parse = |text: &&str| AAAA(text.parse().unwrap());
    let hints = addresses.iter().map(parse).collect();
    (
        SvcParamKey::Ipv6Hint,
        SvcParamValue::Ipv6Hint(IpHint(hints)),
    )
}

fn ech() -> (SvcParamKey, SvcParamValue) {
    let key = EchConfigList(vec![1, 2, 3, 4]);
    (
        SvcParamKey::EchConfigList,
        SvcParamValue::EchConfigList(key),
    )
}

fn port() -> (SvcParamKey, SvcParamValue) {
    (SvcParamKey::Port, SvcParamValue::Port(8_443))
}

fn mandatory(keys: &[SvcParamKey]) -> (SvcParamKey, SvcParamValue) {
    (
        SvcParamKey::Mandatory,
        SvcParamValue::Mandatory(Mandatory(keys.to_vec())),
    )
}

fn unknown() -> (SvcParamKey, SvcParamValue) {
    (
        SvcParamKey::Key(7),
        SvcParamValue::Unknown(Unknown(b"/dns-query{?dns}".to_vec())),
    )
}

type Params = Vec<(SvcParamKey, SvcParamValue)>;

fn https(target: Name, params: Params) -> RData {
    RData::HTTPS(HTTPS(SVCB::new(1, target, params)))
}

fn params_left(params: Params, treatment: NameTreatment) -> Option<Params> {
    match sifted(https(Name::root(), params), treatment)? {
        RData::HTTPS(HTTPS(service)) => Some(service.svc_params),
        other => panic!("{other}"),
    }
}

#[test]
fn hints_are_judged_like_answers() {
    let params = vec![
        alpn(&["h3", "h2"]),
        hints(&[[8, 8, 8, 8], [10, 0, 0, 1]]),
        ech(),
        hints6(&["::ffff:127.0.0.1", "2606:4700::1111", "64:ff9b::a00:1"]),
    ];
    let left = params_left(params, NameTreatment::Plain).unwrap();
    let expected = vec![
        alpn(&["h3", "h2"]),
        hints(&[[8, 8, 8, 8]]),
        ech(),
        hints6(&["2606:4700::1111"]),
    ];
    assert_eq!(left, expected);
    let none = params_left(vec![hints(&[[10, 0, 0, 1]])], NameTreatment::Plain);
    assert_eq!(none, Some(vec![]));
}

#[test]
fn of_an_intercepted_name_only_port_and_known_protocols_are_told() {
    let params = vec![
        alpn(&["h3", "h2", "http/1.1"]),
        port(),
        hints(&[[8, 8, 8, 8]]),
        ech(),
        hints6(&["2606:4700::1111"]),
        unknown(),
    ];
    let left = params_left(params.clone(), NameTreatment::Intercepted);
    assert_eq!(left, Some(vec![alpn(&["h2", "http/1.1"]), port()]));
    let data = RData::SVCB(SVCB::new(1, name("A.test."), params));
    let left = sifted(data, NameTreatment::Intercepted);
    let expected = SVCB::new(1, name("A.test."), vec![alpn(&["h2", "http/1.1"]), port()]);
    assert_eq!(left, Some(RData::SVCB(expected)));
}

#[test]
fn what_no_longer_says_the_same_is_left_out() {
    use NameTreatment::{Intercepted, Plain};
    let no_default = (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn);
    let only_h3 = vec![alpn(&["h3"]), no_default];
    assert_eq!(params_left(only_h3.clone(), Intercepted), None);
    assert_eq!(params_left(only_h3.clone(), Plain), Some(only_h3));
    assert_eq!(
        params_left(
            vec![mandatory(&[SvcParamKey::EchConfigList]), ech()],
            Intercepted
        ),
        None
    );
    assert!(params_left(vec![mandatory(&[SvcParamKey::Port]), port()], Intercepted).is_some());
    let needs_hint = vec![mandatory(&[SvcParamKey::Ipv4Hint]), hints(&[[10, 0, 0, 1]])];
    assert_eq!(params_left(needs_hint, Plain), None);
}

#[test]
fn an_intercepted_name_is_not_led_to_another() {
    let elsewhere = https(name("b.test."), vec![port()]);
    assert_eq!(sifted(elsewhere.clone(), NameTreatment::Intercepted), None);
    assert!(told(&elsewhere));
    let alias = RData::HTTPS(HTTPS(SVCB::new(0, name("b.test."), vec![])));
    assert_eq!(sifted(alias.clone(), NameTreatment::Intercepted), None);
    assert!(told(&alias));
    assert_eq!(
        sifted(a(1), NameTreatment::Intercepted),
        None,
        "documentation addresses are not public"
    );
}
