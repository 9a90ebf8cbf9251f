//! What is known about each provider of credentials, as data: where its tokens are on the host, what
//! the guest gets in their stead, to which hosts and in which header they may go. The one place for
//! such knowledge; a new provider is a new file of data here, and a fixture in the tests.

use std::path::PathBuf;

use agent_vm_policy::HostPattern;
use serde_json::Value;

use crate::credential::HeaderSpec;
use crate::guest_document::Document;
use crate::host_environment::HostEnvironment;
use crate::refresh_endpoint::{FieldPath, LoginFields, RefreshEndpoint};

mod anthropic;
mod github;
mod google;
mod openai;
mod opencode;

/// A service, or an agent's own set of services, whose credentials are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderId {
    /// Anthropic: Claude logins and API keys.
    Anthropic,
    /// OpenAI: logins with ChatGPT and API keys, for Codex.
    OpenAi,
    /// The logins and keys of OpenCode, and the variables it knows.
    OpenCode,
    /// GitHub Copilot.
    Copilot,
    /// Google: Gemini logins and keys, Vertex.
    Google,
    /// GitHub itself, for `git` and `gh`.
    GitHub,
}

/// Everything known about a provider.
pub(crate) struct Provider {
    /// Name in agents' profiles.
    pub(crate) id: &'static str,
    /// Name shown to people.
    pub(crate) name: &'static str,
    /// How to log in on the host.
    pub(crate) fix: &'static str,
    /// What the host's own program is set to use, where it can be set.
    pub(crate) choice: Option<Choice>,
    /// The first that is found is used, the others are not looked at.
    pub(crate) groups: &'static [Group],
    /// Logins that are not supported, said to be so where they are found.
    pub(crate) passed_over: &'static [PassedOver],
}

/// A login that people may expect to be used, and that is not.
pub(crate) struct PassedOver {
    pub(crate) place: Elsewhere,
    /// The end of the sentence "… is not used: ".
    pub(crate) why: &'static str,
}

/// Where such a login is.
#[derive(Clone, Copy)]
pub(crate) enum Elsewhere {
    /// A variable.
    Variable(&'static str),
    /// A file: each key of the root but this one.
    OtherKeys {
        at: HostPath,
        format: FileFormat,
        used: &'static str,
    },
}

/// Where the host's own program is told which way of logging in to use.
pub(crate) struct Choice {
    /// Its settings.
    pub(crate) file: HostPath,
    /// Where in them.
    pub(crate) field: FieldPath,
    /// Else a variable that is `true`, and the way it means.
    pub(crate) variables: &'static [(&'static str, &'static str)],
}

/// One way of being logged in.
pub(crate) struct Group {
    /// What [`Choice`] calls it.
    pub(crate) choice: Option<&'static str>,
    /// Not used unless chosen.
    pub(crate) only_chosen: bool,
    /// At least one of these must be there; all that are, are taken.
    pub(crate) sources: &'static [Source],
    /// Taken along when they are there.
    pub(crate) along: &'static [Source],
    /// Variables without a secret that the guest gets as they are.
    pub(crate) settings: &'static [&'static str],
}

/// A group that stands for itself.
const GROUP: Group = Group {
    choice: None,
    only_chosen: false,
    sources: &[],
    along: &[],
    settings: &[],
};

/// A place on the host where tokens are.
pub(crate) enum Source {
    /// A variable.
    Variable(VariableSource),
    /// A file.
    File(&'static FileSource),
    /// What a program prints. Last in a row: it is started only when nothing cheaper was found.
    Command(CommandSource),
}

/// A token in a variable of the host's environment.
pub(crate) struct VariableSource {
    pub(crate) variable: &'static str,
    /// Beginnings of tokens the program takes; any when empty.
    pub(crate) accepts: &'static [&'static str],
    pub(crate) token: Token,
}

/// Any token of a variable.
const fn from_variable(variable: &'static str, token: Token) -> Source {
    Source::Variable(VariableSource {
        variable,
        accepts: &[],
        token,
    })
}

/// A token that a program of the host prints.
pub(crate) struct CommandSource {
    /// Looked up in `PATH`.
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) token: Token,
}

/// A file with tokens.
pub(crate) struct FileSource {
    pub(crate) at: HostPath,
    pub(crate) format: FileFormat,
    pub(crate) entries: &'static [Entry],
    pub(crate) rest: Rest,
}

/// What is said about the parts of a file that are not used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing: they are something else.
    Silent,
    /// Each key of the root that is not used is named.
    EachKey,
    /// When nothing was used, that is said.
    Whole,
}

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileFormat {
    Json,
    /// The part of YAML that `gh` writes.
    GhHosts,
}

/// Where a file is on the host.
#[derive(Clone, Copy)]
pub(crate) struct HostPath {
    /// Variables with an absolute path, and what lies below it; the first that is set wins.
    pub(crate) variables: &'static [(&'static str, &'static str)],
    /// Below the home directory, else.
    pub(crate) home: &'static str,
}

/// One token, or one login, in a file.
pub(crate) struct Entry {
    /// Whether the document has it.
    pub(crate) applies: fn(&Value) -> bool,
    pub(crate) kind: EntryKind,
    pub(crate) token: Token,
}

/// What an entry is.
pub(crate) enum EntryKind {
    /// A token that is never renewed.
    Key(FieldPath),
    /// A login that is renewed.
    Login(Login),
}

/// What is known about a login besides its access token.
pub(crate) struct Login {
    pub(crate) fields: &'static LoginFields,
    pub(crate) endpoint: &'static RefreshEndpoint,
    /// Shape of the refresh token's placeholder.
    pub(crate) refresh_prefix: &'static str,
    /// Whether the guest is given a token of identity.
    pub(crate) identity: bool,
    /// How to renew it on the host.
    pub(crate) fix: &'static str,
}

/// One credential: where it may go, and what the guest gets.
pub(crate) struct Token {
    /// Name shown to people.
    pub(crate) name: &'static str,
    /// The only hosts that may receive it. `{VARIABLE}` is replaced; a host whose variable is not
    /// set is left out.
    pub(crate) hosts: &'static [&'static str],
    pub(crate) header: Header,
    /// Shape clients may check for.
    pub(crate) prefix: &'static str,
    /// Variables of the guest with the placeholder.
    pub(crate) variables: &'static [&'static str],
    /// Files of the guest.
    pub(crate) documents: &'static [Document],
}

/// The header a token travels in.
#[derive(Clone, Copy)]
pub(crate) enum Header {
    /// `authorization: Bearer TOKEN`.
    Bearer,
    /// `authorization` with any scheme, also inside `Basic`.
    Any,
    /// The whole value of this one.
    Raw(&'static str),
}

/// Token shapes whose prefix a placeholder keeps, the longest first where one begins another.
const KNOWN_PREFIXES: &[&str] = &[
    "sk-ant-api03-",
    "sk-ant-oat01-",
    "sk-ant-",
    "sk-or-v1-",
    "sk-proj-",
    "sk-",
    "github_pat_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "glpat-",
    "gsk_",
    "xai-",
    "xoxb-",
    "hf_",
    "npm_",
    "AIza",
];

/// Files below the home directory that hold tokens of git and others, besides those of the table.
const OTHER_CREDENTIAL_FILES: &[&str] = &[".git-credentials", ".netrc"];

impl ProviderId {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Anthropic,
        Self::OpenAi,
        Self::OpenCode,
        Self::Copilot,
        Self::Google,
        Self::GitHub,
    ];

    /// The provider an agent's profile means.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|id| id.facts().id == name)
    }

    pub(crate) fn facts(self) -> &'static Provider {
        match self {
            Self::Anthropic => &anthropic::PROVIDER,
            Self::OpenAi => &openai::PROVIDER,
            Self::OpenCode => &opencode::PROVIDER,
            Self::Copilot => &github::COPILOT,
            Self::Google => &google::PROVIDER,
            Self::GitHub => &github::PROVIDER,
        }
    }
}

impl Provider {
    fn sources(&self) -> impl Iterator<Item = &'static Source> {
        let groups = self.groups.iter();
        groups.flat_map(|group| group.sources.iter().chain(group.along))
    }

    /// The files of its table.
    pub(crate) fn files(&self) -> impl Iterator<Item = &'static FileSource> {
        self.sources().filter_map(|source| match source {
            Source::File(file) => Some(*file),
            Source::Variable(_) | Source::Command(_) => None,
        })
    }
}

impl HostPath {
    /// Where the file is on this host.
    pub(crate) fn on(&self, environment: &HostEnvironment) -> PathBuf {
        let named = self.variables.iter().find_map(|(variable, below)| {
            let root = PathBuf::from(environment.text(variable)?);
            // A path relative to a directory that may be a project's is not looked at.
            root.is_absolute().then(|| match *below {
                "" => root,
                below => root.join(below),
            })
        });
        named.unwrap_or_else(|| environment.home.join(self.home))
    }
}

impl Header {
    pub(crate) fn spec(self) -> HeaderSpec {
        match self {
            Self::Bearer => HeaderSpec::bearer(),
            Self::Any => HeaderSpec::any_authorization(),
            Self::Raw(name) => HeaderSpec::raw(name),
        }
    }
}

impl Token {
    /// Its hosts, with variables replaced.
    pub(crate) fn hosts(&self, environment: &HostEnvironment) -> Vec<HostPattern> {
        let hosts = self.hosts.iter();
        hosts
            .filter_map(|host| pattern(host, environment))
            .collect()
    }
}

/// One host of the table. What a variable makes of it is a single label, or nothing.
fn pattern(host: &str, environment: &HostEnvironment) -> Option<HostPattern> {
    let Some((variable, rest)) = host.strip_prefix('{').and_then(|text| text.split_once('}'))
    else {
        return Some(HostPattern::parse(host).expect("the table of providers is tested"));
    };
    let label = environment.text(variable)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let good = label.bytes().all(plain);
    good.then(|| HostPattern::parse(&format!("{label}{rest}")).ok())?
}

/// The shape to keep of a token whose provider is not known; empty when it has no known shape.
pub(crate) fn known_prefix(token: &str) -> &'static str {
    KNOWN_PREFIXES
        .iter()
        .find(|prefix| token.starts_with(**prefix))
        .copied()
        .unwrap_or("")
}

/// Paths of the files of this host that hold real tokens when they exist. A share that contains one
/// would show it to the guest.
#[must_use]
pub fn credential_files(environment: &HostEnvironment) -> Vec<PathBuf> {
    let files = ProviderId::ALL
        .into_iter()
        .flat_map(|id| id.facts().files());
    // Both where a variable says and where it would be without.
    let known =
        files.flat_map(|file| [file.at.on(environment), environment.home.join(file.at.home)]);
    let others = OTHER_CREDENTIAL_FILES
        .iter()
        .map(|path| environment.home.join(path));
    let mut all: Vec<PathBuf> = known.chain(others).collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
