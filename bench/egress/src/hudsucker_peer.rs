//! The peer hudsucker, as its example has it, with an upstream that is trusted and nothing looked at.

use std::path::Path;

use anyhow::Result;
use hudsucker::Proxy;
use hudsucker::certificate_authority::RcgenAuthority;

use crate::{REAL_TOKEN, tls};

/// Leaves kept.
const LEAVES: u64 = 1_000;

pub(crate) fn run(directory: &Path) -> Result<()> {
    let issuer = tls::authority(&directory.join("hudsucker.pem"))?;
    let authority = RcgenAuthority::new(issuer, LEAVES, rustls::crypto::ring::default_provider());
    let client = tls::client(&directory.join("upstream.pem"))?;
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(client)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .build();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{} {REAL_TOKEN}", listener.local_addr()?);
        let proxy = Proxy::builder()
            .with_listener(listener)
            .with_ca(authority)
            .with_http_connector(connector)
            .build()?;
        proxy.start().await?;
        Ok(())
    })
}
