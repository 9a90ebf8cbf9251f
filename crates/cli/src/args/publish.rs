//! Options that publish ports of the guest, and the form of a port.

use std::net::{IpAddr, Ipv4Addr};

use agent_vm_launch::{PortProtocol, PublishedPort};
use clap::Args;
use thiserror::Error;

/// What appears on the host.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PublishOptions {
    /// A port of the guest appears on the host, at 127.0.0.1 unless BIND is given; HOST 0 is any
    /// free port (repeatable)
    #[arg(
        long,
        value_name = "[BIND:]HOST:GUEST[/tcp|/udp]",
        value_parser = parse_publish,
        help_heading = "Network"
    )]
    pub(crate) publish: Vec<PublishedPort>,
    /// Every TCP port the guest listens at appears at 127.0.0.1 of the host, while it does
    #[arg(long, help_heading = "Network")]
    pub(crate) auto_publish: bool,
    /// A port of the guest --auto-publish leaves out (repeatable)
    #[arg(long, value_name = "PORT", value_parser = parse_guest_port, help_heading = "Network")]
    pub(crate) auto_publish_except: Vec<u16>,
}

/// Why the text is no published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum PublishFormError {
    #[error(
        "a published port is given as [BIND:]HOST:GUEST[/tcp|/udp], BIND an address of this host, \
         an IPv6 one in brackets"
    )]
    Form,
    #[error(
        "a port is a number from 0 (any free one) to 65535 on the host, from 1 on in the guest"
    )]
    Port,
}

/// Reads `[BIND:]HOST:GUEST[/tcp|/udp]`.
///
/// # Errors
/// When the text has another form.
pub(crate) fn parse_publish(text: &str) -> Result<PublishedPort, PublishFormError> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, PortProtocol::Tcp),
        Some((ports, "tcp")) => (ports, PortProtocol::Tcp),
        Some((ports, "udp")) => (ports, PortProtocol::Udp),
        Some(_) => return Err(PublishFormError::Form),
    };
    let (rest, guest) = ports.rsplit_once(':').ok_or(PublishFormError::Form)?;
    let (bind, host) = match rest.rsplit_once(':') {
        None => (Ipv4Addr::LOCALHOST.into(), rest),
        Some((bind, host)) => (parse_bind(bind)?, host),
    };
    Ok(PublishedPort {
        bind,
        host_port: parse_port(host)?,
        guest_port: parse_guest_port(guest)?,
        protocol,
    })
}

/// Reads a port of the guest.
///
/// # Errors
/// When it is no number from 1 to 65535.
pub(crate) fn parse_guest_port(text: &str) -> Result<u16, PublishFormError> {
    match parse_port(text)? {
        0 => Err(PublishFormError::Port),
        port => Ok(port),
    }
}

fn parse_bind(text: &str) -> Result<IpAddr, PublishFormError> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = match inner {
        Some(v6) => v6.parse().map(IpAddr::V6),
        None => text.parse().map(IpAddr::V4),
    };
    address.map_err(|_| PublishFormError::Form)
}

fn parse_port(text: &str) -> Result<u16, PublishFormError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PublishFormError::Form);
    }
    text.parse().map_err(|_| PublishFormError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_has_address_host_guest_and_protocol() {
        for (text, shown) in [
            ("8080:80", "127.0.0.1:8080:80/tcp"),
            ("8080:80/tcp", "127.0.0.1:8080:80/tcp"),
            ("5353:53/udp", "127.0.0.1:5353:53/udp"),
            ("0:80", "127.0.0.1:0:80/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080:80/tcp"),
            ("192.168.1.5:8080:80/udp", "192.168.1.5:8080:80/udp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
            ("[::]:65535:65535/udp", "[::]:65535:65535/udp"),
        ] {
            let port = parse_publish(text).map(|port| port.to_string());
            assert_eq!(port.as_deref(), Ok(shown), "{text}");
            assert_eq!(parse_publish(shown).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn says_the_form_for_what_is_no_port() {
        for text in [
            "",
            "80",
            ":80",
            "80:",
            "a:80",
            "80:b",
            "80:80/sctp",
            "80:80/",
            "80/tcp",
            "localhost:80:80",
            "::1:80:80",
            "[127.0.0.1]:80:80",
            "[::1:80:80",
            "1.2.3.4:5:6:7",
            "+80:80",
            "80:-80",
            " 80:80",
            "8000-8010:8000-8010",
        ] {
            assert_eq!(parse_publish(text), Err(PublishFormError::Form), "{text}");
        }
        for text in ["65536:80", "80:65536", "80:0", "0:0", "99999999999:1"] {
            assert_eq!(parse_publish(text), Err(PublishFormError::Port), "{text}");
        }
    }
}
