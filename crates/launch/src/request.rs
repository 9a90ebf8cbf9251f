//! What a launch is asked to do, as meant: every value parsed, every path absolute, every default
//! filled in. Plain data; made by the command line (or a test), read by the launch.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use agent_vm_credentials::{Collected, GuestFile};
use agent_vm_egress::ProxySettings;
use agent_vm_policy::{EgressRule, HostName, HostRule, Policy, Scope};
use agent_vm_state::{HostDirectories, Project};
use serde::Serialize;

use crate::base::SetupRequest;
use crate::integrity::IntegritySettings;
use crate::keys::KeyAgents;
use crate::publish::PublishSettings;

/// One launch.
#[derive(Debug, Clone)]
pub struct LaunchRequest {
    /// The directory tree the agent works on; mounted at the same path in the guest.
    pub project: Project,
    /// Whether the guest may write to the project.
    pub project_access: ShareAccess,
    /// More host directories and files, in the order given; checked against each other.
    pub mounts: Vec<Mount>,
    /// What must not be changed unnoticed.
    pub integrity: IntegritySettings,
    /// What runs in the guest.
    pub program: Program,
    /// The image it runs in.
    pub image: ImageSource,
    /// What was set up on top of the image, once for many launches.
    pub setup: SetupRequest,
    /// The virtual machine.
    pub machine: Machine,
    /// Tokens and what the guest gets in their stead.
    pub credentials: Collected,
    /// Agents of the host whose keys the guest may use.
    pub key_agents: KeyAgents,
    /// What the guest may reach, and how.
    pub network: NetworkSettings,
    /// Where state and sessions live.
    pub directories: HostDirectories,
    /// How the three standard streams are connected.
    pub streams: Streams,
    /// The user's terminal type (`TERM`) for a program with a terminal; empty when unknown.
    pub terminal_type: String,
    /// What is shown besides the program's own output.
    pub diagnostics: Diagnostics,
    /// Where each setting came from, by its name (`memory`, `image`); for `explain`.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// What the guest may do with a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareAccess {
    /// Read only, enforced by the host.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// Directory or file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareKind {
    /// A directory tree.
    Directory,
    /// One regular file.
    File,
}

/// A host directory or file that appears in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute canonical path on the host; UTF-8.
    pub host: PathBuf,
    /// Absolute normalised path in the guest; UTF-8, not `/`.
    pub guest: PathBuf,
    /// What the guest may do.
    pub access: ShareAccess,
    /// What the host path was when it was looked at.
    pub kind: ShareKind,
}

/// What runs in the guest.
#[derive(Debug, Clone)]
pub struct Program {
    /// The command's name for people: `claude`, `shell`, `run`.
    pub agent: String,
    /// Program and arguments; a program without `/` is searched in the guest's `PATH`.
    pub argv: Vec<OsString>,
    /// Variables besides those of the image, in order: a later one replaces an earlier one of the
    /// same name and one of the image. Holds placeholders, never tokens.
    pub env: Vec<(String, String)>,
    /// Files below the home directory of the guest's user, written before the program starts.
    pub files: Vec<GuestFile>,
}

/// Which image, and where images are kept.
#[derive(Debug, Clone)]
pub struct ImageSource {
    /// The reference as given; parsed by `agent_vm_image`.
    pub reference: String,
    /// Root of the image store.
    pub store: PathBuf,
}

/// The virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Virtual processors.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the writable disk in bytes; it is sparse.
    pub disk_bytes: u64,
    /// The guest kernel: a `libkrunfw` shared object.
    pub kernel: PathBuf,
}

/// What the guest may reach, and how.
#[derive(Debug, Clone, Default)]
pub struct NetworkSettings {
    /// What the policy begins with.
    pub scope: Scope,
    /// What the project's own file narrows that to; it can never widen it.
    pub project: Option<Scope>,
    /// Rules about hosts and requests, in their order.
    pub rules: Vec<HostRule>,
    /// Addresses that may be reached although they are not public.
    pub egress: Vec<EgressRule>,
    /// Whether the user's own network may be reached.
    pub lan: bool,
    /// Whether the services on the host's loopback may be reached.
    pub host: bool,
    /// Whether the guest may send logins of its own to hosts that a credential is bound to.
    pub foreign_credentials: bool,
    /// Addresses the user gave for names.
    pub resolve: Vec<ResolveOverride>,
    /// The host's proxies, which connections to public addresses go through.
    pub proxies: ProxySettings,
    /// More certificates (PEM) that upstream servers may be verified with; empty for none.
    pub upstream_ca_pem: Vec<u8>,
    /// Ports of the guest that appear on the host.
    pub publish: PublishSettings,
}

impl NetworkSettings {
    /// The policy they make; the hosts of credentials come to it in the egress.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut policy = Policy::new(self.scope.clone()).with_rules(self.rules.clone());
        if let Some(project) = &self.project {
            policy = policy.narrow(project.clone());
        }
        policy = self
            .egress
            .iter()
            .copied()
            .fold(policy, Policy::allow_egress);
        if self.lan {
            policy = policy.allow_lan();
        }
        if self.host {
            policy = policy.allow_host();
        }
        if self.foreign_credentials {
            policy = policy.allow_foreign_credentials();
        }
        policy
    }
}

/// `HOST:PORT` is dialled at `address`, whatever DNS says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolveOverride {
    /// The name.
    pub host: HostName,
    /// The port the guest dials.
    pub port: u16,
    /// What the launcher dials instead.
    pub address: SocketAddr,
}

/// How the standard streams are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Streams {
    /// Standard input and output are terminals: one pty in the guest.
    Terminal,
    /// Three separate byte streams.
    Pipes,
    /// No input; both outputs go to standard error.
    Report,
}

/// What is shown besides the program's own output, and how patient the launch is.
#[derive(Debug, Clone, Copy)]
pub struct Diagnostics {
    /// Show the runtime's and the guest kernel's log.
    pub verbose: bool,
    /// Report the phases of the launch.
    pub profile: bool,
    /// Every timeout is multiplied by this; > 0. Slow machines (emulated, debug builds) need more.
    pub timeout_scale: f64,
    /// When the process began, for the first phase.
    pub started: Instant,
}

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", content = "name", rename_all = "kebab-case")]
pub enum Origin {
    /// A flag of the command line.
    Flag(&'static str),
    /// A variable of the environment.
    Environment(&'static str),
    /// A configuration file.
    File(&'static str),
    /// Built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::File(name) => f.write_str(name),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Default => f.write_str("default"),
        }
    }
}
