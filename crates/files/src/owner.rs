//! Ownership the unprivileged server cannot give to host files.

/// How host owners appear in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerMap {
    /// The launching user on the host.
    pub host_uid: u32,
    /// The launching user's primary group on the host.
    pub host_gid: u32,
    /// What `host_uid` is in the guest.
    pub guest_uid: u32,
    /// What `host_gid` is in the guest.
    pub guest_gid: u32,
}
