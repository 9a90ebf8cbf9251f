//! How tokens leaked from earlier systems, one test for each lesson that concerns a flow. Those about echoes are in
//! `echo.rs`, about foreign keys in `foreign.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;

use crate::denials::denied;
use crate::rig::{API, FREE, OAUTH_SECRET, OTHER, connect, get, outcome, with_rig};
use crate::upstream::{Behaviour, Local};

#[test]
fn the_token_is_in_the_named_header_only_and_only_the_bound_host_gets_it() {
    with_rig(Behaviour::default(), async |rig| {
        for name in [
            "x-api-key",
            "proxy-authorization",
            "cookie",
            "user-agent",
            "referer",
        ] {
            let reason = "placeholder-outside-credential";
            denied(&rig, "/", &[(name, rig.oauth.as_str())], reason).await;
        }
        let bearer = format!("Bearer {}", rig.oauth);
        let mut client = crate::rig::http1(rig.tls(OTHER, &["http/1.1"]).await).await;
        let request = get("/", &[("host", OTHER), ("authorization", &bearer)]);
        let reason = outcome(client.send_request(request).await.unwrap()).await.1;
        assert_eq!(reason.as_deref(), Some("placeholder-other-host"));
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn the_policy_decides_before_a_secret_is_asked_for() {
    with_rig(Behaviour::default(), async |rig| {
        let bearer = format!("Bearer {}", rig.oauth);
        let own = ("authorization", bearer.as_str());
        let refused: [(&str, &[(&str, &str)]); 4] = [
            ("/", &[own, ("host", "evil.test")]),
            ("/", &[own, ("x-copy", rig.oauth.as_str())]),
            ("/", &[own, ("x-api-key", "sk-foreign")]),
            ("/?access_token=x", &[own]),
        ];
        for (target, fields) in refused {
            let mut client = rig.http1(API).await;
            let response = client.send_request(get(target, fields)).await.unwrap();
            assert_eq!(outcome(response).await.0, 403);
        }
        assert_eq!(rig.secrets.asked.get(), 0);
        let mut client = rig.http1(API).await;
        let response = client.send_request(get("/", &[own])).await.unwrap();
        assert_eq!(outcome(response).await.0, 200);
        assert_eq!(rig.secrets.asked.get(), 1);
    });
}

#[test]
fn a_placeholder_in_any_usual_encoding_is_blocked_in_header_path_and_query() {
    with_rig(Behaviour::default(), async |rig| {
        let token = rig.oauth.to_string();
        let percent = |text: &str| {
            text.bytes()
                .map(|b| format!("%{b:02x}"))
                .collect::<String>()
        };
        let escapes: String = token.bytes().map(|b| format!("\\u{b:04x}")).collect();
        let hex: String = token.bytes().map(|b| format!("{b:02x}")).collect();
        let utf16: Vec<u8> = token.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let reason = "placeholder-outside-credential";
        for text in [
            percent(&token),
            percent(&percent(&token)),
            STANDARD.encode(&token),
            STANDARD.encode(format!("a{token}")),
            STANDARD.encode(format!("ab{token}")),
            URL_SAFE_NO_PAD.encode(format!("???{token}>>>")),
            STANDARD.encode(STANDARD.encode(&token)),
            STANDARD.encode(utf16),
            hex.clone(),
            hex.to_uppercase(),
            token.to_uppercase(),
        ] {
            let target = text.replace('+', "%2B").replace('/', "%2F");
            for target in [format!("/{target}"), format!("/?q={target}")] {
                denied(&rig, &target, &[], reason).await;
            }
            denied(&rig, "/", &[("x-data", &text)], reason).await;
        }
        denied(&rig, "/", &[("x-data", &escapes)], reason).await;
    });
}

#[test]
fn logins_and_placeholders_in_trailers_do_not_pass() {
    with_rig(Behaviour::default(), async |rig| {
        let stream = rig.tls(API, &["h2"]).await;
        let io = TokioIo::new(stream);
        let (mut client, connection) = handshake(Local, io).await.unwrap();
        spawn_local(connection);
        let mut trailers = HeaderMap::new();
        let bearer = format!("Bearer {}", rig.oauth);
        for (name, value) in [
            ("x-sent", "7"),
            ("authorization", bearer.as_str()),
            ("x-api-key", "sk-foreign"),
            ("x-copy", rig.oauth.as_str()),
        ] {
            trailers.insert(name, value.parse().unwrap());
        }
        let ready = std::future::ready(Some(Ok(trailers)));
        let body = Full::new(Bytes::from_static(b"body")).with_trailers(ready);
        let request = get(&format!("https://{API}/"), &[("authorization", &bearer)]);
        let response = client.send_request(request.map(|_| body)).await.unwrap();
        assert_eq!(response.status(), 200);
        let seen = rig.upstream.only_request().trailers.unwrap();
        assert_eq!((seen.len(), &seen["x-sent"]), (1, &"7".parse().unwrap()));
    });
}

#[test]
fn what_the_search_overlooks_leaks_no_token() {
    with_rig(Behaviour::default(), async |rig| {
        let token = rig.oauth.as_str();
        let (one, other) = token.split_at(token.len() - 20);
        let turned: String = token.chars().rev().collect();
        let mut client = rig.http1(API).await;
        let fields = [("x-a", one), ("x-b", other), ("x-c", &turned)];
        let response = client.send_request(get("/", &fields)).await.unwrap();
        assert_eq!(outcome(response).await.0, 200);
        let seen = format!("{:?}", rig.upstream.only_request());
        assert!(!seen.contains(OAUTH_SECRET), "{seen}");
    });
}

#[test]
fn each_vm_has_an_authority_of_its_own_for_its_hosts_only() {
    with_rig(Behaviour::default(), async |rig| {
        let other_vm = rig.with_policy(agent_vm_policy::Policy::public());
        assert_ne!(rig.egress().ca_pem(), other_vm.egress().ca_pem());
        let (guest, _flow) = rig.open(API, 443).await;
        let refused = connect(guest, other_vm.egress().ca_pem(), API, &[]).await;
        assert!(refused.is_err(), "the authority of another VM vouches");
        // A host without a credential is not intercepted: its own certificate reaches the guest.
        let (guest, _flow) = rig.open(FREE, 443).await;
        connect(guest, &rig.upstream.ca_pem, FREE, &[])
            .await
            .unwrap();
    });
}

#[test]
fn a_first_write_of_one_byte_and_bytes_one_by_one_are_judged_alike() {
    with_rig(Behaviour::default(), async |rig| {
        let mut stream = rig.tls(API, &["http/1.1"]).await;
        let request = format!(
            "GET /?t={} HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n",
            rig.oauth
        );
        for byte in request.as_bytes() {
            stream.write_all(&[*byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.contains("placeholder-outside-credential"),
            "{answer}"
        );
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn http2_without_tls_reaches_no_bound_host() {
    let plain = Behaviour {
        tls: false,
        ..Behaviour::default()
    };
    with_rig(plain, async |rig| {
        for opening in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0".to_owned(),
            format!(
                "GET / HTTP/1.1\r\nhost: {API}\r\nconnection: upgrade, http2-settings, close\r\n\
                 upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
            ),
        ] {
            let (mut guest, flow) = rig.open(API, 80).await;
            guest.write_all(opening.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ended = guest.read_to_end(&mut answer).await;
            let _ended = flow.await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                !answer.contains("101 ") && !answer.contains("HTTP/2"),
                "{answer}"
            );
        }
        let seen = rig.upstream.seen.borrow();
        assert!(seen.iter().all(|seen| seen.header("upgrade").is_none()));
        assert!(
            seen.iter()
                .all(|seen| seen.header("http2-settings").is_none())
        );
    });
}

#[test]
fn bodies_pass_as_they_are_whatever_they_hold_in_both_versions() {
    with_rig(Behaviour::default(), async |rig| {
        let token = rig.oauth.as_str();
        let utf16: Vec<u8> = token.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let zip: Vec<u8> = [&[0x1f, 0x8b, 8, 0][..], token.as_bytes(), &[0, 255]].concat();
        let quoted = format!("{{\"prompt\":\"is {token} a leak? sk-ant-api03-strangers-key\"}}");
        let bodies = [
            ("identity", quoted.into_bytes()),
            ("gzip", zip),
            ("identity", utf16),
            (
                "identity",
                STANDARD.encode(format!("x{token}")).into_bytes(),
            ),
            ("identity", (0..=255).collect()),
        ];
        let bearer = format!("Bearer {token}");
        let mut http2 = rig.http2(API).await;
        for (coding, body) in bodies {
            let fields = [
                ("authorization", bearer.as_str()),
                ("content-encoding", coding),
            ];
            let full = || Full::new(Bytes::from(body.clone()));
            let request = get("/", &fields).map(|_| full());
            let response = rig.http1(API).await.send_request(request).await.unwrap();
            assert_eq!(outcome(response).await.0, 200);
            let request = get(&format!("https://{API}/"), &fields).map(|_| full());
            let response = http2.send_request(request).await.unwrap();
            assert_eq!(outcome(response).await.0, 200);
            let seen = rig.upstream.seen.take();
            assert!(seen.iter().all(|seen| seen.body == body), "{coding}");
            assert_eq!(seen.len(), 2);
        }
    });
}
