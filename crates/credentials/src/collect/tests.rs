use super::*;
use crate::host_environment::test_environment;

const LOGIN: &str = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-real","refreshToken":"sk-ant-ort01-real",
    "expiresAt":1900000000000,"scopes":["user:inference"],"subscriptionType":"max"}}"#;

fn home_with_login(text: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(home.path().join(".claude")).unwrap();
    fs_err::write(home.path().join(".claude/.credentials.json"), text).unwrap();
    home
}

fn secrets(specs: &[&str], environment: &HostEnvironment) -> Result<Collected, CollectError> {
    let specs: Vec<SecretSpec> = specs.iter().map(|spec| spec.parse().unwrap()).collect();
    collect_secrets(&specs, environment)
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
fn refresh_token_is_bound_nowhere_and_its_host_refused() {
    let home = home_with_login(LOGIN);
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    let refresh = &found.credentials[1];
    assert_eq!(expose(refresh), "sk-ant-ort01-real");
    assert_eq!(refresh.hosts, []);
    let facts = found.credentials[0].refresh.as_ref().unwrap();
    assert_eq!(facts.refresh_placeholder, refresh.placeholder);
    assert_eq!(facts.file, home.path().join(".claude/.credentials.json"));
    assert_eq!(facts.guest_scope, "user:inference");
    assert_eq!(found.refused_hosts, hosts(&["platform.claude.com"]));
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
fn expired_login_is_used_with_a_notice() {
    let home = home_with_login(&LOGIN.replace("1900000000000", "1700000000000"));
    let found = anthropic(&test_environment(home.path(), &[])).unwrap();
    assert_eq!(found.credentials.len(), 2);
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

#[test]
fn secret_comes_from_variable_file_or_command() {
    let home = tempfile::tempdir().unwrap();
    fs_err::write(home.path().join("token"), "from-file\n").unwrap();
    let environment = test_environment(
        home.path(),
        &[
            ("TOK", "ghp_from-env"),
            ("PATH", "/usr/bin:/bin"),
            ("V", "from-cmd"),
        ],
    );
    let specs = [
        "TOK@a.b",
        "F=file:~/token@a.b",
        "C=cmd:printenv V@a.b:X-Key",
        "E=env:TOK@*.c.d",
    ];
    let found = secrets(&specs, &environment).unwrap();
    let values: Vec<_> = found.credentials.iter().map(expose).collect();
    assert_eq!(
        values,
        ["ghp_from-env", "from-file", "from-cmd", "ghp_from-env"]
    );
    assert!(
        found.credentials[0]
            .placeholder
            .as_str()
            .starts_with("ghp_")
    );
    assert_eq!(found.credentials[2].header, HeaderSpec::raw("x-key"));
    assert_eq!(found.credentials[2].source, "output of `printenv`");
    assert_eq!(found.guest_env.len(), 4);
    assert_eq!(
        found.guest_env[0].1,
        found.credentials[0].placeholder.as_str()
    );
}

#[test]
fn missing_sources_are_named() {
    let home = tempfile::tempdir().unwrap();
    let environment = test_environment(home.path(), &[("PATH", "/usr/bin:/bin"), ("EMPTY", "")]);
    for (spec, expected) in [
        ("TOK@a.b", "the variable TOK for the secret TOK is not set"),
        (
            "EMPTY@a.b",
            "the variable EMPTY for the secret EMPTY is not set",
        ),
        (
            "A=file:/none/x@a.b",
            "the file /none/x for the secret A does not exist",
        ),
        (
            "A=cmd:no-such-program@a.b",
            "the program no-such-program for the secret A is not in PATH",
        ),
        (
            "A=cmd:false@a.b",
            "the command for the secret A ended with exit status: 1: ",
        ),
        ("A=cmd:true@a.b", "the value of A cannot be used as a token"),
    ] {
        assert_eq!(
            secrets(&[spec], &environment).unwrap_err().to_string(),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn value_of_several_lines_is_refused_without_showing_it() {
    let home = tempfile::tempdir().unwrap();
    fs_err::write(home.path().join("token"), "first\nsecond\n").unwrap();
    let error = secrets(&["A=file:~/token@a.b"], &test_environment(home.path(), &[])).unwrap_err();
    let text = format!("{error:?}");
    assert!(matches!(error, CollectError::NotASecret { .. }));
    assert!(
        !text.contains("first") && !text.contains("second"),
        "{text}"
    );
}

#[test]
fn same_name_twice_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let environment = test_environment(home.path(), &[("A", "x")]);
    let error = secrets(&["A@a.b", "A@c.d"], &environment).unwrap_err();
    assert_eq!(error.to_string(), "the secret A is given twice");
}
