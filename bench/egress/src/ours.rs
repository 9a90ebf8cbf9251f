//! The product's egress behind a plain socket: every connection is one the guest opens to [`HOST`], which has a credential.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use agent_vm_egress::{
    AuditSink, BoundCredential, ConnectRequest, Egress, EgressConfig, HeaderRule, LocalBoxFuture,
    ProxySettings, ResolveOverride, SecretSource, SecretUnavailable, TokenEndpoints, UpstreamRoots,
};
use agent_vm_policy::{HostName, HostPattern, Policy};
use agent_vm_secret::{Placeholder, Secret};
use anyhow::Result;
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::{HOST, REAL_TOKEN};

struct OneSecret;

impl SecretSource for OneSecret {
    fn secret<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Secret, SecretUnavailable>> {
        let secret = Secret::new(REAL_TOKEN).map_err(|_| SecretUnavailable {
            credential: credential.to_owned(),
        });
        Box::pin(async move { secret })
    }

    fn rejected<'a>(&'a self, _credential: &'a str, _used: &'a Secret) -> LocalBoxFuture<'a, bool> {
        Box::pin(async { false })
    }
}

pub(crate) async fn run(directory: &Path, to: SocketAddr) -> Result<()> {
    let placeholder = Placeholder::mint("sk-bench-")?;
    let host = HostName::parse(HOST)?;
    let egress = Egress::new(EgressConfig {
        session: "bench".into(),
        project: "bench".into(),
        policy: Policy::public(),
        credentials: vec![BoundCredential {
            name: "bench".into(),
            placeholder: placeholder.clone(),
            hosts: vec![HostPattern::parse(HOST)?],
            header: HeaderRule::parse("authorization")?,
        }],
        secrets: Rc::new(OneSecret),
        token_endpoints: TokenEndpoints::default(),
        roots: UpstreamRoots {
            extra_pem: vec![fs_err::read_to_string(directory.join("upstream.pem"))?],
        },
        overrides: vec![ResolveOverride {
            host: host.clone(),
            port: 443,
            target: to,
        }],
        proxies: ProxySettings::default(),
        audit: AuditSink::open(&directory.join("audit.jsonl"))?,
    })?;
    fs_err::write(directory.join("ours.pem"), egress.ca_pem())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {placeholder}", listener.local_addr()?);
    loop {
        let (guest, _) = listener.accept().await?;
        guest.set_nodelay(true)?;
        let (egress, host) = (egress.clone(), host.clone());
        spawn_local(async move {
            let request = ConnectRequest {
                names: vec![host],
                address: [198, 18, 0, 1].into(),
                port: 443,
            };
            if let Ok(flow) = egress.open(request).await {
                flow.serve(guest).await;
            }
        });
    }
}
