//! Claude Code's settings for an unattended start: onboarding, trust and permission questions are
//! answered, nothing else is set.

use serde_json::{Map, Value, json};

use crate::profile::{Seed, SeedContext};

/// The files.
pub(crate) const SEEDS: &[Seed] = &[
    Seed {
        path: ".claude/settings.json",
        render: |context| Some(settings(context)),
    },
    Seed {
        path: ".claude.json",
        render: |context| Some(state(context)),
    },
];

/// Claude Code remembers an accepted key by this many of its last characters.
const KEY_TAIL_CHARACTERS: usize = 20;

fn settings(_context: &SeedContext<'_>) -> String {
    json!({ "skipDangerousModePermissionPrompt": true }).to_string()
}

fn state(context: &SeedContext<'_>) -> String {
    let trusted = json!({ "hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true });
    let projects: Map<String, Value> = context
        .trusted_directories
        .iter()
        .map(|directory| ((*directory).to_owned(), trusted.clone()))
        .collect();
    let mut state = json!({ "hasCompletedOnboarding": true, "projects": projects });
    if let Some(tail) = accepted_key(context) {
        state["customApiKeyResponses"] = json!({ "approved": [tail], "rejected": [] });
    }
    state.to_string()
}

/// Without this answer Claude Code asks whether to use a key from the environment.
fn accepted_key(context: &SeedContext<'_>) -> Option<String> {
    let (_, key) = context
        .credential_env
        .iter()
        .find(|(name, _)| name == "ANTHROPIC_API_KEY")?;
    let skipped = key.chars().count().saturating_sub(KEY_TAIL_CHARACTERS);
    Some(key.chars().skip(skipped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::AgentId;

    fn file(path: &str, env: &[(String, String)]) -> Value {
        let context = SeedContext {
            trusted_directories: &["/p", "/p/мой"],
            credential_env: env,
            ..SeedContext::default()
        };
        let files = AgentId::Claude.profile().files(&context);
        let file = files.iter().find(|file| file.path == path).unwrap();
        serde_json::from_str(&file.content).unwrap()
    }

    #[test]
    fn bypass_question_is_answered() {
        let expected = json!({ "skipDangerousModePermissionPrompt": true });
        assert_eq!(file(".claude/settings.json", &[]), expected);
    }

    #[test]
    fn onboarding_is_done_and_both_directories_are_trusted() {
        let state = file(".claude.json", &[]);
        assert_eq!(state["hasCompletedOnboarding"], true);
        for directory in ["/p", "/p/мой"] {
            assert_eq!(state["projects"][directory]["hasTrustDialogAccepted"], true);
        }
        assert!(state.get("customApiKeyResponses").is_none());
    }

    #[test]
    fn key_of_the_environment_is_accepted_by_its_tail() {
        let env = [(
            "ANTHROPIC_API_KEY".to_owned(),
            format!("sk-ant-{}", "0123456789".repeat(3)),
        )];
        let state = file(".claude.json", &env);
        assert_eq!(
            state["customApiKeyResponses"]["approved"],
            json!(["01234567890123456789"])
        );
    }
}
