//! Audit records of what takes time: begun with the decision, written when it is over, however it ends.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use agent_vm_policy::{DenyReason, HostName, Rule};
use http::{Method, StatusCode};

use crate::audit::{AuditEvent, Kind, PacketProtocol, Verdict, bounded_path};
use crate::egress::Shared;
use crate::respond::Form;
use crate::splice::Traffic;

/// A connection or request that was decided about; its line is written on drop.
pub(crate) struct Record {
    shared: Rc<Shared>,
    time: String,
    started: Instant,
    kind: Kind,
    place: Place,
    outcome: Outcome,
    traffic: Rc<Traffic>,
    forgotten: bool,
    form: Form,
}

/// A record of a request.
pub(crate) type RequestRecord = Record;

/// Where a flow goes, and what was asked for there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) host: Option<HostName>,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// What carries it; TCP has no word of its own.
    pub(crate) protocol: Option<PacketProtocol>,
    /// The proxy it goes through.
    pub(crate) proxy: Option<Rc<str>>,
    /// What let it pass.
    pub(crate) rule: Option<Rule>,
    pub(crate) method: Option<Method>,
    pub(crate) path: Option<String>,
}

#[derive(Debug)]
struct Outcome {
    verdict: Verdict,
    reason: Option<DenyReason>,
    status: Option<StatusCode>,
    credential: Option<usize>,
}

impl Record {
    /// Begins a record of something allowed.
    pub(crate) fn begin(shared: &Rc<Shared>, kind: Kind, place: Place) -> Self {
        let verdict = match kind {
            Kind::Connect => Verdict::Tunnel,
            Kind::Request
            | Kind::Packet
            | Kind::Dns
            | Kind::Canary
            | Kind::Integrity
            | Kind::Refresh
            | Kind::Ask => Verdict::Allow,
        };
        Self {
            shared: Rc::clone(shared),
            time: AuditEvent::now(),
            started: Instant::now(),
            kind,
            place,
            outcome: Outcome {
                verdict,
                reason: None,
                status: None,
                credential: None,
            },
            traffic: Rc::default(),
            forgotten: false,
            form: Form::Text,
        }
    }

    /// Counts what passes.
    pub(crate) fn traffic(&self) -> &Rc<Traffic> {
        &self.traffic
    }

    /// Where it goes.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The host it turned out to be for.
    pub(crate) fn for_host(&mut self, host: &HostName) {
        if self.place.host.as_ref() != Some(host) {
            self.place.host = Some(host.clone());
        }
    }

    /// The client reads answers of the egress's own in this form.
    pub(crate) fn answer_in(&mut self, form: Form) {
        self.form = form;
    }

    /// How the client reads answers of the egress's own.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    pub(crate) fn attached(&mut self, credential: usize) {
        self.outcome.credential = Some(credential);
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.outcome.status = Some(status);
    }

    /// A rule of its own decided about it.
    pub(crate) fn ruled(&mut self, rule: Option<Rule>) {
        self.place.rule = rule.or(self.place.rule.take());
    }

    /// It was denied after all.
    pub(crate) fn denied(&mut self, reason: DenyReason) {
        self.outcome.verdict = Verdict::Deny;
        self.outcome.reason = Some(reason);
    }

    /// It goes on as something that has a record of its own.
    pub(crate) fn forget(mut self) {
        self.forgotten = true;
    }

    /// The host it is for.
    pub(crate) fn host(&self) -> Option<&HostName> {
        self.place.host.as_ref()
    }

    /// It was allowed but could not be carried out.
    pub(crate) fn failed(&mut self, reason: DenyReason) {
        self.outcome.verdict = Verdict::Failed;
        self.outcome.reason = Some(reason);
    }
}

impl Place {
    /// The same with a request.
    pub(crate) fn with_request(mut self, method: &Method, path: &str) -> Self {
        self.method = Some(method.clone());
        self.path = Some(bounded_path(path));
        self
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.forgotten {
            return;
        }
        let credential = self
            .outcome
            .credential
            .map(|index| self.shared.credentials.get(index));
        let event = AuditEvent {
            time: std::mem::take(&mut self.time),
            session: &self.shared.session,
            project: &self.shared.project,
            kind: self.kind,
            host: self.place.host.as_ref().map(HostName::as_str),
            address: Some(self.place.address),
            port: Some(self.place.port),
            protocol: self.place.protocol.map(PacketProtocol::name),
            method: self.place.method.as_ref().map(Method::as_str),
            path: self.place.path.take(),
            change: None,
            verdict: Some(self.outcome.verdict),
            reason: self.outcome.reason,
            rule: self.place.rule.as_ref(),
            proxy: self.place.proxy.as_deref(),
            credential: credential.map(|credential| credential.name.as_str()),
            status: self.outcome.status.map(|status| status.as_u16()),
            suppressed: None,
            bytes_up: self.traffic.up.get(),
            bytes_down: self.traffic.down.get(),
            ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let _broken_is_remembered = self.shared.audit.record(&event);
    }
}
