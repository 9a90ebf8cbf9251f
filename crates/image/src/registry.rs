//! Talking to a registry: manifests by tag or digest, blobs by digest from an offset (OCI distribution-spec 1.1, "Pull").
//!
//! Everything a registry answers is untrusted: bodies are read up to a limit, tokens are checked before they become a header, redirects
//! are few and never step down from TLS, credentials go to the registry and the token server it names and nowhere else, and every wait
//! has an end. Plain HTTP is spoken to this machine only, unless the user asks for it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode, Url};

use crate::digest::ImageDigest;
use crate::escape::Escaped;
use crate::manifest::ACCEPTED_MANIFESTS;
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
/// How long a server may stay silent in the middle of an answer.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(30);
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

    /// Begins to read a blob at `offset`.
    fn blob(
        &self,
        digest: ImageDigest,
        offset: u64,
    ) -> impl Future<Output = Result<Self::Body, RegistryError>>;
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
    authorization: parking_lot::Mutex<Option<HeaderValue>>,
}

/// The answer to a blob request.
pub(crate) struct HttpBody {
    response: Response,
    /// Bytes at the beginning the caller has already, because the server ignored the range.
    skip: u64,
    reference: Reference,
}

impl HttpRegistry {
    /// Prepares to talk to the registry of `reference`; reads the credential files, asks no network.
    pub(crate) async fn new(
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Self, RegistryError> {
        let credential = credential::find(reference, &options.auth_files).await?;
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
            authorization,
        })
    }

    /// Sends a GET, answering one authentication challenge on the way; gives only successful answers.
    async fn request(
        &self,
        path: &str,
        accept: &str,
        offset: u64,
    ) -> Result<Response, RegistryError> {
        let url = self.base.join(path).map_err(|_| RegistryError::Address {
            image: self.reference.clone(),
        })?;
        let mut challenged = false;
        loop {
            let mut request = self.client.get(url.clone()).header(ACCEPT, accept);
            if offset > 0 {
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
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let reason = read_limited(response, MAX_ERROR_BODY, &image)
            .await
            .ok()
            .and_then(|body| error::reason(&body));
        let reason =
            reason.unwrap_or_else(|| Escaped::new(status.canonical_reason().unwrap_or("")));
        let has_credential = self.credential.is_some();
        Err(match status.as_u16() {
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
                    0,
                )
                .await?;
            let content_type = response
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned);
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

    async fn blob(&self, digest: ImageDigest, offset: u64) -> Result<HttpBody, RegistryError> {
        let response = self
            .request(&format!("blobs/{digest}"), "*/*", offset)
            .await?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if range_begins_at(&response, offset) => 0,
            StatusCode::PARTIAL_CONTENT => {
                return Err(RegistryError::BadRange {
                    image: self.reference.clone(),
                    digest,
                });
            }
            _ => offset,
        };
        Ok(HttpBody {
            response,
            skip,
            reference: self.reference.clone(),
        })
    }
}

impl Body for HttpBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|source| RegistryError::transport(&self.reference, source))?;
            let Some(mut chunk) = chunk else {
                return Ok(None);
            };
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            let _ =
                chunk.split_to(usize::try_from(skipped).expect("not more than the chunk's length"));
            if !chunk.is_empty() {
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

fn range_begins_at(response: &Response, offset: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let begin = range.and_then(|range| {
        range
            .strip_prefix("bytes ")?
            .split_once('-')?
            .0
            .trim()
            .parse::<u64>()
            .ok()
    });
    begin == Some(offset)
}
