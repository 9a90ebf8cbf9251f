//! Which authorities may vouch for upstream servers: the host's own store, read when first needed, and what the user
//! adds.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use thiserror::Error;
use tokio::sync::OnceCell;

/// Authorities that may vouch for upstream servers.
#[derive(Debug, Clone, Default)]
pub struct UpstreamRoots {
    /// PEM certificates beside those of the host's own store.
    pub extra_pem: Vec<String>,
}

/// The TLS configuration toward upstreams, made when first needed.
#[derive(Debug)]
pub(crate) struct LazyRoots {
    provider: Arc<CryptoProvider>,
    extra: Vec<CertificateDer<'static>>,
    config: OnceCell<Arc<ClientConfig>>,
}

impl LazyRoots {
    /// Reads the user's certificates at once, so that a wrong file is told at launch.
    pub(crate) fn new(
        provider: Arc<CryptoProvider>,
        roots: &UpstreamRoots,
    ) -> Result<Self, RootsError> {
        let mut extra = Vec::new();
        let mut store = RootCertStore::empty();
        for pem in &roots.extra_pem {
            let before = extra.len();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|source| RootsError::Pem { source })?;
                store
                    .add(certificate.clone())
                    .map_err(|source| RootsError::Certificate { source })?;
                extra.push(certificate);
            }
            if extra.len() == before {
                return Err(RootsError::Empty);
            }
        }
        Ok(Self {
            provider,
            extra,
            config: OnceCell::new(),
        })
    }

    /// The configuration. Reading the host's store takes some milliseconds, so it is done on another thread.
    pub(crate) async fn client_config(&self) -> Result<Arc<ClientConfig>, RootsError> {
        let load = async {
            let (provider, extra) = (Arc::clone(&self.provider), self.extra.clone());
            tokio::task::spawn_blocking(move || load(provider, extra))
                .await
                .map_err(|source| RootsError::Thread { source })?
        };
        self.config.get_or_try_init(|| load).await.cloned()
    }
}

fn load(
    provider: Arc<CryptoProvider>,
    extra: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, RootsError> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a certificate of the host's store cannot be read");
    }
    let mut store = RootCertStore::empty();
    let (_added, ignored) = store.add_parsable_certificates(native.certs.into_iter().chain(extra));
    if ignored > 0 {
        tracing::debug!(ignored, "certificates of the host's store cannot be used");
    }
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| RootsError::Certificate { source })?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Why there are no roots.
#[derive(Debug, Error)]
pub enum RootsError {
    /// A PEM file cannot be read.
    #[error("an extra upstream authority is not valid PEM")]
    Pem {
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A PEM file holds no certificate.
    #[error("an extra upstream authority holds no certificate")]
    Empty,
    /// A certificate cannot be a root.
    #[error("an extra upstream authority cannot be used")]
    Certificate {
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The thread that reads the store died.
    #[error("the host's certificate store was not read")]
    Thread {
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(pem: &str) -> Result<LazyRoots, RootsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        LazyRoots::new(
            provider,
            &UpstreamRoots {
                extra_pem: vec![pem.to_owned()],
            },
        )
    }

    #[test]
    fn a_wrong_authority_is_told_at_once() {
        assert!(matches!(roots("nothing"), Err(RootsError::Empty)));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            roots(garbage),
            Err(RootsError::Certificate { .. })
        ));
        let broken = "-----BEGIN CERTIFICATE-----\nAA!A\n-----END CERTIFICATE-----\n";
        assert!(matches!(roots(broken), Err(RootsError::Pem { .. })));
    }

    #[tokio::test]
    async fn the_configuration_is_made_once() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = LazyRoots::new(provider, &UpstreamRoots::default()).unwrap();
        let one = roots.client_config().await.unwrap();
        assert!(Arc::ptr_eq(&one, &roots.client_config().await.unwrap()));
    }
}
