//! Which policy is in force for what options and files say.

use agent_vm_policy::{HostName, Policy};
use proptest::prelude::*;

use super::*;

/// What is reached with these files and options.
fn reach(
    user: &str,
    project: &str,
    options: &NetworkOptions,
) -> Result<Reach, NetworkSettingsError> {
    let directory = tempfile::tempdir().unwrap();
    fs_err::write(directory.path().join(USER_CONFIG), user).unwrap();
    fs_err::write(directory.path().join(PROJECT_CONFIG), project).unwrap();
    let directories = (directory.path(), directory.path());
    Reach::read(options, directories, &["builtin.test".parse().unwrap()])
}

fn options(policy: Option<&str>, offline: bool, domains: &[&str]) -> NetworkOptions {
    NetworkOptions {
        policy: policy.map(|text| text.parse().unwrap()),
        offline,
        allow_domain: domains.iter().map(|text| text.parse().unwrap()).collect(),
        ..NetworkOptions::default()
    }
}

/// The user's file, then `--policy`, `--offline` and `--allow-domain`; what is in force, who said so, and what is listed.
type InForce = (
    &'static str,
    (Option<&'static str>, bool, &'static [&'static str]),
    (Preset, &'static str, &'static [&'static str]),
);

const LIST: &str = "[network]\nallow-domains = [\"f.test\"]\n";
const OFFLINE: &str = "[network]\npolicy = \"offline\"";
const PUBLIC: &str = "[network]\npolicy = \"public\"";

#[rustfmt::skip]
const IN_FORCE: &[InForce] = &[
    ("", (None, false, &[]), (Preset::Public, "default", &[])),
    ("", (None, true, &[]), (Preset::Offline, "--offline", &[])),
    ("", (Some("offline"), true, &[]), (Preset::Offline, "--offline", &[])),
    ("", (Some("allowlist"), false, &[]), (Preset::Allowlist, "--policy", &[])),
    ("", (None, false, &["a.test"]), (Preset::Allowlist, "--allow-domain", &["a.test"])),
    (LIST, (None, false, &[]), (Preset::Allowlist, "config.toml", &["f.test"])),
    (LIST, (None, false, &["a.test"]), (Preset::Allowlist, "--allow-domain", &["a.test", "f.test"])),
    (LIST, (Some("public"), false, &[]), (Preset::Public, "--policy", &[])),
    (OFFLINE, (None, false, &[]), (Preset::Offline, "config.toml", &[])),
    (OFFLINE, (Some("public"), false, &[]), (Preset::Public, "--policy", &[])),
    (PUBLIC, (None, false, &["a.test"]), (Preset::Allowlist, "--allow-domain", &["a.test"])),
];

#[test]
fn options_win_over_the_users_file_and_listing_hosts_excludes_others() {
    for (user, (policy, offline, domains), (preset, origin, listed)) in IN_FORCE {
        let found = reach(user, "", &options(*policy, *offline, domains)).unwrap();
        let shown: Vec<String> = found
            .scope
            .domains
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            (found.scope.preset, found.origin.to_string().as_str()),
            (*preset, *origin),
            "{user} {policy:?} {domains:?}"
        );
        assert_eq!(shown, *listed);
    }
}

#[test]
fn what_would_have_no_effect_is_refused() {
    for (user, (policy, offline, domains), told) in [
        ("", (Some("public"), true, &[][..]), "exclude each other"),
        (
            "",
            (Some("public"), false, &["a.test"]),
            "under --policy public",
        ),
        (
            "",
            (Some("offline"), false, &["a.test"]),
            "under --policy offline",
        ),
        ("", (None, true, &["a.test"]), "under --offline"),
        (
            "[network]\npolicy = \"offline\"",
            (None, false, &["a.test"]),
            "under config.toml (policy = \"offline\")",
        ),
    ] {
        let error = reach(user, "", &options(policy, offline, domains))
            .unwrap_err()
            .to_string();
        assert!(error.ends_with(told), "{error}");
    }
}

#[test]
fn grants_of_options_and_the_users_file_add_up() {
    let user = "[network]\nallow-egress = [\"10.0.0.0/8:443\"]\nallow-lan = true\n";
    let options = NetworkOptions {
        allow_egress: vec!["192.168.1.5".parse().unwrap()],
        allow_host: true,
        allow_foreign_credentials: true,
        ..NetworkOptions::default()
    };
    let found = reach(user, "", &options).unwrap();
    let rules: Vec<String> = found.egress.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["10.0.0.0/8:443", "192.168.1.5"]);
    assert!(found.lan && found.host && found.foreign_credentials);
    let user = "[network]\nallow-foreign-credentials = true\n";
    let found = reach(user, "", &NetworkOptions::default()).unwrap();
    assert!(found.foreign_credentials && !found.lan);
}

#[test]
fn files_that_are_not_understood_are_never_passed_over() {
    for user in [
        "[network]\npolicy = \"none\"",
        "[network]\npolicy = true",
        "[network]\nallow-domain = [\"a.test\"]",
        "[network]\nallow-domains = [\"*\"]",
        "[network]\nallow-egress = [\"127.0.0.1\"]",
        "[network]\nallow-egress = [\"example.org\"]",
        "network = 1",
        "[network",
    ] {
        assert!(
            reach(user, "", &NetworkOptions::default()).is_err(),
            "{user}"
        );
    }
    for project in [
        "[network]\nallow-lan = true",
        "[network]\nallow-lan = false",
        "[network]\nallow-host = true",
        "[network]\nallow-foreign-credentials = false",
        "[network]\nallow-egress = []",
        "[network]\npolicy = \"public\"\nallow-domains = [\"a.test\"]",
        "[network]\npolicy = \"offline\"\nallow-domains = [\"a.test\"]",
        "[network]\nproxy = \"x\"",
    ] {
        assert!(
            reach("", project, &NetworkOptions::default()).is_err(),
            "{project}"
        );
    }
}

#[test]
fn a_project_narrows_in_its_own_scope() {
    for (project, expected) in [
        ("", None),
        ("[network]\n", None),
        ("[network]\npolicy = \"public\"", None),
        ("[network]\npolicy = \"offline\"", Some(Preset::Offline)),
        ("[network]\npolicy = \"allowlist\"", Some(Preset::Allowlist)),
        (
            "[network]\nallow-domains = [\"a.test\"]",
            Some(Preset::Allowlist),
        ),
    ] {
        let found = reach("", project, &NetworkOptions::default()).unwrap();
        assert_eq!(found.scope, Scope::default());
        assert_eq!(
            found.project.map(|scope| scope.preset),
            expected,
            "{project}"
        );
    }
}

proptest! {
    #[test]
    fn a_project_file_never_widens(
        user in prop::sample::select(vec!["", "[network]\npolicy = \"offline\"", "[network]\nallow-domains = [\"a.test\"]"]),
        policy in prop::sample::select(vec!["", "policy = \"public\"\n", "policy = \"allowlist\"\n", "policy = \"offline\"\n"]),
        domains in prop::sample::select(vec!["", "allow-domains = [\"a.test\"]\n", "allow-domains = [\"b.test\", \"*.c.test\"]\n"]),
        rest in prop::sample::select(vec!["", "allow-lan = true\n", "allow-host = true\n", "allow-egress = [\"10.0.0.0/8\"]\n"]),
        name in prop::sample::select(vec!["a.test", "b.test", "x.c.test", "host.agent-vm.internal", "d.test"]),
    ) {
        let policy_of = |reach: Reach| {
            let policy = Policy::new(reach.scope);
            reach.project.into_iter().fold(policy, Policy::narrow)
        };
        let name = HostName::parse(name).unwrap();
        let own = reach(user, "", &NetworkOptions::default()).unwrap();
        let project = format!("[network]\n{policy}{domains}{rest}");
        if let Ok(both) = reach(user, &project, &NetworkOptions::default()) {
            prop_assert!(rest.is_empty() && (&both.egress, both.lan, both.host) == (&own.egress, own.lan, own.host));
            if policy_of(both).decide_name(&name).is_ok() {
                prop_assert!(policy_of(own).decide_name(&name).is_ok());
            }
        }
    }
}
