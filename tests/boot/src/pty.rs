//! A pseudo-terminal with a program in it, driven as a person would.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::agent_vm::{AgentVm, exit_code, timeout};
use crate::standstill;

/// A program on a terminal of its own.
#[derive(Debug)]
pub struct Pty {
    controller: std::fs::File,
    terminal: OwnedFd,
    child: Child,
    seen: String,
    before: Termios,
}

impl Pty {
    /// Starts `command` on a terminal of that size, in a session of its own, with the terminal as controlling one.
    ///
    /// # Errors
    /// When there is no terminal to be had or the program cannot be started.
    pub fn start(command: &AgentVm, rows: u16, cols: u16) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?;
        let terminal = rustix::fs::open(
            name.as_c_str(),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        tcsetwinsize(&controller, winsize(rows, cols))?;
        let before = tcgetattr(&terminal)?;
        let inner = command.command();
        // `setsid --ctty` makes the terminal on its standard input the controlling one.
        let mut outer = std::process::Command::new("setsid");
        outer
            .args(["--ctty", "--wait"])
            .arg(inner.get_program())
            .args(inner.get_args());
        outer
            .env_clear()
            .envs(
                inner
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("TERM", "xterm");
        if let Some(directory) = inner.get_current_dir() {
            outer.current_dir(directory);
        }
        let child = outer
            .stdin(Stdio::from(terminal.try_clone()?))
            .stdout(Stdio::from(terminal.try_clone()?))
            .stderr(Stdio::from(terminal.try_clone()?))
            .spawn()
            .context("cannot start the program on the terminal")?;
        Ok(Self {
            controller: controller.into(),
            terminal,
            child,
            seen: String::new(),
            before,
        })
    }

    /// Process id of what was started (`setsid`; the launcher is its child).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        Ok(self.controller.write_all(text.as_bytes())?)
    }

    /// Changes the size; the foreground program gets SIGWINCH.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        Ok(tcsetwinsize(&self.controller, winsize(rows, cols))?)
    }

    /// Reads until `text` was shown; gives all that was seen so far.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_for(&mut self, text: &str) -> Result<&str> {
        let started = Instant::now();
        while !self.seen.contains(text) {
            if started.elapsed() > timeout() {
                bail!(
                    "{text:?} was not shown in {:?}; seen:\n{}",
                    timeout(),
                    self.seen
                );
            }
            self.read_some(Duration::from_millis(50))?;
        }
        Ok(&self.seen)
    }

    fn read_some(&mut self, wait: Duration) -> Result<()> {
        let mut ready = [rustix::event::PollFd::new(
            &self.controller,
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        if rustix::event::poll(&mut ready, Some(&limit))? == 0 {
            return Ok(());
        }
        let mut buffer = [0; 4096];
        let count = self.controller.read(&mut buffer)?;
        self.seen
            .push_str(&String::from_utf8_lossy(&buffer[..count]));
        Ok(())
    }

    /// Waits for the end of the program; gives its exit code and all that was shown.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn finish(&mut self) -> Result<(i32, String)> {
        let started = Instant::now();
        loop {
            self.read_some(Duration::from_millis(20))?;
            if let Some(status) = self.child.try_wait()? {
                self.read_some(Duration::from_millis(20))?;
                return Ok((exit_code(status), self.seen.clone()));
            }
            if started.elapsed() > timeout() {
                let doing = standstill::describe(self.child.id());
                self.child.kill()?;
                self.child.wait()?;
                bail!(
                    "the program did not end in {:?}; seen:\n{}\nand it was doing:\n{doing}",
                    timeout(),
                    self.seen
                );
            }
        }
    }

    /// Whether the terminal's settings are what they were before the program.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn is_restored(&self) -> Result<bool> {
        let now = tcgetattr(&self.terminal)?;
        Ok(now.local_modes == self.before.local_modes
            && now.input_modes == self.before.input_modes
            && now.output_modes == self.before.output_modes)
    }
}

fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
