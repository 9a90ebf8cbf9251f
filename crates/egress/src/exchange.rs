//! One request of an intercepted connection: judged, given its credential, sent, answered.
//!
//! The order is what must hold: nothing asks for a secret before the verdict, and nothing is sent before the verdict.

use std::cell::RefCell;
use std::rc::Rc;

use agent_vm_policy::{DenyReason, HostName, RequestFacts, RequestVerdict, Rule, Transport};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use thiserror::Error;

use crate::addressed::with_path;
use crate::asks::{Asked, Question};
use crate::audit::{Kind, bounded_path};
use crate::body::{ReplyBody, RequestBody};
use crate::egress::Shared;
use crate::expect::waits;
use crate::record::{Place, RequestRecord};
use crate::refusal::{Refusal, refuse};
use crate::request_head::{Attachment, authority, inspect};
use crate::respond::Form;
use crate::scrub::answers_with_tokens;
use crate::second_try::{SecondTry, attach};
use crate::token_endpoint;
use crate::upstream::{Upstream, UpstreamError};
use crate::usage::{Counted, Tap};

mod decoded;
mod forward;

/// What all requests of one connection of the guest share.
pub(crate) struct Exchange {
    pub(crate) shared: Rc<Shared>,
    pub(crate) place: Place,
    /// The hosts that requests may name: the TLS server name, or the resolved names of a plain connection.
    pub(crate) hosts: Vec<HostName>,
    pub(crate) transport: Transport,
    pub(crate) upstream: Rc<Upstream>,
    /// Why the connection that was opened for the flow cannot be used; told to the first request.
    pub(crate) failure: RefCell<Option<UpstreamError>>,
    /// Set when the connection has been upgraded.
    pub(crate) tunnel: RefCell<Option<Tunnel>>,
}

/// The upstream's side of an upgraded connection.
pub(crate) struct Tunnel {
    pub(crate) upstream: Upgraded,
    pub(crate) record: RequestRecord,
    pub(crate) tap: Option<Tap>,
}

/// A judged request with its secrets.
struct Outgoing {
    head: Parts,
    body: RequestBody,
    /// How it can be sent once more, when it carries secrets.
    spare: Option<SecondTry>,
    /// Whether the answer may hold tokens, whatever its length.
    listed: bool,
    /// Whether its answer is a model's.
    counted: Option<Counted>,
}

/// The upstream closed a connection that was in use before; the guest's connection is closed in the same way, so
/// that the client's own rules for repeating requests apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the upstream closed the connection")]
pub(crate) struct Interrupted;

impl Exchange {
    /// Answers one request.
    pub(crate) async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Interrupted> {
        let (mut head, body) = request.into_parts();
        let place = self
            .place
            .clone()
            .with_request(&head.method, head.uri.path());
        let mut record = RequestRecord::begin(&self.shared, Kind::Request, place);
        record.answer_in(Form::wanted(&head.headers));
        let mut judged = self.judge(&mut head, &mut record);
        if matches!(&judged, Err(refusal) if refusal.reason == DenyReason::Unanswered)
            && self.ask(&head, &record).await == Asked::Answered
        {
            judged = self.judge(&mut head, &mut record);
        }
        let attachments = match judged {
            Ok(attachments) => attachments,
            Err(refusal) => return Ok(refuse(record, &refusal)),
        };
        if self.transport == Transport::Tls
            && self.shared.token_endpoints.answers(&head, &self.hosts)
        {
            return Ok(token_endpoint::answer(&self.shared, &head, body, record).await);
        }
        let host = record.host();
        let listed = host.is_some_and(|host| answers_with_tokens(host, head.uri.path()));
        if listed {
            let identity = HeaderValue::from_static("identity");
            head.headers.insert(header::ACCEPT_ENCODING, identity);
        }
        let used = match attach(&self.shared, &attachments, &mut head).await {
            Ok(used) => used,
            Err(refusal) => return Ok(refuse(record, &refusal)),
        };
        for attachment in &attachments {
            record.attached(attachment.credential);
        }
        let counted = Counted::request(self.shared.usage.get(), record.host(), &mut head);
        let traffic = Rc::clone(record.traffic());
        let body = if waits(&mut head, &body) {
            RequestBody::held(body, traffic)
        } else {
            RequestBody::new(body, traffic)
        };
        let mut body = body.guarded(&self.shared);
        let spare =
            (!attachments.is_empty()).then(|| SecondTry::new(&head, &mut body, attachments, used));
        let outgoing = Outgoing {
            head,
            body,
            spare,
            listed,
            counted,
        };
        self.forward(outgoing, record).await
    }

    /// Judges the head; gives the places for secrets when it may pass, and has the path that was judged.
    fn judge(
        &self,
        head: &mut Parts,
        record: &mut RequestRecord,
    ) -> Result<Vec<Attachment>, Refusal> {
        if self.shared.audit.is_broken() {
            return Err(DenyReason::AuditUnavailable.into());
        }
        let named = authority(head, self.transport, self.place.port);
        let meant = named.as_ref().filter(|named| self.hosts.contains(named));
        let host = meant
            .or(self.hosts.first())
            .ok_or(DenyReason::AuthorityMismatch)?;
        record.for_host(host);
        let findings = inspect(head, host, &self.shared.credentials);
        let facts = RequestFacts {
            host,
            authority: named.as_ref(),
            port: self.place.port,
            transport: self.transport,
            method: head.method.as_str(),
            target: head.uri.path_and_query().map_or("", PathAndQuery::as_str),
            placeholders: findings.placeholders,
            foreign: findings.foreign(),
        };
        let policy = self.shared.policy();
        let (verdict, rule) = policy.judge_request(&facts);
        let detail = match verdict {
            RequestVerdict::Deny(DenyReason::ForeignCredential) => {
                findings.foreign.map(|login| login.to_string())
            }
            RequestVerdict::Deny(DenyReason::Rule) => rule.as_ref().map(Rule::to_string),
            RequestVerdict::Deny(_) | RequestVerdict::Allow => None,
        };
        record.ruled(rule);
        if let RequestVerdict::Deny(reason) = verdict {
            return Err(Refusal { reason, detail });
        }
        if let Some(path) = policy.path_to_send(host, self.place.port, head.uri.path()) {
            with_path(head, &path).map_err(|_| DenyReason::RequestInvalid)?;
        }
        Ok(findings.attachments)
    }

    /// Asks the person about a request that a rule asks about.
    async fn ask(&self, head: &Parts, record: &RequestRecord) -> Asked {
        let place = record.place();
        let Some(host) = place.host.clone() else {
            return Asked::Unanswered;
        };
        let question = Question {
            host,
            port: place.port,
            request: Some(format!("{} {}", head.method, bounded_path(head.uri.path()))),
            rule: place.rule.as_ref().map(ToString::to_string),
        };
        self.shared.ask(question, place.address).await
    }
}
