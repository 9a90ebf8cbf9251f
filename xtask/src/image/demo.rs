//! `image demo`: the template in a real registry, and `agent-vm setup` from there: pulls it, verifies it, boots it and prints
//! the version of each agent, which must be the pinned ones. Where guests do not run, in the emulated host, with the registry
//! in there as well; that takes minutes, so CI does not.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use agent_vm_test_support::registry::Registry;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use super::build::{self, BuildArguments};
use super::layout::Layout;
use super::publish;
use super::versions::AGENTS;
use crate::lab::{self, Ending, LabArguments, Programs};
use crate::tee::Tee;
use crate::{build as programs, kvm, setup, shell, vendor, workspace};

#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArguments {
    /// An OCI layout to boot instead of building the template.
    #[arg(long, value_name = "DIR")]
    layout: Option<PathBuf>,
    /// The minimal flavour.
    #[arg(long)]
    minimal: bool,
    /// Only these agents, as claude,codex.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = AGENTS.to_vec())]
    agents: Vec<String>,
    /// Use the emulated host even when guests run here.
    #[arg(long)]
    lab: bool,
    /// Pull outside into the store that the emulated host gets: there, setup asks the registry and finds all layers.
    #[arg(long)]
    prefilled: bool,
    /// Seconds the emulated host may take.
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
    /// One more command, for sh in the guest.
    #[arg(last = true)]
    command: Vec<String>,
}

/// The image's name in the registry.
const NAME: &str = "agent-vm/template";

/// What the user does; `ADDRESS` is the registry's, `WORK` a directory to write to, `COMMAND` one more command for the guest.
const SCRIPT: &str = r#"set -eu
export XDG_DATA_HOME="${STORE:-$WORK/data}" XDG_STATE_HOME="$WORK/state" AGENT_VM_MEMORY=2GiB
mkdir -p "$WORK/project"; cd "$WORK/project"
begin=$(date +%s)
agent-vm setup "$ADDRESS/agent-vm/template:latest" 2>&1
echo "setup took $(($(date +%s) - begin)) s"
if [ -n "$COMMAND" ]; then
    agent-vm run --image "$ADDRESS/agent-vm/template:latest" -- sh -c "$COMMAND" 2>&1
    echo "the command took $(($(date +%s) - begin)) s with setup"
fi
"#;

/// Before it in the emulated host: the registry, over the directory of the one that was filled here, at the same address.
const LAB_REGISTRY: &str = r#"set -eu
WORK=$HOME
if [ -d /files/store ]; then STORE=/files/store; sudo chown -R "$(id -u):$(id -g)" "$STORE"; fi
cat >"$HOME/registry.yml" <<END
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: /files/data}, maintenance: {readonly: {enabled: true}}}
http: {addr: "$ADDRESS"}
END
docker-registry serve "$HOME/registry.yml" >"$HOME/registry.log" 2>&1 &
until curl -fs -o /dev/null "http://$ADDRESS/v2/"; do sleep 0.5; done
"#;

/// The task.
///
/// # Errors
/// When a step does not work; it names itself.
pub(crate) fn run(arguments: &DemoArguments) -> Result<ExitCode> {
    setup::run()?;
    let layout = template(arguments)?;
    let registry = Registry::start()?;
    let clock = Instant::now();
    let pushed = publish::publish(&layout, &registry.reference(NAME, "latest"), &[])?;
    eprintln!("image: {pushed} in {:.0?}", clock.elapsed());
    let (agent_vm, kernel) = (programs::agent_vm()?, vendor::kernel()?);
    let verdict = if arguments.lab {
        Err("asked for".to_owned())
    } else {
        kvm::probe(&agent_vm)?
    };
    let said = match verdict {
        Ok(word) => {
            eprintln!("image: booting it here ({word})");
            natively(&registry, arguments, &agent_vm, &kernel)?
        }
        Err(reason) => {
            eprintln!("image: booting it in an emulated host, no guest runs here: {reason}");
            let programs = Programs {
                agent_vm: Some(agent_vm),
                kernel: Some(kernel),
            };
            in_lab(&registry, arguments, &programs)?
        }
    };
    ensure!(
        said.contains("setup is complete"),
        "setup did not say that it is complete"
    );
    Ok(ExitCode::SUCCESS)
}

fn template(arguments: &DemoArguments) -> Result<Layout> {
    let directory = workspace::cache("image");
    if let Some(layout) = &arguments.layout {
        return Layout::read(layout);
    }
    let build = BuildArguments {
        minimal: arguments.minimal,
        agents: arguments.agents.clone(),
        ..BuildArguments::default()
    };
    build::build(&build, &directory)
}

fn natively(
    registry: &Registry,
    arguments: &DemoArguments,
    agent_vm: &Path,
    kernel: &Path,
) -> Result<String> {
    let work = tempfile::tempdir()?;
    let beside = agent_vm.parent().context("agent-vm lies in a directory")?;
    let mut script = Command::new("sh");
    script
        .args(["-c", SCRIPT])
        .env(
            "PATH",
            format!("{}:/usr/local/bin:/usr/bin:/bin", beside.display()),
        )
        .env("AGENT_VM_KERNEL", kernel)
        .env("ADDRESS", registry.address().to_string())
        .env("COMMAND", arguments.command.join(" "))
        .env("WORK", work.path());
    let said = shell::output(&mut script)?;
    print!("{said}");
    Ok(said)
}

fn in_lab(registry: &Registry, arguments: &DemoArguments, programs: &Programs) -> Result<String> {
    let mut files = vec![registry.data()];
    let outside = tempfile::tempdir()?;
    if arguments.prefilled {
        let store = outside.path().join("store");
        let agent_vm = programs.agent_vm.as_ref().context("agent-vm was built")?;
        let mut pull = Command::new(agent_vm);
        pull.args(["pull", &registry.reference(NAME, "latest")])
            .env("XDG_DATA_HOME", &store);
        let clock = Instant::now();
        let said = shell::output(&mut pull).context("cannot pull the template")?;
        eprintln!("image: pulled {} in {:.0?}", said.trim(), clock.elapsed());
        files.push(store);
    }
    let address = registry.address();
    let command = shell::quote(&arguments.command.join(" "));
    let lab = LabArguments {
        smp: 2,
        mem: "5G".to_owned(),
        files,
        timeout: arguments.timeout,
        script: vec![format!(
            "ADDRESS={address} COMMAND={command}\n{LAB_REGISTRY}{SCRIPT}"
        )],
        ..LabArguments::default()
    };
    let mut said = Tee::new(std::io::stdout());
    match lab::start(&lab, programs, &mut said)? {
        Ending::Exited { status: 0, .. } => Ok(said.text()),
        Ending::Exited { status, .. } => {
            bail!("the script in the emulated host ended with {status}")
        }
        Ending::TimedOut => bail!("it did not end within {} s", arguments.timeout),
    }
}
