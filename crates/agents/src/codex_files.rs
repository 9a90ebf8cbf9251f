//! Codex's settings for an unattended start: nothing is asked, the project is trusted, and what is only
//! reported to its makers or looked for on the network at every start is off. Features stay as they are.

use serde_json::json;

use crate::profile::{Seed, SeedContext};

/// The files.
pub(crate) const SEEDS: &[Seed] = &[Seed {
    path: ".codex/config.toml",
    render: |context| Some(config(context)),
}];

/// What does not depend on the launch.
const SETTINGS: &str = r#"approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[otel]
metrics_exporter = "none"

"#;

fn config(context: &SeedContext<'_>) -> String {
    let mut directories = context.trusted_directories.to_vec();
    directories.dedup();
    let trusted = directories.into_iter().map(|directory| {
        format!(
            "\n[projects.{}]\ntrust_level = \"trusted\"\n",
            quoted(directory)
        )
    });
    std::iter::once(SETTINGS.to_owned())
        .chain(trusted)
        .collect()
}

/// A TOML basic string: JSON's escapes are a part of its own. DEL must be escaped in TOML only.
fn quoted(text: &str) -> String {
    json!(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::AgentId;

    fn parsed(directories: &[&str]) -> toml::Table {
        let context = SeedContext {
            trusted_directories: directories,
            ..SeedContext::default()
        };
        let files = AgentId::Codex.profile().files(&context);
        files[0].content.parse().unwrap()
    }

    #[test]
    fn nothing_is_asked_and_each_directory_is_trusted_whatever_its_name() {
        let odd = "/p \"q\"\\мой\u{7f}\n.x";
        let settings = parsed(&["/p", odd]);
        assert_eq!(settings["approval_policy"].as_str(), Some("never"));
        for directory in ["/p", odd] {
            let project = &settings["projects"][directory];
            assert_eq!(project["trust_level"].as_str(), Some("trusted"));
        }
    }

    #[test]
    fn directory_named_twice_is_one_table() {
        assert_eq!(
            parsed(&["/p", "/p"])["projects"].as_table().unwrap().len(),
            1
        );
    }
}
