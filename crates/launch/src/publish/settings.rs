//! What is to be published.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use agent_vm_protocol::PortProtocol;
use serde::Serialize;

/// A port of the guest that appears on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PublishedPort {
    /// Address of the host it is bound to.
    pub bind: IpAddr,
    /// Port of the host; 0 for any free one.
    pub host_port: u16,
    /// Port of the guest, not 0.
    pub guest_port: u16,
    /// What it speaks.
    pub protocol: PortProtocol,
}

/// Every TCP port the guest listens at appears on 127.0.0.1 of the host, while it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AutoPublish {
    /// Ports of the guest that do not.
    pub except: BTreeSet<u16>,
}

/// What is published of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PublishSettings {
    /// Named ports.
    pub ports: Vec<PublishedPort>,
    /// And all others.
    pub auto: Option<AutoPublish>,
}

/// As it is given: `127.0.0.1:8080:80/tcp`.
impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.bind, self.host_port);
        write!(f, "{host}:{}/{}", self.guest_port, self.protocol)
    }
}
