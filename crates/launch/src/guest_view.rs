//! What the guest is told: its mounts, files, environment and program, in the words of the control protocol.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_vm_egress::Egress;
use agent_vm_gateway::{LinkAddresses, SearchRule};
use agent_vm_protocol::{
    Access, Boot, BootFile, Canary, GuestPath, GuestPathError, Ipv4Config, Ipv6Config, Lower,
    Network, Root, Share, ShareKind, Upper,
};

use crate::keys::SSH_SOCKET;
use crate::plan::Plan;
use crate::publish::forwarding;
use crate::request::{LaunchRequest, Mount, ShareAccess, ShareKind as MountKind};

/// Home directory of the guest's user, who is root: the virtual machine is the sandbox.
pub(crate) const GUEST_HOME: &str = "/root";
/// Where the guest finds the session's authority, for programs that want a file of their own.
const GUEST_CA_PATH: &str = "/usr/local/share/ca-certificates/agent-vm.crt";
/// The image's authorities and the session's in one file: PID 1 sees to it that there is one.
const GUEST_BUNDLE_PATH: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Variables for programs that know neither the system's store nor the session's authority; never `SSL_CERT_FILE` or
/// `SSL_CERT_DIR`, which replace the store of programs that do.
pub(crate) const AUTHORITY_VARIABLES: [(&str, &str); 4] = [
    // Node adds this file to the authorities it brings along.
    ("NODE_EXTRA_CA_CERTS", GUEST_CA_PATH),
    // Python's requests, and pip with it, would know only those of the package certifi.
    ("REQUESTS_CA_BUNDLE", GUEST_BUNDLE_PATH),
    // Amazon's programs and libraries bring their own along, gRPC too.
    ("AWS_CA_BUNDLE", GUEST_BUNDLE_PATH),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", GUEST_BUNDLE_PATH),
];
/// Limit of open files in the guest.
const GUEST_OPEN_FILES: u64 = 1 << 20;
/// The search path where the image names none (Debian's default).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A path the guest cannot have.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} cannot be a path in the guest")]
pub struct GuestPathInvalid {
    /// The path.
    pub path: String,
    /// Why.
    #[source]
    pub source: GuestPathError,
}

pub(crate) fn guest_path(path: &Path) -> Result<GuestPath, GuestPathInvalid> {
    GuestPath::new(path.as_os_str().as_bytes()).map_err(|source| GuestPathInvalid {
        path: path.to_string_lossy().into_owned(),
        source,
    })
}

/// Everything about the machine that belongs to this launch.
pub(crate) fn boot(
    request: &LaunchRequest,
    plan: &Plan,
    link: (&LinkAddresses, u16, SearchRule),
    egress: &Egress,
) -> Result<Boot, GuestPathInvalid> {
    let shares = plan
        .mounts
        .iter()
        .enumerate()
        .map(share)
        .collect::<Result<_, _>>()?;
    let files = request
        .program
        .files
        .iter()
        .chain(&request.credentials.guest_files);
    let files = files
        .map(|file| {
            Ok(BootFile {
                path: guest_path(&Path::new(GUEST_HOME).join(&file.path))?,
                mode: file.mode,
                uid: 0,
                gid: 0,
                content: file.content.clone(),
            })
        })
        .collect::<Result<_, _>>()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Boot {
        root: Root {
            lower: Lower::Image,
            upper: Upper::Disk,
        },
        shares,
        network: Some(network(link)),
        hostname: "agent-vm".to_owned(),
        ca_pem: egress.ca_pem().as_bytes().to_vec(),
        files,
        unix_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        sysctls: Vec::new(),
        max_open_files: GUEST_OPEN_FILES,
        canary: Some(canary(egress)),
        forwarding: forwarding(&request.network.publish, &request.key_agents),
        sockets: request.key_agents.sockets()?,
    })
}

/// What the guest's network must refuse.
fn canary(egress: &Egress) -> Canary {
    let canary = egress.canary();
    let (address, port) = canary.destination();
    Canary {
        name: canary.name().to_string(),
        address,
        port,
    }
}

fn share((index, mount): (usize, &Mount)) -> Result<Share, GuestPathInvalid> {
    Ok(Share {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        guest_path: guest_path(&mount.guest)?,
        kind: match mount.kind {
            MountKind::Directory => ShareKind::Directory,
            MountKind::File => ShareKind::File,
        },
        access: match mount.access {
            ShareAccess::ReadOnly => Access::ReadOnly,
            ShareAccess::ReadWrite => Access::ReadWrite,
        },
    })
}

fn network((addresses, mtu, search): (&LinkAddresses, u16, SearchRule)) -> Network {
    Network {
        mac: addresses.guest_mac,
        mtu: u32::from(mtu),
        ipv4: Ipv4Config {
            address: addresses.guest_v4,
            prefix: addresses.prefix_v4,
            gateway: addresses.gateway_v4,
        },
        ipv6: Some(Ipv6Config {
            address: addresses.guest_v6,
            prefix: addresses.prefix_v6,
            gateway: addresses.gateway_v6,
        }),
        dns: vec![addresses.gateway_v4.into()],
        search: search.domains,
        ndots: search.ndots,
    }
}

/// The program's environment: the image's, then what every guest has, then the placeholders, then what was asked for.
pub(crate) fn environment(
    request: &LaunchRequest,
    image_env: &[String],
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut variables: BTreeMap<&str, &str> = BTreeMap::from([("PATH", DEFAULT_PATH)]);
    variables.extend(image_env.iter().filter_map(|entry| entry.split_once('=')));
    variables.insert("HOME", GUEST_HOME);
    variables.extend(AUTHORITY_VARIABLES);
    if request.key_agents.ssh.is_some() {
        variables.insert("SSH_AUTH_SOCK", SSH_SOCKET);
    }
    let given = request
        .credentials
        .guest_env
        .iter()
        .chain(&request.program.env);
    variables.extend(given.map(|(name, value)| (name.as_str(), value.as_str())));
    variables
        .into_iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}
