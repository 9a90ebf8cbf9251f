//! `image`: the template image, built from `images/` with real tools, and the small image of the tests.

mod base;
mod build;
mod bump;
mod demo;
mod layout;
mod publish;
mod retention;
mod small;
mod storage;
mod versions;
#[cfg(test)]
mod workflow;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Debug, Clone, Args)]
pub(crate) struct ImageArguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Clone, Subcommand)]
enum Task {
    /// Push a shell, the usual commands, curl and certificates of this machine.
    Small(small::SmallArguments),
    /// Build the template from images/, check that every tool in it runs, write or push it.
    Build(build::BuildArguments),
    /// Push a template that was built before, unless what is published is the same.
    Publish(publish::PublishArguments),
    /// Set the pins in images/versions.toml to the newest versions.
    Bump(bump::BumpArguments),
    /// Boot the template: real registry, pull, boot, versions of the agents; in the emulated host where needed.
    Demo(demo::DemoArguments),
    /// Which published versions are past their time: package versions as JSON in, their ids out.
    Expired(retention::ExpiredArguments),
}

/// The task.
///
/// # Errors
/// When its step does not work; it names itself.
pub(crate) fn run(arguments: &ImageArguments) -> Result<ExitCode> {
    match &arguments.task {
        Task::Small(arguments) => small::run(arguments)?,
        Task::Build(arguments) => build::run(arguments)?,
        Task::Publish(arguments) => publish::run(arguments)?,
        Task::Bump(arguments) => bump::run(arguments)?,
        Task::Demo(arguments) => return demo::run(arguments),
        Task::Expired(arguments) => retention::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
