//! The HTTP client: trust anchors, proxies, timeouts and redirects, all given by the caller, nothing taken from the environment.

use std::sync::Arc;

use reqwest::redirect::Policy;
use reqwest::{NoProxy, Proxy};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::CONNECT_TIMEOUT;
use super::error::RegistryError;
use crate::pull::{PlainHttp, PullOptions};
use crate::reference::Reference;

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// Builds the client for the registry of `image`.
pub(super) fn build(
    image: &Reference,
    options: &PullOptions,
) -> Result<reqwest::Client, RegistryError> {
    let setup = |what| RegistryError::Setup {
        image: image.clone(),
        what,
    };
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(tls(image, options)?)
        .user_agent(concat!("agent-vm/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(options.stall_timeout)
        .redirect(redirects(image, options.plain_http));
    let exceptions = options
        .proxies
        .no_proxy
        .as_deref()
        .and_then(NoProxy::from_string);
    if let Some(address) = options
        .proxies
        .https
        .as_deref()
        .or(options.proxies.all.as_deref())
        .filter(|_| !image.is_loopback())
    {
        builder = builder.proxy(
            Proxy::https(address)
                .map_err(|_| setup("HTTPS proxy"))?
                .no_proxy(exceptions.clone()),
        );
    }
    if let Some(address) = options
        .proxies
        .http
        .as_deref()
        .or(options.proxies.all.as_deref())
        .filter(|_| !image.is_loopback())
    {
        builder = builder.proxy(
            Proxy::http(address)
                .map_err(|_| setup("HTTP proxy"))?
                .no_proxy(exceptions),
        );
    }
    builder.build().map_err(|_| setup("HTTP client"))
}

/// Redirects are followed a few times and never from TLS to plain text. The client drops the credential on another host.
fn redirects(image: &Reference, plain: PlainHttp) -> Policy {
    let plain_allowed = image.is_loopback() || plain == PlainHttp::Allowed;
    Policy::custom(move |attempt| {
        let steps_down = attempt.url().scheme() != "https"
            && attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS
            || steps_down
            || (attempt.url().scheme() != "https" && !plain_allowed)
        {
            attempt.stop()
        } else {
            attempt.follow()
        }
    })
}

fn tls(image: &Reference, options: &PullOptions) -> Result<ClientConfig, RegistryError> {
    let setup = |what| RegistryError::Setup {
        image: image.clone(),
        what,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for pem in &options.extra_ca_pem {
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots
                .add(certificate.map_err(|_| setup("extra CA file"))?)
                .map_err(|_| setup("extra CA certificate"))?;
            found += 1;
        }
        if found == 0 {
            return Err(setup("extra CA file (it holds no certificate)"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| setup("TLS library"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_ca_without_certificates_is_refused() {
        let image = "ghcr.io/a/b".parse().unwrap();
        for pem in [
            &b"no certificate"[..],
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let options = PullOptions {
                extra_ca_pem: vec![pem.to_vec()],
                ..PullOptions::default()
            };
            assert!(matches!(
                build(&image, &options),
                Err(RegistryError::Setup { .. })
            ));
        }
    }
}
