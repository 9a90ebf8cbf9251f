//! Values of options, parsed into types that hold only valid ones. Each error says the accepted form.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use agent_vm_launch::{ResolveOverride, ShareAccess};
use agent_vm_policy::{HostName, HostNameError};
use thiserror::Error;

/// A number of bytes, written with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(u64);

/// Units of sizes; the longest first where one ends another.
const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// The text is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a size is a number and a unit, such as 512MiB or 4GiB")]
pub(crate) struct ByteSizeError;

impl ByteSize {
    pub(crate) const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }

    /// Rounded up.
    pub(crate) const fn mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let unit = UNITS.iter().find(|(unit, _)| {
            text.len() >= unit.len()
                && text.as_bytes()[text.len() - unit.len()..].eq_ignore_ascii_case(unit.as_bytes())
        });
        let (unit, factor) = unit.ok_or(ByteSizeError)?;
        let number = text[..text.len() - unit.len()].trim_end();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ByteSizeError);
        }
        let number: u64 = number.parse().map_err(|_| ByteSizeError)?;
        number.checked_mul(*factor).map(Self).ok_or(ByteSizeError)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS.iter().take(4).rev();
        for (unit, factor) in binary {
            if self.0 >= *factor && self.0.is_multiple_of(*factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvAssignment {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// The text is no assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a variable is given as NAME=VALUE")]
pub(crate) struct EnvAssignmentError;

impl FromStr for EnvAssignment {
    type Err = EnvAssignmentError;

    fn from_str(text: &str) -> Result<Self, EnvAssignmentError> {
        let (name, value) = text.split_once('=').ok_or(EnvAssignmentError)?;
        if name.is_empty() || text.contains('\0') {
            return Err(EnvAssignmentError);
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// `HOST[:GUEST][:ro|rw]`, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountSpec {
    pub(crate) text: String,
    pub(crate) host: String,
    pub(crate) guest: Option<String>,
    pub(crate) access: ShareAccess,
}

/// The text is no mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a mount is given as HOST[:GUEST][:ro|rw], GUEST an absolute path")]
pub(crate) struct MountSpecError;

impl FromStr for MountSpec {
    type Err = MountSpecError;

    fn from_str(text: &str) -> Result<Self, MountSpecError> {
        let mut parts: Vec<&str> = text.split(':').collect();
        let access = match parts.last() {
            Some(&"ro") if parts.len() > 1 => Some(ShareAccess::ReadOnly),
            Some(&"rw") if parts.len() > 1 => Some(ShareAccess::ReadWrite),
            Some(_) | None => None,
        };
        if access.is_some() {
            parts.pop();
        }
        let (host, guest) = match parts[..] {
            [host] => (host, None),
            [host, guest] if guest.starts_with('/') => (host, Some(guest.to_owned())),
            _ => return Err(MountSpecError),
        };
        if host.is_empty() || text.contains('\0') {
            return Err(MountSpecError);
        }
        let access = access.unwrap_or(ShareAccess::ReadWrite);
        Ok(Self {
            text: text.to_owned(),
            host: host.to_owned(),
            guest,
            access,
        })
    }
}

/// Why the text is no `HOST:PORT:ADDR:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ResolveError {
    #[error("an override is given as HOST:PORT:ADDR:PORT, an IPv6 ADDR in brackets")]
    Form,
    #[error("{0}; an override is given as HOST:PORT:ADDR:PORT")]
    Host(HostNameError),
}

/// Reads `HOST:PORT:ADDR:PORT`.
pub(crate) fn parse_resolve(text: &str) -> Result<ResolveOverride, ResolveError> {
    let mut parts = text.splitn(3, ':');
    let (host, port, target) = match (parts.next(), parts.next(), parts.next()) {
        (Some(host), Some(port), Some(target)) => (host, port, target),
        _ => return Err(ResolveError::Form),
    };
    let (address, target_port) = target.rsplit_once(':').ok_or(ResolveError::Form)?;
    let address = match address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(v6) => v6.parse().map(IpAddr::V6).map_err(|_| ResolveError::Form)?,
        None => address
            .parse()
            .map(IpAddr::V4)
            .map_err(|_| ResolveError::Form)?,
    };
    Ok(ResolveOverride {
        host: HostName::parse(host).map_err(ResolveError::Host)?,
        port: parse_port(port)?,
        address: SocketAddr::new(address, parse_port(target_port)?),
    })
}

fn parse_port(text: &str) -> Result<u16, ResolveError> {
    match text.parse() {
        Ok(0) | Err(_) => Err(ResolveError::Form),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_needs_a_unit() {
        for (text, bytes) in [
            ("4GiB", 4 << 30),
            ("512MiB", 512 << 20),
            ("512mib", 512 << 20),
            ("1 TiB", 1 << 40),
            ("2GB", 2_000_000_000),
            ("64KiB", 64 << 10),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "4",
            "lots",
            "GiB",
            "-1GiB",
            "+1GiB",
            "1.5GiB",
            "4Gi",
            "4G",
            "99999999999TiB",
            "€GiB",
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError), "{text}");
        }
    }

    #[test]
    fn size_is_shown_in_the_largest_exact_unit() {
        for (size, text) in [
            (4 << 30, "4GiB"),
            (1536 << 20, "1536MiB"),
            (1000, "1000 bytes"),
        ] {
            assert_eq!(ByteSize(size).to_string(), text);
        }
        assert_eq!(ByteSize(1).mib(), 1);
        assert_eq!(ByteSize::from_mib(3).mib(), 3);
    }

    #[test]
    fn variable_has_a_name_and_any_value() {
        let of = |text: &str| {
            text.parse::<EnvAssignment>()
                .map(|env| (env.name, env.value))
        };
        assert_eq!(of("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(of("A="), Ok(("A".to_owned(), String::new())));
        for text in ["A", "=b", ""] {
            assert_eq!(of(text), Err(EnvAssignmentError), "{text}");
        }
    }

    #[test]
    fn mount_has_host_guest_and_access() {
        let of = |text: &str| {
            text.parse::<MountSpec>()
                .map(|mount| (mount.host, mount.guest, mount.access))
        };
        use ShareAccess::{ReadOnly, ReadWrite};
        for (text, host, guest, access) in [
            ("/a", "/a", None, ReadWrite),
            ("/a:ro", "/a", None, ReadOnly),
            ("~/a:/b", "~/a", Some("/b"), ReadWrite),
            ("/a b:/c d:rw", "/a b", Some("/c d"), ReadWrite),
            ("./ro", "./ro", None, ReadWrite),
            ("ro", "ro", None, ReadWrite),
        ] {
            assert_eq!(
                of(text),
                Ok((host.to_owned(), guest.map(str::to_owned), access)),
                "{text}"
            );
        }
        for text in ["", ":/b", "/a:b", "/a:/b:/c", "/a:/b:rx", ":ro", "/a:ro:ro"] {
            assert_eq!(of(text), Err(MountSpecError), "{text}");
        }
    }

    #[test]
    fn override_has_name_port_and_address() {
        let shown = |text: &str| {
            parse_resolve(text).map(|o| format!("{} {} {}", o.host, o.port, o.address))
        };
        assert_eq!(
            shown("A.b:443:127.0.0.1:8443"),
            Ok("a.b 443 127.0.0.1:8443".to_owned())
        );
        assert_eq!(
            shown("a.b:443:[::1]:8443"),
            Ok("a.b 443 [::1]:8443".to_owned())
        );
        for text in [
            "",
            "a.b",
            "a.b:443",
            "a.b:443:127.0.0.1",
            "a.b:0:127.0.0.1:1",
            "a.b:443:::1:1",
            "a.b:443:c.d:1",
            "a.b:x:1.2.3.4:1",
        ] {
            assert_eq!(shown(text), Err(ResolveError::Form), "{text}");
        }
        assert!(matches!(
            shown("1.2.3.4:443:1.2.3.4:1"),
            Err(ResolveError::Host(_))
        ));
    }
}
