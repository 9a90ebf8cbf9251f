//! Takes the host's ports before anything else of a launch is made.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use agent_vm_protocol::PortProtocol;

use super::settings::PublishedPort;

/// A port of the host cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has it.
    #[error("cannot publish {port}: port {} of {} is in use", port.host_port, port.bind)]
    InUse {
        /// As asked for.
        port: PublishedPort,
    },
    /// Another published port has it.
    #[error("cannot publish {port}: another published port is there already")]
    Twice {
        /// As asked for.
        port: PublishedPort,
    },
    /// Only root may.
    #[error("cannot publish {port}: port {} of the host needs a privilege", port.host_port)]
    Privileged {
        /// As asked for.
        port: PublishedPort,
    },
    /// The address is another machine's.
    #[error("cannot publish {port}: {} is no address of this host", port.bind)]
    NotHere {
        /// As asked for.
        port: PublishedPort,
    },
    /// Anything else.
    #[error("cannot publish {port}")]
    Other {
        /// As asked for.
        port: PublishedPort,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A port with its socket.
#[derive(Debug)]
pub(super) struct BoundPort {
    pub(super) asked: PublishedPort,
    /// The address it really has.
    pub(super) at: SocketAddr,
    pub(super) socket: Bound,
}

/// A non-blocking socket; nobody accepts yet.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Ports of the host that are ours.
#[derive(Debug, Default)]
pub(crate) struct BoundPorts(Vec<BoundPort>);

impl BoundPorts {
    pub(super) fn into_inner(self) -> Vec<BoundPort> {
        self.0
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|port| port.at).collect()
    }
}

/// Takes every port.
///
/// # Errors
/// When one cannot be had; none is taken then.
pub(crate) fn bind(ports: &[PublishedPort]) -> Result<BoundPorts, BindError> {
    let mut bound: Vec<BoundPort> = Vec::with_capacity(ports.len());
    for port in ports {
        let place = |port: &PublishedPort| (port.bind, port.host_port, port.protocol);
        let mut others = bound.iter();
        if port.host_port != 0 && others.any(|other| place(&other.asked) == place(port)) {
            return Err(BindError::Twice { port: port.clone() });
        }
        let (socket, at) = open(port).map_err(|source| error(port.clone(), source))?;
        let asked = port.clone();
        bound.push(BoundPort { asked, at, socket });
    }
    Ok(BoundPorts(bound))
}

fn open(port: &PublishedPort) -> io::Result<(Bound, SocketAddr)> {
    let address = SocketAddr::new(port.bind, port.host_port);
    Ok(match port.protocol {
        PortProtocol::Tcp => {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let at = socket.local_addr()?;
            (Bound::Tcp(socket), at)
        }
        PortProtocol::Udp => {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            let at = socket.local_addr()?;
            (Bound::Udp(socket), at)
        }
    })
}

fn error(port: PublishedPort, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { port },
        io::ErrorKind::PermissionDenied => BindError::Privileged { port },
        io::ErrorKind::AddrNotAvailable => BindError::NotHere { port },
        _ => BindError::Other { port, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(bind: &str, host_port: u16, protocol: PortProtocol) -> PublishedPort {
        PublishedPort {
            bind: bind.parse().unwrap(),
            host_port,
            guest_port: 80,
            protocol,
        }
    }

    #[test]
    fn any_free_port_is_a_real_one() {
        let any = port("127.0.0.1", 0, PortProtocol::Tcp);
        let bound = bind(&[any.clone(), any]).unwrap().addresses();
        assert!(bound.iter().all(|at| at.port() != 0));
        assert_ne!(bound[0], bound[1]);
    }

    #[test]
    fn tells_which_port_is_in_use_and_which_is_named_twice() {
        for protocol in [PortProtocol::Tcp, PortProtocol::Udp] {
            let holder = bind(&[port("127.0.0.1", 0, protocol)]).unwrap();
            let taken = port("127.0.0.1", holder.addresses()[0].port(), protocol);
            let error = bind(std::slice::from_ref(&taken)).unwrap_err();
            assert!(matches!(error, BindError::InUse { .. }));
            assert!(error.to_string().contains(&taken.to_string()), "{error}");
            drop(holder);
            let error = bind(&[taken.clone(), taken]).unwrap_err();
            assert!(matches!(error, BindError::Twice { .. }));
        }
    }

    #[test]
    fn tells_that_a_low_port_needs_a_privilege() {
        let low = port("127.0.0.1", 80, PortProtocol::Tcp);
        let error = error(low, io::ErrorKind::PermissionDenied.into());
        assert_eq!(
            error.to_string(),
            "cannot publish 127.0.0.1:80:80/tcp: port 80 of the host needs a privilege"
        );
    }

    #[test]
    fn tells_that_an_address_is_not_of_this_host() {
        let other = port("192.0.2.1", 0, PortProtocol::Tcp);
        let error = bind(&[other]).unwrap_err();
        assert!(matches!(error, BindError::NotHere { .. }), "{error}");
    }
}
