//! `egress check`: asks the policy of a launch what it would decide, without a guest and without the network.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use agent_vm_launch::{LaunchRequest, enforced_policy};
use agent_vm_policy::{
    ConnectFacts, ConnectVerdict, DenyReason, ForeignCredential, HOST_SERVICE_NAME, HostName,
    Owner, PlaceholderUse, Policy, RequestFacts, RequestVerdict, Resolution, Rule, Transport,
};
use serde::Serialize;

use crate::args::{EgressCheckArgs, Target};
use crate::command_error::{CommandError, UsageError};
use crate::host_facts::HostFacts;
use crate::launch_request::{ConfiguredSecrets, Context, Typed, build};
use crate::preflight::kernel_for_plan;
use crate::settings::Settings;
use crate::ui::{self, harmless};

/// Stands for whatever public address a name has.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    host: String,
    port: u16,
    /// Method, transport and target, when it is a request.
    request: Option<(String, Transport, String)>,
}

/// What the policy says.
#[derive(Debug, Serialize)]
struct Said {
    verdict: &'static str,
    host: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<DenyReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule>,
    /// Whether requests are judged one by one.
    intercepted: bool,
    /// Whether the launcher answers itself, and only a login's own renewal.
    renews: bool,
}

/// `agent-vm egress check`; 0 when it is allowed, 1 when it is not.
///
/// # Errors
/// When it is no request or connection, or a launch would not come so far.
pub(super) fn run(context: &Context, args: &EgressCheckArgs) -> Result<u8, CommandError> {
    let asked = read(&args.what).ok_or_else(|| UsageError::CheckForm {
        given: args.what.join(" "),
    })?;
    let settings = Settings::resolve(&args.options, &context.env, &HostFacts::read())?;
    let placeholder = ["CMD".into()];
    let typed = Typed {
        target: args.target.unwrap_or(Target::Shell),
        shell_agent: None,
        options: &args.options,
        arguments: &placeholder,
        configured: ConfiguredSecrets::Given,
    };
    let request = build(context, &typed, settings, kernel_for_plan(context))?;
    let said = say(&request, &asked);
    let text = if args.json {
        serde_json::to_string(&said).expect("plain data has a JSON form") + "\n"
    } else {
        render(&said)
    };
    ui::data(&text).map_err(UsageError::Output)?;
    Ok(u8::from(said.verdict != "allow"))
}

/// `METHOD URL`, `URL` or `HOST[:PORT]`.
fn read(words: &[String]) -> Option<Asked> {
    let (method, what) = match words {
        [what] => ("GET", what),
        [method, url] if url.contains("://") => (method.as_str(), url),
        _ => return None,
    };
    let Some((scheme, rest)) = what.split_once("://") else {
        let (host, port) = authority(what, 443)?;
        return Some(Asked {
            host,
            port,
            request: None,
        });
    };
    let (transport, port) = match scheme {
        "https" => (Transport::Tls, 443),
        "http" => (Transport::Plain, 80),
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, port) = authority(&rest[..end], port)?;
    let target = rest[end..].split('#').next().unwrap_or_default();
    let slash = if target.starts_with('/') { "" } else { "/" };
    let request = (method.to_owned(), transport, format!("{slash}{target}"));
    Some(Asked {
        host,
        port,
        request: Some(request),
    })
}

/// `HOST[:PORT]`; an IPv6 address with a port is in brackets.
fn authority(text: &str, default: u16) -> Option<(String, u16)> {
    if text.parse::<IpAddr>().is_ok() {
        return Some((text.to_owned(), default));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port > 0)?)
        }
        _ => (text, default),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let valid = host.parse::<IpAddr>().is_ok() || HostName::parse(host).is_ok();
    valid.then(|| (host.to_owned(), port))
}

/// What the policy of `request` says.
fn say(request: &LaunchRequest, asked: &Asked) -> Said {
    let policy = enforced_policy(request);
    let name = HostName::parse(&asked.host).ok();
    let names: Vec<HostName> = name.clone().into_iter().collect();
    let given = request.network.resolve.iter();
    let mut given =
        given.filter(|given| Some(&given.host) == name.as_ref() && given.port == asked.port);
    let (address, resolution) = match (&name, given.next()) {
        (_, Some(given)) => (given.address.ip(), Resolution::Overridden),
        (Some(name), None) if name.as_str() == HOST_SERVICE_NAME => {
            (IpAddr::V4(Ipv4Addr::LOCALHOST), Resolution::HostService)
        }
        (Some(_), None) => (PUBLIC, Resolution::Public),
        (None, None) => (asked.host.parse().unwrap_or(PUBLIC), Resolution::Public),
    };
    let facts = ConnectFacts {
        names: &names,
        address,
        port: asked.port,
        resolution,
        owner: Owner::Other,
    };
    let connected = policy.decide_connect(&facts);
    let mut said = Said {
        verdict: "allow",
        host: asked.host.clone(),
        port: asked.port,
        method: None,
        path: None,
        reason: None,
        rule: policy.rule(&facts),
        intercepted: connected == ConnectVerdict::Intercept,
        renews: renews(request, asked),
    };
    if let Some((method, _, target)) = &asked.request {
        let path = target.split('?').next().unwrap_or_default();
        (said.method, said.path) = (Some(method.clone()), Some(path.to_owned()));
    }
    said.reason = match (connected, &name, &asked.request) {
        (ConnectVerdict::Deny(reason), ..) => Some(reason),
        (_, Some(name), _) if policy.decide_name(name).is_err() => policy.decide_name(name).err(),
        (ConnectVerdict::Intercept, Some(name), Some(asked_for)) => {
            by_request(&policy, (name, asked.port), asked_for, &mut said.rule)
        }
        _ => None,
    };
    said.verdict = match said.reason {
        None => "allow",
        Some(DenyReason::Unanswered) => "ask",
        Some(_) => "deny",
    };
    said
}

/// Whether this is a request to renew a login, if its body is one.
fn renews(request: &LaunchRequest, asked: &Asked) -> bool {
    let Some((method, Transport::Tls, target)) = &asked.request else {
        return false;
    };
    let path = target.split('?').next().unwrap_or_default();
    let mut logins = request.credentials.credentials.iter();
    method == "POST"
        && logins.any(|login| {
            let endpoint = login.refresh.as_ref().map(|facts| facts.endpoint);
            endpoint.is_some_and(|known| {
                known.host.eq_ignore_ascii_case(&asked.host) && known.path == path
            })
        })
}

fn by_request(
    policy: &Policy,
    (host, port): (&HostName, u16),
    (method, transport, target): &(String, Transport, String),
    rule: &mut Option<Rule>,
) -> Option<DenyReason> {
    let facts = RequestFacts {
        host,
        authority: Some(host),
        port,
        transport: *transport,
        method,
        target,
        placeholders: PlaceholderUse::None,
        foreign: ForeignCredential::Absent,
    };
    let judged_by = policy.request_rule(&facts);
    match policy.decide_request(&facts) {
        RequestVerdict::Deny(reason) => {
            // What lets the connection pass says nothing about a request that may not.
            *rule = judged_by;
            Some(reason)
        }
        RequestVerdict::Allow => {
            *rule = judged_by.or(rule.take());
            None
        }
    }
}

fn render(said: &Said) -> String {
    let place = match (&said.method, &said.path) {
        (Some(method), Some(path)) => format!("{method} {}:{}{path}", said.host, said.port),
        _ => format!("{}:{}", said.host, said.port),
    };
    let mut text = format!("{} {}\n", said.verdict, harmless(&place));
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{name:<8}{}", harmless(value)).expect("writing to a String cannot fail");
    };
    if let Some(reason) = said.reason {
        line("reason", &format!("{reason} ({})", reason.code()));
    }
    if let Some(rule) = &said.rule {
        line("rule", &rule.to_string());
    }
    if said.intercepted {
        line("note", "TLS is intercepted: each request is judged");
    }
    if said.renews {
        line(
            "note",
            "the launcher renews a login here; every other grant is refused",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_connections_are_told_apart() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (text, host, port, target) in [
            ("a.test", "a.test", 443, None),
            ("a.test:22", "a.test", 22, None),
            ("10.0.0.1:22", "10.0.0.1", 22, None),
            ("fd00::1", "fd00::1", 443, None),
            ("[fd00::1]:22", "fd00::1", 22, None),
            ("https://a.test", "a.test", 443, Some("/")),
            (
                "POST http://a.test:8080/x?y#z",
                "a.test",
                8080,
                Some("/x?y"),
            ),
            ("GET https://a.test?y", "a.test", 443, Some("/?y")),
        ] {
            let asked = read(&words(text)).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((asked.host.as_str(), asked.port), (host, port), "{text}");
            let found = asked.request.map(|(.., target)| target);
            assert_eq!(found.as_deref(), target, "{text}");
        }
        for text in [
            "a b",
            "GET a.test",
            "ftp://a.test/",
            "a.test:0",
            "a.test:x",
            "https://",
            "https://u@a.test/",
            "*.a.test",
        ] {
            assert_eq!(read(&words(text)), None, "{text}");
        }
    }
}
