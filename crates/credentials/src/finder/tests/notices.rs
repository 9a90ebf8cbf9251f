//! What a person is told of logins that are there and cannot be used as they are.

use super::*;

#[test]
fn a_login_that_ended_is_told_only_where_nothing_renews_it_and_is_renewed_by_the_launcher_in_any_case()
 {
    let jwt = "e30.eyJleHAiOjd9.c2ln";
    let opencode =
        json!({"openai": {"type": "oauth", "refresh": "real-r", "access": jwt, "expires": 7}});
    let claude = json!({"claudeAiOauth": {"accessToken": "real-a", "refreshToken": "real-r", "expiresAt": 7}});
    let rows = [
        (
            ProviderId::Anthropic,
            ".claude/.credentials.json",
            claude.to_string(),
        ),
        (
            ProviderId::OpenAi,
            CODEX,
            codex_login("").replace("real-access", jwt),
        ),
        (ProviderId::OpenCode, OPENCODE, opencode.to_string()),
        (
            ProviderId::Google,
            GEMINI,
            GEMINI_LOGIN.replace("1900000000000", "7"),
        ),
    ];
    for (id, path, text) in rows {
        let renewable = found(id, &[(path, &text)], &[]);
        assert_eq!(renewable.notices, [], "{path}");
        let mut document: Value = serde_json::from_str(&text).unwrap();
        without_refresh_tokens(&mut document);
        let fixed = found(id, &[(path, &document.to_string())], &[]);
        assert!(
            matches!(fixed.notices[..], [Notice::Expired { .. }]),
            "{path}"
        );
        for found in [&renewable, &fixed] {
            let [access, refresh] = &found.credentials[..] else {
                panic!("{path}: an access and a refresh token")
            };
            let facts = access
                .refresh
                .as_ref()
                .expect("the launcher answers what the guest asks");
            assert_eq!(facts.refresh_placeholder, refresh.placeholder);
            assert!(refresh.hosts.is_empty());
            assert!(guest_text(found, path).contains(&format!("<{}>", refresh.name)));
        }
        assert!(fixed.credentials[1].secret.is_none());
    }
}

fn without_refresh_tokens(document: &mut Value) {
    let Some(fields) = document.as_object_mut() else {
        return;
    };
    for name in ["refresh", "refreshToken", "refresh_token"] {
        fields.remove(name);
    }
    fields.values_mut().for_each(without_refresh_tokens);
}

#[test]
fn logins_of_kinds_that_are_not_supported_are_said_once_whatever_is_used_instead() {
    let hosts = "ghe.example.org:\n    oauth_token: real\ngithub.com:\n    oauth_token: gho_real\n";
    let environment = [
        ("GH_TOKEN", "gho_other"),
        ("GH_ENTERPRISE_TOKEN", "real"),
        ("OPENCODE_API_KEY", "real"),
    ];
    let home = home(&[(GH, hosts)]);
    let ids = [
        ProviderId::Copilot,
        ProviderId::GitHub,
        ProviderId::OpenCode,
    ];
    let found = collect(&ids, &test_environment(home.path(), &environment)).unwrap();
    let told: Vec<_> = found
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::PassedOver { source, .. } => {
                Some(source.replace(home.path().to_str().unwrap(), "~"))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            "$GH_ENTERPRISE_TOKEN",
            "ghe.example.org of ~/.config/gh/hosts.yml",
            "$OPENCODE_API_KEY"
        ]
    );
    assert!(!format!("{:?}", found.notices).contains("real"));
    let plain = self::found(
        ProviderId::GitHub,
        &[(GH, "github.com:\n    oauth_token: gho_real\n")],
        &[],
    );
    assert_eq!(plain.notices, []);
}
