//! Gemini CLI's settings for an unattended start: the way of logging in that has a placeholder, and the
//! project trusted. Without the first it asks; the second is asked for in every new directory.

use serde_json::{Map, Value, json};

use crate::profile::{Seed, SeedContext};

/// The files.
pub(crate) const SEEDS: &[Seed] = &[
    Seed {
        path: ".gemini/settings.json",
        render: settings,
    },
    Seed {
        path: ".gemini/trustedFolders.json",
        render: |context| Some(trusted(context)),
    },
];

/// What shows that a way of logging in has a placeholder: a variable or a file of the guest.
const WAYS: &[(&str, &str)] = &[
    (".gemini/oauth_creds.json", "oauth-personal"),
    (
        ".config/gcloud/application_default_credentials.json",
        "vertex-ai",
    ),
    ("GEMINI_API_KEY", "gemini-api-key"),
    ("GOOGLE_API_KEY", "vertex-ai"),
];

fn settings(context: &SeedContext<'_>) -> Option<String> {
    let has = |place: &str| {
        context.login_files.contains(&place)
            || context.credential_env.iter().any(|(name, _)| name == place)
    };
    let (_, way) = WAYS.iter().find(|(place, _)| has(place))?;
    Some(json!({ "security": { "auth": { "selectedType": way } } }).to_string())
}

fn trusted(context: &SeedContext<'_>) -> String {
    let directories = context.trusted_directories.iter();
    let all: Map<String, Value> = directories
        .map(|directory| ((*directory).to_owned(), json!("TRUST_FOLDER")))
        .collect();
    Value::Object(all).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::AgentId;

    fn file(path: &str, context: &SeedContext<'_>) -> Option<Value> {
        let files = AgentId::Gemini.profile().files(context);
        let file = files.iter().find(|file| file.path == path)?;
        Some(serde_json::from_str(&file.content).unwrap())
    }

    #[test]
    fn way_of_logging_in_is_that_of_the_placeholder() {
        for (place, way) in WAYS {
            let env = [((*place).to_owned(), "placeholder".to_owned())];
            let is_file = place.starts_with('.');
            let context = SeedContext {
                credential_env: if is_file { &[] } else { &env },
                login_files: if is_file { &[*place] } else { &[] },
                ..SeedContext::default()
            };
            let settings = file(".gemini/settings.json", &context).unwrap();
            assert_eq!(settings["security"]["auth"]["selectedType"], *way);
        }
    }

    #[test]
    fn without_a_login_nothing_is_chosen() {
        assert_eq!(file(".gemini/settings.json", &SeedContext::default()), None);
    }

    #[test]
    fn both_directories_are_trusted() {
        let context = SeedContext {
            trusted_directories: &["/p", "/p/q"],
            ..SeedContext::default()
        };
        let trusted = file(".gemini/trustedFolders.json", &context).unwrap();
        assert_eq!(
            trusted,
            json!({"/p": "TRUST_FOLDER", "/p/q": "TRUST_FOLDER"})
        );
    }
}
