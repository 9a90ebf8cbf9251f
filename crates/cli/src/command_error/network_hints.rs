//! What to do about settings of the network that cannot be used.

use super::{CommandError, Kind};
use crate::egress_rules::EgressRulesError;
use crate::network_settings::NetworkSettingsError;
use crate::rule_file::RuleFileError;

impl From<NetworkSettingsError> for CommandError {
    fn from(error: NetworkSettingsError) -> Self {
        use NetworkSettingsError as Wrong;
        let (kind, hint) = match error {
            Wrong::File(error) => return error.into(),
            Wrong::Rules(error) => return error.into(),
            Wrong::Syntax { .. } | Wrong::Value { .. } => (
                Kind::Config,
                "known are `policy`, `allow-domains`, `builtin-allowlist`, and in your own configuration `allow-egress`, `allow-lan`, `allow-host`, `allow-foreign-credentials`",
            ),
            Wrong::ProjectWidens { .. } => (
                Kind::Config,
                "put it into ~/.config/agent-vm/config.toml, or give the option",
            ),
            Wrong::ProjectDomains { .. } => (
                Kind::Config,
                "hosts are listed under `policy = \"allowlist\"`",
            ),
            Wrong::OfflineAndPolicy { .. } => (Kind::User, "leave one of them out"),
            Wrong::DomainsUnused { .. } => (
                Kind::User,
                "hosts are listed under --policy allowlist; every public host is reached under --policy public",
            ),
        };
        Self::new(kind, error).hint(hint)
    }
}

impl From<EgressRulesError> for CommandError {
    fn from(error: EgressRulesError) -> Self {
        use EgressRulesError as Wrong;
        let hint = match error {
            Wrong::File(error) => return error.into(),
            Wrong::Syntax { .. } | Wrong::Rule { .. } | Wrong::TooMany { .. } => {
                "a rule is [[egress.rule]] with `host` and `action`, and may have `port`, `method`, `path`, `reason`"
            }
            Wrong::ProjectWidens { .. } => "put it into ~/.config/agent-vm/config.toml",
        };
        Self::new(Kind::Config, error).hint(hint)
    }
}

impl From<RuleFileError> for CommandError {
    fn from(error: RuleFileError) -> Self {
        let hint = "add [[egress.rule]] with `host` and `action` to it yourself";
        match error {
            RuleFileError::Rules(error) => error.into(),
            RuleFileError::File { .. } => Self::new(Kind::Host, error),
            RuleFileError::Form { .. } => Self::new(Kind::Config, error).hint(hint),
        }
    }
}
