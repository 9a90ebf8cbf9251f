//! `Boot`: everything that belongs to one launch. The guest starts without identity and learns it from here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::forward::{Forwarding, HostSocket};
use crate::guest_path::GuestPath;

/// What the guest needs to become the machine of this launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// How the root file system is put together.
    pub root: Root,
    /// Host directories and files to appear in the guest, mounted in this order (a parent before what lies in it).
    pub shares: Vec<Share>,
    /// The network card; `None` leaves only loopback.
    pub network: Option<Network>,
    /// Host name of the guest, one label (RFC 1123).
    pub hostname: String,
    /// PEM certificates added to the trust store of the image; empty for none. Public data.
    pub ca_pem: Vec<u8>,
    /// Files written into the new root after all mounts, in order; missing parents are made (0755, root).
    pub files: Vec<BootFile>,
    /// Wall clock, nanoseconds since 1970-01-01T00:00:00Z.
    pub unix_ns: u64,
    /// Kernel settings applied after the guest's own defaults.
    pub sysctls: Vec<Sysctl>,
    /// Limit of open files (soft and hard) of started programs; the guest clamps it to what its kernel allows.
    pub max_open_files: u64,
    /// What the guest's network must refuse before `Ready`; without a network there is none.
    pub canary: Option<Canary>,
    /// Whether ports of the guest are published on the host.
    pub forwarding: Forwarding,
    /// Sockets of the guest that lead to services of the host. With any, `forwarding` is not `Off`.
    pub sockets: Vec<HostSocket>,
}

/// The root file system. Disks are virtio-blk in this order: the image, then the writable disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What is under the changes.
    pub lower: Lower,
    /// Where changes go.
    pub upper: Upper,
}

/// The read-only part of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lower {
    /// Nothing: the root is what is written into it (tests).
    Empty,
    /// The first disk, one EROFS with all of the image.
    Image,
}

/// The writable layer of the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upper {
    /// Memory; gone at power-off.
    Tmpfs,
    /// The ext4 disk after the image, grown to the size of its device beside everything else.
    Disk,
    /// The same disk, but it outlives the machine: it has its size before any program starts, so that nothing changes it
    /// when it is made clean.
    KeptDisk,
}

/// A grafted host directory or file: the guest finds it at `/shares/INDEX` of the boot file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Number under `/shares`.
    pub index: u32,
    /// Where it appears in the guest.
    pub guest_path: GuestPath,
    /// What is mounted: decides whether the mount point is a directory or a file.
    pub kind: ShareKind,
    /// Also mounted read-only in the guest. The host enforces it; this only makes errors early and plain.
    pub access: crate::messages::Access,
}

/// What a share is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareKind {
    /// A directory.
    Directory,
    /// A single regular file.
    File,
}

/// Static configuration of the one network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Hardware address the card must have; the guest refuses to boot on another.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// IPv4 address and default route.
    pub ipv4: Ipv4Config,
    /// IPv6 address and default route.
    pub ipv6: Option<Ipv6Config>,
    /// Name servers for `/etc/resolv.conf`, in order.
    pub dns: Vec<IpAddr>,
    /// Domains that short names are tried in, for `/etc/resolv.conf` (resolv.conf(5)): letters, digits, `-`, `_`, `.`.
    pub search: Vec<String>,
    /// Names with fewer dots are tried in those domains first.
    pub ndots: u8,
}

/// A question and a connection that only the policy of this session refuses. The guest tries both as soon as its network is
/// up, and gives up unless the name does not exist and the connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// A host name, asked of the first name server.
    pub name: String,
    /// Where the connection goes.
    pub address: Ipv4Addr,
    /// Its port, not 0.
    pub port: u16,
}

/// One IPv4 address with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Config {
    /// Address of the guest.
    pub address: Ipv4Addr,
    /// Network prefix length, 0–32.
    pub prefix: u8,
    /// Default router.
    pub gateway: Ipv4Addr,
}

/// One IPv6 address with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Config {
    /// Address of the guest.
    pub address: Ipv6Addr,
    /// Network prefix length, 0–128.
    pub prefix: u8,
    /// Default router.
    pub gateway: Ipv6Addr,
}

/// A file written at boot. All of them together must fit into one frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFile {
    /// Where.
    pub path: GuestPath,
    /// Permission bits (the lower 12).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All of it; an existing file is replaced.
    #[serde(with = "serde_bytes")]
    pub content: Vec<u8>,
}

/// A kernel setting, as `sysctl` names it: `net.ipv4.tcp_syncookies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// Dotted name.
    pub name: String,
    /// Text written to it.
    pub value: String,
}
