//! Signers known by a certificate (Fulcio's form) and a transparency log's word (Rekor's signed entry timestamp).
//!
//! The certificate lives for minutes, so it proves something only together with the time of the signature. That time is the log's: its
//! entry names hash, signature and certificate, and the log has signed entry and time (RFC 8785 JSON of body, time, log and index).

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage, ring as algorithms};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::asn1_rs::oid;
use x509_parser::prelude::FromDer as _;

use super::Attached;
use super::error::SignatureRefusal;
use super::key::PublicKey;
use super::policy::{IdentityRule, SignaturePolicyError};
use crate::digest::ImageDigest;
use crate::escape::Escaped;

/// Extended key usage "code signing" (RFC 5280 4.2.1.12: 1.3.6.1.5.5.7.3.3), without tag and length.
const CODE_SIGNING: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 3];
/// Said of certificates for another purpose.
const NOT_FOR_SIGNING: &str = "it is not made for code signing";
/// The most certificates between the signer's and the root.
const MAX_CHAIN: usize = 4;
/// The largest certificate, chain or bundle, in bytes.
const MAX_EVIDENCE_BYTES: usize = 64 << 10;

/// Who vouches for whom.
#[derive(Clone)]
pub(super) struct Authority {
    identity: String,
    issuer: String,
    roots: Vec<TrustAnchor<'static>>,
    log: PublicKey,
}

/// What comes with a signature, parsed as far as it needs no trust.
pub(super) struct Evidence {
    /// As attached: the log has signed these bytes.
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    signature: String,
    bundle: Bundle,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Bundle {
    signed_entry_timestamp: String,
    payload: LogEntry,
}

#[derive(Deserialize)]
struct LogEntry {
    body: String,
    #[serde(rename = "integratedTime")]
    integrated_time: u64,
    #[serde(rename = "logIndex")]
    log_index: u64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// The log's entry of kind `hashedrekord`.
#[derive(Deserialize)]
struct EntryBody {
    kind: String,
    spec: EntrySpec,
}

#[derive(Deserialize)]
struct EntrySpec {
    data: EntryData,
    signature: EntrySignature,
}

#[derive(Deserialize)]
struct EntryData {
    hash: EntryHash,
}

#[derive(Deserialize)]
struct EntryHash {
    algorithm: String,
    value: String,
}

#[derive(Deserialize)]
struct EntrySignature {
    content: String,
    #[serde(rename = "publicKey")]
    public_key: EntryKey,
}

#[derive(Deserialize)]
struct EntryKey {
    content: String,
}

impl Evidence {
    /// Parses what is attached to a signature.
    pub(super) fn of(attached: &Attached) -> Result<Self, SignatureRefusal> {
        let present = |text: &Option<String>, what| {
            text.clone()
                .filter(|text| text.len() <= MAX_EVIDENCE_BYTES)
                .ok_or(SignatureRefusal::Missing { what })
        };
        let pem = present(&attached.certificate, "a certificate")?;
        let bundle = present(&attached.bundle, "the word of a transparency log")?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| bad("it is not a certificate in PEM form"))?;
        let chain = attached.chain.as_deref().unwrap_or_default();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .take(MAX_CHAIN)
            .collect();
        Ok(Self {
            certificate_pem: pem,
            certificate,
            chain: chain.map_err(|_| bad("its chain is not in PEM form"))?,
            signature: attached.signature.trim().to_owned(),
            bundle: serde_json::from_str(&bundle).map_err(|_| untold("it cannot be parsed"))?,
        })
    }
}

impl Authority {
    pub(super) fn new(rule: &IdentityRule) -> Result<Self, SignaturePolicyError> {
        let mut roots = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&rule.roots_pem) {
            let certificate = certificate.map_err(|_| SignaturePolicyError::Roots)?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|_| SignaturePolicyError::Roots)?;
            roots.push(anchor.to_owned());
        }
        if roots.is_empty() {
            return Err(SignaturePolicyError::Roots);
        }
        Ok(Self {
            identity: rule.identity.clone(),
            issuer: rule.issuer.clone(),
            roots,
            log: PublicKey::from_pem(&rule.log_key_pem).ok_or(SignaturePolicyError::LogKey)?,
        })
    }

    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    pub(super) fn log_key(&self) -> &PublicKey {
        &self.log
    }

    /// Whether the evidence shows that the wanted identity signed `payload` while its certificate was valid.
    pub(super) fn accepts(
        &self,
        payload: &[u8],
        signature: &[u8],
        evidence: &Evidence,
    ) -> Result<(), SignatureRefusal> {
        let signed_at = self.time_of(payload, evidence)?;
        let leaf = EndEntityCert::try_from(&evidence.certificate)
            .map_err(|_| bad("it cannot be parsed"))?;
        leaf.verify_for_usage(
            &[
                algorithms::ECDSA_P256_SHA256,
                algorithms::ECDSA_P384_SHA384,
                algorithms::ED25519,
            ],
            &self.roots,
            &evidence.chain,
            UnixTime::since_unix_epoch(signed_at),
            KeyUsage::required_if_present(CODE_SIGNING),
            None,
            None,
        )
        .map_err(|error| bad(chain_reason(&error)))?;
        let (_, certificate) = X509Certificate::from_der(&evidence.certificate)
            .map_err(|_| bad("it cannot be parsed"))?;
        // An authority's certificate may leave its purpose open, the signer's may not.
        let purpose = certificate
            .extended_key_usage()
            .map_err(|_| bad("its purpose cannot be parsed"))?;
        if !purpose.is_some_and(|purpose| purpose.value.code_signing) {
            return Err(bad(NOT_FOR_SIGNING));
        }
        self.check_identity(&certificate)?;
        let key = PublicKey::from_spki(certificate.public_key().raw)
            .ok_or_else(|| bad("its key is neither ECDSA P-256 nor Ed25519"))?;
        if key.verifies(payload, signature) {
            Ok(())
        } else {
            Err(SignatureRefusal::OtherKey)
        }
    }

    /// When the log saw this signature of this payload by this certificate.
    fn time_of(&self, payload: &[u8], evidence: &Evidence) -> Result<Duration, SignatureRefusal> {
        let entry = &evidence.bundle.payload;
        if entry.log_id != self.log.id().hex() {
            return Err(untold("it is of another log"));
        }
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let signed = format!(
            r#"{{"body":{},"integratedTime":{},"logID":{},"logIndex":{}}}"#,
            quoted(&entry.body),
            entry.integrated_time,
            quoted(&entry.log_id),
            entry.log_index
        );
        let timestamp = decode(&evidence.bundle.signed_entry_timestamp, "log's signature")?;
        if !self.log.verifies(signed.as_bytes(), &timestamp) {
            return Err(untold("it is not signed by the log's key"));
        }
        let body: EntryBody = serde_json::from_slice(&decode(&entry.body, "log's entry")?)
            .map_err(|_| untold("its entry cannot be parsed"))?;
        let hash = &body.spec.data.hash;
        let key = decode(&body.spec.signature.public_key.content, "log's entry")?;
        let about_this = body.kind == "hashedrekord"
            && hash.algorithm == "sha256"
            && hash.value == ImageDigest::of(payload).hex()
            && body.spec.signature.content == evidence.signature
            && same_certificate(&key, evidence);
        if about_this {
            Ok(Duration::from_secs(entry.integrated_time))
        } else {
            Err(untold("it is about another signature"))
        }
    }

    fn check_identity(&self, certificate: &X509Certificate<'_>) -> Result<(), SignatureRefusal> {
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| bad("its names cannot be parsed"))?;
        let names = names.map_or(&[][..], |extension| &extension.value.general_names[..]);
        // One name only: who signs under two names signs under neither.
        let found = match names {
            [GeneralName::URI(name) | GeneralName::RFC822Name(name)] => *name,
            _ => return Err(bad("it does not name one URI or mail address")),
        };
        if found != self.identity {
            return Err(SignatureRefusal::OtherIdentity {
                found: Escaped::new(found),
            });
        }
        let issuer = certificate
            .get_extension_unique(&oid!(1.3.6.1.4.1.57264.1.8))
            .map_err(|_| bad("it names its issuer twice"))?
            .ok_or_else(|| bad("it does not name its issuer"))?;
        let text = match Any::from_der(issuer.value) {
            Ok((rest, any)) if rest.is_empty() && any.tag() == Tag::Utf8String => {
                std::str::from_utf8(any.data)
                    .map_err(|_| bad("its issuer is not text"))?
                    .to_owned()
            }
            Ok(_) | Err(_) => return Err(bad("its issuer is not text")),
        };
        if text == self.issuer {
            Ok(())
        } else {
            Err(SignatureRefusal::OtherIssuer {
                found: Escaped::new(text),
            })
        }
    }
}

/// The log keeps the certificate in PEM form; how its lines are broken does not matter.
fn same_certificate(pem: &[u8], evidence: &Evidence) -> bool {
    pem == evidence.certificate_pem.as_bytes()
        || CertificateDer::from_pem_slice(pem).is_ok_and(|logged| logged == evidence.certificate)
}

fn decode(text: &str, what: &'static str) -> Result<Vec<u8>, SignatureRefusal> {
    BASE64_STANDARD
        .decode(text)
        .map_err(|_| SignatureRefusal::NotBase64 { what })
}

fn bad(reason: &'static str) -> SignatureRefusal {
    SignatureRefusal::Certificate { reason }
}

fn untold(reason: &'static str) -> SignatureRefusal {
    SignatureRefusal::Log { reason }
}

fn chain_reason(error: &webpki::Error) -> &'static str {
    match error {
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
            "it was not valid when the signature was made"
        }
        webpki::Error::UnknownIssuer => "it does not lead to a root of the policy",
        webpki::Error::RequiredEkuNotFoundContext(_) => NOT_FOR_SIGNING,
        _ => "its chain is not valid",
    }
}
