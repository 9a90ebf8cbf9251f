//! What is denied: told to the guest with a reason, recorded, and never seen by the upstream.

use agent_vm_egress::{DeniedPacket, FlowEnd, OpenError, PacketProtocol};
use agent_vm_policy::{AddressClass, DenyReason};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{API, FREE, OTHER, Rig, connect, get, http1, outcome, with_rig};
use crate::upstream::{Behaviour, Upstream};

/// Sends one request over HTTP/1.1 and HTTP/2; both must be denied for this reason.
pub(crate) async fn denied(rig: &Rig, target: &str, fields: &[(&str, &str)], reason: &str) {
    let mut client = rig.http1(API).await;
    let response = client.send_request(get(target, fields)).await.unwrap();
    let (status, told, text) = outcome(response).await;
    assert_eq!(
        (status, told.as_deref()),
        (403, Some(reason)),
        "{target} {fields:?}"
    );
    assert!(
        text.starts_with("agent-vm: ") && text.contains(reason),
        "{text}"
    );
    let line = rig.last_audit();
    assert_eq!(
        (&line["verdict"], &line["reason"]),
        (&"deny".into(), &reason.into())
    );
    assert_eq!((&line["host"], &line["status"]), (&API.into(), &403.into()));
    let mut client = rig.http2(API).await;
    let target = format!("https://{API}{target}");
    let fields: Vec<_> = fields
        .iter()
        .filter(|(name, _)| *name != "host")
        .copied()
        .collect();
    let response = client.send_request(get(&target, &fields)).await.unwrap();
    assert_eq!(
        outcome(response).await.1.as_deref(),
        Some(reason),
        "{target}"
    );
    assert!(
        rig.upstream.seen.borrow().is_empty(),
        "it reached the upstream"
    );
}

#[test]
fn a_placeholder_outside_its_header_is_denied() {
    with_rig(Behaviour::default(), async |rig| {
        let reason = "placeholder-outside-credential";
        let token = rig.oauth.to_string();
        let percent: String = token.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let base64 = STANDARD.encode(&token);
        let basic = format!("Basic {}", STANDARD.encode(format!("u:{token}")));
        for text in [&token, &percent, &base64] {
            denied(&rig, &format!("/?key={text}"), &[], reason).await;
            denied(&rig, &format!("/{text}/x"), &[], reason).await;
            denied(&rig, "/", &[("cookie", &format!("t={text}"))], reason).await;
        }
        denied(&rig, "/", &[("x-api-key", &token)], reason).await;
        denied(&rig, "/", &[("proxy-authorization", &basic)], reason).await;
        let bearer = format!("Bearer {token}");
        denied(
            &rig,
            "/",
            &[("authorization", &bearer), ("x-copy", &token)],
            reason,
        )
        .await;
        let twice = [
            ("authorization", bearer.as_str()),
            ("authorization", "Bearer x"),
        ];
        denied(&rig, "/", &twice, reason).await;
    });
}

#[test]
fn the_placeholder_of_another_hosts_credential_is_denied() {
    with_rig(Behaviour::default(), async |rig| {
        let bearer = format!("Bearer {}", rig.other);
        denied(
            &rig,
            "/",
            &[("authorization", &bearer)],
            "placeholder-other-host",
        )
        .await;
    });
}

#[test]
fn a_request_whose_host_differs_from_sni_is_denied() {
    with_rig(Behaviour::default(), async |rig| {
        let bearer = format!("Bearer {}", rig.oauth);
        for host in [
            OTHER,
            "evil.test",
            "api.bound.test:8443",
            "u@api.bound.test",
            "",
        ] {
            let mut client = rig.http1(API).await;
            let request = get("/", &[("host", host), ("authorization", &bearer)]);
            let response = client.send_request(request).await.unwrap();
            let reason = outcome(response).await.1;
            assert_eq!(reason.as_deref(), Some("authority-mismatch"), "{host}");
        }
        let mut client = rig.http2(API).await;
        let request = get(&format!("https://{OTHER}/"), &[]);
        let reason = outcome(client.send_request(request).await.unwrap()).await.1;
        assert_eq!(reason.as_deref(), Some("authority-mismatch"));
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn an_absolute_target_must_name_the_same_host() {
    with_rig(Behaviour::default(), async |rig| {
        let raw = async |target: String| {
            let mut stream = rig.tls(API, &["http/1.1"]).await;
            let head = format!("GET {target} HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(
            raw("https://evil.test/".into())
                .await
                .contains("authority-mismatch")
        );
        assert!(
            raw(format!("http://{API}/"))
                .await
                .contains("authority-mismatch")
        );
        assert!(
            raw(format!("https://{API}/x?y"))
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert_eq!(rig.upstream.only_request().target, "/x?y");
    });
}

#[test]
fn a_denied_client_that_waits_for_100_sends_no_body() {
    with_rig(Behaviour::default(), async |rig| {
        let mut stream = rig.tls(API, &["http/1.1"]).await;
        let head = format!(
            "POST /?t={} HTTP/1.1\r\nhost: {API}\r\nexpect: 100-continue\r\n\
             content-length: 4\r\n\r\n",
            rig.oauth
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 403");
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn connect_is_denied() {
    with_rig(Behaviour::default(), async |rig| {
        let mut stream = rig.tls(API, &["http/1.1"]).await;
        let head = format!("CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("connect-method"),
            "{answer}"
        );
    });
}

#[test]
fn requests_that_cannot_be_parsed_close_the_connection() {
    with_rig(Behaviour::default(), async |rig| {
        let huge = format!(
            "GET / HTTP/1.1\r\nhost: {API}\r\nx: {}\r\n\r\n",
            "y".repeat(80_000)
        );
        for head in [
            "GET / HTTP/1.1\r\nbad header\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &huge,
        ] {
            let mut stream = rig.tls(API, &["http/1.1"]).await;
            let _closed_early = stream.write_all(head.as_bytes()).await;
            let _sent = stream.flush().await;
            let mut answer = Vec::new();
            let _ended = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        assert!(rig.upstream.seen.borrow().is_empty());
        assert_eq!(rig.last_audit()["reason"], "request-invalid");
    });
}

#[test]
fn a_server_name_that_was_not_resolved_is_reset() {
    with_rig(Behaviour::default(), async |rig| {
        for (resolved, named) in [(API, OTHER), (API, FREE), (FREE, API)] {
            let (guest, flow) = rig.open(resolved, 443).await;
            let failed = connect(guest, rig.egress().ca_pem(), named, &[]).await;
            assert!(failed.is_err());
            assert_eq!(flow.await.unwrap(), FlowEnd::Reset);
            let line = rig.last_audit();
            assert_eq!(
                (&line["kind"], &line["reason"]),
                (&"connect".into(), &"sni-mismatch".into())
            );
            assert_eq!(line["host"], named);
        }
    });
}

#[test]
fn a_hello_without_name_or_form_is_reset() {
    with_rig(Behaviour::default(), async |rig| {
        let (mut guest, flow) = rig.open(API, 443).await;
        guest
            .write_all(&[22, 3, 1, 0, 4, 9, 0, 0, 0])
            .await
            .unwrap();
        assert_eq!(flow.await.unwrap(), FlowEnd::Reset);
        assert_eq!(rig.last_audit()["reason"], "client-hello");
        let (guest, flow) = rig.open(API, 443).await;
        let failed = connect(guest, rig.egress().ca_pem(), "127.0.0.1", &[]).await;
        assert!(failed.is_err());
        assert_eq!(flow.await.unwrap(), FlowEnd::Reset);
        assert_eq!(rig.last_audit()["reason"], "sni-missing");
    });
}

#[test]
fn an_invalid_upstream_certificate_is_502_with_the_problem_named() {
    let cases = [
        (
            Behaviour {
                expired: true,
                ..Behaviour::default()
            },
            "it has expired",
        ),
        (
            Behaviour {
                names: vec!["wrong.test".into()],
                ..Behaviour::default()
            },
            "it is for another name",
        ),
    ];
    for (behaviour, problem) in cases {
        with_rig(behaviour, async |rig| {
            let mut client = rig.http1(API).await;
            let bearer = format!("Bearer {}", rig.oauth);
            for _ in 0..2 {
                client.ready().await.unwrap();
                let request = get("/", &[("authorization", &bearer)]);
                let response = client.send_request(request).await.unwrap();
                let (status, reason, text) = outcome(response).await;
                assert_eq!(
                    (status, reason.as_deref()),
                    (502, Some("upstream-certificate"))
                );
                assert!(text.contains(problem) && text.contains(API), "{text}");
            }
            assert!(rig.upstream.seen.borrow().is_empty());
            let line = rig.last_audit();
            assert_eq!(
                (&line["verdict"], &line["reason"]),
                (&"failed".into(), &"upstream-certificate".into())
            );
        });
    }
}

#[test]
fn an_upstream_with_an_unknown_authority_is_502() {
    with_rig(Behaviour::default(), async |rig| {
        let stranger = Upstream::start(Behaviour::default()).await;
        let other_rig = rig.with_target(stranger.address);
        let mut client = http1(other_rig.tls(API, &["http/1.1"]).await).await;
        let response = client.send_request(get("/", &[])).await.unwrap();
        let (status, reason, text) = outcome(response).await;
        assert_eq!(
            (status, reason.as_deref()),
            (502, Some("upstream-certificate"))
        );
        assert!(
            text.contains("its issuer is not trusted on the host"),
            "{text}"
        );
        assert!(stranger.seen.borrow().is_empty());
    });
}

#[test]
fn addresses_are_denied_before_they_are_dialled() {
    with_rig(Behaviour::default(), async |rig| {
        for (address, class) in [
            ("127.0.0.1", AddressClass::Loopback),
            ("::1", AddressClass::Loopback),
            ("::ffff:127.0.0.1", AddressClass::Loopback),
            ("0.0.0.0", AddressClass::Unspecified),
            ("64:ff9b::7f00:1", AddressClass::Loopback),
            ("169.254.169.254", AddressClass::Metadata),
            ("10.0.0.1", AddressClass::Private),
            ("fd76:6d00::1", AddressClass::Private),
            ("198.18.0.9", AddressClass::Documentation),
        ] {
            let port = rig.upstream.address.port();
            let refused = rig.try_open(Some("any.test"), address, port).await;
            let Err(OpenError::Denied { reason }) = refused else {
                panic!("{address} was opened");
            };
            let host_owned = DenyReason::HostAddress;
            assert!(
                reason == DenyReason::Address(class) || reason == host_owned,
                "{address}"
            );
            let line = rig.last_audit();
            assert_eq!(
                (&line["verdict"], &line["port"]),
                (&"deny".into(), &port.into())
            );
            assert_eq!(
                (&line["host"], &line["reason"]),
                (&"any.test".into(), &reason.code().into())
            );
        }
        assert_eq!(*rig.upstream.connections.borrow(), 0);
    });
}

#[test]
fn an_override_is_for_its_name_and_port_only() {
    with_rig(Behaviour::default(), async |rig| {
        assert!(rig.try_open(Some(API), "198.18.0.9", 443).await.is_ok());
        for (name, port) in [(Some(API), 444), (Some("x.test"), 443), (None, 443)] {
            let refused = rig.try_open(name, "198.18.0.9", port).await;
            assert!(
                matches!(refused, Err(OpenError::Denied { .. })),
                "{name:?} {port}"
            );
        }
    });
}

#[test]
fn denied_packets_are_recorded() {
    with_rig(Behaviour::default(), async |rig| {
        rig.egress().record_denied_packet(
            DeniedPacket {
                protocol: PacketProtocol::Udp,
                address: "8.8.8.8".parse().unwrap(),
                port: Some(53),
                reason: DenyReason::ForeignDnsServer,
            },
            0,
        );
        let line = rig.last_audit();
        assert_eq!(
            (&line["kind"], &line["protocol"]),
            (&"packet".into(), &"udp".into())
        );
        assert_eq!(
            (&line["session"], &line["port"]),
            (&"test-session".into(), &53.into())
        );
    });
}

#[test]
fn nothing_leaves_when_decisions_cannot_be_recorded() {
    with_rig(Behaviour::default(), async |rig| {
        let broken = rig.with_audit(std::path::Path::new("/dev/full"));
        let mut client = http1(broken.tls(API, &["http/1.1"]).await).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let lost = get("/", &[("host", "evil.test")]);
        assert_eq!(
            outcome(client.send_request(lost).await.unwrap()).await.0,
            403
        );
        client.ready().await.unwrap();
        let request = get("/", &[("authorization", &bearer)]);
        let (status, reason, _) = outcome(client.send_request(request).await.unwrap()).await;
        assert_eq!(
            (status, reason.as_deref()),
            (503, Some("audit-unavailable"))
        );
        let refused = broken.try_open(Some(FREE), "198.18.0.9", 443).await;
        let reason = DenyReason::AuditUnavailable;
        assert!(matches!(refused, Err(OpenError::Denied { reason: told }) if told == reason));
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn a_placeholder_in_a_body_is_not_touched() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let text = format!("my key is {}", rig.oauth);
        let request = get("/", &[]).map(|_| Full::new(bytes::Bytes::from(text.clone())));
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        assert_eq!(rig.upstream.only_request().body, text);
    });
}

#[test]
fn a_denied_upload_is_told_why() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let body = bytes::Bytes::from(vec![b'u'; 8 << 20]);
        let request = get("/", &[("x-wrong", rig.oauth.as_str())]).map(|_| Full::new(body));
        let response = client.send_request(request).await.unwrap();
        let reason = outcome(response).await.1;
        assert_eq!(reason.as_deref(), Some("placeholder-outside-credential"));
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn a_guest_that_does_not_trust_the_authority_is_recorded() {
    with_rig(Behaviour::default(), async |rig| {
        let (guest, flow) = rig.open(API, 443).await;
        let failed = connect(guest, &rig.upstream.ca_pem, API, &["http/1.1"]).await;
        assert!(failed.is_err());
        assert_eq!(flow.await.unwrap(), FlowEnd::Reset);
        let line = rig.last_audit();
        assert_eq!(
            (&line["verdict"], &line["reason"]),
            (&"failed".into(), &"guest-tls".into())
        );
    });
}

#[test]
fn a_connection_that_the_guest_gives_up_is_recorded() {
    with_rig(Behaviour::default(), async |rig| {
        tokio::select! {
            biased;
            _ = rig.try_open(Some(FREE), "198.18.0.9", 443) => panic!("it cannot be open at once"),
            () = std::future::ready(()) => {}
        }
        let line = rig.last_audit();
        assert_eq!(
            (&line["host"], &line["verdict"]),
            (&FREE.into(), &"failed".into())
        );
        assert_eq!(rig.audit().len(), 1);
    });
}
