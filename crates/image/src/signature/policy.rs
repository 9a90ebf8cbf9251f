//! Whose signature counts.

use std::fmt;

use super::Attached;
use super::certificate::{Authority, Evidence};
use super::error::SignatureRefusal;
use super::key::PublicKey;
use crate::digest::ImageDigest;

/// One signer that is accepted.
#[derive(Debug, Clone)]
pub enum SignatureRule {
    /// The holder of this key: a public key in PEM form, ECDSA P-256 or Ed25519.
    Key(Vec<u8>),
    /// Somebody with a short-lived certificate.
    Identity(IdentityRule),
}

/// A signer without a key of its own: a certificate authority and a transparency log vouch for it.
#[derive(Debug, Clone)]
pub struct IdentityRule {
    /// The URI or mail address in the certificate, exactly.
    pub identity: String,
    /// Who vouched for that identity, exactly: the issuer of the OpenID token.
    pub issuer: String,
    /// The roots of the certificate authority, in PEM form.
    pub roots_pem: Vec<u8>,
    /// The public key of the transparency log, in PEM form: without it nobody knows when a signature was made.
    pub log_key_pem: Vec<u8>,
}

/// Whose signature an image must have: one of these.
#[derive(Debug, Clone)]
pub struct SignaturePolicy {
    rules: Vec<Rule>,
    fingerprint: ImageDigest,
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignaturePolicyError {
    /// It accepts nobody.
    #[error("a signature policy needs at least one key or identity")]
    Empty,
    /// A key is not one.
    #[error("a public key is not an ECDSA P-256 or Ed25519 key in PEM form")]
    Key,
    /// The roots are not certificates.
    #[error("the roots are not certificates in PEM form")]
    Roots,
    /// The log's key is not one.
    #[error("the key of the log is not an ECDSA P-256 or Ed25519 key in PEM form")]
    LogKey,
}

#[derive(Clone)]
enum Rule {
    Key(PublicKey),
    Identity(Box<Authority>),
}

impl SignaturePolicy {
    /// Parses a policy.
    ///
    /// # Errors
    /// [`SignaturePolicyError`] if it accepts nobody or a part of it cannot be parsed.
    pub fn new(rules: &[SignatureRule]) -> Result<Self, SignaturePolicyError> {
        if rules.is_empty() {
            return Err(SignaturePolicyError::Empty);
        }
        let mut texts = Vec::new();
        let mut parsed = Vec::new();
        for rule in rules {
            match rule {
                SignatureRule::Key(pem) => {
                    let key = PublicKey::from_pem(pem).ok_or(SignaturePolicyError::Key)?;
                    texts.push(serde_json::json!({ "key": key.id() }).to_string());
                    parsed.push(Rule::Key(key));
                }
                SignatureRule::Identity(rule) => {
                    let authority = Authority::new(rule)?;
                    texts.push(
                        serde_json::json!({
                            "identity": rule.identity,
                            "issuer": rule.issuer,
                            "roots": ImageDigest::of(&rule.roots_pem),
                            "log": authority.log_key().id(),
                        })
                        .to_string(),
                    );
                    parsed.push(Rule::Identity(Box::new(authority)));
                }
            }
        }
        texts.sort();
        Ok(Self {
            rules: parsed,
            fingerprint: ImageDigest::of(texts.join("\n").as_bytes()),
        })
    }

    /// The same for the same policy, whatever the order of its rules.
    pub fn fingerprint(&self) -> ImageDigest {
        self.fingerprint
    }

    /// Whether one of the rules accepts who signed `payload`; else the reason of the last one.
    pub(super) fn accepts(
        &self,
        payload: &[u8],
        signature: &[u8],
        attached: &Attached,
    ) -> Result<(), SignatureRefusal> {
        let mut last = SignatureRefusal::OtherKey;
        for rule in &self.rules {
            let result = match rule {
                Rule::Key(key) if key.verifies(payload, signature) => Ok(()),
                Rule::Key(_) => Err(SignatureRefusal::OtherKey),
                Rule::Identity(authority) => Evidence::of(attached)
                    .and_then(|evidence| authority.accepts(payload, signature, &evidence)),
            };
            match result {
                Ok(()) => return Ok(()),
                Err(refusal) => last = refusal,
            }
        }
        Err(last)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key:?}"),
            Self::Identity(authority) => write!(f, "{}", authority.identity()),
        }
    }
}
