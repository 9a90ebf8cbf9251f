//! A launch without its machine: the network of a guest, with its policy and credentials, on a TAP device.
//!
//! Whoever asks (a development task) connects the device's other end to something that stands for the guest, so all
//! of gateway and egress can be tried at native speed. Nothing is decided differently than for a guest.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use agent_vm_gateway::{GatewayConfig, GatewayError, LinkAddresses};
use agent_vm_state::{SessionDirectory, SessionError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::LocalSet;

use crate::boot::{gateway_config, host_resolver, serve_network};
use crate::guest_view::{GUEST_HOME, environment};
use crate::prepare::{PrepareError, egress};
use crate::request::LaunchRequest;

/// Why a network is not served.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens at the socket.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The peer cannot be spoken with.
    #[error("cannot speak with the one who asked for the network")]
    Stream(#[source] std::io::Error),
    /// The peer's first message carries no descriptor.
    #[error("no descriptor of a network device was given")]
    NoDescriptor,
    /// The policy, the credentials or the audit log cannot be had.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The descriptor is no network device.
    #[error("cannot serve the network")]
    Gateway(#[from] GatewayError),
    /// There is no event loop.
    #[error("cannot start the event loop")]
    Runtime(#[source] std::io::Error),
}

impl From<SessionError> for LinkError {
    fn from(error: SessionError) -> Self {
        Self::Prepare(error.into())
    }
}

/// What stands for the guest must be like: one line of JSON.
#[derive(Debug, Serialize)]
struct GuestView {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    files: Vec<ViewedFile>,
    ca_pem: String,
    guest_address_v4: String,
    guest_address_v6: String,
    guest_mac: String,
    mtu: u32,
    gateway_v4: String,
    gateway_v6: String,
    search: Vec<String>,
    ndots: u8,
}

/// A file of the guest, its path absolute.
#[derive(Debug, Serialize)]
struct ViewedFile {
    path: String,
    mode: u32,
    content_base64: String,
}

/// Serves the network of `request` on the TAP device (`IFF_NO_PI | IFF_VNET_HDR`, header size 12) whose descriptor the
/// listener at `socket` sends with its first message, after one line of JSON that describes the guest. Blocks until the
/// listener closes the connection.
///
/// # Errors
/// See [`LinkError`].
pub fn serve_link(request: LaunchRequest, socket: &Path) -> Result<(), LinkError> {
    let stream = StdUnixStream::connect(socket).map_err(|source| LinkError::Connect {
        path: socket.to_owned(),
        source,
    })?;
    let device = receive_descriptor(&stream)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LinkError::Runtime)?;
    LocalSet::new().block_on(&runtime, serve(&request, stream, device))
}

async fn serve(
    request: &LaunchRequest,
    stream: StdUnixStream,
    device: OwnedFd,
) -> Result<(), LinkError> {
    let session = SessionDirectory::create(&request.directories)?;
    let (egress, _news) = egress(request, session.id())?;
    let config = gateway_config(request, &egress);
    let resolver = host_resolver();
    let search = resolver.search_rule();
    let view = GuestView {
        search: search.domains,
        ndots: search.ndots,
        ..view(request, &config, egress.ca_pem())
    };
    let mut line = serde_json::to_vec(&view).expect("plain data has a JSON form");
    line.push(b'\n');
    let _network = serve_network(config, device, (egress, resolver))?;
    stream.set_nonblocking(true).map_err(LinkError::Stream)?;
    let mut stream = UnixStream::from_std(stream).map_err(LinkError::Stream)?;
    stream.write_all(&line).await.map_err(LinkError::Stream)?;
    // The peer has nothing to say: what it sends is dropped, a connection that breaks is closed too.
    let mut ignored = [0; 64];
    while stream.read(&mut ignored).await.is_ok_and(|len| len > 0) {}
    Ok(())
}

/// The descriptor that comes with the first message; further ones are closed.
fn receive_descriptor(stream: &StdUnixStream) -> Result<OwnedFd, LinkError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(|errno| LinkError::Stream(errno.into()))?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptors.next().ok_or(LinkError::NoDescriptor)
}

fn view(request: &LaunchRequest, config: &GatewayConfig, ca_pem: &str) -> GuestView {
    let addresses = &config.addresses;
    let argv = request.program.argv.iter();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let env = environment(request, &[]).into_iter();
    let files = request
        .program
        .files
        .iter()
        .chain(&request.credentials.guest_files);
    GuestView {
        argv: argv
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        env: env.map(|(name, value)| (text(name), text(value))).collect(),
        files: files
            .map(|file| ViewedFile {
                path: format!("{GUEST_HOME}/{}", file.path),
                mode: file.mode,
                content_base64: STANDARD.encode(&file.content),
            })
            .collect(),
        ca_pem: ca_pem.to_owned(),
        guest_address_v4: format!("{}/{}", addresses.guest_v4, addresses.prefix_v4),
        guest_address_v6: format!("{}/{}", addresses.guest_v6, addresses.prefix_v6),
        guest_mac: mac(addresses),
        mtu: u32::from(config.mtu),
        gateway_v4: addresses.gateway_v4.to_string(),
        gateway_v6: addresses.gateway_v6.to_string(),
        search: Vec::new(),
        ndots: 1,
    }
}

/// The guest's Ethernet address as people write it.
fn mac(addresses: &LinkAddresses) -> String {
    addresses
        .guest_mac
        .map(|byte| format!("{byte:02x}"))
        .join(":")
}

#[cfg(test)]
mod tests;
