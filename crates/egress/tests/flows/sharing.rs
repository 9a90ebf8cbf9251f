//! Upstream connections that a VM's HTTP/2 connections share, and TLS toward the guest: resumed, of both versions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;

use crate::rig::{API, OTHER, Rig, get, outcome, with_rig};
use crate::upstream::{Behaviour, Local, provider};

/// A request over a new HTTP/2 connection of the guest's, which stays open as long as its client.
async fn ask(
    rig: &Rig,
    host: &str,
    path: &str,
) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let mut client = rig.http2(host).await;
    let request = get(&format!("https://{host}{path}"), &[]);
    let response = client.send_request(request).await.unwrap();
    assert_eq!(outcome(response).await.0, 200);
    client
}

#[test]
fn connections_of_the_guest_to_one_host_share_one_upstream() {
    with_rig(Behaviour::default(), async |rig| {
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(ask(&rig, API, "/").await);
        }
        assert_eq!(*rig.upstream.connections.borrow(), 1);
        drop(open);
        ask(&rig, API, "/").await;
        assert_eq!(
            *rig.upstream.connections.borrow(),
            1,
            "an unused one is kept"
        );
        assert_eq!(rig.upstream.seen.borrow().len(), 6);
    });
}

#[test]
fn no_connection_is_shared_across_names_that_were_verified() {
    with_rig(Behaviour::default(), async |rig| {
        // The same address and a certificate for both names.
        ask(&rig, API, "/").await;
        ask(&rig, OTHER, "/").await;
        assert_eq!(*rig.upstream.connections.borrow(), 2);
    });
}

#[test]
fn no_connection_is_shared_across_vms_or_with_http1() {
    with_rig(Behaviour::default(), async |rig| {
        ask(&rig, API, "/").await;
        let other_vm = rig.with_policy(agent_vm_policy::Policy::public());
        ask(&other_vm, API, "/").await;
        assert_eq!(*rig.upstream.connections.borrow(), 2);
        let mut client = rig.http1(API).await;
        let response = client.send_request(get("/", &[])).await.unwrap();
        assert_eq!(outcome(response).await.0, 200);
        assert_eq!(*rig.upstream.connections.borrow(), 3);
    });
}

#[test]
fn a_stalled_answer_does_not_hold_up_others_on_the_connection() {
    with_rig(Behaviour::default(), async |rig| {
        let mut stalled = rig.http2(API).await;
        let request = get(&format!("https://{API}/big"), &[]);
        let unread = stalled.send_request(request).await.unwrap();
        for _ in 0..20 {
            ask(&rig, API, "/big").await;
        }
        assert_eq!(*rig.upstream.connections.borrow(), 1);
        let body = unread.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 1 << 20);
    });
}

#[test]
fn a_connection_that_carries_much_is_not_shared_further() {
    with_rig(Behaviour::default(), async |rig| {
        let mut open = Vec::new();
        for _ in 0..40 {
            open.push(ask(&rig, API, "/").await);
        }
        assert_eq!(*rig.upstream.connections.borrow(), 2);
    });
}

#[test]
fn a_connection_that_the_upstream_ended_is_replaced_and_the_guest_sees_nothing() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = ask(&rig, API, "/").await;
        rig.upstream.end_connections.notify_waiters();
        while *rig.upstream.ended.borrow() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ask(&rig, API, "/").await;
        let request = get(&format!("https://{API}/"), &[]);
        let response = client.send_request(request).await.unwrap();
        assert_eq!(outcome(response).await.0, 200);
        assert_eq!(*rig.upstream.connections.borrow(), 2);
    });
}

#[test]
fn a_grpc_answer_of_trailers_only_passes() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http2(API).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let mut request = get(
            &format!("https://{API}/service/Method"),
            &[
                ("authorization", &bearer),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("x-echo", "trailers"),
            ],
        );
        *request.method_mut() = http::Method::POST;
        let response = client.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "16");
        assert_eq!(rig.upstream.only_request().header("te"), Some("trailers"));
    });
}

/// A client's configuration that trusts the VM's authority.
fn client_config(rig: &Rig, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(rig.egress().ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[test]
fn sessions_are_resumed_in_tls_12_and_13() {
    with_rig(Behaviour::default(), async |rig| {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let config = Arc::new(client_config(&rig, version));
            let mut kinds = Vec::new();
            for _ in 0..3 {
                let (guest, _flow) = rig.open(API, 443).await;
                let name = ServerName::try_from(API).unwrap();
                let connector = TlsConnector::from(Arc::clone(&config));
                let mut stream = connector.connect(name, guest).await.unwrap();
                let request = format!("GET / HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                assert!(answer.starts_with(b"HTTP/1.1 200"));
                kinds.push(stream.get_ref().1.handshake_kind());
            }
            assert_ne!(kinds[0], Some(HandshakeKind::Resumed), "{version:?}");
            assert_eq!(kinds[2], Some(HandshakeKind::Resumed), "{version:?}");
        }
    });
}

#[test]
fn a_download_is_only_read_as_fast_as_the_guest_takes_it() {
    with_rig(Behaviour::default(), async |rig| {
        let stream = rig.tls(API, &["h2"]).await;
        let (mut client, connection) = hyper::client::conn::http2::Builder::new(Local)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        spawn_local(connection);
        let request = get(&format!("https://{API}/endless"), &[]).map(|_| Full::<Bytes>::default());
        let response = client.send_request(request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let taken = *rig.upstream.taken.borrow();
        assert!(
            taken > 0 && taken < 16 << 20,
            "{taken} bytes were taken for a stalled guest"
        );
        drop(response);
    });
}
