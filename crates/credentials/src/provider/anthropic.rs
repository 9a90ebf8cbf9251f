//! Anthropic: Claude Code's login file and three variables.

use super::{
    Entry, EntryKind, FileFormat, FileSource, GROUP, Group, Header, HostPath, Login, Provider,
    Rest, Source, Token, from_variable,
};
use crate::guest_document::{Document, Format, GuestValue, Shape};
use crate::refresh_endpoint;

/// Hosts of Anthropic's API.
const API: &[&str] = &["api.anthropic.com"];
/// In the guest, and below the home directory of the host.
const FILE: &str = ".claude/.credentials.json";

pub(super) static PROVIDER: Provider = Provider {
    id: "anthropic",
    name: "Claude",
    fix: "log in on the host with `claude`, or set ANTHROPIC_API_KEY",
    passed_over: &[],
    choice: None,
    groups: &[Group {
        sources: &[
            Source::File(&LOGIN),
            API_KEY,
            bearer(
                "ANTHROPIC_AUTH_TOKEN",
                "anthropic-auth-token",
                &["ANTHROPIC_AUTH_TOKEN"],
            ),
            bearer(
                "CLAUDE_CODE_OAUTH_TOKEN",
                "claude-code-oauth-token",
                &["CLAUDE_CODE_OAUTH_TOKEN"],
            ),
        ],
        ..GROUP
    }],
};

/// An API key, which OpenCode takes as well.
pub(super) const API_KEY: Source = from_variable(
    "ANTHROPIC_API_KEY",
    Token {
        name: "anthropic-api-key",
        hosts: API,
        header: Header::Raw("x-api-key"),
        prefix: "sk-ant-api03-",
        variables: &["ANTHROPIC_API_KEY"],
        documents: &[],
    },
);

const fn bearer(
    variable: &'static str,
    name: &'static str,
    variables: &'static [&'static str],
) -> Source {
    from_variable(
        variable,
        Token {
            name,
            hosts: API,
            header: Header::Bearer,
            prefix: "sk-ant-oat01-",
            variables,
            documents: &[],
        },
    )
}

static LOGIN: FileSource = FileSource {
    at: HostPath {
        variables: &[("CLAUDE_CONFIG_DIR", ".credentials.json")],
        home: FILE,
    },
    format: FileFormat::Json,
    rest: Rest::Silent,
    entries: &[Entry {
        applies: |_| true,
        kind: EntryKind::Login(Login {
            fields: &refresh_endpoint::CLAUDE_FIELDS,
            endpoint: &refresh_endpoint::ANTHROPIC,
            refresh_prefix: "sk-ant-ort01-",
            identity: false,
            fix: "run `claude` once on the host to renew the login",
        }),
        token: Token {
            name: "claude-login",
            hosts: API,
            header: Header::Bearer,
            prefix: "sk-ant-oat01-",
            variables: &[],
            documents: &[Document {
                path: FILE,
                format: Format::Json,
                fields: &[
                    (&["claudeAiOauth", "accessToken"], GuestValue::Access),
                    (&["claudeAiOauth", "refreshToken"], GuestValue::Refresh),
                    (&["claudeAiOauth", "expiresAt"], GuestValue::FarFuture),
                    (&["claudeAiOauth", "scopes"], GuestValue::Copy(Shape::Words)),
                    (
                        &["claudeAiOauth", "subscriptionType"],
                        GuestValue::Copy(Shape::Word),
                    ),
                    (
                        &["claudeAiOauth", "rateLimitTier"],
                        GuestValue::Copy(Shape::Word),
                    ),
                ],
            }],
        },
    }],
};
