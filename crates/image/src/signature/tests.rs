use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    SanType, SigningKey as _, date_time_ymd,
};
use serde_json::json;

use super::*;

const IDENTITY: &str = "https://host.test/team/app/.github/workflows/build.yml@refs/heads/main";
const ISSUER: &str = "https://tokens.host.test";
/// 2026-06-15T00:00:00Z, within the certificates' validity.
const SIGNED_AT: u64 = 1_781_481_600;

fn reference() -> Reference {
    "host.test/team/app:1".parse().unwrap()
}

fn digest() -> ImageDigest {
    ImageDigest::of(b"the manifest")
}

fn payload(repository: &str, digest: ImageDigest) -> Vec<u8> {
    json!({ "critical": {
        "identity": { "docker-reference": repository },
        "image": { "docker-manifest-digest": digest.to_string() },
        "type": "cosign container image signature",
    }, "optional": null })
    .to_string()
    .into_bytes()
}

fn good_payload() -> Vec<u8> {
    payload("host.test/team/app", digest())
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn key_policy(keys: &[&KeyPair]) -> SignaturePolicy {
    let rules: Vec<_> = keys
        .iter()
        .map(|key| SignatureRule::Key(key.public_key_pem().into_bytes()))
        .collect();
    SignaturePolicy::new(&rules).unwrap()
}

fn attached(signature: &[u8]) -> Attached {
    Attached {
        signature: BASE64_STANDARD.encode(signature),
        certificate: None,
        chain: None,
        bundle: None,
    }
}

fn judge(
    payload: &[u8],
    attached: &Attached,
    policy: &SignaturePolicy,
) -> Result<(), SignatureRefusal> {
    let blob = Blob {
        digest: ImageDigest::of(payload),
        size: payload.len() as u64,
    };
    verify(payload, blob, attached, (&reference(), digest()), policy)
}

#[test]
fn a_signature_by_a_key_of_the_policy_is_accepted() {
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let (signer, other) = (KeyPair::generate_for(kind).unwrap(), key());
        let signature = attached(&signer.sign(&good_payload()).unwrap());
        let policy = key_policy(&[&other, &signer]);
        assert_eq!(judge(&good_payload(), &signature, &policy), Ok(()));
    }
}

#[test]
fn another_key_is_refused() {
    let signature = attached(&key().sign(&good_payload()).unwrap());
    assert_eq!(
        judge(&good_payload(), &signature, &key_policy(&[&key()])),
        Err(SignatureRefusal::OtherKey)
    );
}

#[test]
fn a_signed_text_about_something_else_is_refused() {
    let signer = key();
    let policy = key_policy(&[&signer]);
    let other = ImageDigest::of(b"another manifest");
    let refused = |text: &[u8]| judge(text, &attached(&signer.sign(text).unwrap()), &policy);
    assert!(matches!(
        refused(&payload("host.test/team/app", other)),
        Err(SignatureRefusal::OtherDigest { .. })
    ));
    for repository in [
        "host.test/team/other",
        "other.test/team/app",
        "app",
        "",
        "host.test/team/app/x",
    ] {
        assert!(
            matches!(
                refused(&payload(repository, digest())),
                Err(SignatureRefusal::OtherRepository { .. })
            ),
            "{repository}"
        );
    }
    let text = String::from_utf8(good_payload()).unwrap();
    let twice = text.replacen("\"type\"", "\"type\":\"x\",\"type\"", 1);
    for broken in [
        text.replace("cosign container", "atomic"),
        twice,
        "{}".to_owned(),
        String::new(),
    ] {
        assert_eq!(
            refused(broken.as_bytes()),
            Err(SignatureRefusal::PayloadForm),
            "{broken}"
        );
    }
}

#[test]
fn a_tag_in_the_signed_text_is_decoration() {
    let signer = key();
    let text = payload("host.test/team/app:older", digest());
    let signature = attached(&signer.sign(&text).unwrap());
    assert_eq!(judge(&text, &signature, &key_policy(&[&signer])), Ok(()));
}

#[test]
fn every_changed_byte_is_refused() {
    let signer = key();
    let policy = key_policy(&[&signer]);
    let signature = signer.sign(&good_payload()).unwrap();
    for at in 0..good_payload().len() {
        let mut text = good_payload();
        text[at] ^= 1;
        assert!(
            judge(&text, &attached(&signature), &policy).is_err(),
            "{at}"
        );
    }
    for at in 0..signature.len() {
        let mut changed = signature.clone();
        changed[at] ^= 1;
        assert!(
            judge(&good_payload(), &attached(&changed), &policy).is_err(),
            "{at}"
        );
    }
    let blob = Blob {
        digest: ImageDigest::of(b"named otherwise"),
        size: good_payload().len() as u64,
    };
    let place = (&reference(), digest());
    let refused = verify(&good_payload(), blob, &attached(&signature), place, &policy);
    assert_eq!(refused, Err(SignatureRefusal::PayloadDigest));
}

#[test]
fn a_policy_that_cannot_be_used_is_refused() {
    let unsupported = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let private = key().serialize_pem();
    assert_eq!(
        SignaturePolicy::new(&[]).unwrap_err(),
        SignaturePolicyError::Empty
    );
    for pem in [unsupported.public_key_pem(), private, "no key".to_owned()] {
        let refused = SignaturePolicy::new(&[SignatureRule::Key(pem.into_bytes())]).unwrap_err();
        assert_eq!(refused, SignaturePolicyError::Key);
    }
    let signer = Signer::new();
    let mut rule = signer.rule();
    rule.roots_pem = b"none".to_vec();
    let refused = SignaturePolicy::new(&[SignatureRule::Identity(rule)]).unwrap_err();
    assert_eq!(refused, SignaturePolicyError::Roots);
    let mut rule = signer.rule();
    rule.log_key_pem = b"none".to_vec();
    let refused = SignaturePolicy::new(&[SignatureRule::Identity(rule)]).unwrap_err();
    assert_eq!(refused, SignaturePolicyError::LogKey);
}

#[test]
fn the_fingerprint_is_of_the_rules_not_of_their_order() {
    let (a, b) = (key(), key());
    assert_eq!(
        key_policy(&[&a, &b]).fingerprint(),
        key_policy(&[&b, &a]).fingerprint()
    );
    assert_ne!(
        key_policy(&[&a]).fingerprint(),
        key_policy(&[&a, &b]).fingerprint()
    );
    let signer = Signer::new();
    let policy = |change: &dyn Fn(&mut IdentityRule)| {
        let mut rule = signer.rule();
        change(&mut rule);
        SignaturePolicy::new(&[SignatureRule::Identity(rule)])
            .unwrap()
            .fingerprint()
    };
    let same = policy(&|_| {});
    assert_eq!(same, policy(&|_| {}));
    assert_ne!(same, policy(&|rule| rule.identity.push('x')));
    assert_ne!(same, policy(&|rule| rule.issuer.push('x')));
    assert_ne!(
        same,
        policy(&|rule| rule.log_key_pem = key().public_key_pem().into_bytes())
    );
}

/// A certificate authority, an intermediate one, a log, and somebody who signs.
struct Signer {
    root: Issuer<'static, KeyPair>,
    root_pem: String,
    log: KeyPair,
    key: KeyPair,
    params: CertificateParams,
    signed_at: u64,
}

fn utf8(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 128, "short form of the length");
    [&[0x0c, length], text.as_bytes()].concat()
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params, key())
}

impl Signer {
    fn new() -> Self {
        let (params, root_key) = authority("root");
        let root_pem = params.self_signed(&root_key).unwrap().pem();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(IDENTITY.try_into().unwrap())];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        leaf.not_before = date_time_ymd(2026, 6, 1);
        leaf.not_after = date_time_ymd(2026, 7, 1);
        let mut this = Self {
            root: Issuer::new(params, root_key),
            root_pem,
            log: key(),
            key: key(),
            params: leaf,
            signed_at: SIGNED_AT,
        };
        this.issuer(ISSUER);
        this
    }

    fn issuer(&mut self, text: &str) {
        let oid = [1, 3, 6, 1, 4, 1, 57264, 1, 8];
        self.params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, utf8(text))];
    }

    fn rule(&self) -> IdentityRule {
        IdentityRule {
            identity: IDENTITY.to_owned(),
            issuer: ISSUER.to_owned(),
            roots_pem: self.root_pem.clone().into_bytes(),
            log_key_pem: self.log.public_key_pem().into_bytes(),
        }
    }

    fn policy(&self) -> SignaturePolicy {
        SignaturePolicy::new(&[SignatureRule::Identity(self.rule())]).unwrap()
    }

    fn attach(&self, text: &[u8]) -> Attached {
        let certificate = self.params.signed_by(&self.key, &self.root).unwrap().pem();
        self.attach_certificate(text, &certificate)
    }

    fn attach_certificate(&self, text: &[u8], certificate: &str) -> Attached {
        let mut attached = attached(&self.key.sign(text).unwrap());
        let body = json!({ "apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
            "data": { "hash": { "algorithm": "sha256", "value": ImageDigest::of(text).hex() } },
            "signature": {
                "content": attached.signature,
                "publicKey": { "content": BASE64_STANDARD.encode(certificate) },
            },
        }});
        attached.bundle = Some(self.bundle(&body));
        attached.certificate = Some(certificate.to_owned());
        attached
    }

    /// The log's word about an entry.
    fn bundle(&self, body: &serde_json::Value) -> String {
        let id = ImageDigest::of(&pem_content(&self.log.public_key_pem())).hex();
        // serde_json's maps are sorted, and so RFC 8785's.
        let entry = json!({
            "body": BASE64_STANDARD.encode(body.to_string()),
            "integratedTime": self.signed_at, "logIndex": 7, "logID": id,
        });
        let promise = BASE64_STANDARD.encode(self.log.sign(entry.to_string().as_bytes()).unwrap());
        json!({ "SignedEntryTimestamp": promise, "Payload": entry }).to_string()
    }

    fn judge(&self) -> Result<(), SignatureRefusal> {
        judge(
            &good_payload(),
            &self.attach(&good_payload()),
            &self.policy(),
        )
    }
}

fn pem_content(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    BASE64_STANDARD.decode(lines.collect::<String>()).unwrap()
}

#[test]
fn the_wanted_identity_is_accepted_long_after_its_certificate_ended() {
    assert_eq!(Signer::new().judge(), Ok(()));
}

#[test]
fn a_mail_address_is_an_identity_too() {
    let mut signer = Signer::new();
    signer.params.subject_alt_names = vec![SanType::Rfc822Name("a@host.test".try_into().unwrap())];
    let mut rule = signer.rule();
    rule.identity = "a@host.test".to_owned();
    let policy = SignaturePolicy::new(&[SignatureRule::Identity(rule)]).unwrap();
    assert_eq!(
        judge(&good_payload(), &signer.attach(&good_payload()), &policy),
        Ok(())
    );
}

#[test]
fn an_intermediate_authority_is_followed_to_the_root() {
    let signer = Signer::new();
    let (params, key) = authority("between");
    let between = params.signed_by(&key, &signer.root).unwrap().pem();
    let certificate = signer
        .params
        .signed_by(&signer.key, &Issuer::new(params, key))
        .unwrap()
        .pem();
    let mut attached = signer.attach_certificate(&good_payload(), &certificate);
    assert!(judge(&good_payload(), &attached, &signer.policy()).is_err());
    attached.chain = Some(between + &signer.root_pem);
    assert_eq!(judge(&good_payload(), &attached, &signer.policy()), Ok(()));
}

#[test]
fn somebody_else_is_refused() {
    let mut signer = Signer::new();
    let other = IDENTITY.replace("main", "fork");
    signer.params.subject_alt_names = vec![SanType::URI(other.as_str().try_into().unwrap())];
    assert!(matches!(
        signer.judge(),
        Err(SignatureRefusal::OtherIdentity { .. })
    ));
    signer
        .params
        .subject_alt_names
        .push(SanType::URI(IDENTITY.try_into().unwrap()));
    assert!(
        matches!(signer.judge(), Err(SignatureRefusal::Certificate { .. })),
        "two names"
    );
    let mut signer = Signer::new();
    signer.issuer("https://elsewhere.test");
    assert!(matches!(
        signer.judge(),
        Err(SignatureRefusal::OtherIssuer { .. })
    ));
    signer.params.custom_extensions.clear();
    assert!(
        matches!(signer.judge(), Err(SignatureRefusal::Certificate { .. })),
        "no issuer"
    );
}

#[test]
fn a_certificate_that_was_not_valid_when_it_signed_is_refused() {
    for signed_at in [SIGNED_AT - 20 * 86_400, SIGNED_AT + 20 * 86_400] {
        let mut signer = Signer::new();
        signer.signed_at = signed_at;
        assert_eq!(
            signer.judge(),
            Err(SignatureRefusal::Certificate {
                reason: "it was not valid when the signature was made"
            })
        );
    }
}

#[test]
fn a_certificate_of_another_root_or_purpose_is_refused() {
    let mut signer = Signer::new();
    let roots = Signer::new();
    let mut rule = signer.rule();
    rule.roots_pem = roots.root_pem.into_bytes();
    let policy = SignaturePolicy::new(&[SignatureRule::Identity(rule)]).unwrap();
    let refused = judge(&good_payload(), &signer.attach(&good_payload()), &policy);
    assert!(
        matches!(refused, Err(SignatureRefusal::Certificate { .. })),
        "{refused:?}"
    );
    signer.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(
        signer.judge(),
        Err(SignatureRefusal::Certificate {
            reason: "it is not made for code signing"
        })
    );
    signer.params.extended_key_usages.clear();
    assert!(signer.judge().is_err(), "no purpose at all");
}

#[test]
fn a_signature_of_another_key_than_the_certificates_is_refused() {
    let (signer, text) = (Signer::new(), good_payload());
    let certificate = signer
        .params
        .signed_by(&signer.key, &signer.root)
        .unwrap()
        .pem();
    let forger = Signer {
        key: key(),
        ..Signer::new()
    };
    let forger = Signer {
        log: signer.log,
        ..forger
    };
    let attached = forger.attach_certificate(&text, &certificate);
    let rule = IdentityRule {
        roots_pem: signer.root_pem.into_bytes(),
        ..forger.rule()
    };
    let policy = SignaturePolicy::new(&[SignatureRule::Identity(rule)]).unwrap();
    assert_eq!(
        judge(&text, &attached, &policy),
        Err(SignatureRefusal::OtherKey)
    );
}

#[test]
fn without_certificate_or_log_an_identity_is_not_shown() {
    let signer = Signer::new();
    for strip in [
        |attached: &mut Attached| attached.bundle = None,
        |attached: &mut Attached| attached.certificate = None,
    ] {
        let mut attached = signer.attach(&good_payload());
        strip(&mut attached);
        let refused = judge(&good_payload(), &attached, &signer.policy());
        assert!(
            matches!(refused, Err(SignatureRefusal::Missing { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn the_logs_word_must_be_the_logs_and_about_this_signature() {
    let signer = Signer::new();
    let good = signer.attach(&good_payload());
    let refused = |attached: &Attached| {
        let refused = judge(&good_payload(), attached, &signer.policy());
        assert!(
            matches!(refused, Err(SignatureRefusal::Log { .. })),
            "{refused:?}"
        );
    };
    let elsewhere = Signer::new().attach(&good_payload());
    refused(&Attached {
        bundle: elsewhere.bundle,
        ..good.clone()
    });
    // The same log about another text, and with another time than it signed.
    let other = signer.attach(&payload("host.test/team/app", ImageDigest::of(b"another")));
    refused(&Attached {
        bundle: other.bundle,
        ..good.clone()
    });
    let later = good
        .bundle
        .clone()
        .unwrap()
        .replace(&SIGNED_AT.to_string(), &(SIGNED_AT + 1).to_string());
    refused(&Attached {
        bundle: Some(later),
        ..good.clone()
    });
    refused(&Attached {
        bundle: Some("{}".to_owned()),
        ..good
    });
}

#[test]
fn a_list_of_signatures_is_bounded_and_parsed_with_care() {
    let entry = |size: u64, digest: &str| {
        json!({ "mediaType": PAYLOAD_TYPE, "size": size, "digest": digest,
            "annotations": { SIGNATURE: "AA==" } })
    };
    let list = |layers: &[serde_json::Value]| json!({ "layers": layers }).to_string();
    let fine = entry(3, &digest().to_string());
    let many = list(&vec![fine.clone(); 1000]);
    assert_eq!(signatures(many.as_bytes()).unwrap().len(), MAX_SIGNATURES);
    let foreign = json!({ "mediaType": "x", "size": 1, "digest": "y" });
    assert_eq!(
        signatures(list(&[foreign, fine]).as_bytes()).unwrap().len(),
        1
    );
    let large = list(&[entry(u64::MAX, &digest().to_string())]);
    assert!(matches!(
        signatures(large.as_bytes()),
        Err(SignatureError::TooLarge { .. })
    ));
    let path = list(&[entry(3, "sha256:../x")]);
    assert!(matches!(
        signatures(path.as_bytes()),
        Err(SignatureError::Digest { .. })
    ));
    assert!(matches!(
        signatures(b"[]"),
        Err(SignatureError::Manifest { .. })
    ));
}
