//! Rules of the three decisions.

use proptest::prelude::*;

use super::*;

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
        transport: Transport::Tls,
        method: "GET",
        target: "/",
        placeholders: PlaceholderUse::None,
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
        let decided = bound().decide_hello(names, server_name);
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

proptest! {
    #[test]
    fn a_new_deny_rule_never_allows_more(
        rules in prop::collection::vec(any_pattern(), 0..4),
        extra in any_pattern(),
        bits: u32,
        port in 440_u16..446,
        name in "[a-c]\\.test",
        overridden: bool,
    ) {
        let names = [host(&name)];
        let resolution = if overridden { Resolution::Overridden } else { Resolution::Public };
        let address = std::net::Ipv4Addr::from_bits(bits).into();
        let facts = ConnectFacts { names: &names, address, port, resolution, owner: Owner::Other };
        let before = rules.into_iter().fold(Policy::public(), Policy::deny);
        let denied = |verdict| matches!(verdict, ConnectVerdict::Deny(_));
        if denied(before.decide_connect(&facts)) {
            prop_assert!(denied(before.deny(extra).decide_connect(&facts)));
        }
    }
}
