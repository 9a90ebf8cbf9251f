//! The socket as another process of the same user sees it.

use std::os::unix::fs::MetadataExt as _;
use std::rc::Rc;

use agent_vm_egress::{
    AuditSink, ConnectRequest, EgressConfig, LocalBoxFuture, OpenError, ProxySettings,
    SecretSource, SecretUnavailable, TokenEndpoints, UpstreamRoots,
};
use agent_vm_policy::{HostName, Policy, Preset, Scope};
use agent_vm_secret::Secret;
use agent_vm_state::BaseDirectories;
use tokio::task::{LocalSet, spawn_blocking, spawn_local};

use super::*;

struct None;

impl SecretSource for None {
    fn secret<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Secret, SecretUnavailable>> {
        let credential = credential.to_owned();
        Box::pin(async { Err(SecretUnavailable { credential }) })
    }

    fn rejected<'a>(&'a self, _: &'a str, _: &'a Secret) -> LocalBoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }
}

fn asking(directory: &Path) -> Egress {
    let scope = Scope {
        preset: Preset::Ask,
        ..Scope::default()
    };
    let config = EgressConfig {
        session: "s".to_owned(),
        project: "p".to_owned(),
        policy: Policy::new(scope),
        credentials: Vec::new(),
        secrets: Rc::new(None),
        token_endpoints: TokenEndpoints::default(),
        roots: UpstreamRoots::default(),
        overrides: Vec::new(),
        proxies: ProxySettings::default(),
        audit: AuditSink::open(&directory.join("audit.jsonl")).unwrap(),
    };
    Egress::new(config).unwrap()
}

/// Asks the one session there is, as another process does.
async fn ask(directories: &HostDirectories, request: ControlRequest) -> ControlReply {
    let directories = directories.clone();
    let asked = spawn_blocking(move || {
        let mut running = running_sessions(&directories).unwrap();
        assert_eq!(running.len(), 1);
        running.pop().unwrap().ask(&request).unwrap()
    });
    asked.await.unwrap()
}

#[test]
fn what_waits_is_told_and_an_answer_lets_it_go_on() {
    let home = tempfile::tempdir().unwrap();
    // Longer than the path of a socket may be.
    let state = home.path().join("s".repeat(120));
    let directories = HostDirectories::from_base(&BaseDirectories {
        home: home.path().to_owned(),
        state_override: Some(state),
        ..BaseDirectories::default()
    });
    let session = directories.sessions().join("0123456789abcdef");
    fs_err::create_dir_all(&session).unwrap();
    fs_err::create_dir_all(directories.sessions().join("dead")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let egress = asking(home.path());
        let mut services = JoinSet::new();
        serve(&mut services, &session, (egress.clone(), "p".to_owned())).unwrap();
        let mode = fs_err::metadata(session.join(SOCKET)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let open = |name: &str| {
            let request = ConnectRequest {
                names: vec![HostName::parse(name).unwrap()],
                address: "8.8.8.8".parse().unwrap(),
                port: 443,
            };
            let egress = egress.clone();
            spawn_local(async move { egress.open(request).await.err() })
        };
        let held = open("a.example.test");
        tokio::task::yield_now().await;
        let told = ask(&directories, ControlRequest::Pending).await;
        assert_eq!((told.project.as_str(), told.pending.len()), ("p", 1));
        assert_eq!(told.pending[0].host, "a.example.test");
        assert!((50..=60).contains(&told.pending[0].seconds_left));
        let hosts = "*.example.test".to_owned();
        let told = ask(&directories, ControlRequest::Deny { hosts }).await;
        assert_eq!((told.answered, told.pending.len()), (1, 0));
        let denied = held.await.unwrap();
        assert!(
            matches!(denied, Some(OpenError::Denied { .. })),
            "{denied:?}"
        );
        for hosts in ["*", "10.0.0.1", "a b"] {
            let hosts = hosts.to_owned();
            let told = ask(&directories, ControlRequest::Allow { hosts }).await;
            assert!(told.refused.is_some(), "{told:?}");
        }
        drop(services);
        tokio::task::yield_now().await;
        let ended = running_sessions(&directories).unwrap().pop().unwrap();
        assert!(ended.ask(&ControlRequest::Pending).is_err());
    });
}

#[test]
fn a_request_that_is_none_is_refused_and_a_long_one_is_not_read() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut services = JoinSet::new();
        let egress = asking(home.path());
        serve(&mut services, home.path(), (egress, "p".to_owned())).unwrap();
        for line in [b"{}\n".to_vec(), b"\n".to_vec(), vec![b'['; 5000]] {
            let directory = home.path().to_owned();
            let asked = spawn_blocking(move || {
                let mut stream = connect(&directory)?;
                stream.write_all(&line)?;
                let mut reply = String::new();
                stream.read_to_string(&mut reply).map(|_| reply)
            });
            // What was not read may reset the connection after the answer.
            match asked.await.unwrap() {
                Ok(reply) => assert!(reply.contains("not understood"), "{reply}"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    });
}
