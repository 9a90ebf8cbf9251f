//! What one case is: a client, the login on the host, what the launch is told, what must be seen.

use agent_vm_test_support::canary::Canary;
use agent_vm_test_support::providers::Service;

/// Where a client comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// An npm package at a pinned version, and the program's place in it.
    Npm(&'static NpmPackage),
    /// A program of the host, and the Debian package that has it.
    Debian(&'static str, &'static str),
    /// A Python package at a pinned version, for Python of the host.
    Pip(&'static str),
}

/// A package of the npm registry.
#[derive(Debug)]
pub(crate) struct NpmPackage {
    /// Name in the registry and pinned version.
    pub(crate) spec: &'static str,
    /// The program below the installation.
    pub(crate) program: &'static str,
}

/// One case.
pub(crate) struct Case {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// What it shows, in a few words.
    pub(crate) shows: &'static str,
    /// The client.
    pub(crate) program: Program,
    /// Whom the launch is set up for.
    pub(crate) agent: Option<&'static str>,
    /// The script that runs the client: `$1` is its program, `sh` starts it in the project's directory.
    pub(crate) script: &'static str,
    /// Further options of the launch.
    pub(crate) options: Vec<String>,
    /// Files of the host's home.
    pub(crate) host_files: Vec<(&'static str, String)>,
    /// Variables of the host.
    pub(crate) host_env: Vec<(&'static str, String)>,
    /// The logins the fakes know.
    pub(crate) logins: Vec<Login>,
    /// What the fakes must have seen.
    pub(crate) seen: Vec<Seen>,
    /// What must, or must not, be so besides.
    pub(crate) special: Special,
}

/// One login and how it is searched for.
pub(crate) struct Login {
    pub(crate) service: Service,
    /// The token of requests, and what of it is searched for.
    pub(crate) access: String,
    pub(crate) canary: Canary,
    /// What renews it.
    pub(crate) refresh: Option<Canary>,
    /// How many requests it is good for.
    pub(crate) uses: Option<u32>,
}

/// A request that must have arrived with a real token.
pub(crate) struct Seen {
    pub(crate) host: &'static str,
    /// Beginning of the path.
    pub(crate) path: &'static str,
    pub(crate) header: &'static str,
    /// The text before the token; `Basic` is decoded.
    pub(crate) scheme: &'static str,
}

/// What differs in a few cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    /// Nothing.
    None,
    /// The client is made to print its login; the prompt that carries it must hold the placeholder.
    Tool,
    /// WebSockets are refused.
    NoWebSocket,
    /// The login must have been renewed, exactly once, by the launcher; the host's file holds the new one.
    Renewed(&'static str),
    /// Nothing may be asked of the issuer.
    NotRenewed,
}

impl Case {
    /// Whether it runs without large downloads.
    pub(crate) fn is_light(&self) -> bool {
        matches!(self.program, Program::Debian(..) | Program::Pip(_))
    }

    /// All that may not be found in the guest.
    pub(crate) fn canaries(&self) -> impl Iterator<Item = &Canary> {
        self.logins
            .iter()
            .flat_map(|login| std::iter::once(&login.canary).chain(&login.refresh))
    }
}

impl Login {
    /// A token without end of the form `PREFIX…`.
    pub(crate) fn opaque(service: Service, prefix: &str) -> Self {
        let canary = Canary::mint(prefix);
        Self {
            service,
            access: canary.token().to_owned(),
            canary,
            refresh: None,
            uses: None,
        }
    }

    /// The same with a token that renews it.
    pub(crate) fn renewable(mut self, prefix: &str) -> Self {
        self.refresh = Some(Canary::mint(prefix));
        self
    }

    /// The same, good for so many requests.
    pub(crate) fn ending_after(mut self, uses: u32) -> Self {
        self.uses = Some(uses);
        self
    }

    /// The token that renews it; empty when there is none.
    pub(crate) fn refresh_text(&self) -> &str {
        self.refresh.as_ref().map_or("", Canary::token)
    }
}
