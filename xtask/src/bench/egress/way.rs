//! Ways from the client to the upstream, and the processes they consist of.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use super::mitmproxy::Mitmproxy;
use super::round_directory;

/// A way from the client to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Way {
    /// The upstream itself.
    Direct,
    /// The product's egress.
    Ours,
    /// The same of another build.
    Other,
    /// A blind relay on rustls.
    Relay,
    Hudsucker,
    Mitmproxy,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ours => "ours",
            Self::Other => "other",
            Self::Relay => "relay",
            Self::Hudsucker => "hudsucker",
            Self::Mitmproxy => "mitmproxy",
        }
    }
}

/// What ways are made of.
pub(super) struct Parts {
    program: PathBuf,
    other: Option<PathBuf>,
    directory: PathBuf,
    mitmproxy: Option<Mitmproxy>,
}

/// A way at work.
pub(super) struct Route {
    pub(super) way: Way,
    process: Option<Running>,
    /// The upstream lives as long as the last of its ways.
    _upstream: std::rc::Rc<Running>,
    pub(super) address: String,
    /// What is asked for by CONNECT, or `-`.
    pub(super) authority: String,
    pub(super) ca: PathBuf,
    pub(super) token: String,
    /// Where the product records requests.
    records: Option<PathBuf>,
    /// How many there were.
    requests: Cell<u64>,
}

impl Parts {
    pub(super) fn new(program: PathBuf, other: Option<PathBuf>, directory: &Path) -> Self {
        Self {
            program,
            other,
            directory: directory.to_owned(),
            mitmproxy: None,
        }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// The version of mitmproxy, if it was measured.
    pub(super) fn mitmproxy_version(&self) -> Option<String> {
        Some(self.mitmproxy.as_ref()?.version().to_owned())
    }

    /// An upstream and the ways to it.
    ///
    /// # Errors
    /// When a part does not start; mitmproxy is left out, with its reason.
    pub(super) fn routes(&mut self, ways: &[Way], round: usize) -> Result<Vec<Route>> {
        let directory = round_directory(&self.directory, round)?;
        let (upstream, address, token) =
            start(Command::new(&self.program).arg("upstream").arg(&directory))?;
        let upstream = std::rc::Rc::new(upstream);
        let mut routes = Vec::new();
        for way in ways {
            let mut route = Route {
                way: *way,
                process: None,
                _upstream: std::rc::Rc::clone(&upstream),
                address: address.clone(),
                authority: "-".to_owned(),
                ca: directory.join("upstream.pem"),
                token: token.clone(),
                records: None,
                requests: Cell::new(0),
            };
            match self.begin(&mut route, &directory) {
                Ok(()) => routes.push(route),
                Err(error) if *way == Way::Mitmproxy => {
                    eprintln!("bench egress: no mitmproxy: {error:#}");
                }
                Err(error) => return Err(error.context(way.name())),
            }
        }
        Ok(routes)
    }

    /// Puts the way's process between the client and the upstream that `route` is so far.
    fn begin(&mut self, route: &mut Route, directory: &Path) -> Result<()> {
        let upstream = route.address.clone();
        let port = upstream.rsplit_once(':');
        let by_connect = format!("localhost:{}", port.context("an address has a port")?.1);
        let (program, directory) = match &self.other {
            Some(other) if route.way == Way::Other => {
                // It writes files of the same names.
                let own = directory.join("other");
                fs_err::create_dir(&own)?;
                fs_err::copy(&route.ca, own.join("upstream.pem"))?;
                (other, own)
            }
            _ => (&self.program, directory.to_owned()),
        };
        let mut command = Command::new(program);
        match route.way {
            Way::Direct => return Ok(()),
            Way::Ours | Way::Other => {
                command.arg("ours").arg(&directory).arg(upstream);
                route.ca = directory.join("ours.pem");
                route.records = Some(directory.join("audit.jsonl"));
            }
            Way::Relay => {
                command.arg("relay").arg(&directory).arg(upstream);
                route.ca = directory.join("relay.pem");
            }
            Way::Hudsucker => {
                command.arg("hudsucker").arg(&directory);
                route.ca = directory.join("hudsucker.pem");
                route.authority = by_connect;
            }
            Way::Mitmproxy => {
                let mitmproxy = match &mut self.mitmproxy {
                    Some(mitmproxy) => mitmproxy,
                    none => none.insert(Mitmproxy::install()?),
                };
                let (process, address) = mitmproxy.start(&self.directory)?;
                route.process = Some(process);
                route.address = address;
                route.authority = by_connect;
                route.ca = Mitmproxy::authority(&self.directory);
                return Ok(());
            }
        }
        let (process, address, token) = start(&mut command)?;
        route.process = Some(process);
        (route.address, route.token) = (address, token);
        Ok(())
    }
}

impl Route {
    /// The process in between, if there is one.
    pub(super) fn process(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.0.id())
    }

    /// Notes requests that were answered.
    pub(super) fn count(&self, requests: u64) {
        self.requests.set(self.requests.get() + requests);
    }

    /// Compares the product's records with the requests that were answered.
    ///
    /// # Errors
    /// When there are too few, so that what was measured is not what the product does.
    pub(super) fn check_records(&self) -> Result<()> {
        let Some(records) = &self.records else {
            return Ok(());
        };
        let folder = records.parent().context("a file has a folder")?;
        let mut recorded = 0;
        for file in fs_err::read_dir(folder)? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("audit.jsonl") {
                let text = fs_err::read_to_string(&path)?;
                let request = |line: &&str| line.contains(r#""kind":"request""#);
                recorded += text.lines().filter(request).count() as u64;
            }
        }
        let requests = self.requests.get();
        ensure!(
            recorded >= requests,
            "{recorded} records of {requests} requests"
        );
        Ok(())
    }
}

/// Starts a part that says `ADDRESS TOKEN` when it listens.
fn start(command: &mut Command) -> Result<(Running, String, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a part of the benchmark")?;
    let said = child.stdout.take().context("it was piped")?;
    let running = Running(child);
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    let (address, token) = line
        .trim_end()
        .split_once(' ')
        .context("a part did not start")?;
    Ok((running, address.to_owned(), token.to_owned()))
}

/// A process that is killed when dropped.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
