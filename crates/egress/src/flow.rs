//! A flow from its first bytes on: told apart by them, judged again, then spliced or intercepted.
//!
//! Theory of operation. With no credential and nothing to intercept, bytes are passed on at once. Otherwise the
//! guest's first bytes are awaited, unless the upstream speaks first. A ClientHello is judged by its server name. What
//! is not TLS is intercepted as plain HTTP when it is HTTP to a host that was allowed by its name, else passed on while
//! its beginning is searched for placeholders. What begins as TLS and is none is denied.

use std::rc::Rc;
use std::time::Duration;

use agent_vm_policy::{ConnectVerdict, DenyReason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::audit::Kind;
use crate::client_hello::{CONTENT_HANDSHAKE, ClientHello, HelloReader, Progress};
use crate::dial::{DialError, Route, dial};
use crate::egress::{FlowEnd, Shared};
use crate::intercept::Intercepted;
use crate::judged::Flow;
use crate::proxy::tunnel;
use crate::record::{Place, Record};
use crate::replay::Replay;
use crate::respond::raw_denial;
use crate::splice::{Duplex, Early, SpliceEnd, splice};

/// How long a ClientHello may take from its first byte on.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an intercepted host's connection may stay without a first byte from either side.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest HTTP method that is looked for.
const MAX_METHOD_BYTES: usize = 24;
/// Bytes read at once while looking.
const LOOK_BYTES: usize = 4096;

/// What the guest's first bytes are.
enum Opening {
    Tls(ClientHello),
    /// HTTP/1.1, or HTTP/2 without TLS.
    Http,
    /// Another protocol, or one in which the upstream speaks first.
    Other,
    /// Neither TLS nor anything else that can be judged.
    Broken,
}

/// Serves an opened flow until both sides are done.
pub(crate) async fn serve<S: Duplex + 'static>(
    shared: Rc<Shared>,
    flow: Flow,
    mut upstream: Option<TcpStream>,
    mut guest: S,
) -> FlowEnd {
    let guarded = flow.verdict != ConnectVerdict::Tunnel;
    let forwarded = flow.route.forwarder().is_some();
    let place = flow.place();
    if !guarded && !forwarded && shared.passes_unseen() {
        let Some(upstream) = connected(&shared, &place, (upstream, &flow.route)).await else {
            return FlowEnd::Reset;
        };
        return pass_on(&shared, place, (guest, upstream), Vec::new()).await;
    }
    let (opening, early) = look(&mut guest, upstream.as_ref(), guarded).await;
    let mut place = place;
    let verdict = match &opening {
        Opening::Tls(hello) => {
            let name = hello.server_name.as_ref();
            let (verdict, rule) = shared.judge_hello(&flow, name).await;
            place.rule = rule.or(place.rule);
            verdict
        }
        Opening::Other if flow.http_only => ConnectVerdict::Deny(DenyReason::NotHttp),
        Opening::Http if guarded || forwarded => ConnectVerdict::Intercept,
        Opening::Http | Opening::Other => ConnectVerdict::Tunnel,
        Opening::Broken => ConnectVerdict::Deny(DenyReason::ClientHello),
    };
    let plain_hosts = shared.plain_hosts(&flow);
    let denied = matches!(verdict, ConnectVerdict::Deny(_));
    let route = match open_way(flow.route, (&opening, denied), &mut upstream).await {
        Ok(route) => route,
        Err(error) => {
            Record::begin(&shared, Kind::Connect, place).failed(error.reason());
            return FlowEnd::Reset;
        }
    };
    let intercepted = |stream| Intercepted {
        shared: Rc::clone(&shared),
        place: place.clone(),
        route: route.clone(),
        stream,
    };
    match (verdict, opening) {
        (ConnectVerdict::Deny(reason), opening) => {
            let mut place = place;
            if let Opening::Tls(ClientHello {
                server_name: Some(name),
                ..
            }) = opening
            {
                place.host = Some(name);
            }
            Record::begin(&shared, Kind::Connect, place).denied(reason);
            FlowEnd::Reset
        }
        (ConnectVerdict::Tunnel | ConnectVerdict::Inspect, Opening::Tls(hello)) => {
            let mut place = place;
            place.host = hello.server_name.or(place.host);
            let Some(upstream) = connected(&shared, &place, (upstream, &route)).await else {
                return FlowEnd::Reset;
            };
            pass_on(&shared, place, (guest, upstream), early).await
        }
        (ConnectVerdict::Tunnel | ConnectVerdict::Inspect, _) => {
            let Some(upstream) = connected(&shared, &place, (upstream, &route)).await else {
                return FlowEnd::Reset;
            };
            pass_on_searched(&shared, place, (guest, upstream), early).await
        }
        (ConnectVerdict::Intercept, Opening::Tls(hello)) => {
            let Some(host) = hello.server_name.clone() else {
                return FlowEnd::Reset;
            };
            let guest = Replay::new(early, guest);
            intercepted(upstream).serve_tls(guest, host, &hello).await
        }
        (ConnectVerdict::Intercept, _) => {
            let guest = Replay::new(early, guest);
            let intercepted = intercepted(upstream);
            intercepted.serve_plain(guest, plain_hosts).await
        }
    }
}

/// Turns the connection to a proxy that forwards requests into one to the destination, when it is to carry something
/// else.
async fn open_way(
    route: Route,
    (opening, denied): (&Opening, bool),
    upstream: &mut Option<TcpStream>,
) -> Result<Route, DialError> {
    if route.forwarder().is_none() || denied || matches!(opening, Opening::Http) {
        return Ok(route);
    }
    let route = route.opaque();
    if let (Route::Tunnel(proxy, to), Some(upstream)) = (&route, upstream) {
        tunnel(proxy, to, upstream).await?;
    }
    Ok(route)
}

impl Flow {
    pub(crate) fn place(&self) -> Place {
        Place {
            host: self.names.first().cloned(),
            address: self.address,
            port: self.port,
            protocol: None,
            rule: self.rule.clone(),
            proxy: self.route.proxy().map(|proxy| proxy.to_string().into()),
            method: None,
            path: None,
        }
    }
}

/// Awaits enough of the first bytes to tell what they are.
async fn look(
    guest: &mut impl Duplex,
    upstream: Option<&TcpStream>,
    guarded: bool,
) -> (Opening, Vec<u8>) {
    let mut reader = HelloReader::default();
    let mut buffer = [0; LOOK_BYTES];
    let mut peeked = [0; 1];
    let silence = if guarded {
        SILENCE_TIMEOUT
    } else {
        Duration::MAX
    };
    let first = tokio::select! {
        biased;
        read = guest.read(&mut buffer) => Some(read),
        () = speaks(upstream, &mut peeked) => None,
        () = tokio::time::sleep(silence) => return (Opening::Broken, Vec::new()),
    };
    let deadline = Instant::now() + HELLO_TIMEOUT;
    let mut read = match first {
        Some(Ok(length)) => length,
        Some(Err(_)) => return (Opening::Broken, Vec::new()),
        None => return (Opening::Other, Vec::new()),
    };
    let mut early = Vec::new();
    loop {
        if read == 0 {
            return (undecided(&early), early);
        }
        early.extend_from_slice(&buffer[..read]);
        let decided = match reader.push(&buffer[..read]) {
            Ok(Progress::Complete(hello)) => Some(Opening::Tls(hello)),
            Ok(Progress::NotTls) => match looks_like_http(&early) {
                Some(true) => Some(Opening::Http),
                Some(false) => Some(Opening::Other),
                None => None,
            },
            Ok(Progress::Partial) => None,
            Err(error) => {
                tracing::debug!(%error, "a ClientHello was refused");
                Some(Opening::Broken)
            }
        };
        if let Some(opening) = decided {
            return (opening, early);
        }
        let room = reader.room().clamp(1, LOOK_BYTES);
        match timeout_at(deadline, guest.read(&mut buffer[..room])).await {
            Ok(Ok(length)) => read = length,
            Ok(Err(_)) | Err(_) => return (undecided(&early), early),
        }
    }
}

/// Resolves when the upstream has sent something or has ended.
async fn speaks(upstream: Option<&TcpStream>, peeked: &mut [u8]) {
    match upstream {
        Some(upstream) => drop(upstream.peek(peeked).await),
        None => std::future::pending().await,
    }
}

/// The flow's connection, made now when it was thought that one would be shared.
async fn connected(
    shared: &Rc<Shared>,
    place: &Place,
    (upstream, route): (Option<TcpStream>, &Route),
) -> Option<TcpStream> {
    if upstream.is_some() {
        return upstream;
    }
    match dial(route).await {
        Ok(upstream) => Some(upstream),
        Err(error) => {
            Record::begin(shared, Kind::Connect, place.clone()).failed(error.reason());
            None
        }
    }
}

/// What bytes are after which nothing comes.
fn undecided(early: &[u8]) -> Opening {
    if early.first() == Some(&CONTENT_HANDSHAKE) {
        Opening::Broken
    } else {
        Opening::Other
    }
}

/// Whether bytes begin with a method and a space; `None` while they may still.
fn looks_like_http(bytes: &[u8]) -> Option<bool> {
    let token = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    match bytes.get(token) {
        Some(b' ') => Some(token > 0),
        Some(_) => Some(false),
        None if token > MAX_METHOD_BYTES => Some(false),
        None => None,
    }
}

/// Passes bytes on as they are.
async fn pass_on<S: Duplex>(
    shared: &Rc<Shared>,
    place: Place,
    (mut guest, mut upstream): (S, TcpStream),
    early: Vec<u8>,
) -> FlowEnd {
    let record = Record::begin(shared, Kind::Connect, place);
    let early = Early {
        to_upstream: early,
        to_guest: Vec::new(),
    };
    match splice(&mut guest, &mut upstream, early, record.traffic(), None).await {
        SpliceEnd::Finished => FlowEnd::Finished,
        SpliceEnd::Broken | SpliceEnd::Placeholder => FlowEnd::Reset,
    }
}

/// Passes bytes on that are not protected, unless a placeholder is among the first.
async fn pass_on_searched<S: Duplex>(
    shared: &Rc<Shared>,
    place: Place,
    (mut guest, mut upstream): (S, TcpStream),
    early: Vec<u8>,
) -> FlowEnd {
    let mut record = Record::begin(shared, Kind::Connect, place);
    let scanner = shared.credentials.scanner();
    let http = looks_like_http(&early) == Some(true);
    if http && scanner.find(&early).is_some() {
        record.denied(DenyReason::PlaceholderInClear);
        let answer = raw_denial(DenyReason::PlaceholderInClear);
        let _gone = guest.write_all(&answer).await;
        let _gone = guest.shutdown().await;
        return FlowEnd::Finished;
    }
    let early = Early {
        to_upstream: early,
        to_guest: Vec::new(),
    };
    match splice(
        &mut guest,
        &mut upstream,
        early,
        record.traffic(),
        Some(scanner),
    )
    .await
    {
        SpliceEnd::Finished => FlowEnd::Finished,
        SpliceEnd::Broken => FlowEnd::Reset,
        SpliceEnd::Placeholder => {
            record.denied(DenyReason::PlaceholderInClear);
            FlowEnd::Reset
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_by_a_method_and_a_space() {
        for (bytes, told) in [
            (&b""[..], None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", Some(true)),
            (b"PRI * HTTP/2.0", Some(true)),
            (b"get /", Some(false)),
            (b"SSH-2.0-x", Some(false)),
            (b" GET", Some(false)),
            (b"GET\r\n", Some(false)),
            (&[b'A'; 40], Some(false)),
        ] {
            assert_eq!(looks_like_http(bytes), told, "{bytes:?}");
        }
    }
}
