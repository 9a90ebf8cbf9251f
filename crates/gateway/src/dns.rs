//! DNS for the guest: one server, at the gateway, that answers questions for addresses.
//!
//! Everything the guest learns about a name it learns here, so the gateway can say which name a connection's address
//! stands for ([`name_table`]). Overridden names are answered with a synthetic address that only this guest's
//! connections know. Answers pass the rebinding filter. Other types than A and AAAA exist but have no data; that
//! includes HTTPS and SVCB, whose keys for an encrypted ClientHello would hide the name from the egress.

pub(crate) mod host_files;
pub(crate) mod host_resolver;
pub(crate) mod message;
pub(crate) mod name_table;
pub(crate) mod resolver;
pub(crate) mod server;
