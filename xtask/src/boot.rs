//! `boot`: the cases of `tests/boot` on a real virtual machine: here when a tiny guest really starts here, otherwise
//! all of them in one emulated host. A case that cannot boot has failed, and so has a run of no cases.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use agent_vm_test_support::image_tree::ImageTree;
use agent_vm_test_support::layered_image::layered;
use agent_vm_test_support::registry::Registry;
use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::ci::TestsFailed;
use crate::lab::Programs;
use crate::tee::Tee;
use crate::totals::Totals;
use crate::{build, kvm, setup, shell, vendor};

mod lab_cases;
mod lab_run;
mod libtest;
mod progress;

const PACKAGE: &str = "agent-vm-boot-tests";

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BootArguments {
    /// Use the emulated host even when guests run here.
    #[arg(long)]
    lab: bool,
    /// Arguments for the test binaries: filters, --skip.
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
    let ran = match verdict {
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
            lab_run::run(&stage, &programs, arguments)?
        }
    };
    let Ran { totals, failed } = ran;
    if !failed.is_empty() || totals.failed > 0 {
        let names = failed;
        return Err(TestsFailed { totals, names }.into());
    }
    if totals.passed == 0 {
        bail!("boot: no case ran");
    }
    if totals.skipped > 0 {
        bail!("boot: {} cases were skipped", totals.skipped);
    }
    Ok(totals)
}

/// What became of the cases: how many of each kind, and the names of those that failed.
#[derive(Debug, Default)]
struct Ran {
    totals: Totals,
    failed: Vec<String>,
}

impl Ran {
    fn fail(&mut self, name: &str) {
        self.totals.failed += 1;
        self.failed.push(name.to_owned());
    }
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
        let registry = Registry::start()?;
        let store = directory.join("store");
        let image = pull_image(
            agent_vm,
            &registry,
            "agent-vm/small",
            &ImageTree::small()?,
            &store,
        )?;
        pull_image(agent_vm, &registry, "agent-vm/layered", &layered()?, &store)?;
        fs_err::write(directory.join("image"), &image)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            image,
        })
    }
}

/// Pulls the small image into a store of its own and gives its reference.
pub(crate) fn pull_small_image(agent_vm: &Path, store: &Path) -> Result<String> {
    let (registry, image) = (Registry::start()?, ImageTree::small()?);
    pull_image(agent_vm, &registry, "agent-vm/small", &image, store)
}

fn pull_image(
    agent_vm: &Path,
    registry: &Registry,
    name: &str,
    image: &ImageTree,
    store: &Path,
) -> Result<String> {
    image.push(registry.client(), name, "1")?;
    let reference = registry.reference(name, "1");
    let mut pull = Command::new(agent_vm);
    pull.args(["pull", &reference]).env("XDG_DATA_HOME", store);
    shell::output(&mut pull).with_context(|| format!("cannot pull {reference}"))?;
    Ok(reference)
}

fn natively(
    stage: &Stage,
    agent_vm: &Path,
    kernel: &Path,
    arguments: &BootArguments,
) -> Result<Ran> {
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
    let text = said.text();
    let failed = libtest::verdicts(&text).into_iter();
    let failed: Vec<_> = failed
        .filter(|(_, verdict)| *verdict == libtest::Verdict::Failed)
        .map(|(name, _)| name.to_owned())
        .collect();
    if !succeeded && failed.is_empty() {
        bail!("boot: the cases' program ended before its cases did");
    }
    let totals = Totals::from_libtest(&text);
    Ok(Ran { totals, failed })
}
