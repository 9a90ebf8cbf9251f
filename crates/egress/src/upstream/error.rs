//! Why an upstream did not answer, and what the guest is told of it.

use std::io;

use agent_vm_policy::{DenyReason, HostName};
use rustls::CertificateError;
use thiserror::Error;

use crate::dial::DialError;
use crate::tls_roots::RootsError;

/// Why a request was not answered by the upstream.
#[derive(Debug, Error)]
pub(crate) enum UpstreamError {
    /// No connection.
    #[error("no connection to the upstream")]
    Dial {
        #[source]
        source: DialError,
    },
    /// The roots cannot be had.
    #[error("the authorities for upstream certificates cannot be had")]
    Roots {
        #[source]
        source: RootsError,
    },
    /// There was no way to verify a certificate when the connection began.
    #[error("upstream certificates cannot be verified")]
    Unusable,
    /// Its certificate is not valid.
    #[error("the certificate presented for {host} is not valid: {problem}")]
    Certificate { host: HostName, problem: String },
    /// The TLS handshake broke off.
    #[error("the TLS handshake with {host} broke off")]
    Tls {
        host: HostName,
        #[source]
        source: io::Error,
    },
    /// The name cannot be verified.
    #[error("{host} cannot be the name in a certificate")]
    Name { host: HostName },
    /// The handshake took too long.
    #[error("the upstream did not answer in time")]
    TimedOut,
    /// HTTP broke.
    #[error("the upstream broke the HTTP connection")]
    Http {
        #[source]
        source: hyper::Error,
    },
}

impl UpstreamError {
    pub(super) fn from_tls(host: &HostName, source: io::Error) -> Self {
        let inner = source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(error)) = inner {
            return Self::Certificate {
                host: host.clone(),
                problem: certificate_problem(error),
            };
        }
        Self::Tls {
            host: host.clone(),
            source,
        }
    }

    /// Whether the connection was closed before an answer began.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http { source } => source.is_canceled() || source.is_incomplete_message(),
            _ => false,
        }
    }

    /// What the guest and the audit log are told.
    pub(crate) fn reason(&self) -> DenyReason {
        match self {
            Self::Certificate { .. } => DenyReason::UpstreamCertificate,
            Self::Dial { source } => source.reason(),
            Self::Roots { .. }
            | Self::Unusable
            | Self::Tls { .. }
            | Self::Name { .. }
            | Self::TimedOut
            | Self::Http { .. } => DenyReason::UpstreamFailed,
        }
    }
}

/// A short name for the most frequent problems.
fn certificate_problem(error: &CertificateError) -> String {
    let problem = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet"
        }
        CertificateError::Revoked => "it was revoked",
        CertificateError::UnknownIssuer => {
            "its issuer is not trusted on the host, or it is self-signed"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name"
        }
        CertificateError::BadSignature => "its signature is wrong",
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "it is self-signed, that of an authority"
        }
        other => return other.to_string(),
    };
    problem.to_owned()
}
