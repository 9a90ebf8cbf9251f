//! The seam between our DNS server and what answers its questions.

use std::net::IpAddr;
use std::time::Duration;

use crate::handler::LocalBoxFuture;

/// Address family asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// Addresses of a name, of the family asked for; empty means that the name exists without such an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// At most [`MAX_ANSWER_ADDRESSES`]; more are ignored.
    pub addresses: Vec<IpAddr>,
    /// How long the answer may be kept.
    pub ttl: Duration,
}

/// Why a name has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnsFailure {
    /// The name does not exist, or policy says so.
    #[error("no such name")]
    NoSuchName,
    /// No server gave a valid answer.
    #[error("no name server answered")]
    ServerFailure,
    /// The question is not one we ask.
    #[error("refused")]
    Refused,
}

/// Answers questions for addresses. Names come in lower case without a final dot.
pub trait Resolver {
    /// Asks for the addresses of `name`. Must end by itself within a bounded time.
    ///
    /// # Errors
    /// A [`DnsFailure`] says what the guest is told.
    fn resolve(
        &self,
        name: &str,
        family: Family,
    ) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>>;
}

/// Addresses of one answer that the guest is told at most.
pub const MAX_ANSWER_ADDRESSES: usize = 32;
