//! A home, a project, and one run of the command in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A home directory and a project, removed at the end.
pub(crate) struct Environment {
    _guard: tempfile::TempDir,
    root: PathBuf,
    variables: Vec<(String, String)>,
}

impl Environment {
    pub(crate) fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        let root = fs_err::canonicalize(guard.path()).unwrap();
        for directory in ["home", "project/sub"] {
            fs_err::create_dir_all(root.join(directory)).unwrap();
        }
        fs_err::write(root.join("kernel"), "not read by these tests").unwrap();
        let mut this = Self {
            _guard: guard,
            root,
            variables: Vec::new(),
        };
        this.set("HOME", &this.path("home"));
        this.set("PATH", "/usr/bin:/bin");
        this.set("AGENT_VM_KERNEL", &this.path("kernel"));
        // A fixed size, so that no figure of the test's machine is shown.
        this.set("AGENT_VM_MEMORY", "256MiB");
        this.set("AGENT_VM_CPUS", "1");
        this
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.variables.retain(|(known, _)| known != name);
    }

    /// A path below the root, as text.
    pub(crate) fn path(&self, relative: &str) -> String {
        self.root.join(relative).display().to_string()
    }

    pub(crate) fn write(&self, relative: &str, content: &str) {
        let path = self.root.join(relative);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    /// Runs `agent-vm ARGUMENTS` in the project.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        self.run_in("project", arguments)
    }

    /// Runs PROGRAM ARGUMENTS in the project.
    pub(crate) fn run_program(&self, program: &str, arguments: &[&str]) -> Finished {
        let mut command = Command::new(program);
        command.args(arguments);
        self.finish(command, &self.root.join("project"))
    }

    /// Starts `agent-vm ARGUMENTS` in the project; what it says is not kept.
    pub(crate) fn start(&self, arguments: &[&str]) -> std::process::Child {
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent-vm"));
        command
            .args(arguments)
            .current_dir(self.root.join("project"))
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().unwrap()
    }

    pub(crate) fn run_in(&self, directory: &str, arguments: &[&str]) -> Finished {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent-vm"));
        command.args(arguments);
        self.finish(command, &self.root.join(directory))
    }

    /// Runs `agent-vm ARGUMENTS` in a mount namespace in which root's SCRIPT ran first; `None` where
    /// the system gives no such namespace.
    pub(crate) fn run_behind(&self, script: &str, arguments: &[&str]) -> Option<Finished> {
        // Root needs no user namespace; everybody else gets one in which they are root.
        let flags = ["-m", "-Urm"].into_iter().find(|flags| {
            let probe = Command::new("unshare")
                .args([*flags, "true"])
                .stderr(Stdio::null())
                .status();
            probe.is_ok_and(|status| status.success())
        });
        let Some(flags) = flags else {
            assert!(
                std::env::var_os("CI").is_none(),
                "no mount namespaces in CI"
            );
            return None;
        };
        let mut command = Command::new("unshare");
        let script = format!("set -e; {script}; exec \"$0\" \"$@\"");
        command
            .args([flags, "sh", "-c", &script, env!("CARGO_BIN_EXE_agent-vm")])
            .args(arguments);
        Some(self.finish(command, &self.root.join("project")))
    }

    fn finish(&self, mut command: Command, directory: &Path) -> Finished {
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        let output = command
            .current_dir(directory)
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(self.root.to_str().unwrap(), "ROOT")
        };
        Finished {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// What a run left; paths below the root begin with `ROOT`.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Exit code 125, nothing on standard output, this on standard error.
    #[track_caller]
    pub(crate) fn refused(&self, stderr: &str) {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (Some(125), ""),
            "{self:?}"
        );
        assert_eq!(self.stderr, stderr);
    }

    /// Exit code 0 and nothing on standard error; standard output is given back.
    #[track_caller]
    pub(crate) fn told(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }
}
