//! What the test's flows meet: a service by port number, and names by a table.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Answer, DatagramKind, DatagramRequest, Denied, DnsFailure, FlowHandler, FlowRefusal,
    FlowRequest, GuestDatagrams, GuestStream, LocalBoxFuture, NameTreatment, OpenedDatagrams,
    OpenedFlow, OpeningDatagrams, Question, Relayed, Resolver, relay_datagrams,
};

pub(crate) const ECHO: u16 = 7;
pub(crate) const REFUSED: u16 = 101;
pub(crate) const UNREACHABLE: u16 = 102;
pub(crate) const TIMED_OUT: u16 = 103;
pub(crate) const DENIED: u16 = 104;
/// Answers after ten seconds.
pub(crate) const SLOW_DIAL: u16 = 105;
pub(crate) const PANICS: u16 = 106;
/// Sends [`pattern`] bytes, as many as the guest's first line says, then shuts down and reads to the end.
pub(crate) const SOURCE: u16 = 201;
/// Reads to the end, then answers with how many bytes were right.
pub(crate) const SINK: u16 = 202;
/// Shuts down first, then echoes what it read as the session's record.
pub(crate) const SHUTS_FIRST: u16 = 203;
/// Reads one byte and drops the stream.
pub(crate) const DROPS: u16 = 204;
/// Greets before the guest says anything.
pub(crate) const GREETS: u16 = 205;
/// As [`SINK`], a little at a time with pauses.
pub(crate) const SLOW_SINK: u16 = 206;
/// Says one byte, and that there may be much more; then reads to the end.
pub(crate) const HOPEFUL: u16 = 209;
/// Reads [`LATE_AFTER_BYTES`], and sends as many after [`LATE_PAUSE`].
pub(crate) const LATE: u16 = 210;
pub(crate) const LATE_AFTER_BYTES: usize = 16_000;
pub(crate) const LATE_PAUSE: Duration = Duration::from_secs(20);
/// Datagrams go to a socket of the host.
pub(crate) const FAR: u16 = 208;
/// Never reads, never writes, never ends.
pub(crate) const STUCK: u16 = 207;

/// The bytes every bulk transfer consists of.
pub(crate) fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(byte).collect()
}

pub(crate) fn byte(at: usize) -> u8 {
    ((at * 31) ^ (at >> 9) ^ (at >> 17)) as u8
}

#[derive(Default)]
pub(crate) struct TestHandler {
    pub(crate) requests: RefCell<Vec<FlowRequest>>,
    pub(crate) denied: RefCell<Vec<Denied>>,
    pub(crate) names: RefCell<HashMap<String, Vec<IpAddr>>>,
    /// Answers to any type, by name.
    pub(crate) answers: RefCell<HashMap<String, Answer>>,
    /// Names that are connected to by name.
    pub(crate) by_name: RefCell<Vec<String>>,
    pub(crate) treatments: RefCell<HashMap<String, NameTreatment>>,
    /// Names whose treatment was asked for.
    pub(crate) judged: RefCell<Vec<String>>,
    pub(crate) asked: RefCell<Vec<String>>,
    pub(crate) datagrams: RefCell<Vec<DatagramRequest>>,
    /// Where datagrams to [`FAR`] go.
    pub(crate) far: std::cell::Cell<Option<SocketAddr>>,
    /// What services saw, in words.
    pub(crate) record: Rc<RefCell<Vec<String>>>,
}

impl FlowHandler for TestHandler {
    fn open(
        self: Rc<Self>,
        request: FlowRequest,
    ) -> LocalBoxFuture<'static, Result<Box<dyn OpenedFlow>, FlowRefusal>> {
        let port = request.port;
        self.requests.borrow_mut().push(request);
        Box::pin(async move {
            match port {
                REFUSED => return Err(FlowRefusal::Refused),
                UNREACHABLE => return Err(FlowRefusal::Unreachable),
                TIMED_OUT => {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    return Err(FlowRefusal::TimedOut);
                }
                DENIED => return Err(FlowRefusal::Denied),
                SLOW_DIAL => tokio::time::sleep(Duration::from_secs(10)).await,
                PANICS => panic!("on purpose"),
                _ => tokio::task::yield_now().await,
            }
            let record = Rc::clone(&self.record);
            Ok(Box::new(Service { port, record }) as Box<dyn OpenedFlow>)
        })
    }

    fn open_datagrams(self: Rc<Self>, request: DatagramRequest) -> Option<OpeningDatagrams> {
        let port = request.port;
        let kind = request.kind;
        let carried = match kind {
            DatagramKind::Udp => {
                [ECHO, FAR, REFUSED, UNREACHABLE, TIMED_OUT, PANICS].contains(&port)
            }
            DatagramKind::Echo => request.names == ["pinged.test"],
        };
        if !carried {
            return None;
        }
        self.datagrams.borrow_mut().push(request);
        Some(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            match port {
                REFUSED => return Err(FlowRefusal::Refused),
                UNREACHABLE => return Err(FlowRefusal::Unreachable),
                TIMED_OUT => return Err(FlowRefusal::TimedOut),
                PANICS => panic!("on purpose"),
                _ => {}
            }
            let far = match self.far.get().filter(|_| port == FAR) {
                Some(far) => {
                    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    socket.connect(far).await.unwrap();
                    Some(socket)
                }
                None => None,
            };
            let record = Rc::clone(&self.record);
            Ok(Box::new(Datagrams { far, record }) as Box<dyn OpenedDatagrams>)
        }))
    }

    fn address_allowed(&self, _name: &str, address: IpAddr) -> bool {
        !address.is_loopback()
    }

    fn connects_by_name(&self, name: &str) -> bool {
        self.by_name.borrow().iter().any(|known| known == name)
    }

    fn name_treatment(&self, name: &str) -> NameTreatment {
        self.judged.borrow_mut().push(name.to_owned());
        let known = self.treatments.borrow().get(name).copied();
        known.unwrap_or(NameTreatment::Plain)
    }

    fn denied(&self, denied: Denied) {
        self.denied.borrow_mut().push(denied);
    }
}

impl Resolver for TestHandler {
    fn resolve(&self, question: &Question) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>> {
        let name = question.name.to_string().trim_end_matches('.').to_owned();
        self.asked.borrow_mut().push(name.clone());
        let addresses = self.names.borrow().get(&name).cloned();
        let ttl = Duration::from_secs(30);
        let known = addresses.map(|addresses| Answer::of_addresses(question, addresses, ttl));
        let known = known.or_else(|| self.answers.borrow().get(&name).cloned());
        Box::pin(async move {
            match name.split('.').next() {
                Some("dead") => Err(DnsFailure::ServerFailure),
                Some("silent") => std::future::pending().await,
                _ => Ok(known.unwrap_or_else(Answer::no_such_name)),
            }
        })
    }
}

/// Sends back what comes, or carries it to a socket.
struct Datagrams {
    far: Option<tokio::net::UdpSocket>,
    record: Rc<RefCell<Vec<String>>>,
}

impl OpenedDatagrams for Datagrams {
    fn serve(self: Box<Self>, mut guest: GuestDatagrams) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            if let Some(far) = self.far {
                let relayed = Relayed::default();
                relay_datagrams(guest, far, &relayed).await;
                let said = format!("{} up, {} down", relayed.up.get(), relayed.down.get());
                self.record.borrow_mut().push(said);
                return;
            }
            loop {
                return_one(&mut guest).await;
            }
        })
    }
}

/// Sends a datagram back as it came, an echo request as its reply with an identifier of the host.
async fn return_one(guest: &mut GuestDatagrams) {
    let mut message = std::future::poll_fn(|cx| guest.poll_receive(cx)).await;
    if guest.kind() == DatagramKind::Echo {
        message[0] = if message[0] == 8 { 0 } else { 129 };
        message[4..6].copy_from_slice(&[0xab, 0xcd]);
    }
    let copy = |room: &mut [u8]| {
        room[..message.len()].copy_from_slice(&message);
        Ok(message.len())
    };
    let sent = std::future::poll_fn(|cx| guest.poll_send_with(cx, copy));
    sent.await.unwrap();
}

struct Service {
    port: u16,
    record: Rc<RefCell<Vec<String>>>,
}

impl OpenedFlow for Service {
    fn serve(self: Box<Self>, guest: GuestStream) -> LocalBoxFuture<'static, ()> {
        let record = Rc::clone(&self.record);
        Box::pin(async move {
            let result = serve(self.port, guest, &record).await;
            if let Err(error) = result {
                record.borrow_mut().push(format!("{:?}", error.kind()));
            }
        })
    }
}

async fn serve(
    port: u16,
    mut guest: GuestStream,
    record: &RefCell<Vec<String>>,
) -> std::io::Result<()> {
    match port {
        SOURCE => {
            let len = usize::try_from(guest.read_u32().await?).unwrap();
            let mut sent = 0;
            while sent < len {
                let part = pattern(sent, (len - sent).min(100_000));
                guest.write_all(&part).await?;
                sent += part.len();
            }
            guest.shutdown().await?;
            let mut rest = Vec::new();
            guest.read_to_end(&mut rest).await?;
        }
        SINK | SLOW_SINK => {
            let mut right = 0_usize;
            let mut buffer = vec![0; if port == SINK { 1 << 17 } else { 50_000 }];
            loop {
                let len = guest.read(&mut buffer).await?;
                if len == 0 {
                    break;
                }
                let good = buffer[..len].iter().zip(right..);
                right += good.take_while(|(byte_, at)| **byte_ == byte(*at)).count();
                if port == SLOW_SINK {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            guest.write_u64(right as u64).await?;
            guest.shutdown().await?;
        }
        SHUTS_FIRST => {
            guest.write_all(b"bye").await?;
            guest.shutdown().await?;
            let mut rest = String::new();
            guest.read_to_string(&mut rest).await?;
            record.borrow_mut().push(rest);
        }
        HOPEFUL => {
            let one = |room: &mut [u8]| {
                room[0] = 1;
                Ok(1)
            };
            std::future::poll_fn(|cx| guest.poll_write_with(cx, 1 << 20, one)).await?;
            guest.read_to_end(&mut Vec::new()).await?;
        }
        LATE => {
            guest.read_exact(&mut [0; LATE_AFTER_BYTES]).await?;
            tokio::time::sleep(LATE_PAUSE).await;
            guest.write_all(&pattern(0, LATE_AFTER_BYTES)).await?;
            guest.read_to_end(&mut Vec::new()).await?;
        }
        DROPS => {
            guest.read_u8().await?;
        }
        GREETS => {
            guest.write_all(b"220 hello\r\n").await?;
            let mut rest = Vec::new();
            guest.read_to_end(&mut rest).await?;
            record.borrow_mut().push("greeted".to_owned());
            guest.shutdown().await?;
        }
        STUCK => std::future::pending().await,
        _ => {
            let (mut from, mut to) = tokio::io::split(guest);
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await?;
        }
    }
    Ok(())
}
