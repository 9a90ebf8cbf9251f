//! `boot`: the cases of `tests/boot` on a real virtual machine: here when a tiny guest really starts here, otherwise
//! all of them in one emulated host. A case that cannot boot has failed, and so has a run of no cases.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use agent_vm_test_support::image_tree::ImageTree;
use agent_vm_test_support::registry::Registry;
use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::ci::TestsFailed;
use crate::lab::{self, Ending, LabArguments, Programs};
use crate::tee::Tee;
use crate::totals::Totals;
use crate::{build, kvm, setup, shell, vendor};

const PACKAGE: &str = "agent-vm-boot-tests";

/// How long all cases may take in the emulated host, in seconds.
const LAB_TIMEOUT_SECONDS: u64 = 2400;

/// The cases' runner in the emulated host. The store goes to a place the user may write to. $1…: filters.
const LAB_SCRIPT: &str = r#"set -u
cp -r /files/boot/store /home/user/boot-store
chown -R user:user /home/user/boot-store
export AGENT_VM_BOOT_TESTS=1 AGENT_VM_BOOT_STORE=/home/user/boot-store
export AGENT_VM_BOOT_HELPERS=/files/boot/helpers AGENT_VM_BOOT_IMAGE="$(cat /files/boot/image)"
status=0
for case in /files/boot/cases/*; do
    "$case" --test-threads=1 --nocapture --color=never "$@" || status=1
done
exit $status
"#;

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BootArguments {
    /// Use the emulated host even when guests run here.
    #[arg(long)]
    lab: bool,
    /// Arguments for the test binaries: filters, --skip, --list.
    #[arg(last = true)]
    filters: Vec<String>,
}

/// The task.
///
/// # Errors
/// When a build fails, a case fails or none ran.
pub(crate) fn run(arguments: &BootArguments) -> Result<ExitCode> {
    setup::run()?;
    let totals = cases(arguments)?;
    println!("boot: {totals}");
    Ok(ExitCode::SUCCESS)
}

/// Runs the cases and gives their totals.
///
/// # Errors
/// As [`run`].
pub(crate) fn cases(arguments: &BootArguments) -> Result<Totals> {
    let agent_vm = build::agent_vm()?;
    let kernel = vendor::kernel()?;
    let stage = tempfile::tempdir()?;
    let stage = Stage::prepare(&stage.path().join("boot"), &agent_vm)?;
    let verdict = if arguments.lab {
        Err("asked for".to_owned())
    } else {
        kvm::probe(&agent_vm)?
    };
    let (said, succeeded) = match verdict {
        Ok(word) => {
            println!("boot: guests run here ({word}), so the cases do");
            natively(&stage, &agent_vm, &kernel, arguments)?
        }
        Err(reason) => {
            println!("boot: the cases run in the emulated host, no guest runs here: {reason}");
            let programs = Programs {
                agent_vm: Some(agent_vm),
                kernel: Some(kernel),
            };
            in_lab(&stage, &programs, arguments)?
        }
    };
    let totals = Totals::from_libtest(&said);
    if !succeeded || totals.failed > 0 {
        return Err(TestsFailed(totals).into());
    }
    if totals.passed == 0 {
        bail!("boot: no case ran");
    }
    if totals.skipped > 0 {
        bail!("boot: {} cases were skipped", totals.skipped);
    }
    Ok(totals)
}

/// What the cases need, in one directory.
struct Stage {
    directory: PathBuf,
    image: String,
}

impl Stage {
    fn prepare(directory: &Path, agent_vm: &Path) -> Result<Self> {
        for part in ["cases", "helpers", "store"] {
            fs_err::create_dir_all(directory.join(part))?;
        }
        let built = build::cargo(&[
            "test",
            "--release",
            "--no-run",
            "--package",
            PACKAGE,
            "--test",
            "*",
        ])?;
        // The programs of the package are built as well; only test binaries stay in `deps`.
        let is_case = |path: &Path| {
            path.parent()
                .is_some_and(|directory| directory.ends_with("deps"))
        };
        for case in built.iter().filter(|built| is_case(&built.path)) {
            fs_err::copy(&case.path, directory.join("cases").join(&case.name))?;
        }
        for helper in build::static_helpers()? {
            fs_err::copy(&helper.path, directory.join("helpers").join(&helper.name))?;
        }
        let image = pull_small_image(agent_vm, &directory.join("store"))?;
        fs_err::write(directory.join("image"), &image)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            image,
        })
    }
}

/// Pulls the small image into a store of its own and gives its reference.
pub(crate) fn pull_small_image(agent_vm: &Path, store: &Path) -> Result<String> {
    let registry = Registry::start()?;
    ImageTree::small()?.push(registry.client(), "agent-vm/small", "1")?;
    let reference = registry.reference("agent-vm/small", "1");
    let mut pull = Command::new(agent_vm);
    pull.args(["pull", &reference]).env("XDG_DATA_HOME", store);
    shell::output(&mut pull).context("cannot pull the small image")?;
    Ok(reference)
}

fn in_lab(stage: &Stage, programs: &Programs, arguments: &BootArguments) -> Result<(String, bool)> {
    let quoted: Vec<_> = arguments
        .filters
        .iter()
        .map(|filter| shell::quote(filter))
        .collect();
    let lab = LabArguments {
        smp: 2,
        files: vec![stage.directory.clone()],
        timeout: LAB_TIMEOUT_SECONDS,
        root: true,
        script: vec![format!("set -- {}\n{LAB_SCRIPT}", quoted.join(" "))],
        ..LabArguments::default()
    };
    let mut said = Tee::new(std::io::stdout());
    let ending = lab::start(&lab, programs, &mut said)?;
    match ending {
        Ending::Exited { status, .. } => Ok((said.text(), status == 0)),
        Ending::TimedOut => bail!("boot: the cases did not end within {LAB_TIMEOUT_SECONDS} s"),
    }
}

fn natively(
    stage: &Stage,
    agent_vm: &Path,
    kernel: &Path,
    arguments: &BootArguments,
) -> Result<(String, bool)> {
    let mut said = Tee::new(std::io::stdout());
    let mut succeeded = true;
    for entry in fs_err::read_dir(stage.directory.join("cases"))? {
        let mut command = Command::new(entry?.path());
        command
            .args(["--test-threads=1", "--nocapture", "--color=never"])
            .args(&arguments.filters)
            .env("AGENT_VM_BOOT_TESTS", "1")
            .env("AGENT_VM_BOOT_BINARY", agent_vm)
            .env("AGENT_VM_BOOT_HELPERS", stage.directory.join("helpers"))
            .env("AGENT_VM_BOOT_IMAGE", &stage.image)
            .env("AGENT_VM_BOOT_STORE", stage.directory.join("store"))
            .env("AGENT_VM_KERNEL", kernel)
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the cases")?;
        let mut stdout = child.stdout.take().expect("the standard output is a pipe");
        std::io::copy(&mut stdout, &mut said)?;
        succeeded &= child.wait()?.success();
    }
    Ok((said.text(), succeeded))
}
