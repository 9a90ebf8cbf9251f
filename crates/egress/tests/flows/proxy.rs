//! The host's proxies: real ones (tinyproxy, microsocks) and one that answers as no real one would.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use agent_vm_egress::{DialError, OpenError, ProxyServer, ProxySettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::rig::{FREE, LOCAL, OTHER_SECRET, Rig, connect, get, http1, outcome, with_rig};
use crate::upstream::Behaviour;

const USER: &str = "the-user";
const PASSWORD: &str = "the p@ssword";
/// What a server says before it is spoken to.
const BANNER: &[u8] = b"SSH-2.0-test\r\n";
/// A public address; the proxies resolve the name.
const ADDRESS: &str = "8.8.8.8";

fn all(url: &str) -> ProxySettings {
    ProxySettings {
        all: Some(ProxyServer::parse(url).unwrap()),
        ..ProxySettings::default()
    }
}

/// A proxy that runs while this lives.
struct Real {
    child: Child,
    address: SocketAddr,
    _files: tempfile::TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Starts a program that listens at the address its arguments are made for.
async fn start(
    program: &str,
    arguments: impl FnOnce(SocketAddr, &std::path::Path) -> Vec<String>,
) -> Real {
    let directories = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&directories)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file());
    let path: PathBuf = found
        .unwrap_or_else(|| panic!("{program} is not installed: `cargo xtask setup` installs it"));
    let files = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let child = Command::new(path)
        .args(arguments(address, files.path()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Real {
        child,
        address,
        _files: files,
    }
}

async fn tinyproxy() -> Real {
    start("tinyproxy", |address, files| {
        let config = files.join("tinyproxy.conf");
        let text = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 60\nBasicAuth {USER} secret\nLogLevel Critical\n",
            address.port()
        );
        fs_err::write(&config, text).unwrap();
        vec!["-d".into(), "-c".into(), config.display().to_string()]
    })
    .await
}

async fn microsocks() -> Real {
    start("microsocks", |address, _| {
        let port = address.port().to_string();
        ["-i", "127.0.0.1", "-p", &port, "-u", USER, "-P", PASSWORD]
            .map(str::to_owned)
            .to_vec()
    })
    .await
}

/// A server that speaks first and then says everything again; gives its port, the same in both families.
async fn echo() -> u16 {
    let v4 = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = v4.local_addr().unwrap().port();
    // Where there is no IPv6, `localhost` has no such address either.
    let v6 = TcpListener::bind(("::1", port)).await.ok();
    for listener in [Some(v4), v6].into_iter().flatten() {
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                spawn_local(async move {
                    stream.write_all(BANNER).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    let _gone = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
    }
    port
}

/// A whole conversation with [`echo`] through whatever proxy the rig has.
async fn converse(rig: &Rig, port: u16) {
    let flow = rig.try_open(Some("localhost"), ADDRESS, port).await;
    let (mut guest, near) = tokio::io::duplex(64 * 1024);
    let serving = spawn_local(flow.unwrap().serve(near));
    let mut banner = [0; BANNER.len()];
    guest.read_exact(&mut banner).await.unwrap();
    assert_eq!(banner, BANNER);
    let sent = vec![b'x'; 200_000];
    let mut received = vec![0; sent.len()];
    let (mut read, mut write) = tokio::io::split(guest);
    let (written, read_back) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
    written.unwrap();
    read_back.unwrap();
    assert!(received == sent);
    write.shutdown().await.unwrap();
    serving.await.unwrap();
}

/// A wrong login is a refusal with a reason, and nothing of any login is in the log.
async fn refuses_a_wrong_login(rig: &Rig, url: &str, port: u16) {
    let rig = rig.with_proxies(all(url));
    let refused = rig.try_open(Some("localhost"), ADDRESS, port).await;
    let error = refused.err().expect("a wrong login opens nothing");
    assert!(
        matches!(&error, OpenError::Dial(DialError::ProxyRefused { .. })),
        "{error:?}"
    );
    let line = rig.last_audit();
    assert_eq!(
        (&line["verdict"], &line["reason"]),
        (&"failed".into(), &"proxy-refused".into())
    );
    let told = format!("{error:?} {error} {:?}", rig.audit());
    for private in [USER, "wrong", "p@ssword", "secret"] {
        assert!(!told.contains(private), "{told}");
    }
}

#[test]
fn tinyproxy_tunnels_what_the_server_says_first_and_wants_its_login() {
    with_rig(Behaviour::default(), async |rig| {
        let proxy = tinyproxy().await;
        let port = echo().await;
        let url = format!("http://{USER}:secret@{}", proxy.address);
        let through = rig.with_proxies(all(&url));
        converse(&through, port).await;
        let line = through.last_audit();
        assert_eq!(line["proxy"], format!("http://{}", proxy.address));
        assert_eq!(
            (&line["address"], &line["bytes_up"]),
            (&ADDRESS.into(), &200_000.into())
        );
        let wrong = format!("http://{USER}:wrong@{}", proxy.address);
        refuses_a_wrong_login(&rig, &wrong, port).await;
        refuses_a_wrong_login(&rig, &format!("http://{}", proxy.address), port).await;
    });
}

#[test]
fn microsocks_tunnels_by_name_and_wants_its_login() {
    with_rig(Behaviour::default(), async |rig| {
        let proxy = microsocks().await;
        let port = echo().await;
        let url = format!("socks5h://{USER}:the%20p%40ssword@{}", proxy.address);
        let through = rig.with_proxies(all(&url));
        converse(&through, port).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port_closed = closed.local_addr().unwrap().port();
        drop(closed);
        let refused = through
            .try_open(Some("localhost"), ADDRESS, port_closed)
            .await;
        let error = refused.err().expect("nobody listens");
        assert!(
            matches!(&error, OpenError::Dial(DialError::Refused { .. })),
            "{error:?}"
        );
        let wrong = format!("socks5h://{USER}:wrong@{}", proxy.address);
        refuses_a_wrong_login(&rig, &wrong, port).await;
    });
}

/// A proxy that reads until it has seen `until`, says each part of `answer` by itself, and then stays.
async fn fake(until: &'static [u8], answer: &[&[u8]]) -> (SocketAddr, Rc<RefCell<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let answer: Vec<Vec<u8>> = answer.iter().map(|part| part.to_vec()).collect();
    let kept = Rc::clone(&seen);
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            while !kept.borrow().ends_with(until) {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes).await {
                    Ok(length) if length > 0 => {
                        kept.borrow_mut().extend_from_slice(&bytes[..length])
                    }
                    _ => return,
                }
            }
            for part in &answer {
                if stream.write_all(part).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let mut rest = [0; 4096];
            while stream.read(&mut rest).await.is_ok_and(|length| length > 0) {}
        }
    });
    (address, seen)
}

async fn first_bytes(rig: &Rig, length: usize) -> Vec<u8> {
    let flow = rig.try_open(Some("ssh.test"), ADDRESS, 22).await.unwrap();
    let (mut guest, near) = tokio::io::duplex(64 * 1024);
    spawn_local(flow.serve(near));
    let mut bytes = vec![0; length];
    guest.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[test]
fn no_byte_behind_the_proxys_answer_is_lost_however_it_is_cut() {
    with_rig(Behaviour::default(), async |rig| {
        let whole = [
            &b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"[..],
            BANNER,
        ]
        .concat();
        let singly: Vec<&[u8]> = whole.chunks(1).collect();
        for answer in [vec![&whole[..]], singly, whole.chunks(46).collect()] {
            let (address, seen) = fake(b"\r\n\r\n", &answer).await;
            let rig = rig.with_proxies(all(&format!("http://u:p@{address}")));
            assert_eq!(first_bytes(&rig, BANNER.len()).await, BANNER);
            assert_eq!(
                String::from_utf8(seen.borrow().clone()).unwrap(),
                "CONNECT ssh.test:22 HTTP/1.1\r\nHost: ssh.test:22\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
            );
        }
    });
}

#[test]
fn socks5_is_given_the_address_and_loses_no_byte_either() {
    with_rig(Behaviour::default(), async |rig| {
        let request = b"\x05\x01\x00\x01\x08\x08\x08\x08\x00\x16";
        let answer = [&b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"[..], BANNER].concat();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(greeting, *b"\x05\x01\x00");
            stream.write_all(b"\x05\x00").await.unwrap();
            let mut asked = [0; 10];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, *request);
            stream.write_all(&answer).await.unwrap();
            let _gone = stream.read_u8().await;
        });
        let rig = rig.with_proxies(all(&format!("socks5://{address}")));
        assert_eq!(first_bytes(&rig, BANNER.len()).await, BANNER);
    });
}

#[test]
fn a_proxy_that_refuses_or_answers_no_http_opens_nothing() {
    with_rig(Behaviour::default(), async |rig| {
        let endless = vec![b'a'; 64 * 1024];
        for (answer, refused) in [
            (&b"HTTP/1.1 403 Filtered\r\n\r\n"[..], true),
            (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", true),
            (b"HTTP/1.1 100 Continue\r\n\r\n", true),
            (b"SSH-2.0-not-a-proxy\r\n\r\n", false),
            (&endless, false),
        ] {
            let (address, _seen) = fake(b"\r\n\r\n", &[answer]).await;
            let rig = rig.with_proxies(all(&format!("http://{address}")));
            let error = rig.try_open(Some("a.test"), ADDRESS, 443).await.err();
            let matched = match error {
                Some(OpenError::Dial(DialError::ProxyRefused { .. })) => refused,
                Some(OpenError::Dial(DialError::ProxyUnusable { .. })) => !refused,
                _ => false,
            };
            assert!(matched, "{:?}", String::from_utf8_lossy(&answer[..20]));
        }
    });
}

#[test]
fn plain_http_is_forwarded_in_absolute_form_and_still_judged() {
    with_rig(Behaviour::default(), async |rig| {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (address, seen) = fake(b"\r\n\r\n", &[answer]).await;
        let proxy = Some(ProxyServer::parse(&format!("http://u:p@{address}")).unwrap());
        let rig = rig.with_proxies(ProxySettings {
            http: proxy,
            ..ProxySettings::default()
        });
        let (guest, near) = tokio::io::duplex(64 * 1024);
        let flow = rig.try_open(Some("a.test"), ADDRESS, 80).await.unwrap();
        spawn_local(flow.serve(near));
        let mut client = http1(guest).await;
        for (host, expected) in [("b.test", 403), ("a.test", 200)] {
            client.ready().await.unwrap();
            let fields = [("host", host), ("proxy-authorization", "Basic guest")];
            let response = client.send_request(get("/x?y=z", &fields)).await.unwrap();
            assert_eq!(outcome(response).await.0, expected, "{host}");
        }
        let text = String::from_utf8(seen.borrow().clone()).unwrap();
        assert!(
            text.starts_with("GET http://a.test/x?y=z HTTP/1.1\r\n"),
            "{text}"
        );
        assert!(
            text.contains("proxy-authorization: Basic dTpw\r\n"),
            "{text}"
        );
        assert!(
            !text.contains("guest") && !text.contains("b.test"),
            "{text}"
        );
    });
}

#[test]
fn what_is_no_http_at_port_80_is_tunnelled() {
    with_rig(Behaviour::default(), async |rig| {
        let answer = b"HTTP/1.1 200 OK\r\n\r\nhello";
        let (address, seen) = fake(b"\r\n\r\n", &[answer]).await;
        let rig = rig.with_proxies(all(&format!("http://{address}")));
        let flow = rig.try_open(Some("a.test"), ADDRESS, 80).await.unwrap();
        let (mut guest, near) = tokio::io::duplex(64 * 1024);
        spawn_local(flow.serve(near));
        guest.write_all(b"other 1\n").await.unwrap();
        let mut said = [0; 5];
        guest.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
        assert!(seen.borrow().starts_with(b"CONNECT a.test:80 HTTP/1.1\r\n"));
    });
}

#[test]
fn what_the_user_gave_and_the_host_itself_are_reached_directly() {
    with_rig(Behaviour::default(), async |rig| {
        let (address, seen) = fake(b"\r\n\r\n", &[]).await;
        let policy = agent_vm_policy::Policy::public().allow_host();
        let proxies = all(&format!("http://{address}"));
        let rig = rig.with_policy(policy).with_proxies(proxies);
        let host = agent_vm_policy::HOST_SERVICE_NAME;
        let port = echo().await;
        for (name, to, port) in [(FREE, "198.18.0.9", 443), (host, "198.18.0.8", port)] {
            let reached = rig.try_open(Some(name), to, port).await;
            assert!(reached.is_ok(), "{name}");
        }
        assert!(seen.borrow().is_empty());
    });
}

/// A guest's TLS to an intercepted host at the upstream's own port, through whatever proxy the rig has.
async fn intercepted(rig: &Rig) -> crate::rig::Http1 {
    let port = rig.upstream.address.port();
    let flow = rig.try_open(Some(LOCAL), ADDRESS, port).await.unwrap();
    let (guest, near) = tokio::io::duplex(64 * 1024);
    spawn_local(flow.serve(near));
    let ca = rig.egress().ca_pem();
    let stream = connect(guest, ca, LOCAL, &["http/1.1"]).await.unwrap();
    http1(stream).await
}

fn named_localhost() -> Behaviour {
    Behaviour {
        names: vec![LOCAL.to_owned()],
        ..Behaviour::default()
    }
}

#[test]
fn an_intercepted_host_gets_its_token_through_tinyproxy() {
    with_rig(named_localhost(), async |rig| {
        let proxy = tinyproxy().await;
        let url = format!("http://{USER}:secret@{}", proxy.address);
        let through = rig.with_proxies(all(&url));
        let mut client = intercepted(&through).await;
        let token = format!("Bearer {}", through.local);
        for _ in 0..2 {
            client.ready().await.unwrap();
            let request = get("/v1?q=1", &[("host", LOCAL), ("authorization", &token)]);
            let answer = outcome(client.send_request(request).await.unwrap()).await;
            assert_eq!(answer, (200, None, "hello".into()));
        }
        let elsewhere = get("/v1", &[("host", LOCAL), ("x-api-key", &token)]);
        client.ready().await.unwrap();
        let refused = outcome(client.send_request(elsewhere).await.unwrap()).await;
        assert_eq!(refused.0, 403);
        let real = format!("Bearer {OTHER_SECRET}");
        let seen = through.upstream.seen.borrow();
        let tokens: Vec<_> = seen
            .iter()
            .map(|seen| seen.header("authorization"))
            .collect();
        assert_eq!(tokens, [Some(real.as_str()); 2]);
        let lines = through.audit();
        let request = lines.iter().find(|line| line["path"] == "/v1").unwrap();
        let proxy = format!("http://{}", proxy.address);
        assert_eq!(
            (&request["proxy"], &request["credential"]),
            (&proxy.into(), &"other".into())
        );
        assert!(!format!("{lines:?}").contains("secret"), "{lines:?}");
    });
}

#[test]
fn an_upstream_that_only_the_proxy_vouches_for_is_not_believed() {
    with_rig(Behaviour::default(), async |rig| {
        let proxy = tinyproxy().await;
        let url = format!("http://{USER}:secret@{}", proxy.address);
        let through = rig.with_proxies(all(&url));
        let mut client = intercepted(&through).await;
        let token = format!("Bearer {}", through.local);
        let request = get("/v1", &[("host", LOCAL), ("authorization", &token)]);
        let answer = outcome(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer.0, 502, "{answer:?}");
        assert!(through.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn a_name_that_only_the_proxy_resolves_is_dialled_by_name_and_never_at_its_stand_in() {
    with_rig(Behaviour::default(), async |rig| {
        let answer = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], BANNER].concat();
        let (address, seen) = fake(b"\r\n\r\n", &[&answer]).await;
        let url = format!("http://{address}");
        let through = rig.with_proxies(all(&url));
        assert!(through.egress().connects_by_name("only-there.test"));
        let flow = through
            .try_open(Some("only-there.test"), "198.19.0.1", 22)
            .await;
        let (mut guest, near) = tokio::io::duplex(64 * 1024);
        spawn_local(flow.unwrap().serve(near));
        let mut banner = [0; BANNER.len()];
        guest.read_exact(&mut banner).await.unwrap();
        assert_eq!(banner, BANNER);
        assert!(seen.borrow().starts_with(b"CONNECT only-there.test:22 "));
        drop(guest);

        let listed = agent_vm_policy::Policy::new(agent_vm_policy::Scope {
            preset: agent_vm_policy::Preset::Allowlist,
            domains: Vec::new(),
            builtin: Vec::new(),
        });
        let by_address = all(&format!("socks5://{address}"));
        let excepted = ProxySettings {
            no_proxy: ".test".into(),
            ..all(&url)
        };
        let cases = [
            (rig.clone(), Some("only-there.test")),
            (through.with_policy(listed), Some("only-there.test")),
            (rig.with_proxies(excepted), Some("only-there.test")),
            (rig.with_proxies(by_address), Some("only-there.test")),
            (through.clone(), None),
            (through, Some("printer.local")),
        ];
        for (number, (rig, name)) in cases.into_iter().enumerate() {
            assert!(!name.is_some_and(|name| rig.egress().connects_by_name(name)));
            let error = rig.try_open(name, "198.19.0.1", 443).await.err();
            assert!(
                matches!(error, Some(OpenError::Denied { .. })),
                "case {number}: {error:?}"
            );
        }
    });
}
