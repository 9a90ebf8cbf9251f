//! Bodies and upgraded connections: streamed without delay, with trailers, opaque.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;

use crate::rig::{API, OAUTH_SECRET, get, with_rig};
use crate::upstream::{Behaviour, Local};

#[test]
fn events_arrive_one_by_one_as_they_are_sent() {
    with_rig(Behaviour::default(), async |rig| {
        let target = format!("https://{API}/events");
        for version in ["http/1.1", "h2"] {
            let response = match version {
                "h2" => rig.http2(API).await.send_request(get(&target, &[])).await,
                _ => rig.http1(API).await.send_request(get("/events", &[])).await,
            };
            let mut body = response.unwrap().into_body();
            let mut texts = Vec::new();
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                if data.is_empty() {
                    continue; // The end of the stream, in HTTP/2.
                }
                texts.push(String::from_utf8(data.to_vec()).unwrap());
                // Only now the upstream sends the next.
                rig.upstream.release.notify_one();
            }
            assert_eq!(texts, ["data: 0\n\n", "data: 1\n\n", "data: 2\n\n"]);
        }
    });
}

#[test]
fn large_bodies_pass_both_ways_and_are_counted() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let upload = Bytes::from(vec![b'u'; 3 << 20]);
        let request = get("/big", &[]).map(|_| Full::new(upload.clone()));
        let response = client.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 1 << 20);
        assert_eq!(rig.upstream.only_request().body, upload);
        let line = rig.last_audit();
        assert_eq!(line["bytes_up"], 3 << 20);
        assert_eq!(line["bytes_down"], 1 << 20);
    });
}

#[test]
fn a_chunked_body_passes_whatever_the_method() {
    with_rig(Behaviour::default(), async |rig| {
        let mut stream = rig.tls(API, &["http/1.1"]).await;
        let head = format!(
            "GET / HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"5\r\nquery\r\n0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(rig.upstream.only_request().body, "query");
    });
}

#[test]
fn an_idle_connection_is_used_again_and_a_closed_one_replaced() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http2(API).await;
        for expected in [1, 1] {
            let request = get(&format!("https://{API}/"), &[]);
            client
                .send_request(request)
                .await
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap();
            assert_eq!(*rig.upstream.connections.borrow(), expected);
        }
        let mut other = rig.http1(API).await;
        let response = other.send_request(get("/", &[])).await.unwrap();
        response.into_body().collect().await.unwrap();
        assert_eq!(*rig.upstream.connections.borrow(), 2);
    });
}

#[test]
fn a_guest_that_goes_away_ends_the_request_upstream() {
    with_rig(Behaviour::default(), async |rig| {
        let mut http1 = rig.http1(API).await;
        let pending = spawn_local(async move { drop(http1.send_request(get("/slow", &[])).await) });
        let mut http2 = rig.http2(API).await;
        let target = format!("https://{API}/slow");
        let other = spawn_local(async move { drop(http2.send_request(get(&target, &[])).await) });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(*rig.upstream.abandoned.borrow(), 0);
        pending.abort();
        other.abort();
        while *rig.upstream.abandoned.borrow() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn the_answer_to_head_keeps_its_length() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let mut request = get("/big", &[]);
        *request.method_mut() = http::Method::HEAD;
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-length"], "1048576");
        client.ready().await.unwrap();
        let response = client.send_request(get("/", &[])).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "hello"
        );
    });
}

#[test]
fn many_requests_at_once_share_one_http2_connection() {
    with_rig(Behaviour::default(), async |rig| {
        let client = rig.http2(API).await;
        let requests: Vec<_> = (0..50)
            .map(|n| {
                let mut client = client.clone();
                let token = format!("Bearer {}", rig.oauth);
                let target = format!("https://{API}/{n}");
                spawn_local(async move {
                    let request = get(&target, &[("authorization", &token)]);
                    client.send_request(request).await.unwrap().status()
                })
            })
            .collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), 200);
        }
        let seen = rig.upstream.seen.borrow();
        let token = format!("Bearer {OAUTH_SECRET}");
        assert!(
            seen.iter()
                .all(|seen| seen.header("authorization") == Some(token.as_str()))
        );
        assert_eq!((seen.len(), *rig.upstream.connections.borrow()), (50, 1));
    });
}

#[test]
fn trailers_pass_both_ways_over_http2() {
    with_rig(Behaviour::default(), async |rig| {
        let stream = rig.tls(API, &["h2"]).await;
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(Local, TokioIo::new(stream))
                .await
                .unwrap();
        spawn_local(connection);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sent", "7".parse().unwrap());
        let body = Full::new(Bytes::from_static(b"grpc"))
            .with_trailers(std::future::ready(Some(Ok(trailers))));
        let request = get(&format!("https://{API}/trailers"), &[("te", "trailers")]);
        let response = client.send_request(request.map(|_| body)).await.unwrap();
        let received = response.into_body().collect().await.unwrap();
        assert_eq!(received.trailers().unwrap()["x-sum"], "42");
        assert_eq!(received.to_bytes(), "body");
        let seen = rig.upstream.only_request();
        assert_eq!(
            (seen.header("te"), seen.body.as_ref()),
            (Some("trailers"), &b"grpc"[..])
        );
        assert_eq!(seen.trailers.unwrap()["x-sent"], "7");
    });
}

#[test]
fn a_websocket_gets_its_token_in_the_upgrade_and_is_opaque_from_then_on() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let request = get(
            "/socket",
            &[
                ("authorization", bearer.as_str()),
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
        );
        let mut response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], "websocket");
        let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
        let mut socket = TokioIo::new(upgraded);
        let frame = format!("frame with {}", rig.oauth);
        socket.write_all(frame.as_bytes()).await.unwrap();
        let mut echo = vec![0; frame.len()];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, frame.as_bytes());
        let seen = rig.upstream.only_request();
        assert_eq!(
            seen.header("authorization"),
            Some(format!("Bearer {OAUTH_SECRET}").as_str())
        );
        drop(socket);
        while rig.audit().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let line = rig.last_audit();
        assert_eq!(
            (&line["status"], &line["path"]),
            (&101.into(), &"/socket".into())
        );
        assert_eq!(line["bytes_up"], frame.len());
    });
}

#[test]
fn other_upgrades_are_not_passed_on() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let request = get(
            "/",
            &[
                ("connection", "upgrade, http2-settings"),
                ("upgrade", "h2c"),
            ],
        );
        assert_eq!(client.send_request(request).await.unwrap().status(), 200);
        assert_eq!(rig.upstream.only_request().header("upgrade"), None);
    });
}

#[test]
fn a_body_is_only_read_as_fast_as_the_upstream_takes_it() {
    with_rig(Behaviour::default(), async |rig| {
        let stream = rig.tls(API, &["http/1.1"]).await;
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        spawn_local(connection);
        let (frames, body) = crate::upstream::channel();
        let mut request = get("/slow", &[]).map(|_| body);
        *request.method_mut() = http::Method::POST;
        let response = spawn_local(async move { client.send_request(request).await });
        let mut accepted = 0;
        let chunk = Bytes::from(vec![b'c'; 64 * 1024]);
        for _ in 0..1024 {
            let send = frames.send(Ok(Frame::data(chunk.clone())));
            match tokio::time::timeout(Duration::from_millis(100), send).await {
                Ok(Ok(())) => {}
                Ok(Err(_gone)) => panic!("the body is not wanted: {:?}", response.await),
                Err(_stalled) => break,
            }
            accepted += chunk.len();
        }
        assert!(
            accepted < 32 << 20,
            "{accepted} bytes were taken for a stalled upstream"
        );
        rig.upstream.release.notify_one();
        drop(frames);
        assert_eq!(response.await.unwrap().unwrap().status(), 200);
    });
}

#[test]
fn trailers_pass_both_ways_over_http1() {
    with_rig(Behaviour::default(), async |rig| {
        let mut stream = rig.tls(API, &["http/1.1"]).await;
        let request = format!(
            "POST /trailers HTTP/1.1\r\nhost: {API}\r\nte: trailers\r\ntrailer: x-sent\r\n\
             connection: close, te\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngrpc\r\n0\r\nx-sent: 7\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("0\r\nx-sum: 42\r\n\r\n"), "{answer}");
        let seen = rig.upstream.only_request();
        assert_eq!(seen.body, "grpc");
        assert_eq!(seen.trailers.unwrap()["x-sent"], "7");
    });
}
