//! The command line as typed.
//!
//! Commands that start something in a guest obey the argument rule ([`crate::argument_rule`]): their
//! arguments are divided first, then clap reads ours with the agent's behind a `--`.

use std::ffi::OsString;
use std::path::PathBuf;

use agent_vm_agents::AgentId;
use agent_vm_launch::ResolveOverride;
use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::argument_rule::{Arity, Boundary, KnownOption, divide};

mod egress;
mod image;
mod keys;
mod network;
mod publish;
mod sessions;
mod usage;
mod values;

pub(crate) use egress::{
    EgressAnswerArgs, EgressArgs, EgressCheckArgs, EgressCommand, EgressLogArgs, EgressPendingArgs,
    EgressSuggestArgs,
};
pub(crate) use image::{ImageArgs, ImageCommand};
pub(crate) use keys::{AgentKeys, KeyOptions};
pub(crate) use network::NetworkOptions;
pub(crate) use publish::{PublishFormError, PublishOptions, parse_publish};
pub(crate) use sessions::SessionsArgs;
pub(crate) use usage::UsageArgs;
pub(crate) use values::{ByteSize, EnvAssignment, MountSpec, MountSpecError};

/// Run coding agents in a microVM made for the project, with the real tokens kept outside.
#[derive(Debug, Parser)]
#[command(name = "agent-vm", version, max_term_width = 100, after_help = crate::env_vars::HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Claude Code, for this project
    #[command(disable_help_flag = true)]
    Claude(LaunchArgs),
    /// OpenAI Codex, for this project
    #[command(disable_help_flag = true)]
    Codex(LaunchArgs),
    /// OpenCode, for this project
    #[command(name = "opencode", disable_help_flag = true)]
    OpenCode(LaunchArgs),
    /// GitHub Copilot CLI, for this project
    #[command(disable_help_flag = true)]
    Copilot(LaunchArgs),
    /// Gemini CLI, for this project
    #[command(disable_help_flag = true)]
    Gemini(LaunchArgs),
    /// A login shell, set up as for an agent (claude unless named)
    #[command(disable_help_flag = true)]
    Shell(ShellArgs),
    /// One command: `agent-vm run -- CMD ARGS`
    #[command(disable_help_flag = true)]
    Run(LaunchArgs),
    /// Print what a launch would mount, attach and allow
    #[command(disable_help_flag = true)]
    Explain(ExplainArgs),
    /// Pull the image, boot it once and print each agent's version
    Setup(SetupArgs),
    /// Pull the image
    Pull(PullArgs),
    /// What setup scripts made of the image, kept for later launches
    Base(BaseArgs),
    /// What guests reached and what was denied
    Egress(EgressArgs),
    /// The tokens that models used, by session and model
    Usage(UsageArgs),
    /// Images on this machine: list, tell about, remove
    Image(ImageArgs),
}

/// A command that starts something in a guest.
#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    #[command(flatten)]
    pub(crate) options: LaunchOptions,
    /// Arguments for the program, as they are
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Set up as for this agent
    pub(crate) agent: Option<AgentId>,
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// `claude`, `codex`, `opencode`, `copilot`, `gemini`, `shell` or `run`; shell unless named
    pub(crate) target: Option<Target>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

/// Options of every launch. Long only.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LaunchOptions {
    /// Print this help
    #[arg(long, action = ArgAction::Help, global = false)]
    pub(crate) help: Option<bool>,
    /// Memory of the machine, for example 4GiB
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub(crate) memory: Option<ByteSize>,
    /// Virtual processors
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) cpus: Option<u8>,
    /// Size of the writable disk, for example 40GiB
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub(crate) disk: Option<ByteSize>,
    /// Image to run in; NAME@sha256:… pins it
    #[arg(long, value_name = "REF", help_heading = "Machine")]
    pub(crate) image: Option<String>,
    /// Do not look for a newer image (a launch never waits for that)
    #[arg(long, help_heading = "Machine")]
    pub(crate) no_update_check: bool,
    /// A script that runs once as root and whose result later launches begin with, after the
    /// project's .agent-vm.setup.sh (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Setup")]
    pub(crate) setup_script: Vec<PathBuf>,
    /// Begin with the bare image: no setup scripts, no packages, no kept changes
    #[arg(long, help_heading = "Setup")]
    pub(crate) no_setup: bool,
    /// One more directory or file (repeatable)
    #[arg(long, value_name = "HOST[:GUEST][:ro|rw]", help_heading = "Files")]
    pub(crate) mount: Vec<MountSpec>,
    /// The project cannot be written
    #[arg(long, help_heading = "Files")]
    pub(crate) readonly: bool,
    /// The guest may change the hooks and configuration of git repositories, which git obeys on this
    /// host too
    #[arg(long, help_heading = "Files")]
    pub(crate) git_writable: bool,
    /// A variable for the program (repeatable)
    #[arg(
        long,
        value_name = "NAME=VALUE",
        help_heading = "Environment and secrets"
    )]
    pub(crate) env: Vec<EnvAssignment>,
    /// A token the guest may use at these hosts without holding it; SOURCE is env:VAR, file:PATH or
    /// cmd:PROGRAM ARG…, HEADER authorization unless named (repeatable)
    // Not parsed by clap: its message would repeat a token typed by mistake.
    #[arg(
        long,
        value_name = "NAME[=SOURCE]@HOST[,HOST…][:HEADER]",
        help_heading = "Environment and secrets"
    )]
    pub(crate) secret: Vec<String>,
    /// The guest's git and gh may use your GitHub login, with all its rights
    #[arg(long, help_heading = "Environment and secrets")]
    pub(crate) github: bool,
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    #[command(flatten)]
    pub(crate) network: NetworkOptions,
    /// Dial HOST:PORT at this address (repeatable)
    #[arg(long, value_name = "HOST:PORT:ADDR:PORT", value_parser = values::parse_resolve, help_heading = "Network")]
    pub(crate) resolve: Vec<ResolveOverride>,
    /// More certificates to verify upstream servers with (repeatable)
    #[arg(long, value_name = "PEM", help_heading = "Network")]
    pub(crate) upstream_ca: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) publish: PublishOptions,
    /// Show the log of the runtime and of the guest's kernel
    #[arg(long, help_heading = "Diagnostics")]
    pub(crate) verbose: bool,
    /// Print how long each phase of the launch took
    #[arg(long, help_heading = "Diagnostics")]
    pub(crate) profile_launch: bool,
    /// Print what would be done, like `explain`, and stop
    #[arg(long, help_heading = "Diagnostics")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Image; the template unless named
    pub(crate) reference: Option<String>,
    /// Speak HTTP without TLS to the registry
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// More certificates to verify the registry with (repeatable)
    #[arg(long, value_name = "PEM")]
    pub(crate) upstream_ca: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    #[command(flatten)]
    pub(crate) pull: PullArgs,
    /// Show the log of the runtime and of the guest's kernel
    #[arg(long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
#[command(after_help = BASE_HELP)]
pub(crate) struct BaseArgs {
    #[command(subcommand)]
    pub(crate) command: BaseCommand,
}

/// Shown below the help of `agent-vm base`.
const BASE_HELP: &str = "\
A launch begins with the user's base (~/.config/agent-vm/setup.sh, and packages of [setup] in
config.toml beside it) and on it the project's (.agent-vm.setup.sh, [setup] of .agent-vm.toml,
--setup-script). Each is made once, by the first launch or by `base apply`, in a virtual machine
without credentials, and made again when the image, a script or a package changes. --no-setup
launches on the bare image.

Changes by hand: `base shell` is a shell on the project's base; what it changed is kept when you say
so at its end, by --keep, or later by `base snapshot`. They are used until the base below changes.";

#[derive(Debug, Subcommand)]
pub(crate) enum BaseCommand {
    /// List bases: whose, image, what they occupy, whether they are current
    Ls(BaseLsArgs),
    /// A login shell whose changes to the machine can be kept
    #[command(disable_help_flag = true)]
    Shell(BaseShellArgs),
    /// Make the bases of this project now, where they are missing or stale
    #[command(disable_help_flag = true)]
    Apply(BaseApplyArgs),
    /// Keep what the last `base shell` changed
    Snapshot(BaseScopeArgs),
    /// Remove this project's bases and kept changes, and free their space
    Reset(BaseResetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BaseLsArgs {
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Image the bases are compared with
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BaseShellArgs {
    /// The user's base, shared by all projects, instead of this project's
    #[arg(long)]
    pub(crate) user: bool,
    /// Keep the changes without asking
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) options: LaunchOptions,
}

#[derive(Debug, Args)]
pub(crate) struct BaseApplyArgs {
    /// Only the user's base
    #[arg(long)]
    pub(crate) user: bool,
    /// Make it again although nothing changed
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) options: LaunchOptions,
}

#[derive(Debug, Args)]
pub(crate) struct BaseScopeArgs {
    /// The user's base, shared by all projects, instead of this project's
    #[arg(long)]
    pub(crate) user: bool,
    /// Image the changes were made on
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BaseResetArgs {
    /// The user's bases instead of this project's
    #[arg(long)]
    pub(crate) user: bool,
    /// Every base of every project
    #[arg(long, conflicts_with = "user")]
    pub(crate) all: bool,
}

/// What `explain` explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Agent(AgentId),
    Shell,
    Run,
}

impl std::str::FromStr for Target {
    type Err = agent_vm_agents::UnknownAgent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "shell" => Ok(Self::Shell),
            "run" => Ok(Self::Run),
            agent => agent.parse().map(Self::Agent),
        }
    }
}

/// Reads the arguments of the process, its own name first.
///
/// # Errors
/// clap's, for usage errors as well as for `--help` and `--version`.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut root = Cli::command();
    root.build();
    let arguments = apply_rule(&mut root, arguments)?;
    let matches = root.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches)
}

/// Puts a `--` where the agent's arguments begin, for the commands that have any.
fn apply_rule(
    root: &mut clap::Command,
    arguments: &[OsString],
) -> Result<Vec<OsString>, clap::Error> {
    let Some((head, rest)) = arguments.split_at_checked(2) else {
        return Ok(arguments.to_vec());
    };
    let Some(name) = head[1].to_str().map(str::to_owned) else {
        return Ok(arguments.to_vec());
    };
    let Some(command) = root.find_subcommand_mut(&name) else {
        return Ok(arguments.to_vec());
    };
    if command
        .get_arguments()
        .all(|argument| !argument.is_last_set())
    {
        return Ok(arguments.to_vec());
    }
    let known = known_options(command);
    let (mut positional, rest) = take_positional(command, rest);
    let mut divided = divide(rest, &known);
    if positional.is_none() && divided.boundary == Boundary::Foreign {
        // `explain --json claude`: the positional argument after our first options.
        let (found, after) = take_positional(command, &divided.theirs);
        if let Some(found) = found {
            let more = divide(after, &known);
            divided.ours.extend(more.ours);
            (divided.theirs, divided.boundary) = (more.theirs, more.boundary);
            positional = Some(found);
        }
    }
    refuse_doubtful(command, &name, &divided.theirs, divided.boundary)?;
    let mut all = head.to_vec();
    all.extend(divided.ours);
    all.extend(positional);
    all.push("--".into());
    all.extend(divided.theirs);
    Ok(all)
}

/// Every option of a command.
fn known_options(command: &clap::Command) -> Vec<KnownOption> {
    let options = command.get_arguments().filter_map(|argument| {
        // A value that only comes after `=` is never the next argument.
        let arity = if argument.get_action().takes_values() && !argument.is_require_equals_set() {
            Arity::Value
        } else {
            Arity::Flag
        };
        argument
            .get_long()
            .filter(|name| *name != "help")
            .map(|name| (name.to_owned(), arity))
    });
    options.collect()
}

/// The positional argument of `shell` and `explain`: a first argument that is not an option.
fn take_positional<'a>(
    command: &clap::Command,
    arguments: &'a [OsString],
) -> (Option<OsString>, &'a [OsString]) {
    let has_one = command
        .get_positionals()
        .any(|argument| !argument.is_last_set());
    match arguments.split_first() {
        Some((first, rest)) if has_one && !first.as_encoded_bytes().starts_with(b"-") => {
            (Some(first.clone()), rest)
        }
        Some(_) | None => (None, arguments),
    }
}

/// `run --memry 4GiB -- ls` is a mistake, not a program called `--memry`.
fn refuse_doubtful(
    command: &mut clap::Command,
    name: &str,
    theirs: &[OsString],
    boundary: Boundary,
) -> Result<(), clap::Error> {
    let dashed = theirs
        .first()
        .filter(|first| first.as_encoded_bytes().starts_with(b"-"));
    match dashed {
        Some(first) if name == "run" && boundary == Boundary::Foreign => {
            let text = format!(
                "`{}` is neither an option of agent-vm nor a program; \
                 a program that begins with `-` is given after `--`",
                first.to_string_lossy().escape_debug()
            );
            Err(command.error(clap::error::ErrorKind::UnknownArgument, text))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
