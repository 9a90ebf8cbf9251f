//! Keys of the host that a guest may use without holding them: its SSH agent and its GPG agent, each behind a filter.
//!
//! ```text
//! ssh ──► socket in the guest ──► forwarder in PID 1 ══ vsock 1025 ══ Mux ──► filter ──► the agent's socket on the host
//! ```
//!
//! The guest opens these streams; which of them there are was said at launch, at most
//! [`agent_vm_protocol::MAX_GUEST_STREAMS`] at a time. A filter
//! knows every message it passes on; what it does not know it refuses.

use std::path::PathBuf;
use std::rc::Rc;

use agent_vm_protocol::{HostService, HostSocket};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;

use crate::guest_view::{GuestPathInvalid, guest_path};
use crate::publish::Flow;

mod find;
mod gpg;
mod ssh;

pub use find::{FindAgentError, find_gpg_agent, find_ssh_agent};
pub use ssh::{KeyFilter, KeyFilterError};

/// Bytes between a stream and its filter.
const BETWEEN: usize = 16 * 1024;

/// Where the guest finds the SSH agent.
pub(crate) const SSH_SOCKET: &str = "/run/agent-vm/ssh-agent.sock";
/// Where GnuPG of the guest's user looks for its agent (`gpgconf --list-dirs agent-socket`, without `/run/user/0`).
const GPG_SOCKET: &str = "/root/.gnupg/S.gpg-agent";

/// Agents of the host that the guest may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeyAgents {
    /// The SSH agent.
    pub ssh: Option<SshAgent>,
    /// The GPG agent's socket for remote use (`gpgconf --list-dirs agent-extra-socket`).
    pub gpg: Option<PathBuf>,
}

/// The host's SSH agent, as far as the guest may use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SshAgent {
    /// Its socket.
    pub socket: PathBuf,
    /// The keys the guest may use; all when there are none.
    pub keys: Vec<KeyFilter>,
}

impl KeyAgents {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ssh.is_none() && self.gpg.is_none()
    }

    /// The sockets of the guest.
    pub(crate) fn sockets(&self) -> Result<Vec<HostSocket>, GuestPathInvalid> {
        let ssh = self
            .ssh
            .as_ref()
            .map(|_| (HostService::SshAgent, SSH_SOCKET));
        let gpg = self
            .gpg
            .as_ref()
            .map(|_| (HostService::GpgAgent, GPG_SOCKET));
        let socket = |(service, path): (HostService, &str)| {
            Ok(HostSocket {
                service,
                path: guest_path(path.as_ref())?,
            })
        };
        ssh.into_iter().chain(gpg).map(socket).collect()
    }
}

/// Serves one stream of the guest to its end. What goes wrong ends the stream.
pub(crate) async fn serve(agents: Rc<KeyAgents>, service: HostService, flow: Flow) {
    let (guest, near) = tokio::io::duplex(BETWEEN);
    let filtered = async {
        match (service, &agents.ssh, &agents.gpg) {
            (HostService::SshAgent, Some(agent), _) => {
                let upstream = UnixStream::connect(&agent.socket).await?;
                ssh::filter(near, upstream, &agent.keys).await
            }
            (HostService::GpgAgent, _, Some(socket)) => {
                let upstream = UnixStream::connect(socket).await?;
                gpg::filter(near, upstream).await
            }
            (HostService::SshAgent, None, _) | (HostService::GpgAgent, _, None) => {
                Err(std::io::ErrorKind::PermissionDenied.into())
            }
        }
    };
    let (filtered, carried) = tokio::join!(filtered, carry(&flow, guest));
    if let Err(error) = filtered {
        tracing::warn!(%error, ?service, "a guest's stream to an agent of the host ended");
    }
    if carried.is_none() {
        tracing::debug!(?service, "a guest's stream to an agent was reset");
    }
}

/// Carries bytes between a flow and a stream until both directions have ended; nothing when either broke.
async fn carry(flow: &Flow, stream: DuplexStream) -> Option<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    let inward = async {
        while let Some(data) = flow.receive().await.ok()? {
            write.write_all(&data).await.ok()?;
            flow.grant(data.len());
        }
        write.shutdown().await.ok()
    };
    let outward = async {
        let mut buffer = vec![0; BETWEEN];
        loop {
            let room = flow.room().await.min(BETWEEN);
            match read.read(&mut buffer[..room]).await.ok()? {
                0 => break,
                count => flow.send(&buffer[..count]),
            }
        }
        flow.finish();
        Some(())
    };
    // A filter that ended ends the guest's direction too.
    let reset = async {
        flow.reset().await;
        None
    };
    tokio::select! {
        ended = async { tokio::try_join!(some(inward), some(outward)) } => ended.ok().map(drop),
        ended = reset => ended,
    }
}

async fn some(part: impl Future<Output = Option<()>>) -> Result<(), ()> {
    part.await.ok_or(())
}

#[cfg(test)]
mod tests;
