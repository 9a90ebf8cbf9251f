use std::path::Path;

use agent_vm_secret::Placeholder;

use super::*;
use crate::guest_document::{Format, GuestValue};
use crate::host_environment::test_environment;

fn tokens(id: ProviderId) -> Vec<&'static Token> {
    id.facts()
        .sources()
        .flat_map(|source| match source {
            Source::Variable(source) => vec![&source.token],
            Source::Command(source) => vec![&source.token],
            Source::File(file) => file.entries.iter().map(|entry| &entry.token).collect(),
        })
        .collect()
}

#[test]
fn every_row_of_the_table_is_valid() {
    let vars = [("GOOGLE_CLOUD_LOCATION", "us-central1")];
    let environment = test_environment(Path::new("/h"), &vars);
    for id in ProviderId::ALL {
        assert_eq!(ProviderId::named(id.facts().id), Some(id));
        assert!(!id.facts().groups.is_empty());
        for token in tokens(id) {
            Placeholder::mint(token.prefix).unwrap();
            assert_eq!(
                token.hosts(&environment).len(),
                token.hosts.len(),
                "{}",
                token.name
            );
            assert!(!token.hosts.is_empty() && !token.name.is_empty());
            assert_eq!(
                token.header.spec().name,
                token.header.spec().name.to_lowercase()
            );
            let given = token.variables.len() + token.documents.len();
            assert!(given > 0, "the guest gets {} nowhere", token.name);
        }
        for file in id.facts().files() {
            for entry in file.entries {
                if let EntryKind::Login(login) = &entry.kind {
                    Placeholder::mint(login.refresh_prefix).unwrap();
                }
            }
        }
    }
    assert_eq!(ProviderId::named("nobody"), None);
}

#[test]
fn each_document_of_a_guest_lies_below_its_home_and_holds_a_placeholder_or_nothing_of_the_host() {
    for id in ProviderId::ALL {
        for document in tokens(id).into_iter().flat_map(|token| token.documents) {
            let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
            assert!(document.path.split('/').all(plain), "{}", document.path);
            let copies = document
                .fields
                .iter()
                .any(|(_, value)| matches!(value, GuestValue::Copy(_) | GuestValue::CopyOr(..)));
            let held = document
                .fields
                .iter()
                .any(|(_, value)| matches!(value, GuestValue::Access | GuestValue::Refresh));
            let text = matches!(document.format, Format::Text(_));
            assert!(!copies || held, "{}", document.path);
            assert!(!text || document.fields.is_empty(), "{}", document.path);
        }
    }
}

#[test]
fn longest_known_prefix_is_kept() {
    assert_eq!(known_prefix("sk-ant-api03-abc"), "sk-ant-api03-");
    assert_eq!(known_prefix("sk-abc"), "sk-");
    assert_eq!(known_prefix("a-real-token"), "");
    for (index, prefix) in KNOWN_PREFIXES.iter().enumerate() {
        Placeholder::mint(prefix).unwrap();
        assert!(
            !KNOWN_PREFIXES[..index]
                .iter()
                .any(|earlier| prefix.starts_with(earlier))
        );
    }
}

#[test]
fn credential_files_are_those_of_the_home_and_those_variables_name() {
    let environment = test_environment(Path::new("/h"), &[("CODEX_HOME", "/elsewhere")]);
    let files = credential_files(&environment);
    for expected in [
        "/h/.claude/.credentials.json",
        "/h/.codex/auth.json",
        "/elsewhere/auth.json",
        "/h/.local/share/opencode/auth.json",
        "/h/.gemini/oauth_creds.json",
        "/h/.config/gcloud/application_default_credentials.json",
        "/h/.config/gh/hosts.yml",
        "/h/.git-credentials",
        "/h/.netrc",
    ] {
        assert!(files.contains(&PathBuf::from(expected)), "{expected}");
    }
}
