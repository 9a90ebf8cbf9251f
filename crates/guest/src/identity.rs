//! The files that make the machine this launch's: names, resolver, certificate, files of `Boot`.

use std::io;

use agent_vm_protocol::Boot;
use thiserror::Error;

use crate::network;
use crate::tree::{Attributes, Tree, TreeError};
use crate::trust;

/// A file could not be written, or the kernel refused the name.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The kernel refused the host name.
    #[error("cannot set the host name")]
    Hostname(#[source] io::Error),
    /// A file of the system or of the launch.
    #[error(transparent)]
    File(#[from] TreeError),
}

/// Writes them all into `tree`. Gives lines about what did not work but is not needed by everybody.
///
/// # Errors
/// One of the needed files cannot be written.
pub fn establish(tree: &Tree, boot: &Boot) -> Result<Vec<String>, IdentityError> {
    let set = rustix::system::sethostname(boot.hostname.as_bytes());
    set.map_err(|errno| IdentityError::Hostname(errno.into()))?;
    write_files(tree, boot)
}

fn write_files(tree: &Tree, boot: &Boot) -> Result<Vec<String>, IdentityError> {
    let hosts = network::hosts(&boot.hostname, boot.network.as_ref());
    tree.write_at("/etc/hostname", format!("{}\n", boot.hostname).as_bytes())?;
    tree.write_at("/etc/hosts", hosts.as_bytes())?;
    if let Some(network) = &boot.network {
        tree.write_at("/etc/resolv.conf", network::resolv_conf(network).as_bytes())?;
    }
    let warnings = if boot.ca_pem.is_empty() {
        Vec::new()
    } else {
        trust::install(tree, &boot.ca_pem)
    };
    for file in &boot.files {
        let attributes = Attributes {
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
        };
        tree.write(&file.path, &file.content, attributes)?;
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use agent_vm_protocol::{BootFile, GuestPath, Lower, Root, Upper};

    use super::*;

    #[test]
    fn a_resolv_conf_that_links_into_nothing_is_replaced_only_with_a_network() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        let link = directory.path().join("etc/resolv.conf");
        std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", &link).unwrap();
        let file = BootFile {
            path: GuestPath::new("/opt/agent/settings").unwrap(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            content: b"x".to_vec(),
        };
        let boot = Boot {
            root: Root {
                lower: Lower::Empty,
                upper: Upper::Tmpfs,
            },
            shares: Vec::new(),
            network: None,
            hostname: "box".into(),
            ca_pem: Vec::new(),
            files: vec![file],
            unix_ns: 0,
            sysctls: Vec::new(),
            max_open_files: 1024,
            canary: None,
            forwarding: agent_vm_protocol::Forwarding::Off,
            sockets: Vec::new(),
        };
        let tree = Tree::open(directory.path().to_str().unwrap()).unwrap();
        assert!(write_files(&tree, &boot).unwrap().is_empty());
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            fs_err::read(directory.path().join("etc/hostname")).unwrap(),
            b"box\n"
        );
        assert_eq!(
            fs_err::read(directory.path().join("opt/agent/settings")).unwrap(),
            b"x"
        );
    }
}
