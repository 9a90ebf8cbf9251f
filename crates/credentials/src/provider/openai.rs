//! OpenAI: Codex's `auth.json` with a login or an API key, and two variables.
//!
//! `codex exec` takes an API key from `auth.json` or `CODEX_API_KEY`, never from `OPENAI_API_KEY`. So a key
//! that was found only there stands in all three places of the guest. Beside a login it stays where it was:
//! Codex would prefer it to the login.

use serde_json::Value;

use super::{
    Entry, EntryKind, FileFormat, FileSource, GROUP, Group, Header, HostPath, Login, Provider,
    Rest, Source, Token, from_variable,
};
use crate::guest_document::{Document, Format, GuestValue, Shape};
use crate::jwt;
use crate::refresh_endpoint;

/// In the guest, and below the home directory of the host.
const FILE: &str = ".codex/auth.json";
/// A login's hosts: the service may move an account's backend to another name below its own.
pub(super) const CHATGPT: &[&str] = &["chatgpt.com", "*.chatgpt.com"];
/// A key's: with one, Codex asks the other host for its list of models too.
pub(super) const API: &[&str] = &["api.openai.com", "chatgpt.com", "*.chatgpt.com"];

pub(super) static PROVIDER: Provider = Provider {
    id: "openai",
    name: "Codex",
    fix: "log in on the host with `codex login`, or set OPENAI_API_KEY",
    passed_over: &[],
    choice: None,
    groups: &[
        Group {
            sources: &[Source::File(&LOGIN)],
            along: &[
                key("CODEX_API_KEY", "codex-api-key", &["CODEX_API_KEY"], &[]),
                API_KEY,
            ],
            ..GROUP
        },
        Group {
            sources: &[key(
                "CODEX_API_KEY",
                "codex-api-key",
                &["CODEX_API_KEY"],
                KEY_FILE,
            )],
            along: &[API_KEY],
            ..GROUP
        },
        Group {
            sources: &[key(
                "OPENAI_API_KEY",
                "openai-api-key",
                &["CODEX_API_KEY", "OPENAI_API_KEY"],
                KEY_FILE,
            )],
            ..GROUP
        },
    ],
};

/// An API key as it is, which OpenCode takes as well.
pub(super) const API_KEY: Source =
    key("OPENAI_API_KEY", "openai-api-key", &["OPENAI_API_KEY"], &[]);

const KEY_FILE: &[Document] = &[Document {
    path: FILE,
    format: Format::Json,
    fields: &[(&["OPENAI_API_KEY"], GuestValue::Access)],
}];

const fn key(
    variable: &'static str,
    name: &'static str,
    variables: &'static [&'static str],
    documents: &'static [Document],
) -> Source {
    from_variable(
        variable,
        Token {
            name,
            hosts: API,
            header: Header::Bearer,
            prefix: "sk-",
            variables,
            documents,
        },
    )
}

/// Without a mode, a key that is there wins over a login.
fn has_key(document: &Value) -> bool {
    match document["auth_mode"].as_str() {
        Some(mode) => mode == "apikey",
        None => document["OPENAI_API_KEY"].is_string(),
    }
}

fn has_login(document: &Value) -> bool {
    match document["auth_mode"].as_str() {
        Some(mode) => mode == "chatgpt",
        None => !document["OPENAI_API_KEY"].is_string(),
    }
}

static LOGIN: FileSource = FileSource {
    at: HostPath {
        variables: &[("CODEX_HOME", "auth.json")],
        home: FILE,
    },
    format: FileFormat::Json,
    rest: Rest::Whole,
    entries: &[
        Entry {
            applies: has_login,
            kind: EntryKind::Login(Login {
                fields: &refresh_endpoint::CODEX_FIELDS,
                endpoint: &refresh_endpoint::OPENAI,
                refresh_prefix: "rt_",
                identity: true,
                fix: "run `codex` once on the host to renew the login",
            }),
            token: Token {
                name: "codex-login",
                hosts: CHATGPT,
                header: Header::Bearer,
                prefix: jwt::PLACEHOLDER_PREFIX,
                variables: &[],
                documents: &[Document {
                    path: FILE,
                    format: Format::Json,
                    fields: &[
                        (&["auth_mode"], GuestValue::Copy(Shape::Word)),
                        (&["OPENAI_API_KEY"], GuestValue::Null),
                        (&["tokens", "id_token"], GuestValue::Identity),
                        (&["tokens", "access_token"], GuestValue::Access),
                        (&["tokens", "refresh_token"], GuestValue::Refresh),
                        // No secret, and Codex does not start with another: it names the workspace.
                        (&["tokens", "account_id"], GuestValue::Copy(Shape::Word)),
                        (&["last_refresh"], GuestValue::Now),
                    ],
                }],
            },
        },
        Entry {
            applies: has_key,
            kind: EntryKind::Key(&["OPENAI_API_KEY"]),
            token: Token {
                name: "codex-api-key-file",
                hosts: API,
                header: Header::Bearer,
                prefix: "sk-",
                variables: &[],
                documents: &[Document {
                    path: FILE,
                    format: Format::Json,
                    fields: &[
                        (&["auth_mode"], GuestValue::Copy(Shape::Word)),
                        (&["OPENAI_API_KEY"], GuestValue::Access),
                    ],
                }],
            },
        },
    ],
};
