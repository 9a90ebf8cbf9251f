//! Copilot's settings for an unattended start: the project is trusted, nothing else is set.

use serde_json::json;

use crate::profile::{Seed, SeedContext};

/// The files.
pub(crate) const SEEDS: &[Seed] = &[Seed {
    path: ".copilot/config.json",
    render: |context| Some(config(context)),
}];

fn config(context: &SeedContext<'_>) -> String {
    json!({ "trusted_folders": context.trusted_directories }).to_string()
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
        assert_eq!(files[0].content, r#"{"trusted_folders":["/p","/p/мой"]}"#);
    }
}
