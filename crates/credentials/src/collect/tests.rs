use super::*;
use crate::credential::{Credential, HeaderSpec, Notice};
use crate::host_environment::test_environment;

const LOGIN: &str = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-real","refreshToken":"sk-ant-ort01-real",
    "expiresAt":1900000000000,"scopes":["user:inference"],"subscriptionType":"max"}}"#;

fn home_with_login(text: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(home.path().join(".claude")).unwrap();
    fs_err::write(home.path().join(".claude/.credentials.json"), text).unwrap();
    home
}

fn anthropic(environment: &HostEnvironment) -> Result<Collected, CollectError> {
    collect(&[ProviderId::Anthropic], environment)
}

fn expose(credential: &Credential) -> &str {
    credential.exposed().unwrap()
}

fn host_texts(credential: &Credential) -> Vec<String> {
    credential.hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn claude_login_is_bound_to_the_api_as_bearer() {
    let home = home_with_login(LOGIN);
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    let login = &found.credentials[0];
    assert_eq!(expose(login), "sk-ant-oat01-real");
    assert_eq!(host_texts(login), ["api.anthropic.com"]);
    assert_eq!(login.header, HeaderSpec::bearer());
    assert!(login.placeholder.as_str().starts_with("sk-ant-oat01-"));
    assert_eq!(found.notices, []);
}

#[test]
fn refresh_token_is_bound_nowhere() {
    let home = home_with_login(LOGIN);
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    let refresh = &found.credentials[1];
    assert_eq!(expose(refresh), "sk-ant-ort01-real");
    assert_eq!(refresh.hosts, []);
    let facts = found.credentials[0].refresh.as_ref().unwrap();
    assert_eq!(facts.refresh_placeholder, refresh.placeholder);
    assert_eq!(facts.file, home.path().join(".claude/.credentials.json"));
    assert_eq!(facts.guest_scope, "user:inference");
}

#[test]
fn guest_file_names_the_placeholders_and_no_token() {
    let home = home_with_login(LOGIN);
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    let [file] = &found.guest_files[..] else {
        panic!("{:?}", found.guest_files)
    };
    let text = std::str::from_utf8(&file.content).unwrap();
    assert_eq!(
        (file.path.as_str(), file.mode),
        (".claude/.credentials.json", 0o600)
    );
    for credential in &found.credentials {
        assert!(text.contains(credential.placeholder.as_str()));
        assert!(!text.contains(expose(credential)));
    }
}

#[test]
fn nothing_found_is_a_notice() {
    let home = tempfile::tempdir().unwrap();
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    assert!(found.credentials.is_empty() && found.guest_files.is_empty());
    assert!(matches!(
        found.notices[..],
        [Notice::NotLoggedIn {
            provider: "Claude",
            ..
        }]
    ));
}

#[test]
fn expired_login_is_used_with_a_notice_where_it_cannot_be_renewed() {
    let expired = LOGIN.replace("1900000000000", "1700000000000");
    let home = home_with_login(&expired);
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    assert_eq!(found.credentials.len(), 2);
    assert_eq!(found.notices, []);
    let home = home_with_login(&expired.replace("refreshToken", "other"));
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    assert!(found.credentials[1].secret.is_none(), "a placeholder alone");
    assert!(matches!(found.notices[..], [Notice::Expired { .. }]));
}

#[test]
fn variables_are_credentials_like_any_other() {
    let home = tempfile::tempdir().unwrap();
    let environment = test_environment(
        home.path(),
        &[
            ("ANTHROPIC_API_KEY", "sk-ant-api03-real"),
            ("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-real"),
            ("OTHER", "x"),
        ],
    );
    let found = anthropic(&environment).unwrap();
    let headers: Vec<_> = found
        .credentials
        .iter()
        .map(|c| c.header.name.as_str())
        .collect();
    assert_eq!(headers, ["x-api-key", "authorization"]);
    let names: Vec<_> = found
        .guest_env
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"]);
    for ((_, value), credential) in found.guest_env.iter().zip(&found.credentials) {
        assert_eq!(value, credential.placeholder.as_str());
    }
    assert!(!format!("{found:?}").contains("-real"));
}

#[test]
fn broken_login_names_the_file_and_shows_nothing_of_it() {
    let home = home_with_login(r#"{"claudeAiOauth": sk-real"#);
    let error = anthropic(&test_environment(home.path(), &[])).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(".claude/.credentials.json is not valid JSON"),
        "{error}"
    );
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(!cause.contains("sk-real"), "{cause}");
}

#[test]
fn directory_in_place_of_the_login_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(home.path().join(".claude/.credentials.json")).unwrap();
    let error = anthropic(&test_environment(home.path(), &[])).unwrap_err();
    assert!(matches!(
        error,
        CollectError::ReadLogin {
            source: ReadError::NotRegular { .. },
            ..
        }
    ));
}
