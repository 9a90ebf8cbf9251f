//! Records of sessions that cannot be read, and agents of the host that cannot be found.

use agent_vm_launch::FindAgentError;

use super::{CommandError, Kind};
use crate::commands::usage::UsageUnreadable;

impl From<UsageUnreadable> for CommandError {
    fn from(error: UsageUnreadable) -> Self {
        Self::new(Kind::Host, error)
    }
}

impl From<FindAgentError> for CommandError {
    fn from(error: FindAgentError) -> Self {
        let hint = match &error {
            FindAgentError::NoSshAgent => "start one: `eval $(ssh-agent)`, then `ssh-add`",
            FindAgentError::NoGpgconf => "install GnuPG, or leave out --gpg-agent",
            FindAgentError::Gpgconf(_) => return Self::new(Kind::Host, error),
            FindAgentError::NoGpgAgent => "`gpgconf --list-dirs agent-extra-socket` names it",
            FindAgentError::NotRunning { agent: "SSH", .. } => {
                "is it still running? `ssh-add -l` tells"
            }
            FindAgentError::NotRunning { .. } => "start it: `gpgconf --launch gpg-agent`",
        };
        Self::new(Kind::Host, error).hint(hint)
    }
}
