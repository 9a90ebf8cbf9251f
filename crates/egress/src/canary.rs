//! The canary of one VM: a name and a connection that its policy must refuse, tried by the guest's first process before any
//! program starts.
//!
//! A policy that was lost on the way, a gateway that answers to somebody else, or a log that cannot be written all end the
//! launch, because what must be refused was not seen to be. Both hold random numbers of this session, so that no other
//! answer passes for theirs: a label of the name, which is asked of nobody when it is denied, and the port at the metadata
//! address, which no grant reaches.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use agent_vm_policy::{AddressClass, DenyReason, HostName};
use thiserror::Error;

/// The zone of the canary's names, beside the one for services of the host.
pub const CANARY_ZONE: &str = "canary.agent-vm.internal";

/// The metadata service of most clouds: no grant reaches it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// What must be refused.
#[derive(Debug)]
pub struct Canary {
    name: HostName,
    port: u16,
    name_refused: Cell<bool>,
    connection_refused: Cell<bool>,
}

/// What was to be refused and was not seen to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CanaryAlive {
    /// Decisions cannot be recorded.
    #[error("decisions about the guest's network cannot be recorded")]
    Audit,
    /// The name.
    #[error("a name that must be denied was not seen to be")]
    Name,
    /// The connection.
    #[error("a connection that must be denied was not seen to be")]
    Connection,
}

impl Canary {
    /// A canary that nobody else has.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let (label, port) = random.split_at(8);
        let label: String = label.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = HostName::parse(&format!("{label}.{CANARY_ZONE}"));
        Ok(Self {
            name: name.expect("hexadecimal digits are a label"),
            port: u16::from_be_bytes([port[0], port[1]]).max(1),
            name_refused: Cell::new(false),
            connection_refused: Cell::new(false),
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Where the connection goes.
    #[must_use]
    pub fn destination(&self) -> (Ipv4Addr, u16) {
        (ADDRESS, self.port)
    }

    /// Whether this question is the canary's, and the first of its kind.
    pub(crate) fn asks(&self, name: &str) -> bool {
        !self.name_refused.get() && name == self.name.as_str()
    }

    /// Whether this connection is the canary's, and the first of its kind.
    pub(crate) fn connects(&self, address: IpAddr, port: u16) -> bool {
        !self.connection_refused.get() && (address, port) == (ADDRESS.into(), self.port)
    }

    /// Its question was refused and that is recorded.
    pub(crate) fn name_refused(&self, reason: DenyReason) {
        self.name_refused.set(reason == DenyReason::Rule);
    }

    /// Its connection was refused and that is recorded.
    pub(crate) fn connection_refused(&self, reason: DenyReason) {
        let refused = reason == DenyReason::Address(AddressClass::Metadata);
        self.connection_refused.set(refused);
    }

    /// Whether both were refused, for their own reasons.
    pub(crate) fn dead(&self) -> Result<(), CanaryAlive> {
        if !self.name_refused.get() {
            return Err(CanaryAlive::Name);
        }
        if !self.connection_refused.get() {
            return Err(CanaryAlive::Connection);
        }
        Ok(())
    }
}
