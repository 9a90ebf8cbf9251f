//! The host's proxy: which connections go through it, and how one is made.
//!
//! Theory of operation. Only public addresses go through a proxy; what the user granted by address, gave by `--resolve`
//! or reaches on the host is connected to directly. The scheme's variable decides by port: 80 is `http`, every other
//! `https`; `all` stands in for either. `no_proxy` excepts hosts by name or address, as in curl.
//!
//! Through an HTTP proxy a connection is a tunnel (CONNECT, RFC 9110 §9.3.6), except that requests of plain HTTP are
//! forwarded in absolute form (RFC 9112 §3.2.2), because most proxies refuse tunnels to port 80. The proxy's answer is read
//! to its last byte and not further: in protocols where the server speaks first, what follows is the server's. SOCKS5
//! is RFC 1928 with the login of RFC 1929. An HTTP proxy and `socks5h` are given the name that was judged and resolve it
//! themselves; `socks5` is given the address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use agent_vm_policy::HostName;
use agent_vm_secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use thiserror::Error;

mod exceptions;
mod handshake;

pub use exceptions::NoProxy;
pub(crate) use handshake::{connect, forward_socket, tunnel};

/// First two bytes of the addresses that stand for a name only: 198.19.0.0/16 (RFC 2544, never routed).
pub const STAND_IN_NETWORK: [u8; 2] = [198, 19];

/// Whether an address stands for a name only: nothing is dialled there.
pub(crate) fn is_stand_in(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets().starts_with(&STAND_IN_NETWORK))
}

/// The port that plain HTTP is spoken at.
pub(crate) const HTTP_PORT: u16 = 80;
/// The longest name of a proxy that is shown or used.
const MAX_HOST_BYTES: usize = 255;

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP: tunnels and forwarded requests.
    Http,
    /// SOCKS5, given addresses.
    Socks5,
    /// SOCKS5, given names.
    Socks5h,
}

/// One proxy.
#[derive(Debug, Clone)]
pub struct ProxyServer {
    kind: ProxyKind,
    /// Name, or address without brackets.
    host: String,
    port: u16,
    login: Option<Login>,
}

/// What a proxy wants to know of its user.
#[derive(Debug, Clone)]
struct Login {
    user: Secret,
    /// Empty when absent.
    password: Option<Secret>,
    /// The value of `Proxy-Authorization` (RFC 7617).
    basic: Secret,
}

/// The proxies of this host, as the variables of the same names have them.
#[derive(Debug, Clone, Default)]
pub struct ProxySettings {
    /// For plain HTTP, port 80.
    pub http: Option<ProxyServer>,
    /// For every other port.
    pub https: Option<ProxyServer>,
    /// For both, where they have none of their own.
    pub all: Option<ProxyServer>,
    /// What is reached directly.
    pub no_proxy: NoProxy,
}

/// Where a connection through a proxy leads.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// The host it was judged for.
    pub(crate) name: Option<HostName>,
    /// The address it was judged at.
    pub(crate) address: SocketAddr,
}

impl ProxyServer {
    /// Reads `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT]`; user and password are percent-encoded. The scheme is `http`
    /// unless given.
    ///
    /// # Errors
    /// When it has another form or scheme; the error holds nothing of the login.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "http" => ProxyKind::Http,
            "socks5" => ProxyKind::Socks5,
            "socks5h" => ProxyKind::Socks5h,
            "https" => return Err(ProxyError::Scheme { scheme: "https" }),
            "socks4" | "socks4a" | "socks" => return Err(ProxyError::Scheme { scheme: "socks4" }),
            _ => return Err(ProxyError::Form),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (login, server) = match authority.rsplit_once('@') {
            Some((login, server)) => (Some(Login::parse(login)?), server),
            None => (None, authority),
        };
        let (host, port) = split_port(server)?;
        let port = match port {
            Some(port) => port,
            None if kind == ProxyKind::Http => HTTP_PORT,
            None => SOCKS_PORT,
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.bytes().all(known) {
            return Err(ProxyError::Form);
        }
        Ok(Self {
            kind,
            host: host.to_owned(),
            port,
            login,
        })
    }

    /// The value of `Proxy-Authorization`.
    pub(crate) fn authorization(&self) -> Option<&Secret> {
        self.login.as_ref().map(|login| &login.basic)
    }

    /// Whether it is given names, which it resolves itself.
    pub(crate) fn takes_names(&self) -> bool {
        matches!(self.kind, ProxyKind::Http | ProxyKind::Socks5h)
    }

    /// Whether requests of plain HTTP are forwarded and not tunnelled.
    pub(crate) fn forwards(&self) -> bool {
        self.kind == ProxyKind::Http
    }
}

/// The port of SOCKS (RFC 1928 §3).
const SOCKS_PORT: u16 = 1080;

/// Host and port of `HOST[:PORT]` or `[ADDRESS][:PORT]`.
fn split_port(server: &str) -> Result<(&str, Option<u16>), ProxyError> {
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(ProxyError::Form)?;
            host.parse::<IpAddr>().map_err(|_| ProxyError::Form)?;
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or(ProxyError::Form)?)),
            }
        }
        None => match server.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(ProxyError::Form),
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    match port.map(str::parse::<u16>) {
        None => Ok((host, None)),
        Some(Ok(port)) if port > 0 => Ok((host, Some(port))),
        Some(_) => Err(ProxyError::Form),
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, ProxyError> {
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(String::from).map_err(|_| ProxyError::Login)
        };
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let (user, password) = (decoded(user)?, decoded(password)?);
        let longest = user.len().max(password.len());
        if longest > MAX_LOGIN_BYTES || user.contains(':') {
            return Err(ProxyError::Login);
        }
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let secret = |text: String| Secret::new(text).map_err(|_| ProxyError::Login);
        Ok(Self {
            password: (!password.is_empty())
                .then(|| secret(password))
                .transpose()?,
            user: secret(user)?,
            basic: secret(basic)?,
        })
    }
}

/// Longest user name or password (RFC 1929 §2).
const MAX_LOGIN_BYTES: usize = 255;

/// Scheme, host and port; nothing of the login.
impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
            ProxyKind::Socks5h => "socks5h",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl ProxySettings {
    /// Whether there is no proxy at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none() && self.all.is_none()
    }

    /// The proxy for what goes to `port`.
    fn server(&self, port: u16) -> Option<&ProxyServer> {
        let own = match port {
            HTTP_PORT => &self.http,
            _ => &self.https,
        };
        own.as_ref().or(self.all.as_ref())
    }

    /// The proxy for a destination; none when it is excepted.
    pub(crate) fn choose(&self, destination: &Destination) -> Option<&ProxyServer> {
        let server = self.server(destination.address.port())?;
        let address = destination.address.ip();
        let excepted = self.no_proxy.excepts(&bracketed(address))
            || destination
                .name
                .as_ref()
                .is_some_and(|name| self.no_proxy.excepts(name.as_str()));
        (!excepted).then_some(server)
    }

    /// Whether a connection to `name` is made by a proxy that is given the name, at some port at least.
    pub(crate) fn resolves(&self, name: &HostName) -> bool {
        let servers = [HTTP_PORT, HTTP_PORT + 1].map(|port| self.server(port));
        let given_names = servers.into_iter().flatten().any(ProxyServer::takes_names);
        given_names && can_be_public(name.as_str()) && !self.no_proxy.excepts(name.as_str())
    }
}

/// Whether a name can be a host's on the Internet: it has a domain, and one that is not kept for something else (RFC 6761,
/// RFC 6762, RFC 8375). Addresses in whatever notation are no [`HostName`]s.
fn can_be_public(name: &str) -> bool {
    let within = |domain: &&str| {
        let rest = name.strip_suffix(domain);
        rest.is_some_and(|rest| rest.ends_with('.'))
    };
    name.contains('.') && !NOT_PUBLIC.iter().any(within)
}

/// Domains that no proxy on the way to the Internet should be asked for.
const NOT_PUBLIC: [&str; 5] = ["localhost", "local", "internal", "home.arpa", "invalid"];

impl Destination {
    /// Host and port as a proxy is asked for them: the name, else the address.
    pub(crate) fn authority(&self) -> String {
        let host = match &self.name {
            Some(name) => name.to_string(),
            None => bracketed(self.address.ip()),
        };
        format!("{host}:{}", self.address.port())
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Why a text names no proxy; never holds a part of its login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// It has another form.
    #[error("a proxy is given as [http|socks5|socks5h://][USER:PASSWORD@]HOST[:PORT]")]
    Form,
    /// Its scheme is known, but not spoken.
    #[error("a proxy cannot be reached by {scheme}, only by http, socks5 or socks5h")]
    Scheme {
        /// The scheme.
        scheme: &'static str,
    },
    /// User or password cannot be sent.
    #[error(
        "user and password of a proxy have at most 255 bytes of percent-encoded UTF-8 without control characters"
    )]
    Login,
}

#[cfg(test)]
mod tests;
