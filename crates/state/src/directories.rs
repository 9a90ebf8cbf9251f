//! Where agent-vm keeps state and images, from the XDG base directories.
//!
//! Must hold: relative values of the `XDG_*` variables are ignored, as the XDG Base Directory
//! Specification asks ("all paths set in these environment variables must be absolute").

use std::path::{Path, PathBuf};

use crate::project::ProjectId;

/// What the environment says about base directories; the caller reads it, this crate does not.
#[derive(Debug, Clone, Default)]
pub struct BaseDirectories {
    /// The user's home directory; absolute.
    pub home: PathBuf,
    /// `AGENT_VM_STATE_DIR`: the state directory itself, absolute; wins over everything.
    pub state_override: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<PathBuf>,
}

/// The directories of one user. Nothing is created until it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDirectories {
    state: PathBuf,
    data: PathBuf,
}

impl HostDirectories {
    /// State below `${AGENT_VM_STATE_DIR:-${XDG_STATE_HOME:-~/.local/state}/agent-vm}`, images
    /// below `${XDG_DATA_HOME:-~/.local/share}/agent-vm`.
    #[must_use]
    pub fn from_base(base: &BaseDirectories) -> Self {
        let below = |xdg: &Option<PathBuf>, fallback: &str| {
            let root = match xdg {
                Some(path) if path.is_absolute() => path.clone(),
                Some(_) | None => base.home.join(fallback),
            };
            root.join("agent-vm")
        };
        let state = base
            .state_override
            .clone()
            .unwrap_or_else(|| below(&base.xdg_state_home, ".local/state"));
        Self {
            state,
            data: below(&base.xdg_data_home, ".local/share"),
        }
    }

    /// Root of everything that belongs to launches and projects.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Root of the image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Parent of the per-launch directories.
    #[must_use]
    pub fn sessions(&self) -> PathBuf {
        self.state.join("sessions")
    }

    /// Disks that setup scripts made of images, which launches are cloned from. Beside the sessions, so that both are on
    /// one file system.
    #[must_use]
    pub fn bases(&self) -> PathBuf {
        self.state.join("bases")
    }

    /// What a project keeps from launch to launch.
    #[must_use]
    pub fn project(&self, id: &ProjectId) -> PathBuf {
        self.state.join("projects").join(id.as_str())
    }

    /// What models used, one file of JSON lines per launch that asked any; outlives them.
    #[must_use]
    pub fn usage(&self) -> PathBuf {
        self.state.join("usage")
    }

    /// One JSON line per egress decision, of all launches; outlives them.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.state.join("audit.jsonl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> BaseDirectories {
        BaseDirectories {
            home: "/home/u".into(),
            ..BaseDirectories::default()
        }
    }

    #[test]
    fn defaults_to_xdg_places_below_home() {
        let directories = HostDirectories::from_base(&base());
        assert_eq!(
            directories.state(),
            Path::new("/home/u/.local/state/agent-vm")
        );
        assert_eq!(
            directories.images(),
            Path::new("/home/u/.local/share/agent-vm/images")
        );
    }

    #[test]
    fn xdg_variables_move_state_and_images() {
        let directories = HostDirectories::from_base(&BaseDirectories {
            xdg_state_home: Some("/s".into()),
            xdg_data_home: Some("/d".into()),
            ..base()
        });
        assert_eq!(directories.state(), Path::new("/s/agent-vm"));
        assert_eq!(directories.images(), Path::new("/d/agent-vm/images"));
    }

    #[test]
    fn ignores_relative_xdg_variables() {
        let directories = HostDirectories::from_base(&BaseDirectories {
            xdg_state_home: Some("s".into()),
            xdg_data_home: Some("".into()),
            ..base()
        });
        assert_eq!(directories, HostDirectories::from_base(&base()));
    }

    #[test]
    fn state_override_is_the_directory_itself() {
        let directories = HostDirectories::from_base(&BaseDirectories {
            state_override: Some("/elsewhere".into()),
            xdg_state_home: Some("/s".into()),
            ..base()
        });
        assert_eq!(directories.state(), Path::new("/elsewhere"));
        assert_eq!(directories.sessions(), Path::new("/elsewhere/sessions"));
        assert_eq!(directories.audit_log(), Path::new("/elsewhere/audit.jsonl"));
    }
}
