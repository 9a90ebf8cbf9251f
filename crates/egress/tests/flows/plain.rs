//! Connections without TLS: a placeholder never leaves, a token is never put in.

use agent_vm_egress::FlowEnd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{API, FREE, get, http1, outcome, with_rig};
use crate::upstream::Behaviour;

fn plain() -> Behaviour {
    Behaviour {
        tls: false,
        ..Behaviour::default()
    }
}

#[test]
fn a_placeholder_to_its_own_host_without_tls_is_denied() {
    with_rig(plain(), async |rig| {
        let (guest, _flow) = rig.open(API, 80).await;
        let mut client = http1(guest).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let response = client
            .send_request(get("/", &[("authorization", &bearer)]))
            .await
            .unwrap();
        let (status, reason, _) = outcome(response).await;
        assert_eq!(
            (status, reason.as_deref()),
            (403, Some("placeholder-in-clear"))
        );
        assert!(rig.upstream.seen.borrow().is_empty());
        let line = rig.last_audit();
        assert_eq!(
            (&line["reason"], &line["port"]),
            (&"placeholder-in-clear".into(), &80.into())
        );
    });
}

#[test]
fn plain_requests_to_a_bound_host_pass_without_placeholder() {
    with_rig(plain(), async |rig| {
        let (guest, _flow) = rig.open(API, 80).await;
        let mut client = http1(guest).await;
        let response = client.send_request(get("/x", &[])).await.unwrap();
        assert_eq!(outcome(response).await, (200, None, "hello".into()));
        client.ready().await.unwrap();
        let response = client
            .send_request(get("/y", &[("host", FREE)]))
            .await
            .unwrap();
        assert_eq!(
            outcome(response).await.1.as_deref(),
            Some("authority-mismatch")
        );
        assert_eq!(rig.upstream.only_request().target, "/x");
    });
}

#[test]
fn a_method_in_single_bytes_is_still_http() {
    with_rig(plain(), async |rig| {
        let (mut guest, _flow) = rig.open(API, 80).await;
        let head = format!("GET / HTTP/1.1\r\nhost: {API}\r\nx: {}\r\n\r\n", rig.oauth);
        for byte in head.as_bytes() {
            guest.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 12];
        guest.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 403");
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn a_placeholder_to_any_other_host_without_tls_is_denied() {
    with_rig(plain(), async |rig| {
        let (guest, flow) = rig.open(FREE, 80).await;
        let mut client = http1(guest).await;
        let request = get(
            "/",
            &[("host", FREE), ("authorization", rig.oauth.as_str())],
        );
        let (status, reason, _) = outcome(client.send_request(request).await.unwrap()).await;
        assert_eq!(
            (status, reason.as_deref()),
            (403, Some("placeholder-in-clear"))
        );
        assert_eq!(flow.await.unwrap(), FlowEnd::Finished);
        assert!(rig.upstream.seen.borrow().is_empty());
        let line = rig.last_audit();
        assert_eq!(
            (&line["host"], &line["reason"]),
            (&FREE.into(), &"placeholder-in-clear".into())
        );
    });
}

#[test]
fn a_later_placeholder_in_another_protocol_is_reset() {
    with_rig(plain(), async |rig| {
        let (mut guest, flow) = rig.open(FREE, 80).await;
        guest.write_all(b"hello server\r\n").await.unwrap();
        tokio::task::yield_now().await;
        let (first, second) = rig.oauth.as_str().split_at(20);
        guest.write_all(first.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
        guest.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(flow.await.unwrap(), FlowEnd::Reset);
        assert_eq!(rig.last_audit()["reason"], "placeholder-in-clear");
    });
}
