//! Registries that refuse, stumble, or attack.

use std::sync::atomic::{AtomicUsize, Ordering};

use agent_vm_image::{AuthSources, ImageDigest, PullOptions};

use crate::case::{
    Layer, OCI_GZIP, OCI_MANIFEST, OCI_TAR, Seen, TestStore, archive, config, manifest, told,
};
use crate::memory::incompressible;
use crate::server::{Answer, Request, Server};

/// An image of one layer, served correctly at any tag.
pub(crate) struct Served {
    manifest: Vec<u8>,
    config: Vec<u8>,
    pub(crate) layer: Layer,
}

impl Served {
    pub(crate) fn new(media_type: &'static str, content: &[u8]) -> Self {
        let layer = Layer::new(media_type, &archive(&[("a", content)]));
        let config = config(&[layer.diff_id]);
        let manifest = manifest(&config, std::slice::from_ref(&layer), false);
        Self {
            manifest,
            config,
            layer,
        }
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        if request.path.contains("/manifests/") {
            return Answer::ok(self.manifest.clone()).header("Content-Type", OCI_MANIFEST);
        }
        let body = if self.is_layer(request) {
            &self.layer.blob
        } else {
            &self.config
        };
        match request.header("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        }) {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Answer {
                    status: "206 Partial Content",
                    ..Answer::ok(&body[from..])
                }
                .header("Content-Range", range)
            }
            None => Answer::ok(body.clone()),
        }
    }

    pub(crate) fn is_layer(&self, request: &Request) -> bool {
        request
            .path
            .ends_with(&ImageDigest::of(&self.layer.blob).to_string())
    }
}

pub(crate) fn app(server: &Server) -> String {
    format!("{}/app:1", server.address)
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let served = Served::new(OCI_GZIP, &incompressible(3 << 20, 1));
    let size = served.layer.blob.len();
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |request, _| {
        let answer = served.answer(request);
        let broken = served.is_layer(request) && tries.fetch_add(1, Ordering::Relaxed) < 2;
        Answer {
            cut: broken.then_some(1_000_000),
            ..answer
        }
    });
    let (store, seen) = (TestStore::new(), Seen::default());
    let image = store
        .pull_with(&app(&server), &PullOptions::default(), &seen)
        .unwrap();
    assert_eq!(image.layers().len(), 1);
    assert_eq!(
        seen.events()
            .iter()
            .filter(|event| *event == "retried 0")
            .count(),
        2
    );
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter_map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        ["bytes=1000000-", "bytes=2000000-"],
        "of {size} bytes"
    );
}

#[test]
fn a_server_that_ignores_ranges_is_resumed_all_the_same() {
    let served = Served::new(OCI_TAR, &incompressible(2 << 20, 1));
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |request, _| {
        if !served.is_layer(request) {
            return served.answer(request);
        }
        let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
        Answer {
            cut: first.then_some(700_000),
            ..Answer::ok(served.layer.blob.clone())
        }
    });
    TestStore::new().pull(&app(&server)).unwrap();
}

#[test]
fn a_wrong_part_is_not_taken_for_the_right_one() {
    let served = Served::new(OCI_TAR, &incompressible(1 << 20, 1));
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |request, _| {
        let answer = served.answer(request);
        match (served.is_layer(request), tries.load(Ordering::Relaxed)) {
            (false, _) => answer,
            (true, 0) => {
                tries.fetch_add(1, Ordering::Relaxed);
                Answer {
                    cut: Some(500_000),
                    ..answer
                }
            }
            (true, _) => Answer {
                status: "206 Partial Content",
                ..Answer::ok(&served.layer.blob[..10])
            }
            .header("Content-Range", "bytes 0-9/10"),
        }
    });
    let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
    assert!(error.contains("with another part"), "{error}");
}

#[test]
fn overload_is_waited_out() {
    let served = Served::new(OCI_TAR, b"x");
    let tries = AtomicUsize::new(0);
    let server = Server::start(
        move |request, _| match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Answer::status("429 Too Many Requests").header("Retry-After", "0"),
            1 => Answer::status("503 Service Unavailable"),
            _ => served.answer(request),
        },
    );
    TestStore::new().pull(&app(&server)).unwrap();
}

#[test]
fn refusals_name_registry_image_reason_and_remedy() {
    let body = br#"{"errors":[{"code":"DENIED","message":"not\u001b for you"}]}"#;
    for (status, said) in [
        (
            "401 Unauthorized",
            "without a valid login (401: not\\x1b for you); no login for it was found, try `docker login`",
        ),
        ("403 Forbidden", "forbids access to"),
        ("404 Not Found", "has no"),
        ("429 Too Many Requests", "limits the rate of requests (429)"),
        ("418 I'm a teapot", "answers 418 (not\\x1b for you)"),
    ] {
        let server = Server::start(move |_, _| {
            Answer {
                status,
                ..Answer::ok(*body)
            }
            .header("Retry-After", "3600")
        });
        let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
        assert!(
            error.contains(said) && error.contains(&server.address.to_string()),
            "{status}: {error}"
        );
        assert!(error.contains(&app(&server)), "{status}: {error}");
    }
}

/// Serves the image to who shows `header`, tells others of `challenge`, gives `token` at the token address.
fn guarded(header: &'static str, challenge: &'static str, token: &'static str) -> Server {
    let served = Served::new(OCI_TAR, b"x");
    Server::start(move |request, own| {
        if request.path.starts_with("/token?") {
            return Answer::ok(token);
        }
        if request.header("authorization") == Some(header) {
            return served.answer(request);
        }
        Answer::status("401 Unauthorized").header(
            "WWW-Authenticate",
            challenge.replace("OWN", &own.to_string()),
        )
    })
}

fn login(server: &Server) -> (tempfile::TempDir, PullOptions) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    fs_err::write(
        &path,
        format!(
            r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#,
            server.address
        ),
    )
    .unwrap();
    (
        directory,
        PullOptions {
            auth: AuthSources {
                files: vec!["/nonexistent".into(), path],
                ..AuthSources::default()
            },
            ..PullOptions::default()
        },
    )
}

#[test]
fn a_password_is_used_where_the_registry_asks_for_it() {
    let server = guarded("Basic dXNlcjpwYXNz", "Basic realm=\"r\"", "");
    let (_directory, options) = login(&server);
    TestStore::new()
        .pull_with(&app(&server), &options, &())
        .unwrap();
    let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
    assert!(error.contains("401"), "{error}");
}

#[test]
fn a_token_is_fetched_anonymously_or_with_the_login() {
    let server = guarded(
        "Bearer T.1-2",
        "Bearer realm=\"http://OWN/token\",service=\"reg\"",
        r#"{"token":"T.1-2"}"#,
    );
    TestStore::new().pull(&app(&server)).unwrap();
    let (_directory, options) = login(&server);
    TestStore::new()
        .pull_with(&app(&server), &options, &())
        .unwrap();
    let tokens: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.path.starts_with("/token"))
        .collect();
    assert_eq!(
        tokens[0].path,
        "/token?service=reg&scope=repository%3Aapp%3Apull"
    );
    assert_eq!(
        (
            tokens[0].header("authorization"),
            tokens[1].header("authorization")
        ),
        (None, Some("Basic dXNlcjpwYXNz"))
    );
}

#[test]
fn a_hostile_token_is_refused() {
    for token in [
        r#"{"token":"a\r\nX-Evil: 1"}"#,
        r#"{"token":""}"#,
        "[]",
        "<html>",
    ] {
        let server = guarded("Bearer x", "Bearer realm=\"http://OWN/token\"", token);
        let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
        assert!(error.contains("unusable token"), "{token}: {error}");
    }
}

#[test]
fn endless_answers_are_cut_off() {
    let megabyte = vec![b' '; 1 << 20];
    for part in ["/manifests/", "/blobs/", "/token"] {
        let (served, megabyte) = (Served::new(OCI_TAR, b"x"), megabyte.clone());
        let server = Server::start(move |request, own| {
            if request.path.contains(part) {
                return Answer {
                    endless: Some(64),
                    ..Answer::ok(megabyte.clone())
                };
            }
            if part == "/token" {
                return Answer::status("401 Unauthorized").header(
                    "WWW-Authenticate",
                    format!("Bearer realm=\"http://{own}/token\""),
                );
            }
            served.answer(request)
        });
        let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
        assert!(
            error.contains("more than") || error.contains("descriptor says"),
            "{part}: {error}"
        );
    }
}

#[test]
fn a_redirect_is_followed_without_the_login() {
    let served = Served::new(OCI_TAR, b"x");
    let storage_served = Served::new(OCI_TAR, b"x");
    let storage = Server::start(move |request, _| storage_served.answer(request));
    let target = storage.address;
    let server = Server::start(move |request, _| {
        if request.header("authorization").is_none() {
            return Answer::status("401 Unauthorized")
                .header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if request.path.contains("/blobs/") {
            return Answer::status("307 Temporary Redirect")
                .header("Location", format!("http://{target}{}", request.path));
        }
        served.answer(request)
    });
    let (_directory, options) = login(&server);
    TestStore::new()
        .pull_with(&app(&server), &options, &())
        .unwrap();
    let requests = storage.requests();
    assert!(
        !requests.is_empty()
            && requests
                .iter()
                .all(|request| request.header("authorization").is_none())
    );
}

#[test]
fn a_manifest_other_than_the_pinned_one_is_refused() {
    let served = Served::new(OCI_TAR, b"x");
    let server = Server::start(move |request, _| served.answer(request));
    let pinned = format!("{}/app@{}", server.address, ImageDigest::of(b"another"));
    let error = told(&TestStore::new().pull(&pinned).unwrap_err());
    assert!(error.contains("has the digest"), "{error}");
}

#[test]
fn plain_http_is_spoken_to_other_machines_only_when_asked() {
    // Nothing listens for TLS on this address: what matters is that the attempt is made with TLS.
    let server = Server::start(|_, _| Answer::ok("plain"));
    let name = format!(
        "not-local.localhost.invalid:{}/app:1",
        server.address.port()
    );
    let error = told(&TestStore::new().pull(&name).unwrap_err());
    assert!(error.contains("not-local.localhost.invalid"), "{error}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_private_authority_is_trusted_only_when_given() {
    let served = Served::new(OCI_TAR, b"x");
    let (server, authority) = Server::start_tls("registry.localhost", move |request, _| {
        served.answer(request)
    });
    // Not a loopback name to us, so TLS is spoken; a proxy is how the test leads it to the server.
    let proxy = tunnel(&server);
    let name = format!("registry.localhost:{}/app:1", server.address.port());
    let mut options = PullOptions::default();
    options.proxies.https = Some(format!("http://{proxy}"));
    let refused = told(
        &TestStore::new()
            .pull_with(&name, &options, &())
            .unwrap_err(),
    );
    assert!(
        refused.contains("no trusted TLS connection to registry.localhost"),
        "{refused}"
    );
    options.extra_ca_pem = vec![authority];
    TestStore::new().pull_with(&name, &options, &()).unwrap();
}

/// An HTTPS proxy that leads every CONNECT to `server`.
pub(crate) fn tunnel(server: &Server) -> std::net::SocketAddr {
    use std::io::{BufRead as _, Write as _};
    let (listener, target) = (
        std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
        server.address,
    );
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let head = std::io::BufReader::new(&client)
                .lines()
                .map_while(Result::ok);
            assert!(
                head.take_while(|line| !line.is_empty())
                    .next()
                    .unwrap_or_default()
                    .starts_with("CONNECT registry.localhost:")
            );
            let server = std::net::TcpStream::connect(target).unwrap();
            (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut &server, &mut &client);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_dropped_pull_leaves_nothing_and_the_next_one_succeeds() {
    let served = Served::new(OCI_TAR, &incompressible(1 << 20, 1));
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |request, _| {
        let answer = served.answer(request);
        let stalled = served.is_layer(request) && tries.fetch_add(1, Ordering::Relaxed) == 0;
        if !stalled {
            return answer;
        }
        Answer {
            cut: Some(500_000),
            linger: std::time::Duration::from_secs(20),
            ..answer
        }
    });
    let store = TestStore::new();
    let reference = app(&server).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let options = PullOptions::default();
    let interrupted = runtime.block_on(async {
        let pull = agent_vm_image::pull(&store.store, &reference, &options, &());
        tokio::time::timeout(std::time::Duration::from_millis(700), pull).await
    });
    assert!(
        interrupted.is_err(),
        "the server stalls, so the pull cannot have ended"
    );
    // Waits for the converter, which notices that its source has gone.
    drop(runtime);
    assert_eq!(
        (store.files("tmp"), store.files("layers")),
        (vec![], vec![])
    );
    store.pull(&app(&server)).unwrap();
}
