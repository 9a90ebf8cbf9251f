//! `setup`: pulls the image, boots it once and prints the version of each agent in it. The first step
//! that does not work names itself.

use std::fmt::Write as _;
use std::path::PathBuf;

use agent_vm_agents::AgentId;
use agent_vm_credentials::Collected;
use agent_vm_launch::{
    Bases, Diagnostics, ImageSource, IntegritySettings, KeyAgents, LaunchRequest, MachineSize,
    NetworkSettings, Origin, Program, PublishSettings, SetupRequest, ShareAccess, Streams,
};
use agent_vm_state::{HostDirectories, Project};

use crate::args::{LaunchOptions, SetupArgs};
use crate::command_error::{CommandError, UsageError};
use crate::commands::pull;
use crate::commands::run_agent::launch_shown;
use crate::host_facts::HostFacts;
use crate::launch_request::{self, Context};
use crate::preflight::Preflight;
use crate::settings::Settings;
use crate::ui::Ui;

/// `agent-vm setup`.
///
/// # Errors
/// The step that did not work.
pub(crate) fn run(context: &Context, args: &SetupArgs, ui: Ui) -> Result<u8, CommandError> {
    let host = HostFacts::read();
    let reference = pull::reference_text(context, &args.pull);
    let options = LaunchOptions {
        image: Some(reference),
        verbose: args.verbose,
        ..LaunchOptions::default()
    };
    let mut settings = Settings::resolve(&options, &context.env, &host)?;
    let project = empty_project(&context.directories()?)?;
    let (network, origin) = network(context, &project)?;
    settings.origins.insert("policy", origin);
    let preflight = Preflight::start(context, &settings, &host)?;
    let kernel = preflight.kernel().to_owned();
    preflight.finish()?;
    pull::fetch(context, &args.pull, ui)?;
    ui.status("booting it once");
    let request = request(
        context,
        settings,
        (project, network),
        (args.verbose, kernel),
    )?;
    match launch_shown(request, ui)? {
        0 => {
            ui.status("setup is complete");
            Ok(0)
        }
        _ => Err(UsageError::SetupStep {
            step: "asking each agent for its version",
        }
        .into()),
    }
}

/// What every launch of this user may reach, and by which proxies; ports are published by launches that serve something.
fn network(
    context: &Context,
    project: &Project,
) -> Result<(NetworkSettings, Origin), CommandError> {
    let options = LaunchOptions::default();
    let (network, origin) = launch_request::network(context, &options, project, None)?;
    let publish = PublishSettings::default();
    Ok((NetworkSettings { publish, ..network }, origin))
}

fn request(
    context: &Context,
    settings: Settings,
    (project, network): (Project, NetworkSettings),
    (verbose, kernel): (bool, PathBuf),
) -> Result<LaunchRequest, CommandError> {
    let directories = context.directories()?;
    Ok(LaunchRequest {
        project,
        project_access: ShareAccess::ReadOnly,
        integrity: IntegritySettings::default(),
        mounts: Vec::new(),
        program: Program {
            agent: "setup".to_owned(),
            argv: vec!["/bin/sh".into(), "-c".into(), versions_script().into()],
            env: Vec::new(),
            files: Vec::new(),
        },
        image: ImageSource {
            reference: settings.image,
            store: directories.images(),
        },
        setup: SetupRequest {
            bases: Bases::Ignore,
            ..SetupRequest::default()
        },
        machine: MachineSize {
            vcpus: settings.vcpus,
            memory_mib: settings.memory_mib,
            disk_bytes: settings.disk_bytes,
            kernel,
        },
        credentials: Collected::default(),
        key_agents: KeyAgents::default(),
        network,
        directories,
        streams: Streams::Pipes,
        terminal_type: String::new(),
        diagnostics: Diagnostics {
            verbose,
            profile: false,
            timeout_scale: settings.timeout_scale,
            started: context.started,
        },
        origins: settings.origins,
    })
}

/// Nothing of the user's is shown to a guest that only tells versions.
fn empty_project(directories: &HostDirectories) -> Result<Project, CommandError> {
    let path = directories.state().join("setup");
    fs_err::create_dir_all(&path).map_err(|source| UsageError::Directory {
        path: path.clone(),
        source,
    })?;
    Ok(Project::exactly(&path)?)
}

/// Asks each agent that is in the image; the first that does not answer ends it.
fn versions_script() -> String {
    let mut script = r#"
found=
version() {
  name=$1; shift
  command -v "$1" >/dev/null 2>&1 || return 0
  found=1
  if text=$("$@" </dev/null 2>&1); then
    printf '%s: %s\n' "$name" "$text"
  else
    printf '%s does not tell its version: %s\n' "$name" "$text" >&2
    exit 1
  fi
}
"#
    .to_owned();
    for agent in AgentId::all() {
        let profile = agent.profile();
        let argv = profile.version_argv.join(" ");
        writeln!(script, "version '{}' {argv}", profile.title).expect("a String takes all");
    }
    script.push_str("[ -n \"$found\" ] || echo 'no agent is installed in this image'\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the guest's script on the host, with these programs as the only agents.
    fn versions(agents: &[(&str, &str)]) -> (Option<i32>, String, String) {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        for (name, body) in agents {
            let path = dir.path().join(name);
            fs_err::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        #[expect(clippy::disallowed_methods)]
        let mut command = std::process::Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(versions_script())
            .env_clear()
            .env("PATH", dir.path());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    #[test]
    fn each_agent_of_the_image_tells_its_version() {
        let (code, stdout, _) = versions(&[("claude", "echo 2.1.0"), ("codex", "echo $1 9")]);
        assert_eq!(code, Some(0));
        assert_eq!(stdout, "Claude Code: 2.1.0\nCodex: --version 9\n");
    }

    #[test]
    fn first_agent_that_fails_is_named_and_ends_it() {
        let (code, stdout, stderr) =
            versions(&[("claude", "echo broken; exit 3"), ("codex", "echo 9")]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert_eq!(stderr, "Claude Code does not tell its version: broken\n");
    }

    #[test]
    fn image_without_agents_is_no_failure() {
        let (code, stdout, _) = versions(&[]);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(0), "no agent is installed in this image\n")
        );
    }
}
