//! A gateway without policy, for rigs.
//!
//! `bare_gateway MTU`: on the link that is standard input (a TAP device or a socket); every connection goes to the same
//! port of 127.0.0.1, every name is 192.0.2.1.
//!
//! `bare_gateway --listen PATH --mtu N [--tso] [--allow-host]`: on a stream socket at PATH (`cargo xtask gateway` says
//! more); connections go where they are to go.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "an example talks to a person")]

use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use agent_vm_gateway::{
    Answer, DatagramKind, DatagramRequest, Denied, DnsFailure, FlowHandler, FlowRefusal,
    FlowRequest, Gateway, GatewayConfig, GuestDatagrams, GuestStream, HostResolver, LinkAddresses,
    LocalBoxFuture, OpenedDatagrams, OpenedFlow, OpeningDatagrams, Question, Relayed, Resolver,
    relay, relay_datagrams,
};
use tokio::net::{TcpStream, UdpSocket};

mod listen;

/// Where connections lead.
enum Way {
    /// To the same port of 127.0.0.1, whatever the address; names have an address of their own.
    Loopback,
    /// Where they are to go, the gateway's own addresses to the host's loopback; names are the host's.
    Straight {
        gateway: LinkAddresses,
        names: HostResolver,
    },
}

impl Way {
    fn target(&self, address: IpAddr) -> IpAddr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST.into(),
            Self::Straight { gateway, .. } if address == gateway.gateway_v4 => {
                Ipv4Addr::LOCALHOST.into()
            }
            Self::Straight { gateway, .. } if address == gateway.gateway_v6 => {
                Ipv6Addr::LOCALHOST.into()
            }
            Self::Straight { .. } => address,
        }
    }
}

struct Dialled(TcpStream);

impl FlowHandler for Way {
    fn open(
        self: Rc<Self>,
        request: FlowRequest,
    ) -> LocalBoxFuture<'static, Result<Box<dyn OpenedFlow>, FlowRefusal>> {
        Box::pin(async move {
            let dial = TcpStream::connect((self.target(request.address), request.port));
            match tokio::time::timeout(Duration::from_secs(5), dial).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).ok();
                    Ok(Box::new(Dialled(stream)) as Box<dyn OpenedFlow>)
                }
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                    Err(FlowRefusal::Refused)
                }
                Ok(Err(_)) => Err(FlowRefusal::Unreachable),
                Err(_) => Err(FlowRefusal::TimedOut),
            }
        })
    }

    fn open_datagrams(self: Rc<Self>, request: DatagramRequest) -> Option<OpeningDatagrams> {
        if request.kind != DatagramKind::Udp {
            return None;
        }
        Some(Box::pin(async move {
            let dial = async {
                let target = self.target(request.address);
                let any: IpAddr = match target {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0)).await?;
                socket.connect((target, request.port)).await?;
                std::io::Result::Ok(socket)
            };
            match dial.await {
                Ok(socket) => Ok(Box::new(Bound(socket)) as Box<dyn OpenedDatagrams>),
                Err(_) => Err(FlowRefusal::Unreachable),
            }
        }))
    }

    fn address_allowed(&self, _name: &str, _address: IpAddr) -> bool {
        true
    }

    fn denied(&self, denied: Denied) {
        eprintln!(
            "denied {} {} {:?}: {}",
            denied.protocol, denied.destination, denied.port, denied.reason
        );
    }
}

impl OpenedFlow for Dialled {
    fn serve(self: Box<Self>, guest: GuestStream) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            relay(guest, self.0, &Relayed::default()).await;
        })
    }
}

struct Bound(UdpSocket);

impl OpenedDatagrams for Bound {
    fn serve(self: Box<Self>, guest: GuestDatagrams) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move { relay_datagrams(guest, self.0, &Relayed::default()).await })
    }
}

impl Resolver for Way {
    fn resolve(&self, question: &Question) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>> {
        if let Self::Straight { names, .. } = self {
            return names.resolve(question);
        }
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let answer = Answer::of_addresses(question, [address], Duration::from_secs(60));
        Box::pin(async move { Ok(answer) })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    if words.len() > 1 {
        return listen::run(&words);
    }
    let link = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mtu = words.first().map(|mtu| mtu.parse()).transpose()?;
    let config = GatewayConfig {
        mtu: mtu.unwrap_or(agent_vm_gateway::DEFAULT_MTU),
        ..GatewayConfig::default()
    };
    serve(config, link, |_| Way::Loopback)
}

/// Serves one guest to its end.
fn serve(
    config: GatewayConfig,
    link: OwnedFd,
    way: impl FnOnce(&GatewayConfig) -> Way,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let handler = Rc::new(way(&config));
        let gateway = Gateway::new(config, link, handler.clone(), handler)?;
        let counters = gateway.run().await?;
        eprintln!("{counters:?}");
        Ok(())
    })
}
