//! A canary in every field of every host document, and more fields than are known: none is in anything the
//! guest gets, but those in fields that may be copied.

use super::*;

/// A document of the host, with the fields that may be copied to the guest. A text that begins with `=` is
/// kept without it: the document would not be one of its kind otherwise.
struct Fixture {
    provider: ProviderId,
    path: &'static str,
    document: Value,
    copied: &'static [&'static str],
}

fn fixtures() -> Vec<Fixture> {
    vec![
        Fixture {
            provider: ProviderId::Anthropic,
            path: ".claude/.credentials.json",
            document: json!({
                "claudeAiOauth": {"accessToken": "", "refreshToken": "", "expiresAt": 0, "scopes": ["", ""],
                    "subscriptionType": "", "rateLimitTier": "", "email": ""},
                "mcpOAuth": {"server": {"accessToken": ""}},
            }),
            copied: &["scopes", "subscriptionType", "rateLimitTier"],
        },
        Fixture {
            provider: ProviderId::OpenAi,
            path: CODEX,
            document: json!({
                "auth_mode": "=chatgpt", "OPENAI_API_KEY": "",
                "tokens": {"id_token": "", "access_token": "", "refresh_token": "", "account_id": ""},
                "last_refresh": "", "agent_identity": {"token": ""},
            }),
            copied: &["account_id"],
        },
        Fixture {
            provider: ProviderId::OpenAi,
            path: CODEX,
            document: json!({"OPENAI_API_KEY": "", "tokens": {"access_token": "", "refresh_token": ""}}),
            copied: &[],
        },
        Fixture {
            provider: ProviderId::OpenCode,
            path: OPENCODE,
            document: json!({
                "openai": {"type": "=oauth", "access": "", "refresh": "", "expires": 0, "accountId": ""},
                "anthropic": {"type": "=api", "key": "", "metadata": {"a": ""}},
                "zai": {"type": "=api", "key": ""},
                "unknown": {"type": "=api", "key": ""},
            }),
            copied: &["accountId"],
        },
        Fixture {
            provider: ProviderId::Google,
            path: GEMINI,
            document: json!({"access_token": "", "refresh_token": "", "scope": "", "token_type": "",
                "id_token": "", "expiry_date": 0}),
            copied: &["scope"],
        },
        Fixture {
            provider: ProviderId::Google,
            path: DEFAULT,
            document: json!({"type": "=authorized_user", "account": "", "client_id": "", "client_secret": "",
                "refresh_token": "", "quota_project_id": "", "universe_domain": ""}),
            copied: &["quota_project_id"],
        },
        Fixture {
            provider: ProviderId::Copilot,
            path: GH,
            document: json!({"github.com": {"oauth_token": "", "user": "", "git_protocol": "",
                "users": {"one": {"oauth_token": ""}}}, "ghe.example.org": {"oauth_token": ""}}),
            copied: &[],
        },
        Fixture {
            provider: ProviderId::GitHub,
            path: GH,
            document: json!({"github.com": {"oauth_token": "", "user": "", "git_protocol": "",
                "users": {"one": {"oauth_token": ""}}}, "ghe.example.org": {"oauth_token": ""}}),
            copied: &["user"],
        },
    ]
}

/// Puts a canary of its own in each field, and one more field in each map; tells which canaries may be copied.
fn plant(value: &mut Value, name: &str, (copied, planted): (&[&str], &mut Vec<(String, bool)>)) {
    let mut canary = || {
        let text = format!("canary-{:03}", planted.len());
        planted.push((text.clone(), copied.contains(&name)));
        text
    };
    match value {
        Value::String(text) if text.starts_with('=') => *text = text[1..].to_owned(),
        Value::String(text) => *text = canary(),
        Value::Number(_) => {
            let number = 1_900_000_000_000 + planted.len() as u64;
            planted.push((number.to_string(), copied.contains(&name)));
            *value = json!(number);
        }
        Value::Array(all) => all
            .iter_mut()
            .for_each(|value| plant(value, name, (copied, &mut *planted))),
        Value::Object(all) => {
            for (name, value) in all.iter_mut() {
                plant(value, name, (copied, &mut *planted));
            }
            if !all.contains_key("github.com") {
                all.insert("more".to_owned(), json!(""));
                plant(&mut all["more"], "more", (copied, &mut *planted));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// As `gh` writes it.
fn yaml(value: &Value, depth: usize) -> String {
    let lines = value
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| match value {
            Value::Object(_) => {
                format!("{}{key}:\n{}", "    ".repeat(depth), yaml(value, depth + 1))
            }
            value => format!(
                "{}{key}: {}\n",
                "    ".repeat(depth),
                value.as_str().unwrap()
            ),
        });
    lines.collect()
}

#[test]
fn no_field_of_a_host_document_reaches_the_guest_but_those_that_may() {
    let vars = [("GOOGLE_GENAI_USE_VERTEXAI", "true")];
    for mut fixture in fixtures() {
        let mut planted = Vec::new();
        plant(&mut fixture.document, "", (fixture.copied, &mut planted));
        let text = match fixture.path {
            GH => yaml(&fixture.document, 0),
            _ => fixture.document.to_string(),
        };
        let found = found(fixture.provider, &[(fixture.path, &text)], &vars);
        assert!(!found.credentials.is_empty(), "{text}");
        let mut guest: String = found
            .guest_env
            .iter()
            .map(|(_, value)| format!("{value}\n"))
            .collect();
        for file in &found.guest_files {
            guest.push_str(std::str::from_utf8(&file.content).unwrap());
        }
        for (canary, may) in planted {
            assert_eq!(
                guest.contains(&canary),
                may,
                "{canary} of {text} in {guest}"
            );
        }
        let explained = format!("{found:?}");
        for known in &found.credentials {
            if let Some(token) = known.exposed() {
                assert!(token.starts_with("canary"), "{}", known.name);
                assert!(!explained.contains(token), "{}", known.name);
            }
        }
    }
}

#[test]
fn every_file_of_the_table_has_a_fixture() {
    let fixtures = fixtures();
    for id in ProviderId::ALL {
        for file in id.facts().files() {
            let mut known = fixtures.iter();
            assert!(
                known.any(|fixture| fixture.provider == id && fixture.path == file.at.home),
                "{}",
                file.at.home
            );
        }
    }
}

#[test]
fn variables_of_all_providers_are_never_in_the_guest() {
    let mut vars: BTreeMap<&str, String> = BTreeMap::new();
    for id in ProviderId::ALL {
        for source in id
            .facts()
            .groups
            .iter()
            .flat_map(|group| group.sources.iter().chain(group.along))
        {
            if let Source::Variable(source) = source {
                let begin = source.accepts.first().copied().unwrap_or("");
                vars.insert(source.variable, format!("{begin}canary-{}", vars.len()));
            }
        }
    }
    let vars: Vec<(&str, &str)> = vars
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    assert!(vars.len() > 15);
    for id in ProviderId::ALL {
        let found = found(id, &[], &vars);
        assert!(!found.credentials.is_empty());
        let given = format!("{:?} {:?}", found.guest_env, found.guest_files);
        assert!(!given.contains("canary"), "{given}");
    }
}
