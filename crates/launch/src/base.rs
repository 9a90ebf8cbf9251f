//! Derived bases: what setup scripts and packages made of an image, kept as a disk that later launches clone.
//!
//! ```text
//! image ─► user's base ─► changes kept on it ─► project's base ─► changes kept on it ─► the disk of a launch
//!          (setup.sh)     (base shell --user)   (.agent-vm.setup.sh)  (base shell)
//! ```
//! Each arrow is a copy-on-write clone, each base one disk that is never written again. A base is named by the digest of
//! all it is made of ([`chain`]): manifest of the image, base below, scripts, packages, and for a project's base the
//! project. So a base that does not fit is not found instead of being found wrong, and what a launch uses is always what
//! image, scripts and packages say now. Changes kept by hand stand on one base and are used with that one only.
//!
//! Setup runs in a virtual machine like any other: the same gateway and policy, no credentials unless asked for, nothing
//! of the host but the project (read-only, for its own base) and the mounts the user gave for it. What belongs to the
//! session (certificate, placeholders, scripts) is in the guest's memory only, and the disk is searched for it before it is kept.

mod build;
mod chain;
mod leftovers;
mod machine;
mod program;
mod record;
mod shell;
mod store;

pub use build::{BaseError, BaseEvent, Rebuild, SetupReason};
pub use record::{BaseId, BaseKind, BaseProject, BaseRecord, Level};
pub use shell::{base_shell, make_bases};
pub use store::{BaseStore, BaseStoreError, ListedBase, Scope, expected_bases};

pub(crate) use build::{Making, SetupCredentials, ready};
pub(crate) use program::for_kept_disk;

use crate::request::Mount;

/// What a base is made of, besides the image and the base below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    /// Packages of the image's package manager, in order.
    pub packages: Vec<String>,
    /// Scripts, in order; they run after the packages are installed.
    pub scripts: Vec<SetupScript>,
    /// Host directories and files that are there, read-only, while the scripts run, and only then.
    pub mounts: Vec<Mount>,
}

/// A script that runs in the guest as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupScript {
    /// Its name for people.
    pub name: String,
    /// All of it; without `#!` it is run by `/bin/sh`.
    pub content: Vec<u8>,
}

/// The recipes of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupRequest {
    /// The user's: one base for all projects.
    pub user: Recipe,
    /// The project's: its base stands on the user's.
    pub project: Recipe,
    /// Whether bases are used at all.
    pub bases: Bases,
}

/// Whether a launch begins with a base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bases {
    /// With the one its recipes say; what is missing is made first.
    #[default]
    Use,
    /// With the bare image.
    Ignore,
}

impl Recipe {
    /// Whether there is nothing to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.scripts.is_empty()
    }

    /// What is done, in order, for people.
    #[must_use]
    pub fn titles(&self) -> Vec<String> {
        let packages =
            (!self.packages.is_empty()).then(|| format!("packages: {}", self.packages.join(", ")));
        let scripts = self.scripts.iter().map(|script| script.name.clone());
        packages.into_iter().chain(scripts).collect()
    }
}

impl SetupRequest {
    /// The recipe of one level.
    #[must_use]
    pub fn recipe(&self, level: Level) -> &Recipe {
        match level {
            Level::User => &self.user,
            Level::Project => &self.project,
        }
    }
}
