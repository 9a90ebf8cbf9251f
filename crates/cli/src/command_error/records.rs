//! Records of sessions that cannot be read.

use super::{CommandError, Kind};
use crate::commands::usage::UsageUnreadable;

impl From<UsageUnreadable> for CommandError {
    fn from(error: UsageUnreadable) -> Self {
        Self::new(Kind::Host, error)
    }
}
