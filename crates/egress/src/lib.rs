//! One flow of the guest: decide, then pass it on untouched or intercept its TLS and attach credentials.
//!
//! ```text
//! open:   names, address, port ─► policy ─► dial upstream ─► the gateway accepts the guest's SYN
//! serve:  ClientHello ─► policy ─► splice
//!                              └─► TLS with a leaf of the session's CA ─► HTTP head ─► policy ─► attach ─► upstream
//! ```
//!
//! What must hold: an address is judged before it is dialled; a secret is asked for only after the verdict, and goes
//! only over TLS with a verified certificate, to a host its credential is bound to, in the header it names; nothing
//! is allowed that the audit log cannot record; whatever a guest or an upstream sends is bounded and never a panic.
//!
//! Everything runs on one thread: futures are `!Send` and tasks are spawned on the caller's `LocalSet`.

#![forbid(unsafe_code)]

mod addressed;
mod asks;
mod audit;
mod body;
mod ca;
mod canary;
mod client_hello;
mod content_coding;
mod credential;
mod datagrams;
mod dial;
mod egress;
mod encodings;
mod exchange;
mod expect;
mod flow;
mod foreign;
mod hop_by_hop;
mod intercept;
mod judged;
mod leaf_cache;
mod local_executor;
mod pool;
mod proxy;
mod read_ahead;
mod record;
mod refusal;
mod replay;
mod request_head;
mod respond;
mod scrub;
mod second_try;
mod splice;
mod tls_roots;
mod token_endpoint;
mod upstream;
mod usage;
mod written;

pub use asks::{
    MAX_LAPSED, MAX_PENDING, MAX_WAITING, PATIENCE, PendingQuestion, Question, StaysDenied,
};
pub use audit::{
    AuditError, AuditEvent, AuditSink, DeniedPacket, Kind, MAX_FILE_BYTES, MAX_FILES,
    MAX_PATH_CHARACTERS, MAX_SESSION_BYTES, PacketProtocol, Source, Verdict, audit_files,
    bounded_path,
};
pub use ca::{BACKDATED, CaError, LIFETIME, SessionCa};
pub use canary::{CANARY_ZONE, Canary, CanaryAlive};
pub use client_hello::fuzz_client_hello;
pub use credential::{
    BoundCredential, HeaderRule, HeaderRuleError, LocalBoxFuture, SecretSource, SecretUnavailable,
};
pub use datagrams::{DatagramKind, DatagramRecord};
pub use dial::DialError;
pub use egress::{
    ConnectRequest, Egress, EgressConfig, EgressError, FlowEnd, OpenError, OpenFlow,
    ResolveOverride,
};
pub use encodings::fuzz_placeholder_scan;
pub use proxy::{NoProxy, ProxyError, ProxyKind, ProxyServer, ProxySettings, STAND_IN_NETWORK};
pub use request_head::fuzz_request_head;
pub use splice::Duplex;
pub use tls_roots::{RootsError, UpstreamRoots};
pub use token_endpoint::{
    ISSUER_TIMEOUT, IssuerAnswer, IssuerClient, IssuerCodingError, IssuerError, IssuerFailure,
    IssuerRequest, MAX_ISSUER_ANSWER_BYTES, TokenAnswerer, TokenEndpoint, TokenEndpoints,
    fuzz_token_request,
};
pub use usage::{TokenCount, UsageLog};
