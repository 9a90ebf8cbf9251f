//! OpenCode: its `auth.json` with a login of ChatGPT and keys of services, and the variables it knows.
//! A service that is not here is left out, because nobody says which host its key belongs to.

use super::{
    Elsewhere, Entry, EntryKind, FileFormat, FileSource, GROUP, Group, Header, HostPath, Login,
    PassedOver, Provider, Rest, Source, Token, anthropic, from_variable, google, openai,
};
use crate::guest_document::{Document, Format, GuestValue, Shape};
use crate::jwt;
use crate::refresh_endpoint;

/// In the guest, and below the home directory of the host.
const FILE: &str = ".local/share/opencode/auth.json";

pub(super) static PROVIDER: Provider = Provider {
    id: "opencode",
    name: "OpenCode",
    fix: "log in on the host with `opencode auth login`, or set the variable of a service, such as ANTHROPIC_API_KEY",
    passed_over: &[PassedOver {
        place: Elsewhere::Variable("OPENCODE_API_KEY"),
        why: ZEN,
    }],
    choice: None,
    groups: &[Group {
        sources: &[
            Source::File(&AUTH),
            anthropic::API_KEY,
            openai::API_KEY,
            google::GEMINI_KEY,
            google::GENERATIVE_KEY,
            variable(
                "ZHIPU_API_KEY",
                "zai-api-key",
                &["api.z.ai"],
                &["ZHIPU_API_KEY"],
            ),
            variable(
                "OPENROUTER_API_KEY",
                "openrouter-api-key",
                &["openrouter.ai"],
                &["OPENROUTER_API_KEY"],
            ),
            variable(
                "GROQ_API_KEY",
                "groq-api-key",
                &["api.groq.com"],
                &["GROQ_API_KEY"],
            ),
            variable(
                "MISTRAL_API_KEY",
                "mistral-api-key",
                &["api.mistral.ai"],
                &["MISTRAL_API_KEY"],
            ),
            variable(
                "DEEPSEEK_API_KEY",
                "deepseek-api-key",
                &["api.deepseek.com"],
                &["DEEPSEEK_API_KEY"],
            ),
            variable(
                "XAI_API_KEY",
                "xai-api-key",
                &["api.x.ai"],
                &["XAI_API_KEY"],
            ),
            variable(
                "CEREBRAS_API_KEY",
                "cerebras-api-key",
                &["api.cerebras.ai"],
                &["CEREBRAS_API_KEY"],
            ),
            variable(
                "MOONSHOT_API_KEY",
                "moonshot-api-key",
                &["api.moonshot.ai"],
                &["MOONSHOT_API_KEY"],
            ),
            variable(
                "TOGETHER_API_KEY",
                "together-api-key",
                &["api.together.xyz"],
                &["TOGETHER_API_KEY"],
            ),
            variable(
                "FIREWORKS_API_KEY",
                "fireworks-api-key",
                &["api.fireworks.ai"],
                &["FIREWORKS_API_KEY"],
            ),
        ],
        ..GROUP
    }],
};

/// Its models are spoken to in the ways of several services, each with the key in another header.
const ZEN: &str = "OpenCode Zen is not supported; for its models that take `Authorization`, use --secret OPENCODE_API_KEY@opencode.ai";

const fn variable(
    variable: &'static str,
    name: &'static str,
    hosts: &'static [&'static str],
    variables: &'static [&'static str],
) -> Source {
    from_variable(
        variable,
        Token {
            name,
            hosts,
            header: Header::Bearer,
            prefix: "sk-",
            variables,
            documents: &[],
        },
    )
}

/// `"ID": {"type": "api", "key": "…"}`.
macro_rules! service {
    ($id:literal, $header:expr, $prefix:literal, $($host:literal),+) => {
        Entry {
            applies: |document| document[$id]["type"] == "api",
            kind: EntryKind::Key(&[$id, "key"]),
            token: Token {
                name: concat!("opencode-", $id),
                hosts: &[$($host),+],
                header: $header,
                prefix: $prefix,
                variables: &[],
                documents: &[Document {
                    path: FILE,
                    format: Format::Json,
                    fields: &[
                        (&[$id, "type"], GuestValue::Text("api")),
                        (&[$id, "key"], GuestValue::Access),
                    ],
                }],
            },
        }
    };
}

static AUTH: FileSource = FileSource {
    at: HostPath {
        variables: &[("XDG_DATA_HOME", "opencode/auth.json")],
        home: FILE,
    },
    format: FileFormat::Json,
    rest: Rest::EachKey,
    entries: &[
        Entry {
            applies: |document| document["openai"]["type"] == "oauth",
            kind: EntryKind::Login(Login {
                fields: &refresh_endpoint::OPENCODE_OPENAI_FIELDS,
                endpoint: &refresh_endpoint::OPENAI,
                refresh_prefix: "rt_",
                identity: true,
                fix: "run `opencode` once on the host to renew the login",
            }),
            token: Token {
                name: "opencode-openai-login",
                hosts: openai::CHATGPT,
                header: Header::Bearer,
                prefix: jwt::PLACEHOLDER_PREFIX,
                variables: &[],
                documents: &[Document {
                    path: FILE,
                    format: Format::Json,
                    fields: &[
                        (&["openai", "type"], GuestValue::Text("oauth")),
                        (&["openai", "access"], GuestValue::Access),
                        (&["openai", "refresh"], GuestValue::Refresh),
                        (&["openai", "expires"], GuestValue::FarFuture),
                        (&["openai", "accountId"], GuestValue::Copy(Shape::Word)),
                    ],
                }],
            },
        },
        service!(
            "anthropic",
            Header::Raw("x-api-key"),
            "sk-ant-api03-",
            "api.anthropic.com"
        ),
        service!("openai", Header::Bearer, "sk-", "api.openai.com"),
        service!(
            "google",
            Header::Raw("x-goog-api-key"),
            "AIza",
            "generativelanguage.googleapis.com"
        ),
        service!("zai", Header::Bearer, "", "api.z.ai"),
        service!("zai-coding-plan", Header::Bearer, "", "api.z.ai"),
        service!("openrouter", Header::Bearer, "sk-or-v1-", "openrouter.ai"),
        service!("groq", Header::Bearer, "gsk_", "api.groq.com"),
        service!("mistral", Header::Bearer, "", "api.mistral.ai"),
        service!("deepseek", Header::Bearer, "sk-", "api.deepseek.com"),
        service!("xai", Header::Bearer, "xai-", "api.x.ai"),
        service!("cerebras", Header::Bearer, "", "api.cerebras.ai"),
        service!("moonshotai", Header::Bearer, "sk-", "api.moonshot.ai"),
        service!("togetherai", Header::Bearer, "", "api.together.xyz"),
        service!("fireworks-ai", Header::Bearer, "", "api.fireworks.ai"),
    ],
};
