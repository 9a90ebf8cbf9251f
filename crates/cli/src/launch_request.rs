//! From what was typed to what is meant: options, environment, project, mounts and credentials become
//! one [`LaunchRequest`].

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use agent_vm_agents::{AgentId, Profile, SeedContext, login_shell_argv, session_host_patterns};
use agent_vm_credentials::{
    Collected, GuestFile, HostEnvironment, ProviderId, SecretSpec, collect, collect_secrets,
    credential_files,
};
use agent_vm_image::Store;
use agent_vm_launch::{
    Diagnostics, GitAccess, ImageSource, IntegritySettings, LaunchRequest, MachineSize,
    NetworkSettings, Origin, Program, ProxyServer, ProxySettings, ShareAccess, Streams,
};
use agent_vm_state::{BaseDirectories, HostDirectories, Project};

use crate::args::{LaunchOptions, Target};
use crate::command_error::{CommandError, UsageError};
use crate::env_vars::{self, EnvVars};
use crate::image_settings::ImageSettings;
use crate::key_agents::key_agents;
use crate::mounts;
use crate::network_settings::Reach;
use crate::publish_settings;
use crate::secret_settings;
use crate::settings::Settings;
use crate::setup_files;

/// Most bytes of a file with certificates.
const MAX_CERTIFICATE_BYTES: u64 = 4 * 1024 * 1024;

/// What every command knows.
pub(crate) struct Context {
    pub(crate) env: EnvVars,
    pub(crate) started: Instant,
}

/// What is to be started, as typed.
pub(crate) struct Typed<'a> {
    pub(crate) target: Target,
    /// The agent a shell is set up as for; claude unless named.
    pub(crate) shell_agent: Option<AgentId>,
    pub(crate) options: &'a LaunchOptions,
    pub(crate) arguments: &'a [OsString],
    /// Whether the secrets of the user's configuration are given to the guest.
    pub(crate) configured: ConfiguredSecrets,
}

/// What becomes of the secrets of the user's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfiguredSecrets {
    /// The guest may use them.
    Given,
    /// It does not know of them: what it makes is kept for later, other launches.
    Withheld,
}

impl Context {
    /// The user's home directory.
    ///
    /// # Errors
    /// When `HOME` is no absolute path.
    pub(crate) fn home(&self) -> Result<PathBuf, UsageError> {
        self.env
            .path(env_vars::HOME)
            .filter(|home| home.is_absolute())
            .ok_or(UsageError::NoHome)
    }

    /// Where state and images are.
    ///
    /// # Errors
    /// When `HOME` or `AGENT_VM_STATE_DIR` is no absolute path.
    pub(crate) fn directories(&self) -> Result<HostDirectories, UsageError> {
        let state_override = self.env.path(env_vars::STATE_DIR);
        if state_override
            .as_ref()
            .is_some_and(|path| !path.is_absolute())
        {
            return Err(UsageError::NotAbsolute {
                variable: env_vars::STATE_DIR,
            });
        }
        Ok(HostDirectories::from_base(&BaseDirectories {
            home: self.home()?,
            state_override,
            xdg_state_home: self.env.path(env_vars::XDG_STATE_HOME),
            xdg_data_home: self.env.path(env_vars::XDG_DATA_HOME),
        }))
    }

    fn host_environment(&self) -> Result<HostEnvironment, UsageError> {
        let vars = self.env.all().clone();
        Ok(HostEnvironment {
            home: self.home()?,
            vars,
            now: SystemTime::now(),
        })
    }
}

/// Puts the request together. Reads credentials; starts nothing of the machine.
///
/// # Errors
/// Whatever of it is missing or wrong.
pub(crate) fn build(
    context: &Context,
    typed: &Typed<'_>,
    mut settings: Settings,
    kernel: PathBuf,
) -> Result<LaunchRequest, CommandError> {
    let cwd = context
        .env
        .current_directory()
        .ok_or(UsageError::NoCurrentDirectory)?;
    let project = Project::discover(cwd)?;
    let host = context.host_environment()?;
    let options = typed.options;
    let mounts = mounts::resolve(&options.mount, project.root(), cwd, &host)?;
    let setup = setup_files::read(options, &context.env, &project, cwd, &host)?;
    let profile = profile(typed);
    let (network, origin) = network(context, options, &project, profile)?;
    settings.origins.insert("policy", origin);
    let user_directory = setup_files::user_directory(&context.env, &host.home);
    let configured = (typed.configured == ConfiguredSecrets::Given).then_some(&*user_directory);
    let secrets = secret_settings::read(&options.secret, configured)?;
    let credentials = credentials(profile, options, &secrets, &host)?;
    let program = program(typed, profile, &project, &credentials)?;
    refuse_tokens_in_plain(&program, options, (&secrets, &credentials))?;
    let directories = context.directories()?;
    check_signature(context, &settings.image, &directories)?;
    let access = if options.readonly {
        ShareAccess::ReadOnly
    } else {
        ShareAccess::ReadWrite
    };
    Ok(LaunchRequest {
        project,
        project_access: access,
        integrity: IntegritySettings {
            login_files: credential_files(&host),
            git: if options.git_writable {
                GitAccess::Writable
            } else {
                GitAccess::ReadOnly
            },
        },
        mounts,
        program,
        image: ImageSource {
            reference: settings.image,
            store: directories.images(),
        },
        setup,
        machine: MachineSize {
            vcpus: settings.vcpus,
            memory_mib: settings.memory_mib,
            disk_bytes: settings.disk_bytes,
            kernel,
        },
        credentials,
        key_agents: key_agents(&options.keys, &context.env)?,
        network,
        directories,
        streams: streams(),
        terminal_type: context
            .env
            .text(env_vars::TERM)
            .unwrap_or_default()
            .to_owned(),
        diagnostics: Diagnostics {
            verbose: options.verbose,
            profile: options.profile_launch,
            timeout_scale: settings.timeout_scale,
            started: context.started,
        },
        origins: settings.origins,
    })
}

/// What the guest may reach, and who said so.
///
/// # Errors
/// When a variable, a file or an option cannot be used.
pub(crate) fn network(
    context: &Context,
    options: &LaunchOptions,
    project: &Project,
    profile: Option<&Profile>,
) -> Result<(NetworkSettings, Origin), CommandError> {
    let directory = setup_files::user_directory(&context.env, &context.home()?);
    let builtin = session_host_patterns(profile.map(|profile| profile.id));
    let reach = Reach::read(&options.network, (&directory, project.root()), &builtin)?;
    let settings = NetworkSettings {
        scope: reach.scope,
        project: reach.project,
        rules: reach.rules,
        egress: reach.egress,
        lan: reach.lan,
        host: reach.host,
        foreign_credentials: reach.foreign_credentials,
        resolve: options.resolve.clone(),
        proxies: proxies(&context.env)?,
        upstream_ca_pem: read_certificates(project.working_directory(), &options.upstream_ca)?
            .concat(),
        publish: publish_settings::read(&options.publish, &directory)?,
    };
    Ok((settings, reach.origin))
}

/// The host's proxies, as the environment names them. `NO_PROXY=*` is as good as none.
fn proxies(env: &EnvVars) -> Result<ProxySettings, UsageError> {
    let no_proxy = env.proxy("NO_PROXY").unwrap_or_default();
    if no_proxy.split([',', ' ']).any(|entry| entry == "*") {
        return Ok(ProxySettings::default());
    }
    let server = |variable: &'static str| {
        let server = env.proxy(variable).map(|text| ProxyServer::parse(&text));
        let wrong = |source| UsageError::Proxy { variable, source };
        server.transpose().map_err(wrong)
    };
    Ok(ProxySettings {
        http: server("HTTP_PROXY")?,
        https: server("HTTPS_PROXY")?,
        all: server("ALL_PROXY")?,
        no_proxy: no_proxy.into(),
    })
}

/// With a signature policy, only what it accepted is launched. What is not there is not launched anyway.
fn check_signature(
    context: &Context,
    reference: &str,
    directories: &HostDirectories,
) -> Result<(), CommandError> {
    let Some(policy) = ImageSettings::read(context)?.signature else {
        return Ok(());
    };
    let root = directories.images();
    if root.exists() {
        Store::open(root)?.check_verified(&reference.parse()?, &policy)?;
    }
    Ok(())
}

/// The profile whose variables, files and credentials are used; none for `run`.
fn profile(typed: &Typed<'_>) -> Option<&'static Profile> {
    match typed.target {
        Target::Agent(agent) => Some(agent.profile()),
        Target::Shell => Some(typed.shell_agent.unwrap_or(AgentId::Claude).profile()),
        Target::Run => None,
    }
}

/// The logins the agent needs, GitHub's when asked for, and the user's own secrets.
fn credentials(
    profile: Option<&Profile>,
    options: &LaunchOptions,
    secrets: &[SecretSpec],
    host: &HostEnvironment,
) -> Result<Collected, CommandError> {
    let needed = profile.map_or(&[][..], |profile| profile.providers).iter();
    let mut providers: Vec<ProviderId> = needed
        .map(|name| ProviderId::named(name).expect("profiles name providers of the table: tested"))
        .collect();
    if options.github {
        providers.push(ProviderId::GitHub);
    }
    let mut all = collect(&providers, host)?;
    all.extend(collect_secrets(secrets, host)?);
    all.check_placeholders()?;
    Ok(all)
}

fn program(
    typed: &Typed<'_>,
    profile: Option<&Profile>,
    project: &Project,
    credentials: &Collected,
) -> Result<Program, UsageError> {
    let (agent, argv) = match typed.target {
        Target::Agent(agent) => {
            let mut argv: Vec<OsString> = agent.profile().argv.iter().map(OsString::from).collect();
            argv.extend_from_slice(typed.arguments);
            (agent.profile().name, argv)
        }
        Target::Shell => ("shell", login_shell_argv(typed.arguments)),
        Target::Run if typed.arguments.is_empty() => return Err(UsageError::NoProgram),
        Target::Run => ("run", typed.arguments.to_vec()),
    };
    let own = profile.map_or(&[][..], |profile| profile.env);
    let own = own
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let given = typed
        .options
        .env
        .iter()
        .map(|given| (given.name.clone(), given.value.clone()));
    Ok(Program {
        agent: agent.to_owned(),
        argv,
        env: own.chain(given).collect(),
        files: profile
            .map(|profile| seeded(profile, project, credentials))
            .unwrap_or_default(),
    })
}

fn seeded(profile: &Profile, project: &Project, credentials: &Collected) -> Vec<GuestFile> {
    let directories = [project.root(), project.working_directory()];
    let trusted: Vec<&str> = directories
        .iter()
        .filter_map(|path| path.to_str())
        .collect();
    let login_files: Vec<&str> = credentials
        .guest_files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    let context = SeedContext {
        trusted_directories: &trusted,
        credential_env: &credentials.guest_env,
        login_files: &login_files,
    };
    let files = profile.files(&context).into_iter().map(|file| GuestFile {
        path: file.path.to_owned(),
        mode: file.mode,
        content: file.content.into_bytes(),
    });
    files.collect()
}

/// A token typed into an argument or variable would be in the guest, whatever the placeholders do.
fn refuse_tokens_in_plain(
    program: &Program,
    options: &LaunchOptions,
    (secrets, credentials): (&[SecretSpec], &Collected),
) -> Result<(), UsageError> {
    for given in &options.env {
        if secrets.iter().any(|spec| spec.name == given.name) {
            return Err(UsageError::SecretAndVariable {
                name: given.name.clone(),
            });
        }
    }
    for credential in &credentials.credentials {
        let Some(token) = credential.exposed() else {
            continue;
        };
        let credential = credential.name.clone();
        if let Some(given) = options.env.iter().find(|given| given.value.contains(token)) {
            let place = format!("the value of --env {}", given.name);
            return Err(UsageError::TokenInPlain { place, credential });
        }
        if program
            .argv
            .iter()
            .any(|argument| argument.to_string_lossy().contains(token))
        {
            let place = "an argument of the program".to_owned();
            return Err(UsageError::TokenInPlain { place, credential });
        }
    }
    Ok(())
}

/// The text of every file, each with at least one certificate.
///
/// # Errors
/// When one cannot be read or holds none.
pub(crate) fn read_certificates(cwd: &Path, files: &[PathBuf]) -> Result<Vec<Vec<u8>>, UsageError> {
    let read = |file: &PathBuf| {
        let path = cwd.join(file);
        let unreadable = |source| UsageError::ReadCertificates {
            path: path.clone(),
            source,
        };
        let size = std::fs::metadata(&path).map_err(unreadable)?.len();
        if size > MAX_CERTIFICATE_BYTES {
            return Err(UsageError::NoCertificate { path });
        }
        let pem = std::fs::File::open(&path)
            .and_then(read_to_end)
            .map_err(unreadable)?;
        let marker = b"-----BEGIN CERTIFICATE-----";
        if !pem.windows(marker.len()).any(|window| window == marker) {
            return Err(UsageError::NoCertificate { path });
        }
        Ok(pem)
    };
    files.iter().map(read).collect()
}

fn read_to_end(file: std::fs::File) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    file.take(MAX_CERTIFICATE_BYTES).read_to_end(&mut bytes)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// One pty when a person sits at both ends, else three pipes.
fn streams() -> Streams {
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        Streams::Terminal
    } else {
        Streams::Pipes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_name_providers_of_the_table() {
        for name in AgentId::all().flat_map(|agent| agent.profile().providers) {
            assert!(ProviderId::named(name).is_some(), "{name}");
        }
    }
}
