//! The shapes that the clients read (Claude Code 2.1.329, Codex 0.169.0, OpenCode 1.18.33, Gemini CLI 0.61.0).

use std::path::PathBuf;

use agent_vm_secret::Secret;

use super::*;
use crate::refresh_endpoint as table;
use crate::refresh_endpoint::{LoginFields, RefreshEndpoint};

fn answered(
    (endpoint, fields): (&'static RefreshEndpoint, &'static LoginFields),
    (scope, id_token): (&str, Option<&str>),
    expires: Option<u64>,
) -> (Value, Placeholder, Placeholder) {
    let access = Placeholder::mint("x-").unwrap();
    let facts = RefreshFacts {
        endpoint,
        file: PathBuf::from("/h/file"),
        fields,
        expires: None,
        refresh_placeholder: Placeholder::mint("y-").unwrap(),
        guest_id_token: id_token.map(str::to_owned),
        guest_scope: scope.to_owned(),
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let login = Login {
        access: Some(Secret::new("real-access").unwrap()),
        refresh: Some(Secret::new("real-refresh").unwrap()),
        expires: expires.map(|left| now + Duration::from_secs(left)),
    };
    let bytes = guest_answer(&facts, &access, &login, now);
    assert!(!String::from_utf8(bytes.clone()).unwrap().contains("real"));
    (
        serde_json::from_slice(&bytes).unwrap(),
        access,
        facts.refresh_placeholder,
    )
}

#[test]
fn claude_gets_its_scope_as_one_text_and_the_time_that_is_left() {
    let (document, access, refresh) = answered(
        (&table::ANTHROPIC, &table::CLAUDE_FIELDS),
        ("user:profile user:inference", None),
        Some(28_799),
    );
    let expected = json!({
        "token_type": "Bearer",
        "access_token": access.as_str(),
        "refresh_token": refresh.as_str(),
        "expires_in": 28_799,
        "scope": "user:profile user:inference",
    });
    assert_eq!(document, expected);
}

#[test]
fn codex_gets_all_three_tokens() {
    let (document, access, refresh) = answered(
        (&table::OPENAI, &table::CODEX_FIELDS),
        ("", Some("e30.e30.AAAA")),
        None,
    );
    assert_eq!(document["id_token"], "e30.e30.AAAA");
    assert_eq!(document["access_token"], access.as_str());
    assert_eq!(document["refresh_token"], refresh.as_str());
    assert!(document.get("scope").is_none());
}

#[test]
fn opencode_gets_a_number_of_seconds() {
    let (document, access, refresh) = answered(
        (&table::OPENAI, &table::OPENCODE_OPENAI_FIELDS),
        ("", None),
        Some(864_000),
    );
    assert_eq!(document["expires_in"], 864_000);
    assert_eq!(document["access_token"], access.as_str());
    assert_eq!(document["refresh_token"], refresh.as_str());
}

#[test]
fn gemini_gets_what_google_answers() {
    let scope = "https://www.googleapis.com/auth/cloud-platform openid";
    let (document, access, _) = answered(
        (&table::GEMINI, &table::GEMINI_FIELDS),
        (scope, Some("e30.e30.AAAA")),
        Some(3599),
    );
    assert_eq!(document["access_token"], access.as_str());
    assert_eq!(document["expires_in"], 3599);
    assert_eq!(document["scope"], scope);
    assert_eq!(document["token_type"], "Bearer");
}

#[test]
fn a_token_that_has_ended_has_nothing_left() {
    let (document, ..) = answered(
        (&table::ANTHROPIC, &table::CLAUDE_FIELDS),
        ("", None),
        Some(0),
    );
    assert_eq!(document["expires_in"], 0);
}
