//! What certificates of the session's authority are good for, judged by rustls' own verifier.

use std::time::{Duration as StdDuration, Instant};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;

fn ca(hosts: &[&str]) -> SessionCa {
    let hosts: Vec<_> = hosts
        .iter()
        .map(|host| HostPattern::parse(host).unwrap())
        .collect();
    SessionCa::new("s-1", &hosts).unwrap()
}

fn verify(ca: &SessionCa, host: &str, now: UnixTime) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let leaf = ca.leaf(&HostName::parse(host).unwrap()).unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    verifier
        .verify_server_cert(&leaf.cert[0], &[], &name, &[], now)
        .map(drop)
}

fn in_days(days: i64) -> UnixTime {
    let at = OffsetDateTime::now_utc() + Duration::days(days);
    UnixTime::since_unix_epoch(StdDuration::from_secs(
        u64::try_from(at.unix_timestamp()).unwrap(),
    ))
}

#[test]
fn leaves_of_bound_hosts_are_valid_for_the_session() {
    let ca = ca(&["api.bound.test", "*.wild.test"]);
    for host in ["api.bound.test", "a.wild.test", "a.b.wild.test"] {
        verify(&ca, host, UnixTime::now()).unwrap();
        verify(&ca, host, in_days(6)).unwrap();
        assert!(verify(&ca, host, in_days(8)).is_err());
        assert!(verify(&ca, host, in_days(-1)).is_err());
    }
}

#[test]
fn the_authority_vouches_for_nobody_else() {
    for ca in [ca(&["api.bound.test"]), ca(&[])] {
        assert!(verify(&ca, "github.com", UnixTime::now()).is_err());
        assert!(verify(&ca, "bound.test", UnixTime::now()).is_err());
    }
}

#[test]
fn a_name_as_long_as_names_can_be_gets_a_leaf() {
    let label = "a".repeat(60);
    let host = format!("{label}.{label}.{label}.{label}.test");
    verify(&ca(&[&host]), &host, UnixTime::now()).unwrap();
}

#[test]
fn two_sessions_share_nothing() {
    let (one, two) = (ca(&["api.bound.test"]), ca(&["api.bound.test"]));
    assert_ne!(one.pem(), two.pem());
    assert!(!one.pem().contains("PRIVATE") && !format!("{one:?}").contains("key"));
}

#[test]
fn an_authority_is_made_at_once() {
    let started = Instant::now();
    drop(ca(&["api.bound.test"]));
    assert!(
        started.elapsed() < StdDuration::from_millis(200),
        "{:?}",
        started.elapsed()
    );
}
