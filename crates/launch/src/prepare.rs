//! Second step: everything the virtual machine is made of is opened or made, but nothing runs yet.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use agent_vm_credentials::Credential;
use agent_vm_egress::{
    AuditError, AuditSink, BoundCredential, Egress, EgressConfig, EgressError, HeaderRule,
    HeaderRuleError, IssuerClient, PATIENCE, ResolveOverride, TokenEndpoints, UpstreamRoots,
    UsageLog,
};
use agent_vm_image::{DiskError, DiskFrom, Lease, StoreError, clone_disk, disk_from};
use agent_vm_policy::Policy;
use agent_vm_state::{SessionDirectory, SessionError, SessionId};
use agent_vm_vmm as vmm;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc::Receiver;

use crate::host_logins::{HostSecrets, Surroundings, intercepted_for};
use crate::plan::Plan;
use crate::publish::BindError;
use crate::request::{LaunchRequest, Mount, ShareAccess};
use crate::resolve::{DiskPlan, Resolved};

/// A launch with all its parts.
pub struct Prepared {
    pub(crate) resolved: Resolved,
    pub(crate) session: SessionDirectory,
    pub(crate) disks: Vec<vmm::Disk>,
    pub(crate) shares: Vec<vmm::Share>,
    pub(crate) kernel: OwnedFd,
    pub(crate) egress: Egress,
    /// What the person is to know of the host's logins.
    pub(crate) news: Option<Receiver<String>>,
    pub(crate) lease: Lease,
}

/// Why the parts of a launch cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no directory for the session.
    #[error("cannot make the session's directory")]
    Session(#[from] SessionError),
    /// The image was removed, or cannot be kept from being removed.
    #[error("cannot keep the image for this launch")]
    Image(#[from] StoreError),
    /// A file of the launch cannot be opened.
    #[error("cannot open {} {}", role, path.display())]
    Open {
        /// What it is for.
        role: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The writable disk cannot be made.
    #[error("cannot make the guest's disk")]
    Disk(#[from] DiskError),
    /// A credential's header cannot carry one.
    #[error("credential {name} cannot be attached")]
    Header {
        /// The credential.
        name: String,
        /// Why.
        #[source]
        source: HeaderRuleError,
    },
    /// There is no audit log, so nothing may leave.
    #[error("cannot record what the guest does")]
    Audit(#[from] AuditError),
    /// A port of the host cannot be had.
    #[error(transparent)]
    Publish(#[from] BindError),
    /// There is no egress.
    #[error("cannot set up the guest's network")]
    Egress(#[from] EgressError),
}

impl Resolved {
    /// Opens and makes the parts.
    ///
    /// # Errors
    /// When one cannot be had; what was made is removed again.
    pub fn prepare(mut self) -> Result<Prepared, PrepareError> {
        self.take_ports()?;
        let session = SessionDirectory::create(&self.request.directories)?;
        let lease = self.store.lease(&self.image)?;
        let disks = disks(&self, &session)?;
        let shares = shares(&self.plan)?;
        let kernel = open(
            "the guest kernel",
            &self.request.machine.kernel,
            OFlags::RDONLY,
        )?;
        let (egress, news) = egress(&self.request, session.id())?;
        egress.set_patience(PATIENCE.mul_f64(self.request.diagnostics.timeout_scale));
        Ok(Prepared {
            resolved: self,
            session,
            disks,
            shares,
            kernel,
            egress,
            news: Some(news),
            lease,
        })
    }
}

/// The image, then the writable disk.
fn disks(resolved: &Resolved, session: &SessionDirectory) -> Result<Vec<vmm::Disk>, PrepareError> {
    let files = resolved.image.extents.iter();
    let parts = files.map(|file| open("the image", file, OFlags::RDONLY));
    let image = vmm::Disk::Joined {
        parts: parts.collect::<Result<_, _>>()?,
    };
    Ok(vec![image, writable_disk(resolved, session)?])
}

/// An empty disk, or one that begins as the base. One that is kept stands alone; one that is not begins at once.
fn writable_disk(
    resolved: &Resolved,
    session: &SessionDirectory,
) -> Result<vmm::Disk, PrepareError> {
    let (path, size) = (disk_path(session), resolved.request.machine.disk_bytes);
    let whole = |image: std::fs::File| vmm::Disk::Raw {
        image: image.into(),
        access: vmm::Access::ReadWrite,
    };
    let DiskPlan { from, keep } = &resolved.disk;
    Ok(match (from, keep) {
        (None, _) => whole(resolved.store.writable_disk(&path, size)?),
        (Some(base), Some(_)) => whole(clone_disk(base, &path, size)?.0),
        (Some(base), None) => match disk_from(base, &path, size)? {
            DiskFrom::Whole(image) => whole(image),
            DiskFrom::Changes(changes) => vmm::Disk::Changed {
                base: base
                    .try_clone()
                    .map_err(|source| DiskError::Io { source })?
                    .into(),
                changes: changes.into(),
            },
        },
    })
}

/// Where the writable disk of a session is while it runs.
pub(crate) fn disk_path(session: &SessionDirectory) -> PathBuf {
    session.path().join("disk.ext4")
}

fn shares(plan: &Plan) -> Result<Vec<vmm::Share>, PrepareError> {
    let share = |mount: &Mount| {
        let root = open("the mount", &mount.host, OFlags::PATH | OFlags::NOFOLLOW)?;
        let access = match mount.access {
            ShareAccess::ReadOnly => vmm::Access::ReadOnly,
            ShareAccess::ReadWrite => vmm::Access::ReadWrite,
        };
        Ok(vmm::Share {
            root,
            access,
            protected: protected(plan, mount),
        })
    };
    plan.mounts.iter().map(share).collect()
}

/// What of a mount stays as it is, in the mount's own terms.
fn protected(plan: &Plan, mount: &Mount) -> Vec<vmm::ProtectedPath> {
    if mount.access == ShareAccess::ReadOnly {
        return Vec::new();
    }
    let inside = |path: &PathBuf| {
        let path = path.strip_prefix(&mount.host).ok()?.to_str()?;
        (!path.is_empty()).then(|| vmm::ProtectedPath {
            path: path.to_owned(),
            when_missing: vmm::WhenMissing::DenyCreation,
        })
    };
    plan.protected.iter().filter_map(inside).collect()
}

fn open(
    role: &'static str,
    path: &std::path::Path,
    flags: OFlags,
) -> Result<OwnedFd, PrepareError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        PrepareError::Open {
            role,
            path: path.to_owned(),
            source: error.into(),
        }
    })
}

/// Everything that decides about what the guest sends, for this session, and news of the host's logins for the person.
pub(crate) fn egress(
    request: &LaunchRequest,
    session: &SessionId,
) -> Result<(Egress, Receiver<String>), PrepareError> {
    let found = &request.credentials.credentials;
    let source = (session.to_string(), request.project.id().to_string());
    let audit = || AuditSink::open(&request.directories.audit_log());
    let overrides = request.network.resolve.iter().map(|given| ResolveOverride {
        host: given.host.clone(),
        port: given.port,
        target: given.address,
    });
    let overrides: Vec<_> = overrides.collect();
    let proxies = &request.network.proxies;
    let roots = roots(request);
    let client = IssuerClient::new(&roots, overrides.clone(), proxies.clone());
    let client = client.map_err(|source| EgressError::Roots { source })?;
    let (shared, news) = Surroundings::new(source.clone(), client, audit()?);
    let secrets = Rc::new(HostSecrets::new(
        found,
        request.directories.state(),
        &shared,
    ));
    let egress = Egress::new(EgressConfig {
        session: source.0,
        project: source.1,
        policy: enforced_policy(request),
        credentials: found.iter().map(bound).collect::<Result<_, _>>()?,
        token_endpoints: TokenEndpoints::new(secrets.endpoints(), secrets.clone()),
        secrets,
        roots,
        overrides,
        proxies: proxies.clone(),
        audit: audit()?,
    })?;
    let (usage, project) = (request.directories.usage(), request.project.id());
    egress.count_usage(UsageLog::new(&usage, session.as_str(), project.as_str()));
    Ok((egress, news))
}

/// The user's own authorities beside those of the host.
fn roots(request: &LaunchRequest) -> UpstreamRoots {
    let pem = String::from_utf8_lossy(&request.network.upstream_ca_pem).into_owned();
    UpstreamRoots {
        extra_pem: (!pem.is_empty()).then_some(pem).into_iter().collect(),
    }
}

/// The policy of a launch; the hosts of its credentials are intercepted, and those where logins are renewed. The egress
/// enforces it, and `egress check` asks it.
#[must_use]
pub fn enforced_policy(request: &LaunchRequest) -> Policy {
    let credentials = request.credentials.credentials.iter();
    let hosts = credentials.flat_map(intercepted_for);
    hosts.fold(request.network.policy(), Policy::intercept)
}

fn bound(credential: &Credential) -> Result<BoundCredential, PrepareError> {
    let header =
        HeaderRule::parse(&credential.header.name).map_err(|source| PrepareError::Header {
            name: credential.name.clone(),
            source,
        })?;
    Ok(BoundCredential {
        name: credential.name.clone(),
        placeholder: credential.placeholder.clone(),
        hosts: credential.hosts.clone(),
        header,
    })
}
