//! What rules about hosts and answers of the person do to connections and requests.

use proptest::prelude::*;

use super::*;
use crate::grant::Preset;
use crate::request::{ForeignCredential, PlaceholderUse, RequestFacts, RequestVerdict, Transport};
use crate::rule::{Action, RuleName};

fn host(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

/// `ACTION [METHOD,…] HOST[:PORT][/PATH]`
fn rule(text: &str) -> HostRule {
    let words: Vec<&str> = text.split(' ').collect();
    let (action, methods, target) = match words.as_slice() {
        [action, target] => (action, Vec::new(), target),
        [action, methods, target] => {
            let methods = methods.split(',').map(|method| method.parse().unwrap());
            (action, methods.collect(), target)
        }
        _ => panic!("{text}"),
    };
    let (place, path) = match target.find('/') {
        Some(at) => (&target[..at], Some(target[at..].parse().unwrap())),
        None => (*target, None),
    };
    let (name, port) = match place.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().unwrap())),
        None => (place, None),
    };
    HostRule {
        name: RuleName {
            file: "config.toml",
            number: 1,
            reason: None,
        },
        host: name.parse().unwrap(),
        port,
        methods,
        path,
        action: action.parse().unwrap(),
    }
}

fn policy(preset: Preset, rules: &[&str]) -> Policy {
    let scope = Scope {
        preset,
        ..Scope::default()
    };
    let mut rules: Vec<HostRule> = rules.iter().map(|text| rule(text)).collect();
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.name.number = index + 1;
    }
    Policy::new(scope).with_rules(rules)
}

fn facts(names: &[HostName], port: u16) -> ConnectFacts<'_> {
    ConnectFacts {
        names,
        address: "8.8.8.8".parse().unwrap(),
        port,
        resolution: Resolution::Public,
        owner: Owner::Other,
    }
}

fn connect(policy: &Policy, name: &str, port: u16) -> ConnectVerdict {
    policy.decide_connect(&facts(&[host(name)], port))
}

fn asks<'a>(host: &'a HostName, port: u16, method: &'a str, target: &'a str) -> RequestFacts<'a> {
    RequestFacts {
        host,
        authority: Some(host),
        port,
        transport: Transport::Tls,
        method,
        target,
        placeholders: PlaceholderUse::None,
        foreign: ForeignCredential::Absent,
    }
}

fn request(policy: &Policy, name: &str, method: &str, target: &str) -> RequestVerdict {
    policy.decide_request(&asks(&host(name), 443, method, target))
}

/// The whole way of a request: its name, its connection, its ClientHello, and itself where it is looked at.
fn passes(
    policy: &Policy,
    facts: &ConnectFacts<'_>,
    (name, method, target): (&HostName, &str, &str),
) -> bool {
    if policy.decide_name(name).is_err() {
        return false;
    }
    let connected = policy.decide_connect(facts);
    match policy.decide_hello(connected, facts, Some(name)) {
        ConnectVerdict::Deny(_) => false,
        ConnectVerdict::Tunnel | ConnectVerdict::Inspect => true,
        ConnectVerdict::Intercept => {
            policy.decide_request(&asks(name, facts.port, method, target)) == RequestVerdict::Allow
        }
    }
}

const TUNNEL: ConnectVerdict = ConnectVerdict::Tunnel;
const INSPECT: ConnectVerdict = ConnectVerdict::Inspect;
const INTERCEPT: ConnectVerdict = ConnectVerdict::Intercept;

fn denied(reason: DenyReason) -> ConnectVerdict {
    ConnectVerdict::Deny(reason)
}

fn refused(reason: DenyReason) -> RequestVerdict {
    RequestVerdict::Deny(reason)
}

#[test]
fn rules_about_hosts_and_ports_decide_without_interception() {
    let rules = [
        "deny a.test:22",
        "allow b.test:443",
        "deny *.c.test",
        "allow d.test",
    ];
    for (preset, name, port, verdict) in [
        (Preset::Public, "a.test", 22, denied(DenyReason::Rule)),
        (Preset::Public, "a.test", 443, TUNNEL),
        (Preset::Public, "b.test", 443, TUNNEL),
        (Preset::Public, "b.test", 80, denied(DenyReason::Rule)),
        (Preset::Public, "x.c.test", 443, denied(DenyReason::Rule)),
        (Preset::Public, "e.test", 443, TUNNEL),
        (
            Preset::Allowlist,
            "a.test",
            443,
            denied(DenyReason::NotListed),
        ),
        (Preset::Allowlist, "b.test", 443, INSPECT),
        (Preset::Allowlist, "b.test", 80, denied(DenyReason::Rule)),
        (Preset::Allowlist, "d.test", 80, INSPECT),
        (Preset::Ask, "d.test", 80, INSPECT),
        (Preset::Ask, "e.test", 80, denied(DenyReason::Unanswered)),
        (Preset::Offline, "d.test", 80, denied(DenyReason::Offline)),
    ] {
        assert_eq!(
            connect(&policy(preset, &rules), name, port),
            verdict,
            "{preset} {name}:{port}"
        );
    }
    let ruled = policy(Preset::Public, &rules);
    assert_eq!(ruled.decide_name(&host("x.c.test")), Err(DenyReason::Rule));
    assert_eq!(ruled.decide_name(&host("a.test")), Ok(()));
    let shown = ruled.rule(&facts(&[host("b.test")], 443)).unwrap();
    assert_eq!(shown.to_string(), "rule 2 of config.toml");
    let shown = ruled.rule(&facts(&[host("x.c.test")], 443)).unwrap();
    assert_eq!(shown.to_string(), "rule 3 of config.toml");
}

#[test]
fn a_rule_about_requests_intercepts_and_closes_the_rest_of_its_host() {
    let policy = policy(
        Preset::Public,
        &[
            "deny api.test/secret/**",
            "allow GET,HEAD api.test/repos/**",
            "deny POST b.test",
            "allow api.test:22",
        ],
    );
    for (name, port, verdict) in [
        ("api.test", 443, INTERCEPT),
        ("api.test", 22, INTERCEPT),
        ("b.test", 443, INTERCEPT),
        ("c.test", 443, TUNNEL),
    ] {
        assert_eq!(connect(&policy, name, port), verdict, "{name}:{port}");
    }
    for (name, method, target, verdict) in [
        (
            "api.test",
            "GET",
            "/repos/o/r?q=/../x",
            RequestVerdict::Allow,
        ),
        ("api.test", "head", "/repos", RequestVerdict::Allow),
        ("api.test", "POST", "/repos/o/r", refused(DenyReason::Rule)),
        ("api.test", "GET", "/user", refused(DenyReason::Rule)),
        ("api.test", "GET", "/secret/x", refused(DenyReason::Rule)),
        (
            "api.test",
            "GET",
            "/repos/../secret/x",
            refused(DenyReason::PathUnclear),
        ),
        (
            "api.test",
            "GET",
            "/repos/%2e%2e/secret",
            refused(DenyReason::PathUnclear),
        ),
        ("b.test", "POST", "/", refused(DenyReason::Rule)),
        ("b.test", "GET", "/a/../b", RequestVerdict::Allow),
    ] {
        assert_eq!(
            request(&policy, name, method, target),
            verdict,
            "{method} {name}{target}"
        );
    }
    let api = host("api.test");
    let shown = policy
        .request_rule(&asks(&api, 443, "GET", "/secret"))
        .unwrap();
    assert_eq!(shown.to_string(), "rule 1 of config.toml");
    assert_eq!(
        policy.path_to_send(&api, 443, "/repos/%61"),
        Some("/repos/a".to_owned())
    );
    assert_eq!(policy.path_to_send(&api, 443, "/repos/a"), None);
    assert!(
        policy.wants_http(&facts(&[api], 443))
            && !policy.wants_http(&facts(&[host("c.test")], 443))
    );
}

#[test]
fn names_of_one_address_are_told_apart_by_the_server_name() {
    let policy = policy(Preset::Public, &["deny bad.test", "deny POST api.test"]);
    let all = [host("bad.test"), host("good.test"), host("api.test")];
    let shared = facts(&all, 443);
    assert_eq!(policy.decide_connect(&shared), INTERCEPT);
    for (name, verdict) in [
        ("bad.test", denied(DenyReason::Rule)),
        ("good.test", TUNNEL),
        ("api.test", INTERCEPT),
        ("other.test", denied(DenyReason::ServerNameMismatch)),
    ] {
        assert_eq!(
            policy.decide_hello(INTERCEPT, &shared, Some(&host(name))),
            verdict,
            "{name}"
        );
    }
    let two = facts(&all[..2], 443);
    assert_eq!(policy.decide_connect(&two), INSPECT);
    // At an address that stands for no name a denied one is denied, and one that is looked into is nowhere else.
    let none = facts(&[], 443);
    assert_eq!(policy.decide_connect(&none), TUNNEL);
    for (name, verdict) in [
        ("bad.test", denied(DenyReason::Rule)),
        ("api.test", denied(DenyReason::ServerNameMismatch)),
        ("good.test", TUNNEL),
    ] {
        assert_eq!(
            policy.decide_hello(TUNNEL, &none, Some(&host(name))),
            verdict,
            "{name}"
        );
    }
}

#[test]
fn a_projects_list_is_not_widened_by_the_users_rules() {
    let listed = Scope {
        preset: Preset::Allowlist,
        domains: vec!["b.test".parse().unwrap()],
        ..Scope::default()
    };
    let narrowed = policy(Preset::Public, &["allow a.test"]).narrow(listed);
    assert_eq!(
        connect(&narrowed, "a.test", 443),
        denied(DenyReason::NotListed)
    );
    assert_eq!(connect(&narrowed, "b.test", 443), INSPECT);
    let asked = narrowed.answered("a.test".parse().unwrap(), Answer::Allow);
    assert_eq!(connect(&asked, "a.test", 443), INSPECT);
}

#[test]
fn an_answer_decides_what_is_asked_about_and_undoes_no_denial() {
    let rules = [
        "deny never.test",
        "ask sometimes.test",
        "ask POST api.test",
        "allow GET api.test",
    ];
    let unasked = policy(Preset::Ask, &rules);
    let question = denied(DenyReason::Unanswered);
    for name in ["new.test", "sometimes.test"] {
        assert_eq!(unasked.decide_name(&host(name)), Ok(()));
        assert_eq!(connect(&unasked, name, 443), question);
    }
    assert_eq!(connect(&unasked, "api.test", 443), INTERCEPT);
    assert_eq!(
        request(&unasked, "api.test", "POST", "/"),
        refused(DenyReason::Unanswered)
    );
    assert_eq!(
        request(&unasked, "api.test", "GET", "/"),
        RequestVerdict::Allow
    );
    let answered = |answer| {
        let hosts = ["new.test", "sometimes.test", "never.test", "api.test"]
            .map(|host| host.parse().unwrap());
        hosts.into_iter().fold(unasked.clone(), |policy, host| {
            policy.answered(host, answer)
        })
    };
    let yes = answered(Answer::Allow);
    assert_eq!(connect(&yes, "new.test", 443), INSPECT);
    assert_eq!(connect(&yes, "sometimes.test", 443), INSPECT);
    assert_eq!(connect(&yes, "never.test", 443), denied(DenyReason::Rule));
    assert_eq!(
        request(&yes, "api.test", "POST", "/"),
        RequestVerdict::Allow
    );
    assert_eq!(
        request(&yes, "api.test", "DELETE", "/"),
        RequestVerdict::Allow
    );
    let shown = yes.rule(&facts(&[host("new.test")], 443)).unwrap();
    assert_eq!(shown.to_string(), "asked new.test");
    let no = answered(Answer::Deny);
    for name in ["new.test", "sometimes.test", "api.test"] {
        assert_eq!(no.decide_name(&host(name)), Err(DenyReason::AnsweredNo));
        assert_eq!(connect(&no, name, 443), denied(DenyReason::AnsweredNo));
    }
    assert_eq!(
        request(&no, "api.test", "GET", "/"),
        refused(DenyReason::AnsweredNo)
    );
    let offline = policy(Preset::Offline, &[]).answered("new.test".parse().unwrap(), Answer::Allow);
    assert_eq!(
        connect(&offline, "new.test", 443),
        denied(DenyReason::Offline)
    );
    let private = ConnectFacts {
        address: "10.0.0.1".parse().unwrap(),
        ..facts(&[], 443)
    };
    let names = [host("new.test")];
    let private = ConnectFacts {
        names: &names,
        ..private
    };
    let class = denied(DenyReason::Address(AddressClass::Private));
    assert_eq!(
        unasked.decide_connect(&private),
        class,
        "nobody is asked about what cannot be"
    );
    assert_eq!(yes.decide_connect(&private), class);
}

#[test]
fn the_built_in_list_counts_as_listed() {
    let scope = Scope {
        preset: Preset::Allowlist,
        builtin: vec!["pypi.test".parse().unwrap()],
        ..Scope::default()
    };
    let policy = Policy::new(scope);
    assert_eq!(connect(&policy, "pypi.test", 443), INSPECT);
    let shown = policy.rule(&facts(&[host("pypi.test")], 443)).unwrap();
    assert_eq!(shown.to_string(), "builtin pypi.test");
}

fn any_rule() -> impl Strategy<Value = HostRule> {
    let target = prop::sample::select(vec![
        "a.test",
        "b.test",
        "*.c.test",
        "x.c.test",
        "a.test:443",
        "x.c.test:80",
    ]);
    let path = prop::sample::select(vec!["", "/", "/a", "/a/**", "/*/b", "/**"]);
    let methods = prop::sample::select(vec!["", "GET ", "POST,PUT "]);
    let action = prop::sample::select(vec!["allow", "deny", "ask"]);
    (action, methods, target, path).prop_map(|(action, methods, target, path)| {
        rule(&format!("{action} {methods}{target}{path}"))
    })
}

fn any_scope() -> impl Strategy<Value = Scope> {
    let preset = prop::sample::select(vec![
        Preset::Public,
        Preset::Allowlist,
        Preset::Ask,
        Preset::Offline,
    ]);
    let domains = prop::collection::vec(prop::sample::select(vec!["a.test", "*.c.test"]), 0..2);
    (preset, domains).prop_map(|(preset, domains)| Scope {
        preset,
        domains: domains
            .into_iter()
            .map(|text| text.parse().unwrap())
            .collect(),
        ..Scope::default()
    })
}

fn any_answers() -> impl Strategy<Value = Vec<(HostPattern, Answer)>> {
    let hosts = prop::sample::select(vec!["a.test", "b.test", "*.c.test"]);
    let answer = prop::sample::select(vec![Answer::Allow, Answer::Deny]);
    prop::collection::vec(
        (hosts.prop_map(|text: &str| text.parse().unwrap()), answer),
        0..3,
    )
}

fn built(scope: &Scope, rules: Vec<HostRule>, answers: &[(HostPattern, Answer)]) -> Policy {
    let policy = Policy::new(scope.clone()).with_rules(rules);
    let given = answers.iter().cloned();
    given.fold(policy, |policy, (hosts, answer)| {
        policy.answered(hosts, answer)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_deny_rule_anywhere_never_lets_more_pass(
        (scope, answers) in (any_scope(), any_answers()),
        rules in prop::collection::vec(any_rule(), 0..5),
        (extra, place) in (any_rule(), any::<prop::sample::Index>()),
        names in prop::collection::vec(prop::sample::select(vec!["a.test", "b.test", "x.c.test", "d.test"]), 1..3),
        port in prop::sample::select(vec![80_u16, 443]),
        method in prop::sample::select(vec!["GET", "POST", "DELETE"]),
        target in prop::sample::select(vec!["/", "/a", "/a/b", "/x/b", "/a/../b", "/%61", "//a", "/c?x=/a"]),
    ) {
        let mut with_extra = rules.clone();
        with_extra.insert(place.index(rules.len() + 1), HostRule { action: Action::Deny, ..extra });
        let before = built(&scope, rules, &answers);
        let after = built(&scope, with_extra, &answers);
        let names: Vec<HostName> = names.into_iter().map(host).collect();
        let facts = facts(&names, port);
        for name in &names {
            let asked = (name, method, target);
            prop_assert!(passes(&before, &facts, asked) || !passes(&after, &facts, asked));
        }
        // Without a name, and in another protocol than TLS.
        let connects = |policy: &Policy| !matches!(policy.decide_connect(&facts), ConnectVerdict::Deny(_));
        let speaks = |policy: &Policy| connects(policy) && !policy.wants_http(&facts);
        prop_assert!(speaks(&before) || !speaks(&after));
        prop_assert!(connects(&before) || !connects(&after));
    }

    #[test]
    fn a_denying_answer_never_lets_more_pass(
        (scope, answers) in (any_scope(), any_answers()),
        rules in prop::collection::vec(any_rule(), 0..5),
        denied in prop::sample::select(vec!["a.test", "b.test", "*.c.test", "x.c.test"]),
        name in prop::sample::select(vec!["a.test", "b.test", "x.c.test", "d.test"]),
        method in prop::sample::select(vec!["GET", "POST"]),
    ) {
        let before = built(&scope, rules, &answers);
        let after = before.clone().answered(denied.parse().unwrap(), Answer::Deny);
        let names = [host(name)];
        let (facts, asked) = (facts(&names, 443), (&names[0], method, "/a"));
        prop_assert!(passes(&before, &facts, asked) || !passes(&after, &facts, asked));
    }

    #[test]
    fn only_rules_that_are_about_a_host_matter_to_it(
        scope in any_scope(),
        rules in prop::collection::vec(any_rule(), 0..6),
        name in prop::sample::select(vec!["a.test", "b.test", "x.c.test", "d.test"]),
        (port, method) in (prop::sample::select(vec![80_u16, 443]), prop::sample::select(vec!["GET", "POST"])),
    ) {
        let names = [host(name)];
        let own = rules.iter().filter(|rule| rule.host.matches(&names[0])).cloned().collect();
        let (all, own) = (built(&scope, rules, &[]), built(&scope, own, &[]));
        let (facts, asked) = (facts(&names, port), (&names[0], method, "/a/b"));
        prop_assert_eq!(passes(&all, &facts, asked), passes(&own, &facts, asked));
        prop_assert_eq!(all.decide_connect(&facts), own.decide_connect(&facts));
    }
}
