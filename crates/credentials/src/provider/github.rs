//! GitHub: tokens of variables, of `gh`'s file, and of `gh` itself. For Copilot they are bound to the hosts
//! Copilot speaks to; for `git` and `gh` (only when asked for) to those of the repositories.

use super::{
    CommandSource, Elsewhere, Entry, EntryKind, FileFormat, FileSource, GROUP, Group, Header,
    HostPath, PassedOver, Provider, Rest, Source, Token, VariableSource, from_variable,
};
use crate::guest_document::{Document, Format, GuestValue, Shape};
use crate::refresh_endpoint::FieldPath;

const GH_FILE: HostPath = HostPath {
    variables: &[
        ("GH_CONFIG_DIR", "hosts.yml"),
        ("XDG_CONFIG_HOME", "gh/hosts.yml"),
    ],
    home: ".config/gh/hosts.yml",
};
const GH_TOKEN: FieldPath = &["github.com", "oauth_token"];

/// Where Copilot's token goes: accounts, and the models' host, whose name the account's answer gives.
const COPILOT_HOSTS: &[&str] = &["api.github.com", "*.githubcopilot.com"];
/// Repositories over HTTPS, the API, and where archives, raw files and release files are.
const GITHUB_HOSTS: &[&str] = &[
    "github.com",
    "api.github.com",
    "uploads.github.com",
    "codeload.github.com",
    "raw.githubusercontent.com",
];

/// Only github.com is spoken to.
const ENTERPRISE: &[PassedOver] = &[
    PassedOver {
        place: Elsewhere::Variable("GH_ENTERPRISE_TOKEN"),
        why: ENTERPRISE_WHY,
    },
    PassedOver {
        place: Elsewhere::Variable("GITHUB_ENTERPRISE_TOKEN"),
        why: ENTERPRISE_WHY,
    },
    PassedOver {
        place: Elsewhere::OtherKeys {
            at: GH_FILE,
            format: FileFormat::GhHosts,
            used: "github.com",
        },
        why: ENTERPRISE_WHY,
    },
];
const ENTERPRISE_WHY: &str = "of GitHub only github.com is supported; for an enterprise host use --secret GH_ENTERPRISE_TOKEN@HOST";

pub(super) static COPILOT: Provider = Provider {
    id: "copilot",
    name: "GitHub Copilot",
    fix: "log in on the host with `gh auth login`, or set COPILOT_GITHUB_TOKEN",
    passed_over: ENTERPRISE,
    choice: None,
    groups: &[
        Group {
            sources: &[Source::Variable(VariableSource {
                variable: "COPILOT_GITHUB_TOKEN",
                // Copilot passes over any other.
                accepts: &["gho_", "ghu_", "github_pat_"],
                token: copilot("copilot-token"),
            })],
            ..GROUP
        },
        Group {
            sources: &[from_variable("GH_TOKEN", copilot("copilot-gh-token"))],
            ..GROUP
        },
        Group {
            sources: &[from_variable(
                "GITHUB_TOKEN",
                copilot("copilot-github-token"),
            )],
            ..GROUP
        },
        Group {
            sources: &[Source::File(&COPILOT_FILE)],
            ..GROUP
        },
        Group {
            sources: &[gh(copilot("copilot-gh-login"))],
            ..GROUP
        },
    ],
};

pub(super) static PROVIDER: Provider = Provider {
    id: "github",
    name: "GitHub",
    fix: "log in on the host with `gh auth login`, or set GH_TOKEN",
    passed_over: ENTERPRISE,
    choice: None,
    groups: &[
        Group {
            sources: &[from_variable(
                "GH_TOKEN",
                github("github-gh-token", &["GH_TOKEN"]),
            )],
            ..GROUP
        },
        Group {
            sources: &[from_variable(
                "GITHUB_TOKEN",
                github("github-token", &["GITHUB_TOKEN"]),
            )],
            ..GROUP
        },
        Group {
            sources: &[Source::File(&GITHUB_FILE)],
            ..GROUP
        },
        Group {
            sources: &[gh(github("github-gh-login", &[]))],
            ..GROUP
        },
    ],
};

const fn gh(token: Token) -> Source {
    Source::Command(CommandSource {
        program: "gh",
        arguments: &["auth", "token", "--hostname", "github.com"],
        token,
    })
}

/// Wherever the token came from, the guest has it in the one variable that Copilot asks first.
const fn copilot(name: &'static str) -> Token {
    Token {
        name,
        hosts: COPILOT_HOSTS,
        header: Header::Any,
        prefix: "gho_",
        variables: &["COPILOT_GITHUB_TOKEN"],
        documents: &[],
    }
}

const fn github(name: &'static str, variables: &'static [&'static str]) -> Token {
    Token {
        name,
        hosts: GITHUB_HOSTS,
        header: Header::Any,
        prefix: "gho_",
        variables,
        documents: GITHUB_DOCUMENTS,
    }
}

static COPILOT_FILE: FileSource = FileSource {
    at: GH_FILE,
    format: FileFormat::GhHosts,
    rest: Rest::Silent,
    entries: &[Entry {
        applies: |_| true,
        kind: EntryKind::Key(GH_TOKEN),
        token: copilot("copilot-gh-login"),
    }],
};

static GITHUB_FILE: FileSource = FileSource {
    at: GH_FILE,
    format: FileFormat::GhHosts,
    rest: Rest::Silent,
    entries: &[Entry {
        applies: |_| true,
        kind: EntryKind::Key(GH_TOKEN),
        token: github("github-gh-login", &[]),
    }],
};

/// `gh` and `git` both find the placeholder; `git` does not need `gh` for it.
const GITHUB_DOCUMENTS: &[Document] = &[
    Document {
        path: ".config/gh/hosts.yml",
        format: Format::Yaml,
        fields: &[
            (GH_TOKEN, GuestValue::Access),
            (
                &["github.com", "user"],
                GuestValue::CopyOr(Shape::Word, "x-access-token"),
            ),
            (&["github.com", "git_protocol"], GuestValue::Text("https")),
        ],
    },
    Document {
        // Without it, newer versions rewrite the file above.
        path: ".config/gh/config.yml",
        format: Format::Yaml,
        fields: &[(&["version"], GuestValue::Text("1"))],
    },
    Document {
        path: ".config/git/config",
        format: Format::Text(
            "[credential \"https://github.com\"]\n\
             \thelper =\n\
             \thelper = store --file ~/.config/git/github-credentials\n",
        ),
        fields: &[],
    },
    Document {
        path: ".config/git/github-credentials",
        format: Format::Text("https://x-access-token:{access}@github.com\n"),
        fields: &[],
    },
];
