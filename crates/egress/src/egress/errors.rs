//! Why there is no egress, or no flow.

use agent_vm_policy::DenyReason;
use thiserror::Error;

use crate::ca::CaError;
use crate::dial::DialError;
use crate::tls_roots::RootsError;

/// Why a flow was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The policy denies it.
    #[error("denied: {reason}")]
    Denied {
        /// Why.
        reason: DenyReason,
    },
    /// The upstream cannot be reached.
    #[error(transparent)]
    Dial(DialError),
}

/// Why there is no egress.
#[derive(Debug, Error)]
pub enum EgressError {
    /// The VM's authority cannot be made.
    #[error("cannot make the certificate authority of the VM")]
    Ca {
        /// Why.
        #[source]
        source: CaError,
    },
    /// There are no random numbers.
    #[error("cannot make the session's canary")]
    Random {
        /// Why.
        #[source]
        source: getrandom::Error,
    },
    /// An extra upstream authority cannot be read.
    #[error("cannot use the extra upstream authorities")]
    Roots {
        /// Why.
        #[source]
        source: RootsError,
    },
}
