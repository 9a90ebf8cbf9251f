//! Copilot's settings for an unattended start: the project is trusted, nothing else is set.

use serde_json::json;

use crate::profile::{Seed, SeedContext};

/// The files.
pub(crate) const SEEDS: &[Seed] = &[Seed {
    path: ".copilot/config.json",
    render: |context| Some(config(context)),
}];

fn config(context: &SeedContext<'_>) -> String {
    // Versions differ in how they spell it.
    let trusted = context.trusted_directories;
    json!({ "trusted_folders": trusted, "trustedFolders": trusted }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::AgentId;

    #[test]
    fn both_directories_are_trusted() {
        let context = SeedContext {
            trusted_directories: &["/p", "/p/мой"],
            ..SeedContext::default()
        };
        let files = AgentId::Copilot.profile().files(&context);
        let config: serde_json::Value = serde_json::from_str(&files[0].content).unwrap();
        for key in ["trusted_folders", "trustedFolders"] {
            assert_eq!(config[key], json!(["/p", "/p/мой"]));
        }
    }
}
