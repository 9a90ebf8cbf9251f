//! Where and how logins are renewed, as data: the endpoint of each provider, and where a login's
//! tokens stand in its file on the host.
//!
//! Renewing itself is elsewhere; this is the one place that knows names of hosts, fields and clients.
//! The grant is that of RFC 6749 §6 everywhere, in JSON or as a form.

use std::path::PathBuf;
use std::time::SystemTime;

use agent_vm_secret::Placeholder;

/// Keys from the root of a JSON document to a value.
pub type FieldPath = &'static [&'static str];

/// Where a kind of login is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshEndpoint {
    /// The host, by HTTPS at port 443.
    pub host: &'static str,
    /// The exact path, without query: no other path of the host renews anything.
    pub path: &'static str,
    /// How the launcher's own request is written. Guests write JSON or a form, whatever stands here.
    pub body: RefreshBody,
    /// `client_id` of the request.
    pub client_id: ClientValue,
    /// `client_secret` of the request, where the provider wants one.
    pub client_secret: Option<ClientValue>,
    /// Whether the request names the login's scopes: one text, divided by spaces (RFC 6749 §3.3).
    pub sends_scope: bool,
    /// More fields of the request.
    pub extra: &'static [(&'static str, &'static str)],
}

/// How a request to renew is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshBody {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// A value that names the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientValue {
    /// The same for everybody who uses the program.
    Fixed(&'static str),
    /// In the login's file.
    InFile(FieldPath),
}

/// Where a login's values stand in its file on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFields {
    /// The access token; `None` when the file has no place for it, and it is only ever kept in memory.
    pub access: Option<FieldPath>,
    /// The refresh token.
    pub refresh: FieldPath,
    /// When the access token ends.
    pub expiry: ExpiryField,
    /// An OpenID Connect token that comes with the answer.
    pub id_token: Option<FieldPath>,
    /// The scopes of the login.
    pub scopes: Option<ScopeField>,
    /// Time of the last renewal, RFC 3339 in UTC.
    pub renewed_at: Option<FieldPath>,
    /// What the client itself locks.
    pub lock: ClientLock,
}

/// How the client that owns a login's file keeps others from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientLock {
    /// Not at all.
    None,
    /// Directories, as Claude Code makes them while it renews a login.
    ClaudeDirectories,
    /// Locks on files beside it, as Codex takes them while it writes.
    CodexFiles,
}

/// How a file says when its access token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryField {
    /// Milliseconds since 1970.
    Milliseconds(FieldPath),
    /// The claim `exp` of the access token, when that is a JWT (RFC 7519 §4.1.4).
    AccessTokenClaim,
    /// Not at all.
    Nowhere,
}

/// How a file lists scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeField {
    /// An array of texts.
    List(FieldPath),
    /// One text, divided by spaces.
    Words(FieldPath),
}

/// How one access token of a launch is renewed. `Debug` shows no token.
#[derive(Debug, Clone)]
pub struct RefreshFacts {
    /// Where.
    pub endpoint: &'static RefreshEndpoint,
    /// The login's file on the host; absolute, links not followed yet.
    pub file: PathBuf,
    /// Where the file holds what.
    pub fields: &'static LoginFields,
    /// When the access token that was found ends; `None` when nothing says so.
    pub expires: Option<SystemTime>,
    /// What the guest holds instead of the refresh token, and sends when it wants to renew.
    pub refresh_placeholder: Placeholder,
    /// The token of identity for the guest, made of nothing of the real one; where the client wants
    /// one in an answer.
    pub guest_id_token: Option<String>,
    /// The scopes the guest may be told, divided by spaces; empty for none.
    pub guest_scope: String,
}

/// Claude Code's logins.
pub(crate) static ANTHROPIC: RefreshEndpoint = RefreshEndpoint {
    host: "platform.claude.com",
    path: "/v1/oauth/token",
    body: RefreshBody::Json,
    client_id: ClientValue::Fixed("9d1c250a-e61b-44d9-88ed-5944d1962f5e"),
    client_secret: None,
    sends_scope: true,
    extra: &[],
};

/// Logins with ChatGPT, of Codex and OpenCode.
pub(crate) static OPENAI: RefreshEndpoint = RefreshEndpoint {
    host: "auth.openai.com",
    path: "/oauth/token",
    body: RefreshBody::Json,
    client_id: ClientValue::Fixed("app_EMoamEEZ73f0CkXaXp7hrann"),
    client_secret: None,
    sends_scope: false,
    extra: &[],
};

/// Gemini CLI's logins. Its client secret is printed in its source: one of an installed application,
/// which is no secret (RFC 8252 §8.5). Written in two parts, so that scanners do not take it for one.
pub(crate) static GEMINI: RefreshEndpoint = RefreshEndpoint {
    client_id: ClientValue::Fixed(
        "681255809395-oo8ft2oprdrnp9e3aqf6av3hmdib135j.apps.googleusercontent.com",
    ),
    client_secret: Some(ClientValue::Fixed(concat!(
        "GOCSPX",
        "-4uHgMPm-1o7Sk-geV6Cu5clXFsxl"
    ))),
    ..GOOGLE_APPLICATION
};

/// Google's application-default credentials of a user.
pub(crate) static GOOGLE_DEFAULT: RefreshEndpoint = GOOGLE_APPLICATION;

const GOOGLE_APPLICATION: RefreshEndpoint = RefreshEndpoint {
    host: "oauth2.googleapis.com",
    path: "/token",
    body: RefreshBody::Form,
    client_id: ClientValue::InFile(&["client_id"]),
    client_secret: Some(ClientValue::InFile(&["client_secret"])),
    sends_scope: false,
    extra: &[],
};

/// `~/.claude/.credentials.json`.
pub(crate) static CLAUDE_FIELDS: LoginFields = LoginFields {
    access: Some(&["claudeAiOauth", "accessToken"]),
    refresh: &["claudeAiOauth", "refreshToken"],
    expiry: ExpiryField::Milliseconds(&["claudeAiOauth", "expiresAt"]),
    id_token: None,
    scopes: Some(ScopeField::List(&["claudeAiOauth", "scopes"])),
    renewed_at: None,
    lock: ClientLock::ClaudeDirectories,
};

/// `~/.codex/auth.json`.
pub(crate) static CODEX_FIELDS: LoginFields = LoginFields {
    access: Some(&["tokens", "access_token"]),
    refresh: &["tokens", "refresh_token"],
    expiry: ExpiryField::AccessTokenClaim,
    id_token: Some(&["tokens", "id_token"]),
    scopes: None,
    renewed_at: Some(&["last_refresh"]),
    lock: ClientLock::CodexFiles,
};

/// The ChatGPT login in OpenCode's `auth.json`.
pub(crate) static OPENCODE_OPENAI_FIELDS: LoginFields = LoginFields {
    access: Some(&["openai", "access"]),
    refresh: &["openai", "refresh"],
    expiry: ExpiryField::Milliseconds(&["openai", "expires"]),
    id_token: None,
    scopes: None,
    renewed_at: None,
    lock: ClientLock::None,
};

/// `~/.gemini/oauth_creds.json`.
pub(crate) static GEMINI_FIELDS: LoginFields = LoginFields {
    access: Some(&["access_token"]),
    refresh: &["refresh_token"],
    expiry: ExpiryField::Milliseconds(&["expiry_date"]),
    id_token: Some(&["id_token"]),
    scopes: Some(ScopeField::Words(&["scope"])),
    renewed_at: None,
    lock: ClientLock::None,
};

/// Application-default credentials: no access token stands in the file.
pub(crate) static GOOGLE_DEFAULT_FIELDS: LoginFields = LoginFields {
    access: None,
    refresh: &["refresh_token"],
    expiry: ExpiryField::Nowhere,
    id_token: None,
    scopes: None,
    renewed_at: None,
    lock: ClientLock::None,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_with_an_exact_path() {
        for endpoint in [&ANTHROPIC, &OPENAI, &GEMINI, &GOOGLE_DEFAULT] {
            agent_vm_policy::HostPattern::parse(endpoint.host).unwrap();
            assert!(endpoint.path.starts_with('/') && !endpoint.path.contains('?'));
        }
    }

    #[test]
    fn no_field_stands_where_another_does() {
        for fields in [
            &CLAUDE_FIELDS,
            &CODEX_FIELDS,
            &OPENCODE_OPENAI_FIELDS,
            &GEMINI_FIELDS,
            &GOOGLE_DEFAULT_FIELDS,
        ] {
            let mut paths: Vec<FieldPath> = [
                fields.access,
                Some(fields.refresh),
                fields.id_token,
                fields.renewed_at,
                match fields.expiry {
                    ExpiryField::Milliseconds(path) => Some(path),
                    ExpiryField::AccessTokenClaim | ExpiryField::Nowhere => None,
                },
                fields.scopes.map(|scopes| match scopes {
                    ScopeField::List(path) | ScopeField::Words(path) => path,
                }),
            ]
            .into_iter()
            .flatten()
            .collect();
            let count = paths.len();
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), count);
            assert!(paths.iter().all(|path| !path.is_empty()));
        }
    }
}
