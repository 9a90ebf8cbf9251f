//! Authorization headers: the password itself, or a token from the registry's token server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::challenge::Bearer;
use super::credential::Credential;
use super::error::RegistryError;
use super::{read_limited, retry_after};
use crate::escape::Escaped;
use crate::pull::PlainHttp;
use crate::reference::Reference;

/// The largest answer of a token server, in bytes.
const MAX_TOKEN_ANSWER: u64 = 64 << 10;

/// Where tokens come from.
pub(super) struct TokenServer<'a> {
    pub(super) client: &'a reqwest::Client,
    pub(super) image: &'a Reference,
    pub(super) plain: PlainHttp,
}

/// The header for a registry that wants user name and password; `None` if there are none.
pub(super) fn basic(
    image: &Reference,
    credential: Option<&Credential>,
) -> Result<Option<HeaderValue>, RegistryError> {
    let Some(Credential::Password { user, password }) = credential else {
        return Ok(None);
    };
    header(
        image,
        &format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
    )
    .map(Some)
}

impl TokenServer<'_> {
    /// Asks the server the challenge names for a token to pull this repository.
    pub(super) async fn fetch(
        &self,
        bearer: &Bearer,
        credential: Option<&Credential>,
    ) -> Result<HeaderValue, RegistryError> {
        let realm = self.realm(&bearer.realm)?;
        let scope = format!("repository:{}:pull", self.image.repository());
        let response = match credential {
            Some(Credential::IdentityToken(token)) => {
                self.exchange(realm, bearer, &scope, token).await?
            }
            other => {
                let mut url = realm;
                if let Some(service) = &bearer.service {
                    url.query_pairs_mut().append_pair("service", service);
                }
                url.query_pairs_mut().append_pair("scope", &scope);
                let mut request = self.client.get(url);
                if let Some(password) = basic(self.image, other)? {
                    request = request.header(AUTHORIZATION, password);
                }
                request
                    .send()
                    .await
                    .map_err(|source| RegistryError::transport(self.image, source))?
            }
        };
        self.token(response, credential.is_some()).await
    }

    /// OAuth 2 refresh-token grant, as `docker login` identity tokens need it.
    async fn exchange(
        &self,
        realm: Url,
        bearer: &Bearer,
        scope: &str,
        token: &str,
    ) -> Result<Response, RegistryError> {
        let mut form = realm.clone();
        form.query_pairs_mut()
            .clear()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", bearer.service.as_deref().unwrap_or(""))
            .append_pair("client_id", "agent-vm")
            .append_pair("scope", scope)
            .append_pair("refresh_token", token);
        let body = form.query().unwrap_or_default().to_owned();
        let request = self
            .client
            .post(realm)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        request
            .send()
            .await
            .map_err(|source| RegistryError::transport(self.image, source))
    }

    /// Credentials are sent to TLS addresses, or to plain ones where the registry itself is plain.
    fn realm(&self, realm: &str) -> Result<Url, RegistryError> {
        let refuse = || RegistryError::Realm {
            image: self.image.clone(),
            realm: Escaped::new(realm),
        };
        let url = Url::parse(realm).map_err(|_| refuse())?;
        let plain_allowed = self.image.is_loopback() || self.plain == PlainHttp::Allowed;
        match url.scheme() {
            "https" => Ok(url),
            "http" if plain_allowed => Ok(url),
            _ => Err(refuse()),
        }
    }

    async fn token(
        &self,
        response: Response,
        has_credential: bool,
    ) -> Result<HeaderValue, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let image = self.image.clone();
        let status = response.status();
        let retry_after = retry_after(response.headers());
        if !status.is_success() {
            let reason = Escaped::new(format!("token server: {status}"));
            return Err(match status {
                StatusCode::UNAUTHORIZED => RegistryError::Unauthorized {
                    image,
                    reason,
                    has_credential,
                },
                StatusCode::FORBIDDEN => RegistryError::Forbidden {
                    image,
                    reason,
                    has_credential,
                },
                StatusCode::TOO_MANY_REQUESTS => {
                    RegistryError::TooManyRequests { image, retry_after }
                }
                status => RegistryError::Status {
                    image,
                    status: status.as_u16(),
                    reason,
                    retry_after,
                },
            });
        }
        let body = read_limited(response, MAX_TOKEN_ANSWER, self.image).await?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| RegistryError::InvalidToken {
                image: image.clone(),
            })?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty());
        let token = token.ok_or(RegistryError::InvalidToken { image })?;
        header(self.image, &format!("Bearer {token}"))
    }
}

/// A header value of visible ASCII, kept out of debug output.
fn header(image: &Reference, text: &str) -> Result<HeaderValue, RegistryError> {
    let invalid = || RegistryError::InvalidToken {
        image: image.clone(),
    };
    if !text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(invalid());
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| invalid())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_with_line_breaks_are_refused_not_sent() {
        let image: Reference = "ghcr.io/a/b".parse().unwrap();
        for token in [
            "Bearer a\r\nX-Evil: 1",
            "Bearer a\nb",
            "Bearer \u{0}",
            "Bearer é",
        ] {
            assert!(
                matches!(
                    header(&image, token),
                    Err(RegistryError::InvalidToken { .. })
                ),
                "{token:?}"
            );
        }
        assert!(
            header(&image, "Bearer abc.def-_~+/=")
                .unwrap()
                .is_sensitive()
        );
    }

    #[test]
    fn credentials_go_to_plain_addresses_only_where_the_registry_is_plain() {
        let client = reqwest_client();
        for (image, plain, realm, accepted) in [
            (
                "ghcr.io/a/b",
                PlainHttp::LoopbackOnly,
                "https://ghcr.io/token",
                true,
            ),
            (
                "ghcr.io/a/b",
                PlainHttp::LoopbackOnly,
                "http://ghcr.io/token",
                false,
            ),
            (
                "ghcr.io/a/b",
                PlainHttp::Allowed,
                "http://ghcr.io/token",
                true,
            ),
            (
                "localhost:5000/a",
                PlainHttp::LoopbackOnly,
                "http://localhost:5001/token",
                true,
            ),
            (
                "localhost:5000/a",
                PlainHttp::LoopbackOnly,
                "file:///etc/passwd",
                false,
            ),
            ("localhost:5000/a", PlainHttp::LoopbackOnly, "/token", false),
        ] {
            let image = image.parse().unwrap();
            let server = TokenServer {
                client: &client,
                image: &image,
                plain,
            };
            assert_eq!(server.realm(realm).is_ok(), accepted, "{realm}");
        }
    }

    fn reqwest_client() -> reqwest::Client {
        let options = crate::pull::PullOptions::default();
        super::super::client::build(&"localhost/x".parse().unwrap(), &options).unwrap()
    }
}
