//! What a person can do about credentials that cannot be used.

use agent_vm_credentials::{CollectError, ReadError};

use super::{CommandError, Kind, SECRET_FORM};
use crate::secret_settings::SecretSettingsError;

impl From<CollectError> for CommandError {
    fn from(error: CollectError) -> Self {
        let (kind, hint) = match &error {
            CollectError::ReadLogin {
                source: ReadError::Io { path, .. },
                ..
            } => (
                Kind::Config,
                Some(format!(
                    "make {} readable for you, or log in again",
                    path.display()
                )),
            ),
            CollectError::ReadLogin { .. }
            | CollectError::ParseLogin { .. }
            | CollectError::ParseHosts { .. } => {
                (Kind::Config, Some("log in again on the host".to_owned()))
            }
            CollectError::Duplicate { .. } => (
                Kind::User,
                Some("name several hosts in one --secret: NAME@HOST,HOST".to_owned()),
            ),
            CollectError::VariableMissing { name, variable } => (
                Kind::User,
                Some(format!(
                    "set {variable}, or name another source: \
                     --secret {name}=env:VARIABLE@HOST, {name}=file:PATH@HOST, {name}=cmd:PROGRAM@HOST"
                )),
            ),
            CollectError::FileMissing { .. }
            | CollectError::ReadSecret { .. }
            | CollectError::ProgramMissing { .. }
            | CollectError::Run { .. }
            | CollectError::CommandStatus { .. } => (Kind::User, Some(SECRET_FORM.to_owned())),
            CollectError::NotASecret { .. } => {
                (Kind::User, Some("a token is one line of text".to_owned()))
            }
            CollectError::Mint(_) | CollectError::PlaceholderOverlap { .. } => {
                (Kind::Internal, None)
            }
        };
        let mut this = Self::new(kind, error);
        this.hints.extend(hint);
        this
    }
}

impl From<SecretSettingsError> for CommandError {
    fn from(error: SecretSettingsError) -> Self {
        let hint = match error {
            SecretSettingsError::File(error) => return error.into(),
            SecretSettingsError::TooMany { .. } | SecretSettingsError::Twice { .. } => None,
            SecretSettingsError::Syntax { .. } | SecretSettingsError::Secret { .. } => Some(
                "a [[secret]] has `name = \"TOKEN\"`, `hosts = [\"api.example.org\"]`, and if need be `header` and \
                 `source = { env = \"VARIABLE\" }`, `{ file = \"PATH\" }` or `{ command = [\"PROGRAM\", \"ARG\"] }`",
            ),
        };
        let mut this = Self::new(Kind::Config, error);
        this.hints.extend(hint.map(str::to_owned));
        this
    }
}
