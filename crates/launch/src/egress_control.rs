//! The control socket of a running launch: what its guest waits for, and the person's answers, from another terminal.
//!
//! It lies in the session's directory (0700), is 0600 itself, and speaks only with processes of the user who launched:
//! one line of JSON is asked, one is answered, then the connection ends. The guest cannot reach it: the directory is no
//! share, a share passes no connections on, and the VMM may make no socket. Connections are served one after the other,
//! at most twenty a second, each within a second.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_vm_egress::{Egress, Question};
use agent_vm_policy::{Answer, HostPattern};
use agent_vm_state::HostDirectories;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Name of the socket in the session's directory.
const SOCKET: &str = "egress.sock";
/// Longest line that is asked.
const MAX_REQUEST_BYTES: u64 = 4096;
/// Longest line that is answered.
const MAX_REPLY_BYTES: u64 = 4 * 1024 * 1024;
/// How long one connection may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two connections.
const PACE: Duration = Duration::from_millis(50);
/// How long the asking side waits.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked of a running launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum ControlRequest {
    /// What waits for an answer.
    Pending,
    /// These hosts may be reached from now on.
    Allow {
        /// `NAME` or `*.NAME`.
        hosts: String,
    },
    /// They may not.
    Deny {
        /// `NAME` or `*.NAME`.
        hosts: String,
    },
}

/// What it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlReply {
    /// The project's id.
    pub project: String,
    /// What waits for an answer, the oldest first.
    pub pending: Vec<ControlQuestion>,
    /// What nobody answered in time and is denied since.
    pub unanswered: Vec<ControlQuestion>,
    /// How many questions this answered.
    pub answered: usize,
    /// Why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A question to the person. The guest chose host and request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlQuestion {
    /// The host.
    pub host: String,
    /// The port it was asked for at first.
    pub port: u16,
    /// Method and path, when a rule asks about requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The rule that asks; without one the policy does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How long it waits still; 0 when it does no more.
    pub seconds_left: u64,
}

/// A launch that can be asked.
#[derive(Debug)]
pub struct RunningSession {
    /// Its id.
    pub id: String,
    directory: PathBuf,
}

/// Serves the control socket of a session until the set is dropped.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(
    services: &mut JoinSet<()>,
    directory: &Path,
    (egress, project): (Egress, String),
) -> io::Result<()> {
    let opened = open_directory(directory)?;
    let listener = UnixListener::bind(through(&opened))?;
    fs_err::set_permissions(
        directory.join(SOCKET),
        std::fs::Permissions::from_mode(0o600),
    )?;
    services.spawn_local(async move {
        loop {
            if let Ok((stream, _unnamed)) = listener.accept().await {
                let serving = serve_one(stream, &egress, &project);
                match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a control connection broke"),
                    Err(_elapsed) => tracing::debug!("a control connection was too slow"),
                }
            }
            tokio::time::sleep(PACE).await;
        }
    });
    Ok(())
}

async fn serve_one(mut stream: UnixStream, egress: &Egress, project: &str) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if peer.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new(reader.take(MAX_REQUEST_BYTES));
    reader.read_until(b'\n', &mut line).await?;
    let reply = match serde_json::from_slice(&line) {
        Ok(request) => answer(egress, &request),
        Err(_) => refused("the request is not understood"),
    };
    let reply = ControlReply {
        project: project.to_owned(),
        ..reply
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.shutdown().await
}

fn refused(why: impl ToString) -> ControlReply {
    ControlReply {
        refused: Some(why.to_string()),
        ..ControlReply::default()
    }
}

/// Does what was asked.
fn answer(egress: &Egress, request: &ControlRequest) -> ControlReply {
    let (hosts, answer) = match request {
        ControlRequest::Pending => return state(egress),
        ControlRequest::Allow { hosts } => (hosts, Answer::Allow),
        ControlRequest::Deny { hosts } => (hosts, Answer::Deny),
    };
    let given = HostPattern::parse(hosts).map_err(|error| error.to_string());
    let done = given.and_then(|hosts| {
        let answered = egress.answer(&hosts, answer);
        answered.map_err(|error| error.to_string())
    });
    match done {
        Ok(answered) => ControlReply {
            answered,
            ..state(egress)
        },
        Err(why) => refused(why),
    }
}

fn state(egress: &Egress) -> ControlReply {
    let shown = |question: Question, seconds_left| ControlQuestion {
        host: question.host.to_string(),
        port: question.port,
        request: question.request,
        rule: question.rule,
        seconds_left,
    };
    let pending = egress.pending().into_iter();
    let unanswered = egress.lapsed().into_iter();
    ControlReply {
        pending: pending
            .map(|pending| shown(pending.question, pending.left.as_secs().max(1)))
            .collect(),
        unanswered: unanswered.map(|question| shown(question, 0)).collect(),
        ..ControlReply::default()
    }
}

/// Every launch of this user that may be asked, in the order of their ids; one that was killed does not answer.
///
/// # Errors
/// When the sessions cannot be listed.
pub fn running_sessions(directories: &HostDirectories) -> io::Result<Vec<RunningSession>> {
    let list = match fs_err::read_dir(directories.sessions()) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut running = Vec::new();
    for entry in list {
        let entry = entry?;
        let directory = entry.path();
        if directory.join(SOCKET).exists() {
            running.push(RunningSession {
                id: entry.file_name().to_string_lossy().into_owned(),
                directory,
            });
        }
    }
    running.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(running)
}

impl RunningSession {
    /// Asks.
    ///
    /// # Errors
    /// When it has ended, does not answer, or not in our form.
    pub fn ask(&self, request: &ControlRequest) -> io::Result<ControlReply> {
        let mut stream = connect(&self.directory)?;
        stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
        stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut reply = Vec::new();
        let mut reader = BufReader::new(stream.take(MAX_REPLY_BYTES));
        reader.read_until(b'\n', &mut reply)?;
        Ok(serde_json::from_slice(&reply)?)
    }
}

fn connect(directory: &Path) -> io::Result<StdUnixStream> {
    let opened = open_directory(directory)?;
    StdUnixStream::connect(through(&opened))
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

/// The socket in an open directory: the path of a socket has at most 107 bytes, that of a directory may have more.
fn through(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

#[cfg(test)]
mod tests;
