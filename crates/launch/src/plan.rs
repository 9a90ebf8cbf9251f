//! What a launch will enforce, in a form that can be shown. Made from the request; the launch takes
//! mounts and machine from it, so that what is shown is what is done. Holds no token.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_vm_credentials::{Credential, HeaderSpec};
use agent_vm_egress::{ProxyServer, ProxySettings};
use agent_vm_policy::{EgressRule, HostPattern, HostRule, Preset, Scope};
use serde::Serialize;

use crate::base::Bases;
use crate::host_logins::intercepted_for;
use crate::integrity::{GitAccess, protected_paths};
use crate::keys::KeyAgents;
use crate::publish::PublishSettings;
use crate::request::{
    LaunchRequest, Machine, Mount, Origin, ResolveOverride, ShareAccess, ShareKind, Streams,
};

/// Everything one launch would enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What runs, and where.
    pub program: PlannedProgram,
    /// The image.
    pub image: PlannedImage,
    /// What was, or will first be, set up on top of the image.
    pub setup: PlannedSetup,
    /// All host directories and files the guest sees, a parent before what lies below it.
    pub mounts: Vec<Mount>,
    /// Paths of the host that stay read-only, with everything below them, although they are in mounts that can be written.
    pub protected: Vec<PathBuf>,
    /// Tokens by name; only these hosts receive them, only in this header.
    pub credentials: Vec<PlannedCredential>,
    /// Agents of the host whose keys the guest may use.
    pub key_agents: KeyAgents,
    /// What the guest may reach.
    pub network: PlannedNetwork,
    /// Processors, memory, disk, kernel.
    pub machine: Machine,
    /// How the standard streams are connected.
    pub streams: Streams,
    /// Where each setting came from.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// What runs in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedProgram {
    /// The command's name: `claude`, `shell`, `run`.
    pub agent: String,
    /// Program and arguments; bytes that are not UTF-8 are shown as U+FFFD.
    pub argv: Vec<String>,
    /// Names of the variables that are set; their values may be private.
    pub env: Vec<String>,
    /// Files made for the guest, relative to its home directory.
    pub files: Vec<String>,
    /// Where it starts.
    pub working_directory: PathBuf,
}

/// The image of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedImage {
    /// As given.
    pub reference: String,
    /// What the reference means in the local store; absent when it was never pulled.
    pub digest: Option<String>,
}

/// What was set up on top of the image, once for many launches: the steps in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PlannedSetup {
    /// The user's.
    pub user: Vec<String>,
    /// The project's.
    pub project: Vec<String>,
    /// Whether it is passed over, and the program runs on the bare image.
    pub ignored: bool,
}

/// A token, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedCredential {
    /// Its name.
    pub name: String,
    /// The only hosts that receive it.
    pub hosts: Vec<HostPattern>,
    /// The only header it travels in.
    pub header: HeaderSpec,
    /// Where it was found on the host.
    pub source: String,
}

/// What the guest may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedNetwork {
    /// What the policy begins with.
    pub policy: Preset,
    /// Hosts that `allowlist` lists; those of the credentials count as listed too.
    pub domains: Vec<HostPattern>,
    /// Hosts of the built-in list, which count as listed too.
    pub builtin: Vec<HostPattern>,
    /// Rules about hosts and requests, in their order.
    pub rules: Vec<HostRule>,
    /// What the project's own file narrows that to.
    pub project: Option<Scope>,
    /// Addresses that may be reached although they are not public.
    pub egress: Vec<EgressRule>,
    /// Whether the user's own network may be reached.
    pub lan: bool,
    /// Whether the services on the host's loopback may be reached.
    pub host: bool,
    /// Whether the guest may send logins of its own to hosts that a credential is bound to.
    pub foreign_credentials: bool,
    /// The host's proxies without their logins, by what they are for.
    pub proxies: PlannedProxies,
    /// Addresses given for names.
    pub resolve: Vec<ResolveOverride>,
    /// Hosts whose TLS is intercepted; all others are passed through untouched.
    pub intercepted: Vec<HostPattern>,
    /// Whether certificates besides the host's own are accepted for upstream servers.
    pub extra_upstream_ca: bool,
    /// Ports of the guest that appear on the host.
    pub publish: PublishSettings,
}

/// The host's proxies: scheme, host and port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PlannedProxies {
    /// For plain HTTP, port 80.
    pub http: Option<String>,
    /// For every other port.
    pub https: Option<String>,
    /// For both, where they have none of their own.
    pub all: Option<String>,
    /// What is reached directly.
    pub except: String,
}

impl Plan {
    /// What `request` will enforce; `image_digest` is what the store says its image is.
    #[must_use]
    pub fn new(request: &LaunchRequest, image_digest: Option<String>) -> Self {
        let files = request
            .program
            .files
            .iter()
            .chain(&request.credentials.guest_files);
        let mounts = mounts(request);
        let env = request
            .credentials
            .guest_env
            .iter()
            .chain(&request.program.env);
        Self {
            program: PlannedProgram {
                agent: request.program.agent.clone(),
                argv: request
                    .program
                    .argv
                    .iter()
                    .map(|argument| argument.to_string_lossy().into_owned())
                    .collect(),
                env: env.map(|(name, _)| name.clone()).collect(),
                files: files.map(|file| file.path.clone()).collect(),
                working_directory: request.project.working_directory().to_owned(),
            },
            image: PlannedImage {
                reference: request.image.reference.clone(),
                digest: image_digest,
            },
            setup: PlannedSetup {
                user: request.setup.user.titles(),
                project: request.setup.project.titles(),
                ignored: request.setup.bases == Bases::Ignore,
            },
            protected: protected(request, &mounts),
            mounts,
            credentials: request
                .credentials
                .credentials
                .iter()
                .map(planned)
                .collect(),
            key_agents: request.key_agents.clone(),
            network: network(request),
            machine: request.machine.clone(),
            streams: request.streams,
            origins: request.origins.clone(),
        }
    }
}

/// The project and the other mounts, a parent before what lies below it.
fn mounts(request: &LaunchRequest) -> Vec<Mount> {
    let project = Mount {
        host: request.project.root().to_owned(),
        guest: request.project.root().to_owned(),
        access: request.project_access,
        kind: ShareKind::Directory,
    };
    let mut mounts = vec![project];
    mounts.extend(request.mounts.iter().cloned());
    mounts.sort_by_key(|mount| mount.guest.components().count());
    mounts
}

/// What git runs of the project's repository, and of those of other mounts.
fn protected(request: &LaunchRequest, mounts: &[Mount]) -> Vec<PathBuf> {
    if request.integrity.git == GitAccess::Writable {
        return Vec::new();
    }
    let writable = |mount: &&Mount| {
        mount.access == ShareAccess::ReadWrite && mount.kind == ShareKind::Directory
    };
    let mut roots: Vec<&Path> = mounts.iter().filter(writable).map(|m| &*m.host).collect();
    // Also where the project itself cannot be written, but another mount it lies in can.
    roots.push(request.project.root());
    roots.sort();
    roots.dedup();
    let below = |root: &Path| {
        let paths = protected_paths(root).into_iter();
        paths.map(|path| root.join(path)).collect::<Vec<_>>()
    };
    roots.into_iter().flat_map(below).collect()
}

fn network(request: &LaunchRequest) -> PlannedNetwork {
    let network = &request.network;
    PlannedNetwork {
        policy: network.scope.preset,
        domains: network.scope.domains.clone(),
        builtin: network.scope.builtin.clone(),
        rules: network.rules.clone(),
        project: network.project.clone(),
        egress: network.egress.clone(),
        lan: network.lan,
        host: network.host,
        foreign_credentials: network.foreign_credentials,
        proxies: proxies(&network.proxies),
        resolve: network.resolve.clone(),
        intercepted: intercepted(&request.credentials.credentials, &network.rules),
        extra_upstream_ca: !network.upstream_ca_pem.is_empty(),
        publish: request.network.publish.clone(),
    }
}

fn proxies(settings: &ProxySettings) -> PlannedProxies {
    let shown = |proxy: &Option<ProxyServer>| proxy.as_ref().map(ToString::to_string);
    PlannedProxies {
        http: shown(&settings.http),
        https: shown(&settings.https),
        all: shown(&settings.all),
        except: settings.no_proxy.as_str().to_owned(),
    }
}

fn planned(credential: &Credential) -> PlannedCredential {
    PlannedCredential {
        name: credential.name.clone(),
        hosts: credential.hosts.clone(),
        header: credential.header.clone(),
        source: credential.source.clone(),
    }
}

fn intercepted(credentials: &[Credential], rules: &[HostRule]) -> Vec<HostPattern> {
    let mut hosts: Vec<HostPattern> = credentials.iter().flat_map(intercepted_for).collect();
    let judged = rules.iter().filter(|rule| rule.is_about_requests());
    hosts.extend(judged.map(|rule| rule.host.clone()));
    hosts.sort();
    hosts.dedup();
    hosts
}

#[cfg(test)]
pub(crate) mod tests;
