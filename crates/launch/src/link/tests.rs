use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;

use agent_vm_credentials::GuestFile;
use agent_vm_state::{BaseDirectories, HostDirectories};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

use super::*;
use crate::plan::tests::request;

/// A launch whose state lies in `home`.
fn launch_in(home: &Path) -> LaunchRequest {
    let mut request = request(home);
    let base = BaseDirectories {
        home: home.to_owned(),
        ..BaseDirectories::default()
    };
    request.directories = HostDirectories::from_base(&base);
    request.program.files = vec![GuestFile {
        path: ".config/a".to_owned(),
        mode: 0o600,
        content: b"text".to_vec(),
    }];
    request
}

fn send(stream: &StdUnixStream, descriptor: Option<&OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptors) = &descriptors {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let text = [std::io::IoSlice::new(b"t")];
    sendmsg(stream, &text, &mut ancillary, SendFlags::empty()).unwrap();
}

/// Asks for the network of a launch; gives the description and how serving ended after the connection was closed.
fn ask(home: &Path, descriptor: Option<&OwnedFd>) -> (String, Result<(), LinkError>) {
    use std::io::BufRead as _;
    let socket = home.join("link");
    let listener = UnixListener::bind(&socket).unwrap();
    let request = launch_in(home);
    let serving = std::thread::spawn(move || serve_link(request, &socket));
    let (stream, _) = listener.accept().unwrap();
    send(&stream, descriptor);
    let mut line = String::new();
    std::io::BufReader::new(&stream)
        .read_line(&mut line)
        .unwrap();
    drop(stream);
    (line, serving.join().unwrap())
}

#[test]
fn describes_the_guest_and_ends_with_the_connection() {
    let home = tempfile::tempdir().unwrap();
    let (ours, _theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let (line, ended) = ask(home.path(), Some(&ours));
    ended.unwrap();
    let view: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(view["argv"], serde_json::json!(["ls"]));
    assert_eq!(view["guest_address_v4"], "10.118.0.2/30");
    assert_eq!(view["guest_address_v6"], "fd76:6d00::2/64");
    assert_eq!(view["guest_mac"], "02:76:6d:00:00:02");
    assert_eq!(view["gateway_v4"], "10.118.0.1");
    let file =
        serde_json::json!({"path": "/root/.config/a", "mode": 0o600, "content_base64": "dGV4dA=="});
    assert_eq!(view["files"], serde_json::json!([file]));
    let env = view["env"].as_array().unwrap();
    assert!(env.contains(&serde_json::json!(["GIVEN", "private-value"])));
    let pem = view["ca_pem"].as_str().unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
    let sessions = launch_in(home.path()).directories.sessions();
    let left = fs_err::read_dir(sessions).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);
}

#[test]
fn message_without_a_descriptor_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (line, ended) = ask(home.path(), None);
    assert_eq!(line, "");
    assert!(matches!(ended, Err(LinkError::NoDescriptor)), "{ended:?}");
}

#[test]
fn file_is_no_network_device() {
    let home = tempfile::tempdir().unwrap();
    let file = OwnedFd::from(std::fs::File::open("/proc/self/status").unwrap());
    let (line, ended) = ask(home.path(), Some(&file));
    assert_eq!(line, "");
    assert!(matches!(ended, Err(LinkError::Gateway(_))), "{ended:?}");
}
