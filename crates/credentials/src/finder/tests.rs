//! One fixture per file of the table: what the host has, and exactly what the guest gets of it.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::collect::collect;
use crate::credential::HeaderSpec;
use crate::gh_hosts;
use crate::host_environment::test_environment;
use crate::provider::ProviderId;

mod canaries;
mod notices;

/// A home directory with files.
pub(super) fn home(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = home.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    home
}

fn found(provider: ProviderId, files: &[(&str, &str)], vars: &[(&str, &str)]) -> Collected {
    let home = home(files);
    collect(&[provider], &test_environment(home.path(), vars)).unwrap()
}

/// Name, token, hosts and header of each credential.
fn bound(found: &Collected) -> Vec<(String, Option<String>, String, String)> {
    let shown = |known: &Credential| {
        let hosts: Vec<String> = known.hosts.iter().map(ToString::to_string).collect();
        (
            known.name.clone(),
            known.exposed().map(str::to_owned),
            hosts.join(" "),
            known.header.name.clone(),
        )
    };
    found.credentials.iter().map(shown).collect()
}

fn row(
    name: &str,
    token: &str,
    hosts: &str,
    header: &str,
) -> (String, Option<String>, String, String) {
    (
        name.to_owned(),
        Some(token.to_owned()),
        hosts.to_owned(),
        header.to_owned(),
    )
}

/// A file of the guest with each placeholder replaced by the name of its credential.
fn guest_text(found: &Collected, path: &str) -> String {
    let file = found.guest_files.iter().find(|file| file.path == path);
    let mut text = String::from_utf8(file.expect(path).content.clone()).unwrap();
    for known in &found.credentials {
        text = text.replace(known.placeholder.as_str(), &format!("<{}>", known.name));
    }
    text.replace(&jwt::guest_identity(), "<nobody>")
}

fn guest_json(found: &Collected, path: &str) -> Value {
    serde_json::from_str(&guest_text(found, path)).unwrap()
}

fn guest_variables(found: &Collected) -> Vec<&str> {
    found
        .guest_env
        .iter()
        .map(|(name, _)| name.as_str())
        .collect()
}

const CODEX: &str = ".codex/auth.json";
const CHATGPT: &str = "chatgpt.com *.chatgpt.com";
const OPENAI: &str = "api.openai.com chatgpt.com *.chatgpt.com";

fn codex_login(mode: &str) -> String {
    format!(
        r#"{{{mode}"OPENAI_API_KEY":null,"tokens":{{"id_token":"a.b.real","access_token":"real-access",
        "refresh_token":"real-refresh","account_id":"0b3b-11"}},"last_refresh":"2020-01-01T00:00:00Z"}}"#
    )
}

#[test]
fn codex_login_keeps_the_account_and_null_and_says_it_was_just_renewed() {
    for (mode, shown) in [
        ("", json!(null)),
        (r#""auth_mode":"chatgpt","#, json!("chatgpt")),
    ] {
        let found = found(ProviderId::OpenAi, &[(CODEX, &codex_login(mode))], &[]);
        assert_eq!(
            bound(&found),
            [
                row("codex-login", "real-access", CHATGPT, "authorization"),
                row("codex-login-refresh", "real-refresh", "", "authorization"),
            ]
        );
        let document = guest_json(&found, CODEX);
        assert_eq!(document["auth_mode"], shown);
        assert_eq!(document.get("auth_mode").is_some(), !mode.is_empty());
        assert_eq!(document.get("OPENAI_API_KEY"), Some(&Value::Null));
        assert_eq!(document["last_refresh"], "2027-01-15T08:00:00Z");
        let tokens = json!({"id_token": "<nobody>", "access_token": "<codex-login>",
            "refresh_token": "<codex-login-refresh>", "account_id": "0b3b-11"});
        assert_eq!(document["tokens"], tokens);
        assert!(found.guest_env.is_empty());
        let facts = found.credentials[0].refresh.as_ref().unwrap();
        assert_eq!(facts.endpoint.path, "/oauth/token");
        assert_eq!(facts.refresh_placeholder, found.credentials[1].placeholder);
        assert_eq!(facts.guest_id_token, Some(jwt::guest_identity()));
    }
}

#[test]
fn codex_key_in_the_file_wins_unless_the_mode_says_otherwise() {
    let file = |mode: &str| codex_login(mode).replace("null", "\"sk-real\"");
    for mode in ["", r#""auth_mode":"apikey","#] {
        let found = found(ProviderId::OpenAi, &[(CODEX, &file(mode))], &[]);
        assert_eq!(
            bound(&found),
            [row(
                "codex-api-key-file",
                "sk-real",
                OPENAI,
                "authorization"
            )]
        );
        let document = guest_json(&found, CODEX);
        assert_eq!(document["OPENAI_API_KEY"], "<codex-api-key-file>");
        assert!(document.get("tokens").is_none());
    }
    let login = file(r#""auth_mode":"chatgpt","#);
    let found = found(ProviderId::OpenAi, &[(CODEX, &login)], &[]);
    assert_eq!(bound(&found)[0].0, "codex-login");
    assert_eq!(
        guest_json(&found, CODEX).get("OPENAI_API_KEY"),
        Some(&Value::Null)
    );
}

#[test]
fn codex_gets_a_key_of_the_environment_where_it_looks_for_one() {
    let key = [("OPENAI_API_KEY", "sk-real")];
    let alone = found(ProviderId::OpenAi, &[], &key);
    assert_eq!(guest_variables(&alone), ["CODEX_API_KEY", "OPENAI_API_KEY"]);
    assert_eq!(
        guest_json(&alone, CODEX),
        json!({"OPENAI_API_KEY": "<openai-api-key>"})
    );
    assert_eq!(
        bound(&alone),
        [row("openai-api-key", "sk-real", OPENAI, "authorization")]
    );

    // Beside a login Codex must not see it, or it would not use the login.
    let both = found(ProviderId::OpenAi, &[(CODEX, &codex_login(""))], &key);
    assert_eq!(guest_variables(&both), ["OPENAI_API_KEY"]);
    assert_eq!(
        guest_json(&both, CODEX).get("OPENAI_API_KEY"),
        Some(&Value::Null)
    );

    let own = found(
        ProviderId::OpenAi,
        &[],
        &[("CODEX_API_KEY", "sk-own"), key[0]],
    );
    assert_eq!(
        guest_json(&own, CODEX),
        json!({"OPENAI_API_KEY": "<codex-api-key>"})
    );
    assert_eq!(guest_variables(&own), ["CODEX_API_KEY", "OPENAI_API_KEY"]);
}

#[test]
fn codex_home_is_where_the_variable_says() {
    let home = home(&[("elsewhere/auth.json", &codex_login(""))]);
    let at = home.path().join("elsewhere");
    let vars = [("CODEX_HOME", at.to_str().unwrap())];
    let found = collect(&[ProviderId::OpenAi], &test_environment(home.path(), &vars)).unwrap();
    let facts = found.credentials[0].refresh.as_ref().unwrap();
    assert_eq!(facts.file, at.join("auth.json"));
    assert_eq!(found.guest_files[0].path, CODEX);
    let relative = test_environment(home.path(), &[("CODEX_HOME", "elsewhere")]);
    let found = collect(&[ProviderId::OpenAi], &relative).unwrap();
    assert!(found.credentials.is_empty());
}

#[test]
fn codex_mode_that_is_not_known_is_said() {
    let file = r#"{"auth_mode":"somethingNew","token":"real"}"#;
    let found = found(ProviderId::OpenAi, &[(CODEX, file)], &[]);
    assert!(found.credentials.is_empty());
    assert!(matches!(
        found.notices[..],
        [
            Notice::LeftOut { what: None, .. },
            Notice::NotLoggedIn {
                provider: "Codex",
                ..
            }
        ]
    ));
}

#[test]
fn expiry_of_a_codex_login_is_in_its_token() {
    // {"exp":7}
    let file = codex_login("").replace("real-access", "e30.eyJleHAiOjd9.c2ln");
    let found = found(ProviderId::OpenAi, &[(CODEX, &file)], &[]);
    let facts = found.credentials[0].refresh.as_ref().unwrap();
    assert_eq!(
        facts.expires,
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
    );
    assert_eq!(found.notices, [], "it is renewed");
}

const OPENCODE: &str = ".local/share/opencode/auth.json";

#[test]
fn opencode_has_each_known_service_at_its_host_and_others_are_named() {
    let file = json!({
        "openai": {"type": "oauth", "refresh": "real-r", "access": "real-a", "expires": 1_900_000_000_000_u64,
            "accountId": "acc-1"},
        "anthropic": {"type": "api", "key": "real-1"},
        "zai": {"type": "api", "key": "real-2"},
        "google": {"type": "api", "key": "real-3"},
        "github-copilot": {"type": "oauth", "refresh": "real-4", "access": "real-5"},
        "groq": {"type": "wellknown", "key": "real-6"},
    });
    let found = found(ProviderId::OpenCode, &[(OPENCODE, &file.to_string())], &[]);
    assert_eq!(
        bound(&found),
        [
            row("opencode-openai-login", "real-a", CHATGPT, "authorization"),
            row(
                "opencode-openai-login-refresh",
                "real-r",
                "",
                "authorization"
            ),
            row(
                "opencode-anthropic",
                "real-1",
                "api.anthropic.com",
                "x-api-key"
            ),
            row(
                "opencode-google",
                "real-3",
                "generativelanguage.googleapis.com",
                "x-goog-api-key"
            ),
            row("opencode-zai", "real-2", "api.z.ai", "authorization"),
        ]
    );
    assert_eq!(
        guest_json(&found, OPENCODE),
        json!({
            "openai": {"type": "oauth", "refresh": "<opencode-openai-login-refresh>",
                "access": "<opencode-openai-login>", "expires": 4_102_444_800_000_u64, "accountId": "acc-1"},
            "anthropic": {"type": "api", "key": "<opencode-anthropic>"},
            "google": {"type": "api", "key": "<opencode-google>"},
            "zai": {"type": "api", "key": "<opencode-zai>"},
        })
    );
    let named = |notice: &Notice| match notice {
        Notice::LeftOut { what, .. } => what.clone(),
        _ => None,
    };
    let left: Vec<String> = found.notices.iter().filter_map(named).collect();
    assert_eq!(left, ["github-copilot", "groq"]);
    assert!(jwt::expiry(found.credentials[0].placeholder.as_str()).is_some());
}

#[test]
fn opencode_takes_the_variables_of_its_services() {
    let vars = [
        ("ANTHROPIC_API_KEY", "a"),
        ("GROQ_API_KEY", "b"),
        ("OTHER_API_KEY", "c"),
    ];
    let found = found(ProviderId::OpenCode, &[], &vars);
    assert_eq!(
        guest_variables(&found),
        ["ANTHROPIC_API_KEY", "GROQ_API_KEY"]
    );
    assert_eq!(
        bound(&found)[1],
        row("groq-api-key", "b", "api.groq.com", "authorization")
    );
    assert!(found.guest_files.is_empty() && found.notices.is_empty());
}

const GH: &str = ".config/gh/hosts.yml";
const GH_HOSTS: &str = "github.com:\n    oauth_token: gho_real\n    user: someone\n";
const COPILOT_HOSTS: &str = "api.github.com *.githubcopilot.com";

#[test]
fn copilot_takes_the_first_token_it_would_take_itself() {
    let all = [
        ("COPILOT_GITHUB_TOKEN", "github_pat_one"),
        ("GH_TOKEN", "two"),
        ("GITHUB_TOKEN", "three"),
    ];
    let files = [(GH, GH_HOSTS)];
    for (skip, name, token) in [
        (0, "copilot-token", "github_pat_one"),
        (1, "copilot-gh-token", "two"),
        (2, "copilot-github-token", "three"),
        (3, "copilot-gh-login", "gho_real"),
    ] {
        let found = found(ProviderId::Copilot, &files, &all[skip..]);
        assert_eq!(
            bound(&found),
            [row(name, token, COPILOT_HOSTS, "authorization")]
        );
        let [(variable, value)] = &found.guest_env[..] else {
            panic!("{:?}", found.guest_env)
        };
        assert_eq!(variable, "COPILOT_GITHUB_TOKEN");
        assert!(value.starts_with("gho_") && found.guest_files.is_empty());
    }
}

#[test]
fn copilot_passes_over_a_token_of_the_wrong_kind_and_says_so() {
    let vars = [("COPILOT_GITHUB_TOKEN", "ghp_classic"), ("GH_TOKEN", "two")];
    let found = found(ProviderId::Copilot, &[], &vars);
    assert_eq!(bound(&found)[0].1.as_deref(), Some("two"));
    let [Notice::NotAccepted { variable, .. }] = found.notices[..] else {
        panic!("{:?}", found.notices)
    };
    assert_eq!(variable, "COPILOT_GITHUB_TOKEN");
}

#[test]
fn gh_is_asked_only_when_nothing_cheaper_was_found() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = home(&[(
        "bin/gh",
        "#!/bin/sh\n[ \"$*\" = 'auth token --hostname github.com' ] && echo gho_printed && touch \"$HOME/asked\"\n",
    )]);
    let program = home.path().join("bin/gh");
    fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", home.path().join("bin").display());
    let of = |more: &[(&str, &str)]| {
        let mut vars = vec![
            ("PATH", path.as_str()),
            ("HOME", home.path().to_str().unwrap()),
        ];
        vars.extend(more);
        collect(
            &[ProviderId::Copilot],
            &test_environment(home.path(), &vars),
        )
        .unwrap()
    };
    let cheap = of(&[("GH_TOKEN", "two")]);
    assert_eq!(bound(&cheap)[0].1.as_deref(), Some("two"));
    assert!(!home.path().join("asked").exists());
    let asked = of(&[]);
    assert_eq!(bound(&asked)[0].1.as_deref(), Some("gho_printed"));
    assert!(
        asked.credentials[0]
            .source
            .starts_with("output of `gh auth token")
    );
    fs_err::write(&program, "#!/bin/sh\necho gho_wrong; exit 1\n").unwrap();
    assert!(of(&[]).credentials.is_empty());
}

#[test]
fn github_is_found_by_gh_and_by_git() {
    let found = found(ProviderId::GitHub, &[(GH, GH_HOSTS)], &[]);
    let hosts = "github.com api.github.com uploads.github.com codeload.github.com raw.githubusercontent.com";
    assert_eq!(
        bound(&found),
        [row("github-gh-login", "gho_real", hosts, "authorization")]
    );
    assert_eq!(found.credentials[0].header, HeaderSpec::any_authorization());
    assert_eq!(
        guest_text(&found, GH),
        "github.com:\n    git_protocol: \"https\"\n    oauth_token: \"<github-gh-login>\"\n    user: \"someone\"\n"
    );
    assert_eq!(
        guest_text(&found, ".config/git/github-credentials"),
        "https://x-access-token:<github-gh-login>@github.com\n"
    );
    assert!(guest_text(&found, ".config/git/config").contains("github-credentials"));
    assert!(gh_hosts::parse(&guest_text(&found, GH)).is_ok());

    let variable = self::found(ProviderId::GitHub, &[], &[("GITHUB_TOKEN", "ghs_real")]);
    assert_eq!(guest_variables(&variable), ["GITHUB_TOKEN"]);
    assert!(guest_text(&variable, GH).contains("user: \"x-access-token\""));
}

const GEMINI: &str = ".gemini/oauth_creds.json";
const GEMINI_LOGIN: &str = r#"{"access_token":"ya29.real","refresh_token":"1//real","expiry_date":1900000000000,
    "scope":"openid https://www.googleapis.com/auth/cloud-platform","token_type":"Bearer","id_token":"a.real.b"}"#;
const DEFAULT: &str = ".config/gcloud/application_default_credentials.json";
const DEFAULT_LOGIN: &str = r#"{"type":"authorized_user","client_id":"real-id","client_secret":"real-secret",
    "refresh_token":"1//real","quota_project_id":"project-1","account":"person@example.org"}"#;

fn selected(way: &str) -> String {
    json!({"security": {"auth": {"selectedType": way}}}).to_string()
}

#[test]
fn gemini_login_is_bound_where_it_is_used_and_where_it_is_checked() {
    let found = found(
        ProviderId::Google,
        &[(GEMINI, GEMINI_LOGIN)],
        &[("GOOGLE_CLOUD_PROJECT", "p-1")],
    );
    assert_eq!(
        bound(&found),
        [
            row(
                "gemini-login",
                "ya29.real",
                "cloudcode-pa.googleapis.com oauth2.googleapis.com",
                "authorization"
            ),
            row("gemini-login-refresh", "1//real", "", "authorization"),
        ]
    );
    assert_eq!(
        guest_json(&found, GEMINI),
        json!({"access_token": "<gemini-login>", "refresh_token": "<gemini-login-refresh>", "token_type": "Bearer",
            "expiry_date": 4_102_444_800_000_u64, "scope": "openid https://www.googleapis.com/auth/cloud-platform"})
    );
    assert_eq!(
        found.guest_env,
        [("GOOGLE_CLOUD_PROJECT".to_owned(), "p-1".to_owned())]
    );
}

#[test]
fn gemini_uses_the_way_the_host_has_chosen() {
    let key = ("GEMINI_API_KEY", "AIza-real");
    let vertex = [
        ("GOOGLE_GENAI_USE_VERTEXAI", "true"),
        ("GOOGLE_CLOUD_LOCATION", "europe-west4"),
        key,
    ];
    let settings = ".gemini/settings.json";
    let (oauth, api) = (selected("oauth-personal"), selected("gemini-api-key"));
    let all = [(GEMINI, GEMINI_LOGIN), (DEFAULT, DEFAULT_LOGIN)];
    let with = |text| [all[0], all[1], (settings, text)];
    for (files, vars, name) in [
        (&all[..], &[key][..], "gemini-api-key"),
        (&all, &[], "gemini-login"),
        (&with(&oauth), &[key], "gemini-login"),
        (&with(&api), &[key], "gemini-api-key"),
        (&with(&api), &[], "gemini-login"),
        (&with("not json"), &[], "gemini-login"),
        (&all, &vertex, "google-default-login"),
        (&with(&oauth), &vertex, "gemini-login"),
    ] {
        let found = found(ProviderId::Google, files, vars);
        assert_eq!(found.credentials[0].name, name, "{vars:?}");
    }
}

#[test]
fn default_credentials_are_for_vertex_only_and_come_by_renewal() {
    let alone = found(ProviderId::Google, &[(DEFAULT, DEFAULT_LOGIN)], &[]);
    assert!(alone.credentials.is_empty(), "not chosen, so not touched");

    let vars = [
        ("GOOGLE_GENAI_USE_VERTEXAI", "true"),
        ("GOOGLE_CLOUD_LOCATION", "europe-west4"),
    ];
    let found = found(ProviderId::Google, &[(DEFAULT, DEFAULT_LOGIN)], &vars);
    let hosts = "aiplatform.googleapis.com europe-west4-aiplatform.googleapis.com";
    let access = (
        "google-default-login".to_owned(),
        None,
        hosts.to_owned(),
        "authorization".to_owned(),
    );
    assert_eq!(bound(&found)[0], access);
    assert_eq!(
        guest_json(&found, DEFAULT),
        json!({"type": "authorized_user", "client_id": "agent-vm", "client_secret": "agent-vm",
            "refresh_token": "<google-default-login-refresh>", "quota_project_id": "project-1"})
    );
    assert_eq!(
        guest_variables(&found),
        ["GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_CLOUD_LOCATION"]
    );

    let service = r#"{"type":"service_account","private_key":"real"}"#;
    let found = self::found(ProviderId::Google, &[(DEFAULT, service)], &vars);
    assert!(matches!(
        found.notices[..],
        [
            Notice::LeftOut { what: None, .. },
            Notice::NotLoggedIn { .. }
        ]
    ));
}

#[test]
fn host_from_a_variable_is_one_label() {
    for location in ["a.evil.example", "a/b", "", "*", "-a"] {
        let vars = [
            ("GOOGLE_GENAI_USE_VERTEXAI", "true"),
            ("GOOGLE_CLOUD_LOCATION", location),
        ];
        let found = found(ProviderId::Google, &[(DEFAULT, DEFAULT_LOGIN)], &vars);
        assert_eq!(
            bound(&found)[0].2,
            "aiplatform.googleapis.com",
            "{location}"
        );
    }
}

#[test]
fn fuzz_body_takes_any_bytes() {
    for bytes in [
        &b""[..],
        b"\xff",
        b"[[[[",
        b"7",
        CODEX.as_bytes(),
        GEMINI_LOGIN.as_bytes(),
        DEFAULT_LOGIN.as_bytes(),
        GH_HOSTS.as_bytes(),
        codex_login("").as_bytes(),
    ] {
        fuzz_login_files(bytes);
    }
}
