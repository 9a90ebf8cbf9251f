//! The same cases in a real guest: the emulated host (`cargo xtask lab`) holds the logins and runs the fakes and `agent-vm`;
//! the client's program lies in a share. The guest itself notes environment and arguments of its processes while the client
//! runs, and its files at the end; the notes are searched here.

use std::path::{Path, PathBuf};
use std::time::Instant;

use agent_vm_test_support::canary::Canary;
use agent_vm_test_support::upstream::read_log;
use anyhow::{Context as _, Result, bail};

use super::case::Case;
use super::check;
use super::install;
use super::outcome::Outcome;
use super::run::{self, Places};
use super::watch::Watch;
use crate::boot::pull_small_image;
use crate::lab::{self, Ending, LabArguments, Programs};
use crate::{build, setup, shell, vendor};

/// Seconds one case may take in the emulated host.
const TIMEOUT_SECONDS: u64 = 1500;

/// Libraries of programs that are linked to the C library's parts by name; the small image has the C library alone.
const LIBRARIES: &[&str] = &["libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"];

/// In the emulated host. $STAGE is what was prepared, $OUT takes the results, $WRITTEN is when the logins were written.
const HOST_SCRIPT: &str = r#"set -eu
cp -r "$STAGE/store" "$HOME/data"
cp -r "$STAGE/host" "$HOME/person"
find "$HOME/person" -type f -exec touch -d "$WRITTEN" {} +
cp -r "$STAGE/project" "$HOME/project"
mkdir "$OUT/said"
mkfifo "$HOME/hold"
"$STAGE/fake-providers" 127.0.0.1:8443 "$OUT/requests.jsonl" "$HOME" "$STAGE/behaviour.json" \
    < "$HOME/hold" > "$HOME/listening" &
exec 9> "$HOME/hold"
while [ ! -s "$HOME/listening" ]; do sleep 0.1; done
cd "$HOME/project"
code=0
(
    export XDG_DATA_HOME="$HOME/data" HOME="$HOME/person"
    . "$STAGE/launch"
) > "$OUT/said/stdout" 2> "$OUT/said/launcher" || code=$?
cp -r "$HOME/project" "$HOME/person" "$OUT/"
exit "$code"
"#;

/// In the guest. $1: the client's script, $2: its program.
const GUEST_SCRIPT: &str = r#"export PATH="/opt/clients:$PATH" LD_LIBRARY_PATH=/opt/clients/lib
(while :; do cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; sleep 5; done) > .notes 2>/dev/null &
notes=$!
sh -c "$1" client "$2" 2> .stderr
code=$?
kill "$notes"
tar -cf .files /root /tmp /etc /run /var 2>/dev/null
exit "$code""#;

/// What all cases share.
pub(crate) struct Lab {
    programs: Programs,
    stage: tempfile::TempDir,
    image: String,
}

impl Lab {
    /// Builds everything and pulls the small image.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub(crate) fn prepare() -> Result<Self> {
        setup::run()?;
        let (agent_vm, kernel) = (build::agent_vm()?, vendor::kernel()?);
        let stage = tempfile::tempdir()?;
        let store = stage.path().join("store");
        fs_err::create_dir_all(&store)?;
        let image = pull_small_image(&agent_vm, &store)?;
        fs_err::copy(
            build::test_program("fake-providers")?,
            stage.path().join("fake-providers"),
        )?;
        Ok(Self {
            programs: Programs {
                agent_vm: Some(agent_vm),
                kernel: Some(kernel),
            },
            stage,
            image,
        })
    }

    /// Runs one case.
    ///
    /// # Errors
    /// When it cannot be run; what is wrong with a run is in the outcome.
    pub(crate) fn one(&self, case: &Case, keep: bool) -> Result<Outcome> {
        let program = install::program(case.program)?;
        let directory = run::directory(case, keep)?;
        let marker = Canary::mint("marker-");
        let stage = directory.path().join("stage");
        self.stage(case, &program, (&stage, &marker))?;
        let out = directory.path().join("out");
        let settings = "export STAGE=/files/stage OUT=/out WRITTEN='2026-01-01 00:00'\n";
        let arguments = LabArguments {
            smp: 2,
            mem: "6G".to_owned(),
            files: vec![stage],
            out: Some(out.clone()),
            timeout: TIMEOUT_SECONDS,
            script: vec![format!("{settings}{HOST_SCRIPT}")],
            ..LabArguments::default()
        };
        let started = Instant::now();
        let ending = lab::start(&arguments, &self.programs, &mut std::io::stderr())?;
        let took = started.elapsed();
        let Ending::Exited { status, .. } = ending else {
            bail!("it did not end within {TIMEOUT_SECONDS} s");
        };
        let mut outcome = checked(case, &out, &marker)?;
        outcome.took = took;
        if status != 0 {
            outcome.problems.push(format!("it ended with {status}"));
        }
        Ok(outcome)
    }

    /// Everything of one case for the emulated host.
    fn stage(&self, case: &Case, program: &Path, (stage, marker): (&Path, &Canary)) -> Result<()> {
        let places = Places::make(stage)?;
        run::write_host_files(case, &places.host)?;
        fs_err::write(places.project.join(".marker"), marker.token())?;
        let behaviour = run::behaviour(case, &places);
        fs_err::write(
            stage.join("behaviour.json"),
            serde_json::to_vec(&behaviour)?,
        )?;
        fs_err::create_dir_all(stage.join("programs/lib"))?;
        for library in LIBRARIES {
            let from = Path::new("/lib/x86_64-linux-gnu").join(library);
            fs_err::copy(from, stage.join("programs/lib").join(library))?;
        }
        let name = program.file_name().context("a program has a name")?;
        fs_err::copy(program, stage.join("programs").join(name))?;
        for part in ["store", "fake-providers"] {
            let mut copy = shell::tool("cp");
            shell::output(copy.arg("-r").arg(self.stage.path().join(part)).arg(stage))?;
        }
        let in_guest = Path::new("/opt/clients").join(name);
        fs_err::write(stage.join("launch"), self.launch(case, &in_guest, marker))?;
        Ok(())
    }

    /// The command line, as a line of sh with the host's variables before it.
    fn launch(&self, case: &Case, in_guest: &Path, marker: &Canary) -> String {
        let mut words: Vec<String> = ["agent-vm", "shell"].map(str::to_owned).into();
        let ca = PathBuf::from("/home/user/upstream-ca.pem");
        words.extend(run::options(case, marker, (8443, &ca)));
        let image = ["--image", &self.image, "--memory", "2GiB", "--cpus", "1"];
        words.extend(image.map(str::to_owned));
        let mount = ["--mount", "/files/stage/programs:/opt/clients:ro"];
        words.extend(mount.map(str::to_owned));
        words.extend(["--", "-c", GUEST_SCRIPT, "guest", case.script].map(str::to_owned));
        words.push(in_guest.display().to_string());
        let words: Vec<_> = words.iter().map(|word| shell::quote(word)).collect();
        let variables = case.host_env.iter();
        let variables: String = variables
            .map(|(name, value)| format!("export {name}={}\n", shell::quote(value)))
            .collect();
        format!("{variables}{}\n", words.join(" "))
    }
}

/// What the run left in `out`.
fn checked(case: &Case, out: &Path, marker: &Canary) -> Result<Outcome> {
    let said = out.join("said");
    let project = out.join("project");
    for (from, to) in [(".stderr", "stderr")] {
        if let Ok(text) = fs_err::read(project.join(from)) {
            fs_err::write(said.join(to), text)?;
        }
    }
    let places = Places {
        host: out.join("person"),
        guest: project.clone(),
        project: project.clone(),
        said,
        log: out.join("requests.jsonl"),
        git_root: out.to_path_buf(),
    };
    let requests = read_log(&places.log)?;
    let notes = fs_err::read(project.join(".notes")).unwrap_or_default();
    let watch = Watch::noted(notes);
    let mut outcome = Outcome {
        requests: requests.len(),
        ..Outcome::default()
    };
    check::all(case, &places, (&requests, &watch, marker), &mut outcome)?;
    if !project.join(".files").is_file() {
        outcome
            .problems
            .push("the guest gave no copy of its files".to_owned());
    }
    if !outcome.problems.is_empty() {
        outcome.problems.push(run::said(&places));
    }
    Ok(outcome)
}
