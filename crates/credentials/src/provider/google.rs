//! Google: Gemini CLI's login file, API keys, and Vertex with a key or with a user's application-default
//! credentials. Gemini CLI's settings say which of them it uses; without, its own order is kept.

use super::{
    Choice, Entry, EntryKind, FileFormat, FileSource, GROUP, Group, Header, HostPath, Login,
    Provider, Rest, Source, Token, from_variable,
};
use crate::guest_document::{Document, Format, GuestValue, Shape};
use crate::refresh_endpoint;

/// In the guest, and below the home directory of the host.
const LOGIN_FILE: &str = ".gemini/oauth_creds.json";
const DEFAULT_FILE: &str = ".config/gcloud/application_default_credentials.json";
const GENERATIVE: &[&str] = &["generativelanguage.googleapis.com"];
/// Variables that say where and for which project; no secrets.
const VERTEX_SETTINGS: &[&str] = &[
    "GOOGLE_GENAI_USE_VERTEXAI",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_LOCATION",
];

pub(super) static PROVIDER: Provider = Provider {
    id: "google",
    name: "Gemini",
    fix: "log in on the host with `gemini`, or set GEMINI_API_KEY",
    passed_over: &[],
    choice: Some(Choice {
        file: HostPath {
            variables: &[],
            home: ".gemini/settings.json",
        },
        field: &["security", "auth", "selectedType"],
        variables: &[
            ("GOOGLE_GENAI_USE_GCA", "oauth-personal"),
            ("GOOGLE_GENAI_USE_VERTEXAI", "vertex-ai"),
        ],
    }),
    groups: &[
        Group {
            choice: Some("gemini-api-key"),
            sources: &[GEMINI_KEY],
            ..GROUP
        },
        Group {
            choice: Some("oauth-personal"),
            sources: &[Source::File(&LOGIN)],
            settings: &["GOOGLE_CLOUD_PROJECT"],
            ..GROUP
        },
        Group {
            choice: Some("vertex-ai"),
            sources: &[VERTEX_KEY],
            settings: VERTEX_SETTINGS,
            ..GROUP
        },
        Group {
            choice: Some("vertex-ai"),
            // They are for all of Google's cloud: taken only where Vertex is what was asked for.
            only_chosen: true,
            sources: &[Source::File(&DEFAULT)],
            settings: VERTEX_SETTINGS,
            ..GROUP
        },
    ],
};

/// A key of the Gemini API, which OpenCode takes as well.
pub(super) const GEMINI_KEY: Source = key(
    "GEMINI_API_KEY",
    "gemini-api-key",
    GENERATIVE,
    &["GEMINI_API_KEY"],
);
/// The name OpenCode has for it.
pub(super) const GENERATIVE_KEY: Source = key(
    "GOOGLE_GENERATIVE_AI_API_KEY",
    "google-generative-ai-api-key",
    GENERATIVE,
    &["GOOGLE_GENERATIVE_AI_API_KEY"],
);
const VERTEX_KEY: Source = key(
    "GOOGLE_API_KEY",
    "google-api-key",
    &[
        "aiplatform.googleapis.com",
        "generativelanguage.googleapis.com",
    ],
    &["GOOGLE_API_KEY"],
);

const fn key(
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
            header: Header::Raw("x-goog-api-key"),
            prefix: "AIza",
            variables,
            documents: &[],
        },
    )
}

static LOGIN: FileSource = FileSource {
    at: HostPath {
        variables: &[],
        home: LOGIN_FILE,
    },
    format: FileFormat::Json,
    rest: Rest::Silent,
    entries: &[Entry {
        applies: |_| true,
        kind: EntryKind::Login(Login {
            fields: &refresh_endpoint::GEMINI_FIELDS,
            endpoint: &refresh_endpoint::GEMINI,
            refresh_prefix: "1-",
            identity: false,
            fix: "run `gemini` once on the host to renew the login",
        }),
        token: Token {
            name: "gemini-login",
            // The second tells the client whether its token is good.
            hosts: &["cloudcode-pa.googleapis.com", "oauth2.googleapis.com"],
            header: Header::Bearer,
            prefix: "ya29.",
            variables: &[],
            documents: &[Document {
                path: LOGIN_FILE,
                format: Format::Json,
                fields: &[
                    (&["access_token"], GuestValue::Access),
                    (&["refresh_token"], GuestValue::Refresh),
                    (&["expiry_date"], GuestValue::FarFuture),
                    (&["scope"], GuestValue::Copy(Shape::Scopes)),
                    (&["token_type"], GuestValue::Text("Bearer")),
                ],
            }],
        },
    }],
};

static DEFAULT: FileSource = FileSource {
    at: HostPath {
        variables: &[
            ("GOOGLE_APPLICATION_CREDENTIALS", ""),
            ("CLOUDSDK_CONFIG", "application_default_credentials.json"),
        ],
        home: DEFAULT_FILE,
    },
    format: FileFormat::Json,
    rest: Rest::Whole,
    entries: &[Entry {
        applies: |document| document["type"] == "authorized_user",
        kind: EntryKind::Login(Login {
            fields: &refresh_endpoint::GOOGLE_DEFAULT_FIELDS,
            endpoint: &refresh_endpoint::GOOGLE_DEFAULT,
            refresh_prefix: "1-",
            identity: false,
            fix: "run `gcloud auth application-default login` on the host",
        }),
        token: Token {
            name: "google-default-login",
            hosts: &[
                "aiplatform.googleapis.com",
                "{GOOGLE_CLOUD_LOCATION}-aiplatform.googleapis.com",
            ],
            header: Header::Bearer,
            prefix: "ya29.",
            variables: &[],
            documents: &[Document {
                path: DEFAULT_FILE,
                format: Format::Json,
                fields: &[
                    (&["type"], GuestValue::Text("authorized_user")),
                    (&["client_id"], GuestValue::Text("agent-vm")),
                    (&["client_secret"], GuestValue::Text("agent-vm")),
                    (&["refresh_token"], GuestValue::Refresh),
                    (&["quota_project_id"], GuestValue::Copy(Shape::Word)),
                ],
            }],
        },
    }],
};
