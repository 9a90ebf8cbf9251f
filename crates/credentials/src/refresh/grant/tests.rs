use serde_json::json;

use super::*;
use crate::refresh_endpoint as table;

fn token(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn answer(status: u16, body: &Value) -> GrantAnswer {
    GrantAnswer {
        status,
        retry_after: None,
        body: Zeroizing::new(body.to_string().into_bytes()),
    }
}

/// Measured: Claude Code 2.1.329 sends exactly these fields, `scope` as one text.
#[test]
fn claudes_request_is_the_one_its_client_sends() {
    let file =
        r#"{"claudeAiOauth":{"refreshToken":"r","scopes":["user:profile","user:inference"]}}"#;
    let request =
        GrantRequest::new(file, &table::ANTHROPIC, &table::CLAUDE_FIELDS, &token("r")).unwrap();
    assert_eq!(
        (request.host, request.path),
        ("platform.claude.com", "/v1/oauth/token")
    );
    assert_eq!(request.content_type, "application/json");
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let expected = json!({
        "grant_type": "refresh_token",
        "refresh_token": "r",
        "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
        "scope": "user:profile user:inference",
    });
    assert_eq!(body, expected);
}

#[test]
fn codexs_request_names_no_scope() {
    let file = r#"{"tokens":{"refresh_token":"r"}}"#;
    let request =
        GrantRequest::new(file, &table::OPENAI, &table::CODEX_FIELDS, &token("r")).unwrap();
    assert_eq!(
        (request.host, request.path),
        ("auth.openai.com", "/oauth/token")
    );
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let expected = json!({
        "grant_type": "refresh_token",
        "refresh_token": "r",
        "client_id": "app_EMoamEEZ73f0CkXaXp7hrann",
    });
    assert_eq!(body, expected);
}

#[test]
fn geminis_request_is_a_form() {
    let request = GrantRequest::new(
        "{}",
        &table::GEMINI,
        &table::GEMINI_FIELDS,
        &token("1//r+&="),
    )
    .unwrap();
    assert_eq!(request.content_type, "application/x-www-form-urlencoded");
    let fields: Vec<_> = form_urlencoded::parse(&request.body).into_owned().collect();
    assert_eq!(
        fields[0],
        ("grant_type".to_owned(), "refresh_token".to_owned())
    );
    assert_eq!(
        fields[1],
        ("refresh_token".to_owned(), "1//r+&=".to_owned())
    );
    assert_eq!(fields[2].0, "client_id");
    assert_eq!(fields[3].0, "client_secret");
    assert_eq!(fields.len(), 4);
}

#[test]
fn a_client_that_the_file_names_comes_from_the_file() {
    let (endpoint, fields) = (&table::GOOGLE_DEFAULT, &table::GOOGLE_DEFAULT_FIELDS);
    assert!(GrantRequest::new("{}", endpoint, fields, &token("r")).is_none());
    let file = r#"{"client_id":"c.apps","client_secret":"d","refresh_token":"r","type":"authorized_user"}"#;
    let request = GrantRequest::new(file, endpoint, fields, &token("r")).unwrap();
    let body = String::from_utf8(request.body.to_vec()).unwrap();
    assert_eq!(
        body,
        "grant_type=refresh_token&refresh_token=r&client_id=c.apps&client_secret=d"
    );
}

#[test]
fn an_answer_may_leave_out_what_did_not_change() {
    let all = json!({"access_token": "a", "refresh_token": "r", "id_token": "i", "expires_in": 28800, "scope": "x y", "account": {}});
    let granted = answer(200, &all).granted().unwrap();
    assert_eq!(granted.access.expose(), "a");
    assert_eq!(granted.refresh.unwrap().expose(), "r");
    assert_eq!(granted.id_token.unwrap().expose(), "i");
    assert_eq!(granted.lifetime, Some(Duration::from_secs(28800)));
    assert_eq!(granted.scope.as_deref(), Some("x y"));
    let least = answer(200, &json!({"access_token": "a", "expires_in": "3599"}))
        .granted()
        .unwrap();
    assert!(least.refresh.is_none() && least.id_token.is_none() && least.scope.is_none());
    assert_eq!(least.lifetime, Some(Duration::from_secs(3599)));
    let odd = answer(200, &json!({"access_token": "a", "expires_in": -5}))
        .granted()
        .unwrap();
    assert_eq!(odd.lifetime, None);
    let endless = answer(200, &json!({"access_token": "a", "expires_in": 1e300}))
        .granted()
        .unwrap();
    assert!(
        endless
            .lifetime
            .is_none_or(|lifetime| lifetime <= MAX_LIFETIME)
    );
}

#[test]
fn only_a_login_that_is_over_is_over() {
    let over =
        |status, body: Value| matches!(answer(status, &body).granted(), Err(Refused::Over(_)));
    assert!(over(
        400,
        json!({"error": "invalid_grant", "error_description": "secret words"})
    ));
    assert!(over(
        401,
        json!({"error": {"code": "refresh_token_reused"}})
    ));
    assert!(!over(400, json!({"error": "invalid_request"})));
    assert!(!over(401, json!({"error": {"code": "server_error"}})));
    assert!(!over(503, json!({"error": "invalid_grant"})));
    assert!(!over(429, json!({})));
    assert!(
        !over(200, json!({"token_type": "Bearer"})),
        "not understood"
    );
}

#[test]
fn a_refusal_is_told_without_the_providers_words() {
    let refused = answer(
        400,
        &json!({"error": "invalid_grant", "error_description": "sk-secret"}),
    );
    assert_eq!(
        refused.granted().unwrap_err(),
        Refused::Over("it answered 400 invalid_grant".into())
    );
    let hostile = answer(500, &json!({"error": "\u{1b}[31m"}));
    assert_eq!(
        hostile.granted().unwrap_err(),
        Refused::Later("it answered 500".into())
    );
}
