//! Address classes, egress policy and verdicts; pure: no clock, no socket, no file.
//!
//! A name is judged before it is asked about ([`Policy::decide_name`]), an address before it is told
//! ([`Policy::decide_answer`]). A flow is judged three times, each time with more known: [`Policy::decide_connect`] when the guest opens a
//! connection (address, port, the names our DNS answered with that address), [`Policy::decide_hello`] when its TLS
//! ClientHello names a server, [`Policy::decide_request`] for every HTTP request of an intercepted connection. What
//! is not allowed is denied, and every denial is a [`DenyReason`] with a stable code.

#![forbid(unsafe_code)]

mod address;
mod answer;
mod grant;
mod host;
mod path;
mod reason;
mod request;
mod rule;
mod verdict;

pub use address::{AddressClass, canonical, classify};
pub use answer::{Answer, MAX_ANSWERS};
pub use grant::{EgressRule, EgressRuleError, HOST_SERVICE_NAME, Preset, PresetError, Rule, Scope};
pub use host::{HostName, HostNameError, HostPattern, MAX_LABEL_BYTES, MAX_NAME_BYTES};
pub use path::{MAX_PATTERN_BYTES, NormalPath, PathPattern, PathPatternError, PathUnclear};
pub use reason::DenyReason;
pub use request::{ForeignCredential, PlaceholderUse, RequestFacts, RequestVerdict, Transport};
pub use rule::{Action, ActionError, HostRule, MAX_METHOD_BYTES, Method, MethodError, RuleName};
pub use verdict::{ConnectFacts, ConnectVerdict, FlowPattern, Owner, Policy, Resolution};
