//! The certificate authority of one VM. Made at launch, its key never leaves this process's memory; it lives a week
//! and, by name constraints, can only vouch for the hosts that are intercepted.

use std::sync::Arc;

use agent_vm_policy::{HostName, HostPattern};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// How long authority and leaves are valid from the launch on; no session lasts longer.
pub const LIFETIME: Duration = Duration::days(7);
/// How long before the launch they are valid, for guests whose clock is behind.
pub const BACKDATED: Duration = Duration::hours(1);
/// The name constraint of an authority that may vouch for nobody (RFC 6761 §6.4).
const NOBODY: &str = "invalid";

/// The certificate authority of one VM.
pub struct SessionCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn SigningKey>,
}

impl SessionCa {
    /// Makes an authority for `hosts` and nobody else.
    ///
    /// # Errors
    /// When the kernel gives no random numbers, or a name cannot be encoded.
    pub fn new(session: &str, hosts: &[HostPattern]) -> Result<Self, CaError> {
        let make = |source| CaError::Make { source };
        let now = OffsetDateTime::now_utc();
        let (not_before, not_after) = (now - BACKDATED, now + LIFETIME);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (not_before, not_after);
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = common_name(&format!("agent-vm session {session}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(constraints(hosts));
        let pem = params.self_signed(&key).map_err(make)?.pem();
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let leaf_signer = any_ecdsa_type(&der).map_err(|source| CaError::Key { source })?;
        let issuer = Issuer::new(params, key);
        Ok(Self {
            issuer,
            pem,
            not_before,
            not_after,
            leaf_key,
            leaf_signer,
        })
    }

    /// The authority's certificate, for the guest's trust stores.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for one host.
    ///
    /// # Errors
    /// When the kernel gives no random numbers, or the name cannot be encoded.
    pub(crate) fn leaf(&self, host: &HostName) -> Result<CertifiedKey, CaError> {
        let make = |source| CaError::Make { source };
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (self.not_before, self.not_after);
        params.serial_number = Some(random_serial()?);
        // A common name has at most 64 characters; the name that counts is the alternative one.
        params.distinguished_name = common_name("agent-vm");
        params.subject_alt_names = vec![SanType::DnsName(host.as_str().try_into().map_err(make)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(&self.leaf_key, &self.issuer)
            .map_err(make)?;
        Ok(CertifiedKey::new(
            vec![leaf.der().clone()],
            Arc::clone(&self.leaf_signer),
        ))
    }
}

impl std::fmt::Debug for SessionCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionCa")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(
        DnType::CommonName,
        name.chars().take(64).collect::<String>(),
    );
    names
}

/// Only these DNS names, and no address at all.
fn constraints(hosts: &[HostPattern]) -> NameConstraints {
    let mut names: Vec<_> = hosts
        .iter()
        .map(|pattern| match pattern {
            HostPattern::Exact(name) | HostPattern::Below(name) => name.as_str().to_owned(),
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        names.push(NOBODY.to_owned());
    }
    NameConstraints {
        permitted_subtrees: names.into_iter().map(GeneralSubtree::DnsName).collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    }
}

/// 16 random bytes, positive and never zero: two certificates of one authority must not share a serial number.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|source| CaError::Random { source })?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Why no certificate was made.
#[derive(Debug, Error)]
pub enum CaError {
    /// The kernel gave no random numbers.
    #[error("no random numbers for a certificate")]
    Random {
        /// Why.
        #[source]
        source: getrandom::Error,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate")]
    Make {
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The leaf key could not be used.
    #[error("cannot use the leaf key")]
    Key {
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

#[cfg(test)]
mod tests;
