//! Talking to a registry: manifests by tag or digest, blobs by digest from an offset (OCI distribution-spec 1.1, "Pull").
//!
//! Everything a registry answers is untrusted: bodies are read up to a limit, tokens are checked before they become a header, redirects
//! are few and never step down from TLS, credentials go to the registry and the token server it names and nowhere else, and every wait
//! has an end. Plain HTTP is spoken to this machine only, unless the user asks for it.

use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue,
    LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode, Url};

use crate::escape::Escaped;
use crate::manifest::{ACCEPTED_MANIFESTS, Blob};
use crate::pull::{PlainHttp, PullOptions};
use crate::reference::Reference;

mod challenge;
mod client;
mod credential;
mod error;
mod token;

pub use credential::CredentialError;
pub use error::RegistryError;

use credential::Credential;

/// How long a connection may take to come up, TLS included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the answer to a small request (manifest, configuration, token) may take in all.
const SMALL_ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The most bytes of an error body that are looked at.
const MAX_ERROR_BODY: u64 = 16 << 10;

/// What a pull needs from a registry, for one repository.
pub(crate) trait Registry {
    /// A blob on its way.
    type Body: Body;

    /// The manifest or index under a tag or digest, at most `limit` bytes. The bytes are not verified here.
    fn manifest(
        &self,
        selector: &str,
        limit: u64,
    ) -> impl Future<Output = Result<FetchedManifest, RegistryError>>;

    /// Begins to read a blob.
    fn blob(
        &self,
        blob: Blob,
        start: Start,
    ) -> impl Future<Output = Result<Self::Body, RegistryError>>;

    /// The error for a connection that is too slow to wait for.
    fn too_slow(&self) -> RegistryError;
}

/// Where to begin in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With its first byte.
    Beginning,
    /// At this offset: only the rest is asked for.
    Range(u64),
    /// At this offset, of a registry that cannot give parts: all is asked for, what comes before is dropped.
    Skip(u64),
}

/// The bytes of a blob as they arrive.
pub(crate) trait Body {
    /// The next bytes; `None` at the end of the answer.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, RegistryError>>;
}

/// A manifest as it was sent.
#[derive(Debug)]
pub(crate) struct FetchedManifest {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: Option<String>,
}

/// A registry over HTTP(S).
pub(crate) struct HttpRegistry {
    client: reqwest::Client,
    base: Url,
    reference: Reference,
    plain: PlainHttp,
    credential: Option<Credential>,
    /// Why there may be a login that could not be had: told when one is wanted.
    lookup_failure: parking_lot::Mutex<Option<CredentialError>>,
    authorization: parking_lot::Mutex<Option<HeaderValue>>,
}

/// The answer to a blob request.
pub(crate) struct HttpBody {
    response: Response,
    /// Bytes at the beginning the caller has already.
    skip: u64,
    /// Bytes that have to come after those.
    missing: u64,
    reference: Reference,
}

impl HttpRegistry {
    /// Prepares to talk to the registry of `reference`; reads the credential files, asks no network.
    pub(crate) async fn new(
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Self, RegistryError> {
        let (credential, lookup_failure) = match credential::find(reference, &options.auth).await {
            Ok(credential) => (credential, None),
            Err(failure) => (None, Some(failure)),
        };
        let scheme = match (reference.is_loopback(), options.plain_http) {
            (true, _) | (_, PlainHttp::Allowed) => "http",
            (false, PlainHttp::LoopbackOnly) => "https",
        };
        let base = format!(
            "{scheme}://{}/v2/{}/",
            reference.api_host(),
            reference.repository()
        );
        let base = Url::parse(&base).map_err(|_| RegistryError::Address {
            image: reference.clone(),
        })?;
        let client = client::build(reference, options)?;
        let authorization = parking_lot::Mutex::new(None);
        Ok(Self {
            client,
            base,
            reference: reference.clone(),
            plain: options.plain_http,
            credential,
            lookup_failure: parking_lot::Mutex::new(lookup_failure),
            authorization,
        })
    }

    /// Sends a GET, answering one authentication challenge on the way; gives only successful answers.
    async fn request(
        &self,
        path: &str,
        accept: &str,
        range: Option<u64>,
    ) -> Result<Response, RegistryError> {
        let url = self.base.join(path).map_err(|_| RegistryError::Address {
            image: self.reference.clone(),
        })?;
        let mut challenged = false;
        loop {
            let mut request = self
                .client
                .get(url.clone())
                .header(ACCEPT, accept)
                // Digests are over the bytes as they are stored.
                .header(ACCEPT_ENCODING, "identity");
            if let Some(offset) = range {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let authorization = self.authorization.lock().clone();
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = request
                .send()
                .await
                .map_err(|source| RegistryError::transport(&self.reference, source))?;
            if response.status() != StatusCode::UNAUTHORIZED || challenged {
                return self.check(response).await;
            }
            challenged = true;
            let Some(header) = self.answer_challenge(&response).await? else {
                return self.check(response).await;
            };
            *self.authorization.lock() = Some(header);
        }
    }

    async fn answer_challenge(
        &self,
        response: &Response,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let challenges = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        match challenge::choose(challenges) {
            Some(challenge::Challenge::Basic) => {
                token::basic(&self.reference, self.credential.as_ref())
            }
            Some(challenge::Challenge::Bearer(bearer)) => {
                let server = token::TokenServer {
                    client: &self.client,
                    image: &self.reference,
                    plain: self.plain,
                };
                let fetch = server.fetch(&bearer, self.credential.as_ref());
                match tokio::time::timeout(SMALL_ANSWER_TIMEOUT, fetch).await {
                    Ok(header) => header.map(Some),
                    Err(_) => Err(RegistryError::Timeout {
                        image: self.reference.clone(),
                    }),
                }
            }
            None => Ok(None),
        }
    }

    async fn check(&self, response: Response) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let image = self.reference.clone();
        if status.is_redirection() {
            let target = response.headers().get(LOCATION);
            let target = Escaped::new(target.map_or(&b""[..], HeaderValue::as_bytes));
            return Err(RegistryError::Redirect { image, target });
        }
        let retry_after = retry_after(response.headers());
        let elsewhere = response.url().host_str() != self.base.host_str();
        let host = Escaped::new(response.url().host_str().unwrap_or_default());
        let reason = read_limited(response, MAX_ERROR_BODY, &image)
            .await
            .ok()
            .and_then(|body| error::reason(&body));
        let reason =
            reason.unwrap_or_else(|| Escaped::new(status.canonical_reason().unwrap_or("")));
        let has_credential = self.credential.is_some();
        if let (401 | 403, false) = (status.as_u16(), elsewhere)
            && let Some(source) = self.lookup_failure.lock().take()
        {
            return Err(RegistryError::Credential { image, source });
        }
        Err(match status.as_u16() {
            // Not the registry speaks, but the storage it refers to: mostly an address that has expired.
            status @ 400..=410 if elsewhere => RegistryError::Storage {
                image,
                host,
                status,
                reason,
            },
            401 => RegistryError::Unauthorized {
                image,
                reason,
                has_credential,
            },
            403 => RegistryError::Forbidden {
                image,
                reason,
                has_credential,
            },
            404 => RegistryError::NotFound { image, reason },
            429 => RegistryError::TooManyRequests { image, retry_after },
            status => RegistryError::Status {
                image,
                status,
                reason,
                retry_after,
            },
        })
    }
}

impl Registry for HttpRegistry {
    type Body = HttpBody;

    async fn manifest(&self, selector: &str, limit: u64) -> Result<FetchedManifest, RegistryError> {
        let fetch = async {
            let response = self
                .request(
                    &format!("manifests/{selector}"),
                    &ACCEPTED_MANIFESTS.join(", "),
                    None,
                )
                .await?;
            let content_type = response
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned);
            if content_type.as_deref().is_some_and(is_web_page) {
                return Err(RegistryError::WebPage {
                    image: self.reference.clone(),
                });
            }
            Ok(FetchedManifest {
                bytes: read_limited(response, limit, &self.reference).await?,
                content_type,
            })
        };
        let late = |_| RegistryError::Timeout {
            image: self.reference.clone(),
        };
        tokio::time::timeout(SMALL_ANSWER_TIMEOUT, fetch)
            .await
            .map_err(late)?
    }

    async fn blob(&self, blob: Blob, start: Start) -> Result<HttpBody, RegistryError> {
        let bad_range = || RegistryError::BadRange {
            image: self.reference.clone(),
            digest: blob.digest,
        };
        let (offset, range) = match start {
            Start::Beginning => (0, None),
            Start::Range(offset) => (offset, Some(offset)),
            Start::Skip(offset) => (offset, None),
        };
        let path = format!("blobs/{}", blob.digest);
        let response = match self.request(&path, "*/*", range).await {
            Err(RegistryError::Status { status: 416, .. }) if range.is_some() => {
                return Err(bad_range());
            }
            answer => answer?,
        };
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if partial && range.is_none_or(|range| !is_rest(response.headers(), range, blob.size)) {
            return Err(bad_range());
        }
        Ok(HttpBody {
            response,
            // Ranges may be ignored.
            skip: if partial { 0 } else { offset },
            missing: blob.size.saturating_sub(offset),
            reference: self.reference.clone(),
        })
    }

    fn too_slow(&self) -> RegistryError {
        RegistryError::Timeout {
            image: self.reference.clone(),
        }
    }
}

impl Body for HttpBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            // Known as long as the answer has a length, of which nothing has been read yet.
            let delimited = self.response.content_length().is_some();
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|source| RegistryError::transport(&self.reference, source))?;
            let Some(mut chunk) = chunk else {
                if self.missing > 0 && !delimited {
                    // Nothing but the end of the connection tells the end of the answer: it may as well be cut.
                    let image = self.reference.clone();
                    return Err(RegistryError::Cut { image });
                }
                return Ok(None);
            };
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            let _ =
                chunk.split_to(usize::try_from(skipped).expect("not more than the chunk's length"));
            if !chunk.is_empty() {
                self.missing = self.missing.saturating_sub(chunk.len() as u64);
                return Ok(Some(chunk));
            }
        }
    }
}

/// Reads a whole small body; one byte over the limit refuses it.
async fn read_limited(
    mut response: Response,
    limit: u64,
    image: &Reference,
) -> Result<Bytes, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|source| RegistryError::transport(image, source))?
    {
        if body.len() as u64 + chunk.len() as u64 > limit {
            return Err(RegistryError::TooLarge {
                image: image.clone(),
                limit,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

/// Whether `Content-Range` (RFC 9110 §14.4) says that this is all from `offset` on, of a blob of `size` bytes.
fn is_rest(headers: &HeaderMap, offset: u64, size: u64) -> bool {
    let parse = |text: &str| -> Option<bool> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = total.trim();
        let whole = total == "*" || total.parse::<u64>().ok()? == size;
        Some(
            whole
                && first.trim().parse::<u64>().ok()? == offset
                && last.trim().parse::<u64>().ok()?.checked_add(1)? == size,
        )
    };
    let value = headers.get(CONTENT_RANGE);
    value
        .and_then(|value| parse(value.to_str().ok()?))
        .unwrap_or(false)
}

/// `Retry-After` (RFC 9110 §10.2.3) in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date that has passed means: now.
    Some(
        date.duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO),
    )
}

fn is_web_page(content_type: &str) -> bool {
    content_type
        .trim_start()
        .to_ascii_lowercase()
        .starts_with("text/html")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: reqwest::header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_the_asked_rest_is_taken_for_it() {
        for (value, good) in [
            ("bytes 5-9/10", true),
            ("bytes 5-9/*", true),
            ("bytes 4-9/10", false),
            ("bytes 5-8/10", false),
            ("bytes 5-9/11", false),
            ("bytes */10", false),
            ("bytes 5-18446744073709551615/*", false),
            ("octets 5-9/10", false),
            ("", false),
        ] {
            assert_eq!(
                is_rest(&headers(CONTENT_RANGE, value), 5, 10),
                good,
                "{value}"
            );
        }
        assert!(!is_rest(&HeaderMap::new(), 5, 10));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let read = |value| retry_after(&headers(RETRY_AFTER, value));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(50));
        assert!(read(&soon).is_some_and(|wait| (40..=50).contains(&wait.as_secs())));
        assert_eq!((read("soon"), read("-1")), (None, None));
    }
}
