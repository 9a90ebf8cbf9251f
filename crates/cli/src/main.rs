//! The `agent-vm` command: reads flags and environment, runs one command, reports its error, and ends
//! with its exit code. The only crate that prints, reads the environment and ends the process.
#![forbid(unsafe_code)]

mod args;
mod argument_rule;
mod command_error;
mod commands;
mod egress_log;
mod egress_rules;
mod egress_suggest;
mod env_vars;
mod exit_code;
mod host_facts;
mod image_settings;
mod internal_commands;
mod kernel_file;
mod key_agents;
mod launch_request;
mod mounts;
mod network_settings;
mod preflight;
mod progress;
mod publish_settings;
mod report;
mod rule_file;
mod secret_settings;
mod settings;
mod setup_files;
mod ui;
mod update_notice;
mod whose;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use agent_vm_agents::AgentId;

use crate::args::{Cli, Command, LaunchArgs, ShellArgs, Target};
use crate::command_error::{CommandError, UsageError};
use crate::env_vars::EnvVars;
use crate::launch_request::{ConfiguredSecrets, Context, Typed};
use crate::ui::Ui;

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = internal_commands::run(&arguments) {
        return code;
    }
    let context = Context {
        env: EnvVars::read(),
        started,
    };
    let ui = Ui::new(&context.env);
    let cli = match args::parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, ui),
    };
    match dispatch(&context, cli, ui) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, ui),
    }
}

fn dispatch(context: &Context, cli: Cli, ui: Ui) -> Result<u8, CommandError> {
    match cli.command {
        Command::Claude(launch) => agent(context, AgentId::Claude, &launch, ui),
        Command::Codex(launch) => agent(context, AgentId::Codex, &launch, ui),
        Command::OpenCode(launch) => agent(context, AgentId::OpenCode, &launch, ui),
        Command::Copilot(launch) => agent(context, AgentId::Copilot, &launch, ui),
        Command::Gemini(launch) => agent(context, AgentId::Gemini, &launch, ui),
        Command::Shell(ShellArgs { agent, launch }) => {
            start(context, Target::Shell, agent, &launch, ui)
        }
        Command::Run(launch) => start(context, Target::Run, None, &launch, ui),
        Command::Explain(args) => commands::explain::run(context, &args, ui),
        Command::Setup(args) => commands::setup::run(context, &args, ui),
        Command::Pull(args) => commands::pull::run(context, &args, ui),
        Command::Egress(args) => commands::egress::run(context, &args.command, ui),
        Command::Usage(args) => commands::usage::run(context, &args, ui),
        Command::Image(args) => commands::image::run(context, &args.command, ui),
        Command::Base(args) => commands::base::run(context, &args.command, ui),
    }
}

fn agent(context: &Context, id: AgentId, launch: &LaunchArgs, ui: Ui) -> Result<u8, CommandError> {
    start(context, Target::Agent(id), None, launch, ui)
}

fn start(
    context: &Context,
    target: Target,
    shell_agent: Option<AgentId>,
    launch: &LaunchArgs,
    ui: Ui,
) -> Result<u8, CommandError> {
    let typed = Typed {
        target,
        shell_agent,
        options: &launch.options,
        arguments: &launch.arguments,
        configured: ConfiguredSecrets::Given,
    };
    commands::run_agent::run(context, &typed, ui)
}

/// `--help` and `--version` go to standard output with 0, mistakes to standard error with 125.
fn usage(error: &clap::Error, ui: Ui) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is no reason to complain about help.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = report::usage_text(error);
    fail(&UsageError::Arguments { text }.into(), ui)
}

fn fail(error: &CommandError, ui: Ui) -> ExitCode {
    ui.error(&report::render(error));
    ExitCode::from(error.exit_code)
}
