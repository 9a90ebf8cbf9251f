use agent_vm_credentials::{
    ClientLock, ClientValue, ExpiryField, HeaderSpec, LoginFields, RefreshBody, RefreshEndpoint,
    ScopeField,
};
use agent_vm_egress::{ConnectRequest, Egress};
use agent_vm_state::{BaseDirectories, HostDirectories, SessionDirectory};
use agent_vm_test_support::issuer::{Behaviour, Issuer as Provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::request::ResolveOverride;

const API: &str = "api.issuer.test";
const LOGIN: &str = "login.issuer.test";

static ENDPOINT: RefreshEndpoint = RefreshEndpoint {
    host: LOGIN,
    path: "/v1/oauth/token",
    body: RefreshBody::Json,
    client_id: ClientValue::Fixed("the-client"),
    client_secret: None,
    sends_scope: true,
    extra: &[],
};

static FIELDS: LoginFields = LoginFields {
    access: Some(&["login", "access"]),
    refresh: &["login", "refresh"],
    expiry: ExpiryField::Milliseconds(&["login", "expires"]),
    id_token: None,
    scopes: Some(ScopeField::List(&["login", "scopes"])),
    renewed_at: None,
    lock: ClientLock::None,
};

/// A host with one login, a provider, and the egress of a launch.
struct Rig {
    provider: Provider,
    egress: Egress,
    news: mpsc::Receiver<String>,
    access: Placeholder,
    refresh: Placeholder,
    home: tempfile::TempDir,
    _session: SessionDirectory,
}

fn quick() -> Behaviour {
    Behaviour {
        lifetime: 28_800,
        delay: Duration::ZERO,
        failing: None,
        coding: None,
    }
}

fn with_rig<F: Future<Output = ()>>(left: i64, behaviour: Behaviour, test: impl FnOnce(Rig) -> F) {
    let runtime = crate::launch::event_loop().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let test = test(Rig::new(left, behaviour));
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, test)
            .await
            .expect("the test hangs");
    });
}

impl Rig {
    fn new(left: i64, behaviour: Behaviour) -> Self {
        let provider = Provider::start(&[API, LOGIN], behaviour).unwrap();
        let home = tempfile::tempdir().unwrap();
        log_in(home.path(), 0, left);
        let mint = |prefix| Placeholder::mint(prefix).unwrap();
        let (access, refresh) = (mint("sk-ant-oat01-"), mint("sk-ant-ort01-"));
        let mut request = crate::plan::tests::request(home.path());
        request.directories = HostDirectories::from_base(&BaseDirectories {
            home: home.path().to_owned(),
            ..BaseDirectories::default()
        });
        request.credentials.credentials = credentials(home.path(), &access, &refresh);
        request.network.upstream_ca_pem = provider.ca_pem().as_bytes().to_vec();
        request.network.resolve = to_provider(&provider);
        let session = SessionDirectory::create(&request.directories).unwrap();
        let (egress, news) = crate::prepare::egress(&request, session.id()).unwrap();
        Self {
            provider,
            egress,
            news,
            access,
            refresh,
            home,
            _session: session,
        }
    }

    /// One request of the guest over TLS; status and body.
    async fn ask(&self, host: &str, method: &str, fields: &str, body: &str) -> (u16, String) {
        let flow = self.egress.open(ConnectRequest {
            names: vec![HostName::parse(host).unwrap()],
            address: "198.18.0.9".parse().unwrap(),
            port: 443,
        });
        let flow = flow.await.unwrap();
        let (guest, near) = tokio::io::duplex(64 * 1024);
        let _flow = spawn_local(async move { flow.serve(near).await });
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.egress.ca_pem().as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, guest).await.unwrap();
        let path = if host == LOGIN {
            ENDPOINT.path
        } else {
            "/v1/messages"
        };
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
             content-length: {length}\r\n{fields}\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Some servers end TCP without ending TLS.
        let _ended = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// A request to the API with the access token's placeholder.
    async fn call(&self) -> u16 {
        let fields = format!("authorization: Bearer {}\r\n", self.access);
        self.ask(API, "GET", &fields, "").await.0
    }

    /// The guest's own renewal.
    async fn renew(&self) -> (u16, Value) {
        let body = json!({
            "grant_type": "refresh_token",
            "refresh_token": self.refresh.as_str(),
            "client_id": "the-client",
            "scope": "user:profile user:inference",
        });
        let fields = "content-type: application/json\r\n";
        let (status, body) = self.ask(LOGIN, "POST", fields, &body.to_string()).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    fn document(&self) -> Value {
        let text = fs_err::read(self.home.path().join("login.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Changes the login in the file.
    fn change(&self, by: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let mut document = self.document();
        by(document["login"].as_object_mut().unwrap());
        fs_err::write(self.home.path().join("login.json"), document.to_string()).unwrap();
    }

    async fn until_file_has(&self, generation: usize) {
        while self.document()["login"]["refresh"] != Provider::refresh(generation) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lines of the audit log of this kind.
    fn audit(&self, kind: &str) -> Vec<Value> {
        let log = self.home.path().join(".local/state/agent-vm/audit.jsonl");
        let text = fs_err::read_to_string(log).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    }
}

fn log_in(home: &std::path::Path, generation: usize, left: i64) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let document = json!({
        "unknown": {"kept": [1, 2]},
        "login": {
            "access": Provider::access(generation),
            "refresh": Provider::refresh(generation),
            "expires": i64::try_from(now.as_millis()).unwrap() + left * 1000,
            "scopes": ["user:profile", "user:inference"],
        },
    });
    let file = home.join("login.json");
    fs_err::write(&file, document.to_string()).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::open(&file)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
}

fn credentials(
    home: &std::path::Path,
    access: &Placeholder,
    refresh: &Placeholder,
) -> Vec<Credential> {
    let facts = RefreshFacts {
        endpoint: &ENDPOINT,
        file: home.join("login.json"),
        fields: &FIELDS,
        expires: None,
        refresh_placeholder: refresh.clone(),
        guest_id_token: None,
        guest_scope: "user:profile user:inference".to_owned(),
    };
    let credential = |name: &str, token: String, placeholder: &Placeholder| Credential {
        name: name.to_owned(),
        secret: Some(Secret::new(token).unwrap()),
        placeholder: placeholder.clone(),
        hosts: Vec::new(),
        header: HeaderSpec::bearer(),
        source: "login.json".to_owned(),
        refresh: None,
    };
    let access = Credential {
        hosts: vec![HostPattern::parse(API).unwrap()],
        refresh: Some(facts),
        ..credential("login", Provider::access(0), access)
    };
    vec![
        access,
        credential("login-refresh", Provider::refresh(0), refresh),
    ]
}

fn to_provider(provider: &Provider) -> Vec<ResolveOverride> {
    let route = |host| ResolveOverride {
        host: HostName::parse(host).unwrap(),
        port: 443,
        address: provider.address(),
    };
    [API, LOGIN].map(route).to_vec()
}

fn bearer(generation: usize) -> String {
    format!("Bearer {}", Provider::access(generation))
}

#[test]
fn a_token_that_has_ended_is_renewed_before_the_request_goes_on() {
    with_rig(-5, quick(), |rig| async move {
        assert_eq!(rig.call().await, 200);
        assert_eq!(rig.call().await, 200);
        let seen = rig.provider.seen();
        assert_eq!(seen.authorizations, [bearer(1), bearer(1)]);
        assert_eq!((seen.granted, seen.refused), (1, 0));
        assert_eq!(rig.document()["unknown"], json!({"kept": [1, 2]}));
        let lines = rig.audit("refresh");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["credential"], "login-refresh");
        assert_eq!(
            (&lines[0]["host"], &lines[0]["status"]),
            (&json!(LOGIN), &json!(200))
        );
    });
}

#[test]
fn a_token_that_ends_soon_is_renewed_while_it_is_used() {
    let slow = Behaviour {
        delay: Duration::from_millis(300),
        ..quick()
    };
    with_rig(100, slow, |rig| async move {
        let begun = Instant::now();
        let _either = rig.call().await;
        rig.until_file_has(1).await;
        assert!(begun.elapsed() >= Duration::from_millis(250));
        assert_eq!(rig.call().await, 200);
        assert_eq!(rig.provider.seen().granted, 1);
    });
}

#[test]
fn a_rejected_token_is_renewed_and_the_request_repeated() {
    with_rig(7200, quick(), |rig| async move {
        assert_eq!(rig.call().await, 200);
        rig.provider.revoke();
        assert_eq!(rig.call().await, 200, "the guest sees nothing of it");
        let seen = rig.provider.seen();
        assert_eq!(seen.authorizations, [bearer(0), bearer(0), bearer(1)]);
        assert_eq!(seen.granted, 1);
    });
}

#[test]
fn what_the_hosts_own_client_renewed_is_used_from_the_next_request_on() {
    with_rig(7200, quick(), |rig| async move {
        assert_eq!(rig.call().await, 200);
        log_in(rig.home.path(), rig.provider.rotate(), 7200);
        assert_eq!(rig.call().await, 200);
        let seen = rig.provider.seen();
        assert_eq!(seen.authorizations, [bearer(0), bearer(1)]);
        assert!(seen.bodies.is_empty(), "nothing was asked of the provider");
    });
}

#[test]
fn a_guest_that_renews_gets_placeholders_and_the_time_that_is_left() {
    with_rig(-5, quick(), |rig| async move {
        let (status, document) = rig.renew().await;
        assert_eq!(status, 200);
        assert_eq!(document["access_token"], rig.access.as_str());
        assert_eq!(document["refresh_token"], rig.refresh.as_str());
        assert_eq!(document["scope"], "user:profile user:inference");
        let left = document["expires_in"].as_u64().unwrap();
        assert!((28_790..=28_800).contains(&left), "{left}");
        // A second guest's renewal is answered from the file.
        assert_eq!(rig.renew().await.0, 200);
        let seen = rig.provider.seen();
        assert_eq!((seen.granted, seen.refused), (1, 0));
        assert!(!seen.bodies[0].contains(rig.refresh.as_str()));
        assert_eq!(rig.call().await, 200);
    });
}

#[test]
fn a_provider_that_fails_leaves_every_login_as_it_is() {
    let failing = Behaviour {
        failing: Some(400),
        ..quick()
    };
    with_rig(-5, failing, |mut rig| async move {
        let before = rig.document();
        rig.provider.behave(Behaviour {
            failing: Some(502),
            ..quick()
        });
        let (status, document) = rig.renew().await;
        assert_eq!(
            (status, document),
            (503, json!({"error": "temporarily_unavailable"}))
        );
        assert_eq!(rig.call().await, 503);
        assert_eq!(rig.renew().await.0, 503);
        assert_eq!(
            rig.provider.seen().bodies.len(),
            1,
            "the provider is left alone"
        );
        assert_eq!(rig.document(), before);
        let told = rig.news.recv().await.unwrap();
        assert!(
            told.contains("login.json was not renewed: it answered 502 invalid_grant"),
            "{told}"
        );
        assert!(rig.news.try_recv().is_err(), "told once");
    });
}

#[test]
fn a_login_that_is_over_is_the_upstreams_to_tell() {
    with_rig(-5, quick(), |mut rig| async move {
        rig.provider.rotate();
        assert_eq!(
            rig.renew().await.0,
            503,
            "never 400: the guest would forget its login"
        );
        assert_eq!(rig.call().await, 401);
        let told = rig.news.recv().await.unwrap();
        assert!(told.ends_with("log in on the host again"), "{told}");
    });
}

#[test]
fn a_compressed_answer_is_read_though_none_was_asked_for() {
    for coding in ["gzip", "deflate", "zstd"] {
        let compressing = Behaviour {
            coding: Some(coding),
            ..quick()
        };
        with_rig(-5, compressing, |rig| async move {
            assert_eq!(rig.call().await, 200);
            let seen = rig.provider.seen();
            assert_eq!((seen.granted, seen.refused), (1, 0));
            assert_eq!(seen.accepted, ["identity"]);
            assert_eq!(rig.document()["login"]["refresh"], Provider::refresh(1));
        });
    }
    let strange = Behaviour {
        coding: Some("br"),
        ..quick()
    };
    with_rig(-5, strange, |mut rig| async move {
        assert_eq!(rig.call().await, 503);
        let told = rig.news.recv().await.unwrap();
        assert!(told.contains("is compressed and cannot be read"), "{told}");
    });
}

#[test]
fn a_compressed_refusal_is_understood_too() {
    let refusing = Behaviour {
        coding: Some("gzip"),
        ..quick()
    };
    with_rig(-5, refusing, |mut rig| async move {
        rig.provider.rotate();
        assert_eq!(rig.renew().await.0, 503);
        let told = rig.news.recv().await.unwrap();
        assert!(told.contains("it answered 400 invalid_grant"), "{told}");
    });
}

#[test]
fn a_guest_that_renews_a_login_without_refresh_token_is_told_503_or_the_time_that_is_left() {
    for (left, status) in [(7200, 200), (-5, 503)] {
        with_rig(left, quick(), |rig| async move {
            rig.change(|login| drop(login.remove("refresh")));
            let before = rig.document();
            let (answered, document) = rig.renew().await;
            assert_eq!(
                answered, status,
                "never 400, with which a client forgets its login"
            );
            if status == 200 {
                assert_eq!(document["access_token"], rig.access.as_str());
                assert_eq!(document["refresh_token"], rig.refresh.as_str());
            } else {
                assert_eq!(document, json!({"error": "temporarily_unavailable"}));
            }
            assert!(
                rig.provider.seen().bodies.is_empty(),
                "there is nothing to ask with"
            );
            assert_eq!(rig.document(), before);
        });
    }
}

#[test]
fn an_answer_is_not_lost_with_the_guest_that_waited_for_it() {
    let slow = Behaviour {
        delay: Duration::from_millis(500),
        ..quick()
    };
    with_rig(-5, slow, |rig| async move {
        let rig = Rc::new(rig);
        let waiting = Rc::clone(&rig);
        let guest = spawn_local(async move { waiting.call().await });
        while rig.provider.seen().bodies.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        guest.abort();
        assert!(guest.await.unwrap_err().is_cancelled(), "the guest gave up");
        rig.until_file_has(1).await;
        assert_eq!(rig.call().await, 200);
        assert_eq!(rig.provider.seen().granted, 1);
    });
}

#[test]
fn many_requests_at_once_make_one_renewal() {
    let slow = Behaviour {
        delay: Duration::from_millis(200),
        ..quick()
    };
    with_rig(-5, slow, |rig| async move {
        let rig = Rc::new(rig);
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let rig = Rc::clone(&rig);
                spawn_local(async move { rig.call().await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), 200);
        }
        assert_eq!(rig.provider.seen().granted, 1);
    });
}
