use super::*;
use crate::refresh_endpoint as table;

fn token(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn granted() -> Granted {
    Granted {
        access: token("new-access"),
        refresh: Some(token("new-refresh")),
        id_token: Some(token("new-id")),
        lifetime: Some(Duration::from_secs(3600)),
        scope: Some("user:profile user:new".into()),
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn jwt(claims: &str) -> String {
    format!("e30.{}.AAAA", URL_SAFE_NO_PAD.encode(claims))
}

#[test]
fn claudes_file_keeps_everything_else() {
    let file = "{\"mcpOAuth\":{\"x\":{\"accessToken\":\"m\"}},\n \"claudeAiOauth\":{\"accessToken\":\"a\",\"refreshToken\":\"r\",\
        \"expiresAt\":1800000000000,\"scopes\":[\"user:profile\"],\"subscriptionType\":\"max\",\"unknown\":[1.0]}}\n";
    let fields = &table::CLAUDE_FIELDS;
    let login = Login::read(file, fields);
    assert_eq!(login.access.unwrap().expose(), "a");
    assert_eq!(login.expires, Some(at(1_800_000_000)));
    let changed = renewed(file, fields, &granted(), at(1_900_000_000)).unwrap();
    let expected = file
        .replace("\"a\"", "\"new-access\"")
        .replace("\"r\"", "\"new-refresh\"")
        .replace("1800000000000", "1900003600000")
        .replace("[\"user:profile\"]", "[\"user:profile\",\"user:new\"]");
    assert_eq!(*changed, expected);
    let login = Login::read(&changed, fields);
    assert!(login.lasts(at(1_900_000_000), Duration::from_secs(300)));
    assert!(!login.lasts(at(1_900_003_400), Duration::from_secs(300)));
}

#[test]
fn claudes_expiry_may_be_null_or_missing() {
    for file in [
        r#"{"claudeAiOauth":{"accessToken":"a","refreshToken":"r","expiresAt":null}}"#,
        r#"{"claudeAiOauth":{"accessToken":"a","refreshToken":"r"}}"#,
    ] {
        let login = Login::read(file, &table::CLAUDE_FIELDS);
        assert!(login.expires.is_none() && login.lasts(at(4_000_000_000), Duration::ZERO));
        let changed = renewed(file, &table::CLAUDE_FIELDS, &granted(), at(10)).unwrap();
        assert_eq!(
            Login::read(&changed, &table::CLAUDE_FIELDS).expires,
            Some(at(3610))
        );
    }
}

#[test]
fn codexs_access_token_says_when_it_ends() {
    let (old, new) = (jwt(r#"{"exp":1800000000}"#), jwt(r#"{"exp":1900000000}"#));
    let file = format!(
        r#"{{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{{"id_token":"i","access_token":"{old}","refresh_token":"r","account_id":"acc"}},"last_refresh":"2025-01-01T00:00:00Z"}}"#
    );
    let fields = &table::CODEX_FIELDS;
    assert_eq!(Login::read(&file, fields).expires, Some(at(1_800_000_000)));
    let granted = Granted {
        access: token(&new),
        ..granted()
    };
    let changed = renewed(&file, fields, &granted, at(1_790_000_000)).unwrap();
    let expected = file
        .replace(&old, &new)
        .replace("\"i\"", "\"new-id\"")
        .replace("\"r\"", "\"new-refresh\"")
        .replace("2025-01-01T00:00:00Z", "2026-09-21T14:13:20.000Z");
    assert_eq!(*changed, expected);
    assert_eq!(
        Login::read(&changed, fields).expires,
        Some(at(1_900_000_000))
    );
}

#[test]
fn what_was_not_granted_again_stays() {
    let file = r#"{"access_token":"a","refresh_token":"r","expiry_date":1800000000123.5,"scope":"x","id_token":"i"}"#;
    let granted = Granted {
        access: token("b"),
        refresh: None,
        id_token: None,
        lifetime: None,
        scope: None,
    };
    let changed = renewed(file, &table::GEMINI_FIELDS, &granted, at(100)).unwrap();
    let expected = r#"{"access_token":"b","refresh_token":"r","expiry_date":3700000,"scope":"x","id_token":"i"}"#;
    assert_eq!(*changed, expected);
}

#[test]
fn opencodes_other_logins_stay() {
    let file = r#"{"openai":{"type":"oauth","refresh":"r","access":"a","expires":5,"accountId":"x"},"zai":{"type":"api","key":"k"}}"#;
    let changed = renewed(file, &table::OPENCODE_OPENAI_FIELDS, &granted(), at(100)).unwrap();
    let expected = r#"{"openai":{"type":"oauth","refresh":"new-refresh","access":"new-access","expires":3700000,"accountId":"x"},"zai":{"type":"api","key":"k"}}"#;
    assert_eq!(*changed, expected);
}

#[test]
fn odd_files_hold_no_login_and_never_panic() {
    for file in [
        "",
        "[]",
        "{",
        r#"{"claudeAiOauth":5}"#,
        r#"{"claudeAiOauth":{"accessToken":7,"expiresAt":-1}}"#,
        r#"{"claudeAiOauth":{"accessToken":"","expiresAt":1e300}}"#,
    ] {
        let login = Login::read(file, &table::CLAUDE_FIELDS);
        assert!(login.access.is_none() && login.refresh.is_none(), "{file}");
        assert!(!login.lasts(at(0), Duration::ZERO));
    }
    for odd in [
        "a.b",
        "e30.!!.AAAA",
        "e30.e30.AAAA",
        &jwt(r#"{"exp":"x"}"#),
        &jwt(r#"{"exp":-1}"#),
        &jwt(r#"{"exp":1e300}"#),
    ] {
        assert_eq!(claim(odd), None, "{odd}");
    }
}
