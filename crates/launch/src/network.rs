//! Joins the gateway, which carries flows and answers names, and the egress, which decides about them; the two do not
//! know each other.

use std::net::IpAddr;
use std::rc::Rc;

use agent_vm_egress::{
    ConnectRequest, DeniedPacket, Egress, FlowEnd, OpenError, OpenFlow, PacketProtocol,
};
use agent_vm_gateway::{
    Denied, DenyReason as GatewayReason, FlowHandler, FlowRefusal, FlowRequest, GuestStream,
    LocalBoxFuture, NameTreatment, OpenedFlow, Transport,
};
use agent_vm_policy::{DenyReason, HOST_SERVICE_NAME, HostName, Policy, classify};

use crate::request::ResolveOverride;

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
            // A name that is no host name was never answered with an address by us; it decides nothing.
            let names = request
                .names
                .iter()
                .filter_map(|name| HostName::parse(name).ok())
                .collect();
            let request = ConnectRequest {
                names,
                address: request.address,
                port: request.port,
            };
            match self.egress.open(request).await {
                Ok(flow) => Ok(Box::new(EgressFlow(flow)) as Box<dyn OpenedFlow>),
                Err(error) => Err(refusal(&error)),
            }
        })
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
