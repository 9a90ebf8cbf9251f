//! `bare_gateway MTU`: a gateway on the link that is standard input (a TAP device or a sequential-packet socket): every
//! connection goes to the same port of 127.0.0.1, every name is 192.0.2.1. For rigs that open the link and start this in
//! it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "an example talks to a person")]

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use agent_vm_gateway::{
    Answer, DatagramKind, DatagramRequest, Denied, DnsFailure, FlowHandler, FlowRefusal,
    FlowRequest, Gateway, GatewayConfig, GuestDatagrams, GuestStream, LocalBoxFuture,
    OpenedDatagrams, OpenedFlow, OpeningDatagrams, Question, Relayed, Resolver, relay,
    relay_datagrams,
};
use tokio::net::{TcpStream, UdpSocket};

struct Loopback;

struct Dialled(TcpStream);

impl FlowHandler for Loopback {
    fn open(
        self: Rc<Self>,
        request: FlowRequest,
    ) -> LocalBoxFuture<'static, Result<Box<dyn OpenedFlow>, FlowRefusal>> {
        Box::pin(async move {
            let dial = TcpStream::connect((Ipv4Addr::LOCALHOST, request.port));
            match tokio::time::timeout(Duration::from_secs(5), dial).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).ok();
                    Ok(Box::new(Dialled(stream)) as Box<dyn OpenedFlow>)
                }
                Ok(Err(_)) => Err(FlowRefusal::Refused),
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
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                socket.connect((Ipv4Addr::LOCALHOST, request.port)).await?;
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

impl Resolver for Loopback {
    fn resolve(&self, question: &Question) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>> {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let answer = Answer::of_addresses(question, [address], Duration::from_secs(60));
        Box::pin(async move { Ok(answer) })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let link = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mtu = std::env::args().nth(1).map(|mtu| mtu.parse()).transpose()?;
    let config = GatewayConfig {
        mtu: mtu.unwrap_or(agent_vm_gateway::DEFAULT_MTU),
        ..GatewayConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let handler = Rc::new(Loopback);
        let gateway = Gateway::new(config, link, handler.clone(), handler)?;
        let counters = gateway.run().await?;
        eprintln!("{counters:?}");
        Ok(())
    })
}
