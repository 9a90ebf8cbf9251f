//! Joins the gateway, which carries flows and answers names, and the egress, which decides about them; the two do not
//! know each other.

use std::net::IpAddr;
use std::rc::Rc;

use agent_vm_egress::{
    ConnectRequest, DatagramKind as EgressDatagrams, DatagramRecord, DeniedPacket, Egress, FlowEnd,
    OpenError, OpenFlow, PacketProtocol,
};
use agent_vm_gateway::{
    DatagramKind, DatagramRequest, Denied, DenyReason as GatewayReason, FlowHandler, FlowRefusal,
    FlowRequest, Gateway, GatewayError, GuestDatagrams, GuestStream, LocalBoxFuture, NameTreatment,
    OpenedDatagrams, OpenedFlow, OpeningDatagrams, Relayed, Transport, relay_datagrams,
};
use agent_vm_policy::{DenyReason, HOST_SERVICE_NAME, HostName, Policy, classify};

use tokio::net::UdpSocket;
use tokio::task::{JoinError, JoinSet};

use crate::request::ResolveOverride;

/// The gateway at work; nothing of the guest leaves without it. Ends when it is dropped.
pub(crate) struct NetworkTask(JoinSet<Result<(), GatewayError>>);

/// The guest has no network any more.
#[derive(Debug, thiserror::Error)]
pub enum NetworkEnded {
    /// Its link broke.
    #[error("the guest's network broke")]
    Gateway(#[from] GatewayError),
    /// A mistake of ours.
    #[error("the guest's network ended by itself")]
    Task(#[from] JoinError),
}

impl NetworkTask {
    /// Runs the gateway. Must be called inside a `LocalSet`.
    pub(crate) fn start(gateway: Gateway) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move { gateway.run().await.map(drop) });
        Self(tasks)
    }

    /// Why it ended before the machine; pending for ever when the machine ended first.
    pub(crate) async fn failed(&mut self) -> NetworkEnded {
        match self.0.join_next().await {
            Some(Ok(Err(error))) => error.into(),
            Some(Err(error)) => error.into(),
            // The machine closed its end: what that means its own end tells.
            Some(Ok(Ok(()))) | None => std::future::pending().await,
        }
    }
}

/// Both mean the same addresses.
const _: () = {
    let (ours, theirs) = (
        agent_vm_gateway::STAND_IN_NETWORK,
        agent_vm_egress::STAND_IN_NETWORK,
    );
    assert!(ours[0] == theirs[0] && ours[1] == theirs[1]);
};

/// Gives the gateway's flows to the egress.
pub(crate) struct EgressHandler {
    egress: Egress,
}

impl EgressHandler {
    pub(crate) fn new(egress: Egress) -> Self {
        Self { egress }
    }
}

impl FlowHandler for EgressHandler {
    fn open(
        self: Rc<Self>,
        request: FlowRequest,
    ) -> LocalBoxFuture<'static, Result<Box<dyn OpenedFlow>, FlowRefusal>> {
        Box::pin(async move {
            let request = connect_request(&request.names, request.address, request.port);
            match self.egress.open(request).await {
                Ok(flow) => Ok(Box::new(EgressFlow(flow)) as Box<dyn OpenedFlow>),
                Err(error) => Err(refusal(&error)),
            }
        })
    }

    fn open_datagrams(self: Rc<Self>, request: DatagramRequest) -> Option<OpeningDatagrams> {
        let kind = match request.kind {
            DatagramKind::Udp => EgressDatagrams::Udp,
            DatagramKind::Echo => EgressDatagrams::Echo,
        };
        let request = connect_request(&request.names, request.address, request.port);
        Some(Box::pin(async move {
            match self.egress.open_datagrams(kind, request).await {
                Ok((socket, record)) => {
                    let count = Count {
                        record,
                        relayed: Relayed::default(),
                    };
                    Ok(Box::new(EgressDatagramFlow { socket, count }) as Box<dyn OpenedDatagrams>)
                }
                Err(error) => Err(refusal(&error)),
            }
        }))
    }

    fn address_allowed(&self, _name: &str, address: IpAddr) -> bool {
        self.egress.policy().decide_answer(address).is_ok()
    }

    fn name_treatment(&self, name: &str) -> NameTreatment {
        if self.egress.ask(name).is_err() {
            return NameTreatment::Denied;
        }
        match HostName::parse(name) {
            Ok(host) if self.egress.policy().intercepts(&host) => NameTreatment::Intercepted,
            _ => NameTreatment::Plain,
        }
    }

    fn connects_by_name(&self, name: &str) -> bool {
        self.egress.connects_by_name(name)
    }

    fn denied(&self, denied: Denied) {
        if let (GatewayReason::Rebinding, Some(name)) = (denied.reason, &denied.name) {
            let (address, unseen) = (denied.destination, denied.suppressed);
            return self.egress.record_denied_answer(name, address, unseen);
        }
        let packet = DeniedPacket {
            protocol: match denied.protocol {
                Transport::Tcp => PacketProtocol::Tcp,
                Transport::Udp => PacketProtocol::Udp,
                Transport::Icmp => PacketProtocol::Icmp,
                Transport::Other(_) => PacketProtocol::Other,
            },
            address: denied.destination,
            port: denied.port,
            reason: reason(denied.reason, denied.destination),
        };
        self.egress.record_denied_packet(packet, denied.suppressed);
    }
}

/// A name that is no host name was never answered with an address by us; it decides nothing.
fn connect_request(names: &[String], address: IpAddr, port: u16) -> ConnectRequest {
    let names = names.iter().filter_map(|name| HostName::parse(name).ok());
    ConnectRequest {
        names: names.collect(),
        address,
        port,
    }
}

/// Names that lead where the user says, whatever a name server says.
pub(crate) fn overridden_names(resolve: &[ResolveOverride], policy: &Policy) -> Vec<String> {
    let exists = |name: &&HostName| policy.decide_name(name).is_ok();
    let given = resolve.iter().map(|given| &given.host).filter(exists);
    let host = policy.allows_host().then(|| HOST_SERVICE_NAME.to_owned());
    given.map(ToString::to_string).chain(host).collect()
}

fn refusal(error: &OpenError) -> FlowRefusal {
    match error {
        OpenError::Denied { .. } => FlowRefusal::Denied,
        OpenError::Dial(error) => match error {
            agent_vm_egress::DialError::Refused { .. }
            | agent_vm_egress::DialError::ProxyRefused { .. } => FlowRefusal::Refused,
            agent_vm_egress::DialError::TimedOut { .. } => FlowRefusal::TimedOut,
            _ => FlowRefusal::Unreachable,
        },
    }
}

struct EgressFlow(OpenFlow);

impl OpenedFlow for EgressFlow {
    fn serve(self: Box<Self>, guest: GuestStream) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            match self.0.serve(guest).await {
                // Both directions were shut down in order, or the stream was dropped by the egress and so reset.
                FlowEnd::Finished | FlowEnd::Reset => {}
            }
        })
    }
}

struct EgressDatagramFlow {
    socket: UdpSocket,
    count: Count,
}

impl OpenedDatagrams for EgressDatagramFlow {
    fn serve(self: Box<Self>, guest: GuestDatagrams) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            let Self { socket, count } = *self;
            relay_datagrams(guest, socket, &count.relayed).await;
        })
    }
}

/// What has passed is recorded however the flow ends.
struct Count {
    record: DatagramRecord,
    relayed: Relayed,
}

impl Drop for Count {
    fn drop(&mut self) {
        let Self { record, relayed } = self;
        record.passed(relayed.up.get(), relayed.down.get());
    }
}

/// The gateway's reason in the words of the audit log.
fn reason(reason: GatewayReason, destination: IpAddr) -> DenyReason {
    match reason {
        GatewayReason::OtherDnsServer => DenyReason::ForeignDnsServer,
        GatewayReason::Destination | GatewayReason::Rebinding => {
            DenyReason::Address(classify(destination))
        }
        GatewayReason::Quic
        | GatewayReason::Udp
        | GatewayReason::Icmp
        | GatewayReason::Protocol
        | GatewayReason::Fragment
        | GatewayReason::SpoofedSource
        | GatewayReason::GatewayPort
        | GatewayReason::Limit => DenyReason::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn failure(
        task: impl Future<Output = Result<(), GatewayError>> + 'static,
    ) -> Option<String> {
        let local = tokio::task::LocalSet::new();
        let run = async {
            let mut tasks = JoinSet::new();
            tasks.spawn_local(task);
            let failed = NetworkTask(tasks);
            let mut failed = failed;
            let told = tokio::time::timeout(std::time::Duration::from_millis(50), failed.failed());
            told.await.ok().map(|why| why.to_string())
        };
        local.run_until(run).await
    }

    #[tokio::test]
    async fn a_network_that_ends_by_itself_is_told_and_one_that_ends_with_its_machine_is_not() {
        let broken = GatewayError::Link {
            source: std::io::ErrorKind::BrokenPipe.into(),
        };
        assert_eq!(
            failure(async { Err(broken) }).await.as_deref(),
            Some("the guest's network broke")
        );
        assert_eq!(
            failure(async { panic!("a mistake") }).await.as_deref(),
            Some("the guest's network ended by itself")
        );
        assert_eq!(failure(async { Ok(()) }).await, None);
    }
}
