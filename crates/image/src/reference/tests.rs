use proptest::prelude::*;

use super::*;

const HEX: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn canonical_form_of_what_people_type() {
    for (typed, canonical) in [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:13", "docker.io/library/debian:13"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        (
            "127.0.0.1:5000/a/b/c:v1.2-rc_3",
            "127.0.0.1:5000/a/b/c:v1.2-rc_3",
        ),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("[::1]/x:t", "[::1]/x:t"),
        ("ghcr.io/Owner/x", "!repository"),
        ("GHCR.io/owner/x", "ghcr.io/owner/x:latest"),
        ("ghcr.io/a__b/c--d/e.f:T", "ghcr.io/a__b/c--d/e.f:T"),
        ("x:", "!tag"),
        ("x:.a", "!tag"),
        ("", "!empty"),
        ("/x", "!repository"),
        ("x/", "!repository"),
        ("a//b", "!repository"),
        ("a/../b", "!repository"),
        ("a___b", "!repository"),
        ("a._b", "!repository"),
        ("-a", "!repository"),
        ("Debian", "!repository"),
        ("x y", "!repository"),
        ("h_st.io/x", "!registry"),
        ("host:99999/x", "!registry"),
        ("host:0/x", "!registry"),
        ("host:/x", "!registry"),
        ("host:+5/x", "!registry"),
        ("-h.io/x", "!registry"),
        ("[::g]/x", "!registry"),
        ("x@sha256:abc", "!digest"),
        ("x@", "!digest"),
    ] {
        let got = match typed.parse::<Reference>() {
            Ok(reference) => reference.to_string(),
            Err(ReferenceError::Empty) => "!empty".into(),
            Err(ReferenceError::TooLong { .. }) => "!long".into(),
            Err(ReferenceError::Registry { .. }) => "!registry".into(),
            Err(ReferenceError::Repository { .. }) => "!repository".into(),
            Err(ReferenceError::Tag { .. }) => "!tag".into(),
            Err(ReferenceError::Digest { .. }) => "!digest".into(),
        };
        assert_eq!(got, canonical, "{typed}");
    }
}

#[test]
fn a_digest_replaces_the_implied_tag_and_keeps_a_given_one() {
    let pinned: Reference = format!("debian@{HEX}").parse().unwrap();
    assert_eq!(
        pinned.to_string(),
        format!("docker.io/library/debian@{HEX}")
    );
    assert_eq!(
        (pinned.tag(), pinned.manifest_selector()),
        (None, HEX.to_owned())
    );
    let both: Reference = format!("ghcr.io/a/b:1@{HEX}").parse().unwrap();
    assert_eq!(both.to_string(), format!("ghcr.io/a/b:1@{HEX}"));
    assert_eq!(both.manifest_selector(), HEX);
}

#[test]
fn names_over_the_length_limit_are_refused() {
    let long = format!("ghcr.io/{}", "a".repeat(MAX_NAME_LENGTH));
    assert!(matches!(
        long.parse::<Reference>(),
        Err(ReferenceError::TooLong { .. })
    ));
    let tag = format!("x:{}", "a".repeat(MAX_TAG_LENGTH + 1));
    assert!(matches!(
        tag.parse::<Reference>(),
        Err(ReferenceError::Tag { .. })
    ));
}

#[test]
fn only_this_machine_is_loopback() {
    for (registry, loopback) in [
        ("localhost", true),
        ("localhost:5000", true),
        ("127.0.0.1:5000", true),
        ("127.9.9.9", true),
        ("[::1]:5000", true),
        ("[::2]:5000", false),
        ("localhost.example.com", false),
        ("127.0.0.1.example.com", false),
        ("10.0.0.1:5000", false),
        ("ghcr.io", false),
    ] {
        let reference: Reference = format!("{registry}/x").parse().unwrap();
        assert_eq!(reference.is_loopback(), loopback, "{registry}");
    }
}

#[test]
fn docker_hub_is_served_by_its_own_host() {
    let reference: Reference = "debian".parse().unwrap();
    assert_eq!(
        (reference.registry(), reference.api_host()),
        ("docker.io", "registry-1.docker.io")
    );
}

proptest! {
    #[test]
    fn canonical_form_parses_to_itself(text in "[a-zA-Z0-9:/@._\\[\\]-]{1,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            let again: Reference = reference.to_string().parse().unwrap();
            prop_assert_eq!(again, reference);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused_without_panic(text in ".{0,80}") {
        let _ = text.parse::<Reference>();
    }

    #[test]
    fn no_part_can_leave_its_url_path(text in "[a-z0-9:/@._%?#-]{1,60}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert!(!reference.repository().split('/').any(|c| c.is_empty() || c == "." || c == ".."));
            prop_assert!(!reference.to_string().contains(['%', '?', '#']));
        }
    }
}
