//! Rules of the three decisions.

use proptest::prelude::*;

use super::*;
use crate::grant::Preset;
use crate::request::{ForeignCredential, PlaceholderUse, RequestFacts, RequestVerdict, Transport};

fn host(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn bound() -> Policy {
    Policy::public().intercept(HostPattern::parse("api.bound.test").unwrap())
}

fn facts<'a>(names: &'a [HostName], address: &str) -> ConnectFacts<'a> {
    ConnectFacts {
        names,
        address: address.parse().unwrap(),
        port: 443,
        resolution: Resolution::Public,
        owner: Owner::Other,
    }
}

fn request(host: &HostName) -> RequestFacts<'_> {
    RequestFacts {
        host,
        authority: Some(host),
        port: 443,
        transport: Transport::Tls,
        method: "GET",
        target: "/",
        placeholders: PlaceholderUse::None,
        foreign: ForeignCredential::Absent,
    }
}

#[test]
fn public_addresses_pass_untouched_and_bound_hosts_are_intercepted() {
    let (plain, api) = (
        [host("other.test")],
        [host("other.test"), host("api.bound.test")],
    );
    assert_eq!(
        bound().decide_connect(&facts(&[], "8.8.8.8")),
        ConnectVerdict::Tunnel
    );
    assert_eq!(
        bound().decide_connect(&facts(&plain, "8.8.8.8")),
        ConnectVerdict::Tunnel
    );
    assert_eq!(
        bound().decide_connect(&facts(&api, "8.8.8.8")),
        ConnectVerdict::Intercept
    );
}

#[test]
fn denies_everything_else_by_class_also_for_bound_hosts() {
    let names = [host("api.bound.test")];
    for (address, class) in [
        ("127.0.0.1", AddressClass::Loopback),
        ("::ffff:127.0.0.1", AddressClass::Loopback),
        ("10.0.0.1", AddressClass::Private),
        ("169.254.169.254", AddressClass::Metadata),
        ("0.0.0.0", AddressClass::Unspecified),
        ("fe80::1", AddressClass::LinkLocal),
    ] {
        let denied = ConnectVerdict::Deny(DenyReason::Address(class));
        assert_eq!(
            bound().decide_connect(&facts(&names, address)),
            denied,
            "{address}"
        );
    }
}

#[test]
fn denies_a_public_address_of_this_machine() {
    let own = ConnectFacts {
        owner: Owner::Host,
        ..facts(&[], "8.8.8.8")
    };
    let denied = ConnectVerdict::Deny(DenyReason::HostAddress);
    assert_eq!(bound().decide_connect(&own), denied);
}

#[test]
fn an_override_by_the_user_may_lead_anywhere_but_not_past_a_rule() {
    let overridden = ConnectFacts {
        resolution: Resolution::Overridden,
        owner: Owner::Host,
        ..facts(&[], "127.0.0.1")
    };
    assert_eq!(
        Policy::public().decide_connect(&overridden),
        ConnectVerdict::Tunnel
    );
    let ruled = Policy::public().deny(FlowPattern::Port(443));
    assert_eq!(
        ruled.decide_connect(&overridden),
        ConnectVerdict::Deny(DenyReason::Rule)
    );
}

#[test]
fn a_rule_for_a_network_sees_through_mapped_addresses() {
    let policy = Policy::public().deny(FlowPattern::Network("8.8.0.0/16".parse().unwrap()));
    let denied = ConnectVerdict::Deny(DenyReason::Rule);
    assert_eq!(policy.decide_connect(&facts(&[], "::ffff:8.8.4.4")), denied);
}

#[test]
fn a_hello_must_name_a_resolved_host() {
    let (api, other) = (host("api.bound.test"), host("other.test"));
    let mismatch = ConnectVerdict::Deny(DenyReason::ServerNameMismatch);
    let missing = ConnectVerdict::Deny(DenyReason::ServerNameMissing);
    let at_api = std::slice::from_ref(&api);
    let at_other = std::slice::from_ref(&other);
    let shared = [api.clone(), other.clone()];
    let connected = |names: &[HostName]| bound().decide_connect(&facts(names, "8.8.8.8"));
    for (names, server_name, verdict) in [
        (at_api, Some(&api), ConnectVerdict::Intercept),
        (at_api, Some(&other), mismatch),
        (at_api, None, missing),
        (at_other, Some(&api), mismatch),
        (at_other, Some(&other), ConnectVerdict::Tunnel),
        (at_other, None, ConnectVerdict::Tunnel),
        (&[], Some(&api), mismatch),
        (&[], Some(&other), ConnectVerdict::Tunnel),
        (&shared, Some(&other), ConnectVerdict::Tunnel),
        (&shared, Some(&api), ConnectVerdict::Intercept),
    ] {
        let decided = bound().decide_hello(connected(names), &facts(names, "8.8.8.8"), server_name);
        assert_eq!(decided, verdict, "{names:?} {server_name:?}");
    }
}

#[test]
fn denies_a_request_whose_authority_is_missing_or_another_host() {
    let (api, other) = (host("api.bound.test"), host("other.test"));
    let denied = RequestVerdict::Deny(DenyReason::AuthorityMismatch);
    for authority in [None, Some(&other)] {
        let facts = RequestFacts {
            authority,
            ..request(&api)
        };
        assert_eq!(bound().decide_request(&facts), denied);
    }
    assert_eq!(
        bound().decide_request(&request(&api)),
        RequestVerdict::Allow
    );
}

#[test]
fn denies_connect() {
    let api = host("api.bound.test");
    let facts = RequestFacts {
        method: "CONNECT",
        ..request(&api)
    };
    let denied = RequestVerdict::Deny(DenyReason::ConnectMethod);
    assert_eq!(bound().decide_request(&facts), denied);
}

#[test]
fn a_placeholder_passes_only_in_its_header_over_tls() {
    let api = host("api.bound.test");
    for (placeholders, transport, verdict) in [
        (
            PlaceholderUse::None,
            Transport::Plain,
            RequestVerdict::Allow,
        ),
        (
            PlaceholderUse::InItsHeader,
            Transport::Tls,
            RequestVerdict::Allow,
        ),
        (
            PlaceholderUse::InItsHeader,
            Transport::Plain,
            RequestVerdict::Deny(DenyReason::PlaceholderInClear),
        ),
        (
            PlaceholderUse::OtherHost,
            Transport::Tls,
            RequestVerdict::Deny(DenyReason::PlaceholderOtherHost),
        ),
        (
            PlaceholderUse::Elsewhere,
            Transport::Tls,
            RequestVerdict::Deny(DenyReason::PlaceholderOutsideCredential),
        ),
    ] {
        let facts = RequestFacts {
            placeholders,
            transport,
            ..request(&api)
        };
        assert_eq!(bound().decide_request(&facts), verdict);
    }
}

#[test]
fn a_foreign_credential_passes_only_when_the_user_allows_it() {
    let api = host("api.bound.test");
    let facts = |placeholders| RequestFacts {
        placeholders,
        foreign: ForeignCredential::Present,
        ..request(&api)
    };
    let refused = RequestVerdict::Deny(DenyReason::ForeignCredential);
    let misplaced = RequestVerdict::Deny(DenyReason::PlaceholderOutsideCredential);
    for (placeholders, verdict, opened) in [
        (PlaceholderUse::None, refused, RequestVerdict::Allow),
        (PlaceholderUse::InItsHeader, refused, RequestVerdict::Allow),
        (PlaceholderUse::Elsewhere, misplaced, misplaced),
    ] {
        let facts = facts(placeholders);
        assert_eq!(bound().decide_request(&facts), verdict);
        let open = bound().allow_foreign_credentials();
        assert_eq!(open.decide_request(&facts), opened);
    }
}

fn any_pattern() -> impl Strategy<Value = FlowPattern> {
    prop_oneof![
        (any::<u32>(), 0_u8..=32).prop_map(|(bits, length)| {
            let address = std::net::Ipv4Addr::from_bits(bits);
            FlowPattern::Network(IpNet::new(address.into(), length).unwrap())
        }),
        (440_u16..446).prop_map(FlowPattern::Port),
        "[a-c]\\.test".prop_map(|name| FlowPattern::Host(HostPattern::parse(&name).unwrap())),
    ]
}

fn allowlist(hosts: &[&str]) -> Policy {
    Policy::new(list(hosts))
}

fn list(hosts: &[&str]) -> Scope {
    Scope {
        preset: Preset::Allowlist,
        domains: hosts
            .iter()
            .map(|host| HostPattern::parse(host).unwrap())
            .collect(),
        ..Scope::default()
    }
}

fn offline() -> Scope {
    Scope {
        preset: Preset::Offline,
        ..Scope::default()
    }
}

fn egress(text: &str) -> EgressRule {
    EgressRule::parse(text).unwrap()
}

const TUNNEL: ConnectVerdict = ConnectVerdict::Tunnel;

fn denied(reason: DenyReason) -> ConnectVerdict {
    ConnectVerdict::Deny(reason)
}

fn address_denied(class: AddressClass) -> ConnectVerdict {
    denied(DenyReason::Address(class))
}

#[test]
fn each_grant_reaches_what_it_says_and_nothing_else() {
    use AddressClass as Class;
    let at_443 = || Policy::public().allow_egress(egress("10.1.0.0/16:443"));
    let v6 = || Policy::public().allow_egress(egress("fd00:1::/32"));
    let lan = || Policy::public().allow_lan();
    let host = || Policy::public().allow_host();
    for (policy, address, verdict) in [
        (at_443(), "10.1.2.3", TUNNEL),
        (at_443(), "::ffff:10.1.2.3", TUNNEL),
        (
            at_443(),
            "64:ff9b::10.1.2.3",
            address_denied(Class::Private),
        ),
        (at_443(), "10.2.0.1", address_denied(Class::Private)),
        (at_443(), "8.8.8.8", TUNNEL),
        (
            Policy::public().allow_egress(egress("10.1.0.0/16:80")),
            "10.1.2.3",
            address_denied(Class::Private),
        ),
        (v6(), "fd00:1::5", TUNNEL),
        (v6(), "fd00:2::5", address_denied(Class::Private)),
        (lan(), "10.9.9.9", TUNNEL),
        (lan(), "172.16.0.1", TUNNEL),
        (lan(), "192.168.1.1", TUNNEL),
        (lan(), "fd12::1", TUNNEL),
        (lan(), "64:ff9b::10.0.0.1", address_denied(Class::Private)),
        (lan(), "2002:a00:1::", address_denied(Class::Private)),
        (lan(), "100.64.0.1", address_denied(Class::Shared)),
        (lan(), "169.254.1.1", address_denied(Class::LinkLocal)),
        (lan(), "127.0.0.1", address_denied(Class::Loopback)),
        (host(), "127.0.0.1", address_denied(Class::Loopback)),
        (host(), "10.0.0.1", address_denied(Class::Private)),
    ] {
        assert_eq!(
            policy.decide_connect(&facts(&[], address)),
            verdict,
            "{address}"
        );
    }
}

#[test]
fn a_host_service_needs_its_grant() {
    let service = ConnectFacts {
        resolution: Resolution::HostService,
        owner: Owner::Host,
        ..facts(&[], "127.0.0.1")
    };
    let name = host(HOST_SERVICE_NAME);
    let none = denied(DenyReason::HostAddress);
    assert_eq!(Policy::public().decide_connect(&service), none);
    assert_eq!(
        Policy::public().decide_name(&name),
        Err(DenyReason::HostAddress)
    );
    for scope in [Scope::default(), offline(), list(&[])] {
        let policy = Policy::new(scope).allow_host();
        assert_eq!(policy.decide_connect(&service), TUNNEL);
        assert_eq!(policy.decide_name(&name), Ok(()));
        assert_eq!(policy.rule(&service), Some(Rule::Host));
    }
}

#[test]
fn an_address_of_this_machine_needs_a_rule_of_its_own() {
    let own = ConnectFacts {
        owner: Owner::Host,
        ..facts(&[], "192.168.1.5")
    };
    let none = denied(DenyReason::HostAddress);
    let network = Policy::public()
        .allow_lan()
        .allow_egress(egress("192.168.1.0/24"));
    assert_eq!(network.decide_connect(&own), none);
    let single = Policy::public().allow_egress(egress("192.168.1.5:443"));
    assert_eq!(single.decide_connect(&own), TUNNEL);
}

#[test]
fn with_a_list_only_listed_hosts_exist_and_are_held_to_their_name() {
    let policy = allowlist(&["ok.test", "*.wide.test"])
        .intercept(HostPattern::parse("api.bound.test").unwrap());
    let (ok, wide, other, api) = (
        [host("ok.test")],
        [host("a.wide.test")],
        [host("other.test")],
        [host("api.bound.test")],
    );
    for (names, verdict) in [
        (&ok[..], ConnectVerdict::Inspect),
        (&wide, ConnectVerdict::Inspect),
        (&api, ConnectVerdict::Intercept),
        (&other, denied(DenyReason::NotListed)),
        (&[], denied(DenyReason::NotListed)),
    ] {
        assert_eq!(
            policy.decide_connect(&facts(names, "8.8.8.8")),
            verdict,
            "{names:?}"
        );
        for name in names {
            assert_eq!(
                policy.decide_name(name).is_ok(),
                !matches!(verdict, ConnectVerdict::Deny(_))
            );
        }
    }
    assert_eq!(policy.decide_odd_name(), Err(DenyReason::NotListed));
    let private = policy.decide_connect(&facts(&ok, "10.0.0.1"));
    assert_eq!(private, address_denied(AddressClass::Private));
    let inspect = ConnectVerdict::Inspect;
    for (server_name, verdict) in [
        (Some(&ok[0]), TUNNEL),
        (Some(&wide[0]), denied(DenyReason::ServerNameMismatch)),
        (Some(&other[0]), denied(DenyReason::NotListed)),
        (None, denied(DenyReason::ServerNameMissing)),
    ] {
        assert_eq!(
            policy.decide_hello(inspect, &facts(&ok, "8.8.8.8"), server_name),
            verdict,
            "{server_name:?}"
        );
    }
    let rule = policy.rule(&facts(&wide, "8.8.8.8")).unwrap();
    assert_eq!(rule.to_string(), "allow-domain *.wide.test");
}

#[test]
fn offline_leaves_only_what_is_granted_by_address() {
    let policy = Policy::new(offline()).allow_egress(egress("10.0.0.1"));
    let names = [host("a.test")];
    assert_eq!(
        policy.decide_connect(&facts(&names, "8.8.8.8")),
        denied(DenyReason::Offline)
    );
    assert_eq!(policy.decide_connect(&facts(&[], "10.0.0.1")), TUNNEL);
    assert_eq!(policy.decide_name(&names[0]), Err(DenyReason::Offline));
    let overridden = ConnectFacts {
        resolution: Resolution::Overridden,
        ..facts(&names, "127.0.0.1")
    };
    assert_eq!(
        policy.decide_connect(&overridden),
        denied(DenyReason::Offline)
    );
}

#[test]
fn a_narrowing_scope_needs_the_name_on_both_lists() {
    let policy = allowlist(&["a.test", "b.test"]).narrow(list(&["b.test", "c.test"]));
    for (name, listed) in [("a.test", false), ("b.test", true), ("c.test", false)] {
        assert_eq!(policy.decide_name(&host(name)).is_ok(), listed, "{name}");
    }
    let public = Policy::public().narrow(list(&["b.test"]));
    assert_eq!(
        public.decide_name(&host("a.test")),
        Err(DenyReason::NotListed)
    );
}

#[test]
fn answers_are_told_when_a_connection_could_be_allowed() {
    let policy = Policy::public().allow_egress(egress("10.0.0.0/8:443"));
    for (address, told) in [
        ("8.8.8.8", true),
        ("10.1.1.1", true),
        ("::ffff:10.1.1.1", true),
        ("192.168.0.1", false),
        ("127.0.0.1", false),
    ] {
        assert_eq!(
            policy.decide_answer(address.parse().unwrap()).is_ok(),
            told,
            "{address}"
        );
    }
}

/// What can be put into a policy, in any order.
#[derive(Debug, Clone)]
enum Part {
    Deny(FlowPattern),
    Egress(EgressRule),
    Lan,
    Host,
    Narrow(Scope),
    Intercept(HostPattern),
}

fn with(policy: Policy, part: Part) -> Policy {
    match part {
        Part::Deny(pattern) => policy.deny(pattern),
        Part::Egress(rule) => policy.allow_egress(rule),
        Part::Lan => policy.allow_lan(),
        Part::Host => policy.allow_host(),
        Part::Narrow(scope) => policy.narrow(scope),
        Part::Intercept(hosts) => policy.intercept(hosts),
    }
}

fn any_scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::default()),
        Just(offline()),
        prop::collection::vec("[a-c]\\.test", 0..3)
            .prop_map(|hosts| { list(&hosts.iter().map(String::as_str).collect::<Vec<_>>()) }),
    ]
}

fn any_rule() -> impl Strategy<Value = Part> {
    let network = prop_oneof![
        Just("10.0.0.0/8"),
        Just("0.0.0.0/0"),
        Just("::/0"),
        Just("169.254.0.0/16"),
        Just("10.0.0.1"),
        Just("192.168.0.0/16:443"),
    ];
    network.prop_map(|text| Part::Egress(egress(text)))
}

fn any_part() -> impl Strategy<Value = Part> {
    prop_oneof![
        any_pattern().prop_map(Part::Deny),
        any_rule(),
        Just(Part::Lan),
        Just(Part::Host),
        any_scope().prop_map(Part::Narrow),
        "[a-c]\\.test".prop_map(|host| Part::Intercept(HostPattern::parse(&host).unwrap())),
    ]
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let known = prop::sample::select(vec![
        "10.0.0.1",
        "192.168.3.4",
        "8.8.8.8",
        "127.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "::ffff:10.0.0.1",
        "2001:4860::1",
        "fd00::1",
        "168.63.129.16",
        "224.0.0.1",
        "64:ff9b::10.0.0.1",
    ]);
    prop_oneof![
        known.prop_map(|text: &str| text.parse::<IpAddr>().unwrap()),
        any::<u32>().prop_map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    ]
}

#[test]
fn a_name_that_a_proxy_resolves_is_judged_by_its_name_alone() {
    let names = [host("a.test")];
    let facts = ConnectFacts {
        names: &names,
        address: "198.19.0.1".parse().unwrap(),
        port: 443,
        resolution: Resolution::ByProxy,
        owner: Owner::Other,
    };
    let listed = |pattern: &str| {
        Policy::new(Scope {
            preset: Preset::Allowlist,
            domains: vec![HostPattern::parse(pattern).unwrap()],
            builtin: Vec::new(),
        })
        .allow_egress("198.18.0.0/15".parse().unwrap())
    };
    assert!(!is_denied(&Policy::public(), &facts));
    assert!(!is_denied(&listed("a.test"), &facts));
    assert!(is_denied(&listed("b.test"), &facts));
    let refused = FlowPattern::Host(HostPattern::parse("a.test").unwrap());
    assert!(is_denied(&Policy::public().deny(refused), &facts));
    let direct = ConnectFacts {
        resolution: Resolution::Public,
        ..facts
    };
    assert!(is_denied(&Policy::public(), &direct));
}

fn any_resolution() -> impl Strategy<Value = Resolution> {
    prop::sample::select(vec![
        Resolution::Public,
        Resolution::Overridden,
        Resolution::ByProxy,
        Resolution::HostService,
    ])
}

fn any_owner() -> impl Strategy<Value = Owner> {
    prop::sample::select(vec![Owner::Host, Owner::Other])
}

fn is_denied(policy: &Policy, facts: &ConnectFacts<'_>) -> bool {
    matches!(policy.decide_connect(facts), ConnectVerdict::Deny(_))
}

proptest! {
    #[test]
    fn a_deny_or_a_narrowing_never_allows_more_and_a_grant_never_less(
        (scope, parts) in (any_scope(), prop::collection::vec(any_part(), 0..6)),
        extra in any_part(),
        (address, owner, resolution) in (any_address(), any_owner(), any_resolution()),
        (port, name) in (440_u16..446, "[a-c]\\.test"),
    ) {
        let names = [host(&name)];
        let facts = ConnectFacts { names: &names, address, port, resolution, owner };
        let before = parts.into_iter().fold(Policy::new(scope), with);
        let narrows = matches!(extra, Part::Deny(_) | Part::Narrow(_));
        let after = with(before.clone(), extra);
        let (was, is) = (is_denied(&before, &facts), is_denied(&after, &facts));
        let holds = if narrows { is || !was } else { was || !is };
        prop_assert!(holds);
        let (was, is) = (before.decide_name(&names[0]).is_err(), after.decide_name(&names[0]).is_err());
        let holds = if narrows { is || !was } else { was || !is };
        prop_assert!(holds);
    }

    #[test]
    fn the_order_of_parts_does_not_matter(
        scope in any_scope(),
        (parts, shuffled) in prop::collection::vec(any_part(), 0..6)
            .prop_flat_map(|parts| (Just(parts.clone()), Just(parts).prop_shuffle())),
        (address, owner, resolution) in (any_address(), any_owner(), any_resolution()),
        name in "[a-c]\\.test",
    ) {
        let names = [host(&name)];
        let facts = ConnectFacts { names: &names, address, port: 443, resolution, owner };
        let one = parts.into_iter().fold(Policy::new(scope.clone()), with);
        let two = shuffled.into_iter().fold(Policy::new(scope), with);
        prop_assert_eq!(one.decide_connect(&facts), two.decide_connect(&facts));
        prop_assert_eq!(one.decide_name(&names[0]), two.decide_name(&names[0]));
    }

    #[test]
    fn metadata_and_loopback_stay_denied_whatever_is_given(
        parts in prop::collection::vec(any_part(), 0..6),
        (address, owner, port) in (any_address(), any_owner(), 440_u16..446),
        resolution in any_resolution(),
    ) {
        let names = [host("a.test")];
        let facts = ConnectFacts { names: &names, address, port, resolution, owner };
        let policy = parts.into_iter().fold(Policy::public(), with);
        let class = classify(address);
        if class == AddressClass::Metadata || (class == AddressClass::Loopback && resolution == Resolution::Public) {
            prop_assert!(is_denied(&policy, &facts));
        }
    }

    #[test]
    fn what_may_be_connected_to_may_be_told(
        parts in prop::collection::vec(any_part(), 0..6),
        (address, port) in (any_address(), 440_u16..446),
    ) {
        let names = [host("a.test")];
        let facts = ConnectFacts { names: &names, address, port, resolution: Resolution::Public, owner: Owner::Other };
        let policy = parts.into_iter().fold(Policy::public(), with);
        if !is_denied(&policy, &facts) {
            prop_assert!(policy.decide_answer(address).is_ok());
        }
    }
}
