//! Runs `agent-vm` as a user would and keeps what it said.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine::{Machine, is_root};
use crate::standstill;

/// How long one launch may take, before the scale of the machine.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The variable by which slow machines stretch timeouts.
const SCALE_VARIABLE: &str = "AGENT_VM_TIMEOUT_SCALE";

/// One invocation, not yet started.
#[derive(Debug)]
pub struct AgentVm {
    arguments: Vec<String>,
    directory: PathBuf,
    environment: Vec<(OsString, OsString)>,
    input: Vec<u8>,
}

/// An invocation that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<std::thread::JoinHandle<()>>,
    arguments: Vec<String>,
}

/// What an invocation left.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; 128 + n when `agent-vm` itself was killed by signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall time.
    pub took: Duration,
}

impl AgentVm {
    pub(crate) fn new<S: AsRef<str>>(machine: &Machine, arguments: &[S]) -> Self {
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        for (name, value) in [
            ("HOME", machine.home()),
            ("XDG_RUNTIME_DIR", machine.home().with_file_name("runtime")),
            ("XDG_DATA_HOME", machine.store().to_path_buf()),
            // Small machines: an emulated host takes seconds for every further processor.
            ("AGENT_VM_CPUS", PathBuf::from("1")),
            ("AGENT_VM_MEMORY", PathBuf::from("512MiB")),
            ("PATH", PathBuf::from("/usr/local/bin:/usr/bin:/bin")),
        ] {
            environment.push((name.into(), value.into()));
        }
        for name in [SCALE_VARIABLE, "AGENT_VM_KERNEL"] {
            environment.extend(std::env::var_os(name).map(|value| (name.into(), value)));
        }
        Self {
            arguments: arguments
                .iter()
                .map(|argument| argument.as_ref().to_owned())
                .collect(),
            directory: machine.project(),
            environment,
            input: Vec::new(),
        }
    }

    /// Sets a variable of the launcher.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it in another directory.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.directory = directory.to_path_buf();
        self
    }

    /// Gives it standard input; without, it is empty.
    #[must_use]
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// The command with the user's identity and environment, not yet given streams.
    pub(crate) fn command(&self) -> Command {
        let program = std::env::var_os("AGENT_VM_BOOT_BINARY").unwrap_or_else(|| "agent-vm".into());
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args([
                    "--reuid=1000",
                    "--regid=1000",
                    "--init-groups",
                    "--no-new-privs",
                    "--",
                ])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(&self.arguments)
            .current_dir(&self.directory)
            .env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it with pipes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> Result<Running> {
        let mut child = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start agent-vm")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let input = self.input;
        // The program may end without reading: a broken pipe here is not the test's failure.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        Ok(Running {
            child,
            input: Some(writer),
            arguments: self.arguments,
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn run(self) -> Result<Finished> {
        self.start()?.finish()
    }
}

impl Running {
    /// Process id of the launcher (`setpriv` replaces itself by it).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, to be read while it runs; [`Running::finish`] then gives only the rest.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn stdout(&mut self) -> Result<std::process::ChildStdout> {
        self.child
            .stdout
            .take()
            .context("standard output was taken")
    }

    /// Waits for its end, at most the launch timeout.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn finish(mut self) -> Result<Finished> {
        let started = Instant::now();
        let stdout = self.child.stdout.take().map(read_all);
        let stderr = self.child.stderr.take().map(read_all);
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if started.elapsed() > timeout() {
                let doing = standstill::describe(self.child.id());
                self.child.kill()?;
                self.child.wait()?;
                let said = stderr.map(join).unwrap_or_default();
                bail!(
                    "agent-vm {:?} did not end in {:?}; it said:\n{said}\nand was doing:\n{doing}",
                    self.arguments,
                    timeout()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(writer) = self.input.take() {
            drop(writer.join());
        }
        Ok(Finished {
            code: exit_code(status),
            stdout: stdout.map(join).unwrap_or_default(),
            stderr: stderr.map(join).unwrap_or_default(),
            took: started.elapsed(),
        })
    }
}

impl Finished {
    /// Fails unless the exit code is `code`; shows what was said.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code == code {
            return Ok(self);
        }
        bail!(
            "exit code {} instead of {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.stdout,
            self.stderr
        )
    }
}

/// How long a launch may take on this machine.
pub(crate) fn timeout() -> Duration {
    scaled(LAUNCH_TIMEOUT)
}

/// A time as long as this machine needs for it.
#[must_use]
pub fn scaled(time: Duration) -> Duration {
    let scale = std::env::var(SCALE_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1.0);
    time.mul_f64(scale)
}

pub(crate) fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

type Reader = std::thread::JoinHandle<Vec<u8>>;

fn read_all(mut stream: impl std::io::Read + Send + 'static) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        bytes
    })
}

fn join(reader: Reader) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}
