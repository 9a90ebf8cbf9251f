//! Hosts without a credential: end to end between guest and upstream, untouched.

use std::time::Duration;

use agent_vm_egress::{FlowEnd, OpenError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::rig::{FREE, connect, get, http1, outcome, with_rig};
use crate::upstream::Behaviour;

#[test]
fn the_client_sees_the_upstreams_own_certificate() {
    with_rig(Behaviour::default(), async |rig| {
        let (guest, flow) = rig.open(FREE, 443).await;
        let stream = connect(guest, &rig.upstream.ca_pem, FREE, &["http/1.1"])
            .await
            .unwrap();
        let mut client = http1(stream).await;
        let request = get(
            "/",
            &[("host", FREE), ("authorization", rig.oauth.as_str())],
        );
        assert_eq!(
            outcome(client.send_request(request).await.unwrap()).await.2,
            "hello"
        );
        let seen = rig.upstream.only_request();
        assert_eq!(seen.header("authorization"), Some(rig.oauth.as_str()));
        drop(client);
        flow.await.unwrap();
        let line = rig.last_audit();
        assert_eq!(
            (&line["kind"], &line["verdict"]),
            (&"connect".into(), &"tunnel".into())
        );
        assert_eq!(line["host"], FREE);
        assert!(line["bytes_up"].as_u64() > Some(300) && line["bytes_down"].as_u64() > Some(300));
    });
}

#[test]
fn the_vms_authority_cannot_vouch_for_other_hosts() {
    with_rig(Behaviour::default(), async |rig| {
        let (guest, _flow) = rig.open(FREE, 443).await;
        assert!(
            connect(guest, rig.egress().ca_pem(), FREE, &[])
                .await
                .is_err()
        );
    });
}

#[test]
fn the_upstream_may_speak_first_and_each_side_may_end_first() {
    with_rig(Behaviour::default(), async |rig| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = rig.with_target(listener.local_addr().unwrap());
        let (mut guest, flow) = rig.open(FREE, 443).await;
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"220 ready").await.unwrap();
        let mut greeting = [0; 9];
        guest.read_exact(&mut greeting).await.unwrap();
        guest.write_all(b"QUIT").await.unwrap();
        guest.shutdown().await.unwrap();
        let mut command = String::new();
        server.read_to_string(&mut command).await.unwrap();
        assert_eq!(command, "QUIT");
        server.write_all(b"221 bye").await.unwrap();
        server.shutdown().await.unwrap();
        let mut farewell = String::new();
        guest.read_to_string(&mut farewell).await.unwrap();
        assert_eq!(farewell, "221 bye");
        assert_eq!(flow.await.unwrap(), FlowEnd::Finished);
        let line = rig.last_audit();
        assert_eq!(
            (&line["bytes_up"], &line["bytes_down"]),
            (&4.into(), &16.into())
        );
    });
}

#[test]
fn a_word_that_might_become_http_is_passed_on_when_nothing_follows() {
    with_rig(Behaviour::default(), async |rig| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = rig.with_target(listener.local_addr().unwrap());
        for first in ["", "QUIT"] {
            let (mut guest, _flow) = rig.open(FREE, 443).await;
            let (mut server, _) = listener.accept().await.unwrap();
            guest.write_all(first.as_bytes()).await.unwrap();
            guest.shutdown().await.unwrap();
            let mut word = String::new();
            server.read_to_string(&mut word).await.unwrap();
            assert_eq!(word, first);
        }
    });
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    with_rig(Behaviour::default(), async |rig| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = rig.with_target(listener.local_addr().unwrap());
        let (mut guest, _flow) = rig.open(FREE, 443).await;
        let (mut server, _) = listener.accept().await.unwrap();
        let total = 64 * 1024 * 1024;
        let sender = tokio::task::spawn_local(async move {
            let chunk = vec![7; 64 * 1024];
            let mut sent = 0;
            while sent < total {
                let write = guest.write_all(&chunk);
                if tokio::time::timeout(Duration::from_millis(200), write)
                    .await
                    .is_err()
                {
                    break;
                }
                sent += chunk.len();
            }
            (guest, sent)
        });
        let (guest, sent) = sender.await.unwrap();
        assert!(sent < total, "nothing held the sender back");
        drop(guest);
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert!(received.len() >= sent);
    });
}

#[test]
fn a_refused_port_is_refused_and_recorded() {
    with_rig(Behaviour::default(), async |rig| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        drop(listener);
        let rig = rig.with_target(target);
        let refused = rig.try_open(Some(FREE), "198.18.0.9", 443).await;
        let Err(OpenError::Dial(agent_vm_egress::DialError::Refused { .. })) = refused else {
            panic!("a closed port was opened");
        };
        assert_eq!(rig.last_audit()["reason"], "upstream-failed");
    });
}
