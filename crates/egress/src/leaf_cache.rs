//! TLS server configurations toward the guest, one per host and protocol, made when first needed. Bounded: the one
//! unused for longest goes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use agent_vm_policy::HostName;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use thiserror::Error;

use crate::ca::{CaError, SessionCa};

/// How many configurations are kept.
const CAPACITY: usize = 256;

/// What is offered to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Offer {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 and HTTP/1.1.
    Http2,
}

impl Offer {
    /// Protocol names in order of preference.
    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// Configurations by host and offer.
#[derive(Debug)]
pub(crate) struct LeafCache {
    provider: Arc<CryptoProvider>,
    entries: RefCell<HashMap<(HostName, Offer), Entry>>,
    clock: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    config: Arc<ServerConfig>,
    used: u64,
}

impl LeafCache {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self {
            provider,
            entries: RefCell::default(),
            clock: Cell::new(0),
        }
    }

    /// The configuration for `host`, signed by `ca`.
    pub(crate) fn server_config(
        &self,
        ca: &SessionCa,
        host: &HostName,
        offer: Offer,
    ) -> Result<Arc<ServerConfig>, LeafError> {
        let used = self.clock.get() + 1;
        self.clock.set(used);
        let key = (host.clone(), offer);
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(&key) {
            entry.used = used;
            return Ok(Arc::clone(&entry.config));
        }
        let config = self.make(ca, host, offer)?;
        if entries.len() >= CAPACITY {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                entries.remove(&oldest);
            }
        }
        entries.insert(
            key,
            Entry {
                config: Arc::clone(&config),
                used,
            },
        );
        Ok(config)
    }

    fn make(
        &self,
        ca: &SessionCa,
        host: &HostName,
        offer: Offer,
    ) -> Result<Arc<ServerConfig>, LeafError> {
        let leaf = ca.leaf(host).map_err(|source| LeafError::Ca { source })?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| LeafError::Tls { source })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        config.alpn_protocols = offer.alpn();
        Ok(Arc::new(config))
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub(crate) enum LeafError {
    /// No certificate was made.
    #[error("no certificate for the host")]
    Ca {
        #[source]
        source: CaError,
    },
    /// The TLS library refuses the configuration.
    #[error("no TLS configuration for the host")]
    Tls {
        #[source]
        source: rustls::Error,
    },
}

#[cfg(test)]
mod tests {
    use agent_vm_policy::HostPattern;

    use super::*;

    fn cache() -> (LeafCache, SessionCa) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let hosts = [HostPattern::parse("*.bound.test").unwrap()];
        (
            LeafCache::new(provider),
            SessionCa::new("s1", &hosts).unwrap(),
        )
    }

    fn host(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    #[test]
    fn the_same_host_and_offer_give_the_same_configuration() {
        let (cache, ca) = cache();
        let make = |name: &str, offer| cache.server_config(&ca, &host(name), offer).unwrap();
        let first = make("a.bound.test", Offer::Http2);
        assert!(Arc::ptr_eq(&first, &make("a.bound.test", Offer::Http2)));
        assert!(!Arc::ptr_eq(&first, &make("a.bound.test", Offer::Http1)));
        assert!(!Arc::ptr_eq(&first, &make("b.bound.test", Offer::Http2)));
    }

    #[test]
    fn the_one_unused_for_longest_goes() {
        let (cache, ca) = cache();
        let make = |n: usize| {
            let name = host(&format!("h{n}.bound.test"));
            cache.server_config(&ca, &name, Offer::Http1).unwrap()
        };
        let (zero, one) = (make(0), make(1));
        (2..CAPACITY).for_each(|n| drop(make(n)));
        assert!(Arc::ptr_eq(&zero, &make(0)));
        drop(make(CAPACITY));
        assert_eq!(cache.entries.borrow().len(), CAPACITY);
        assert!(Arc::ptr_eq(&zero, &make(0)));
        assert!(!Arc::ptr_eq(&one, &make(1)));
    }
}
