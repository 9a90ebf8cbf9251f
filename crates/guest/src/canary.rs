//! Tries what the network must refuse, before any program can use it.
//!
//! Both attempts are begun together and waited for together, so they cost one round trip, most of it beside other work. A
//! question that is lost is asked again; the kernel repeats the connection's beginning by itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_vm_protocol::Canary;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use thiserror::Error;

/// How long both refusals may take. Generous: emulated hosts are slow.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long a question is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Port of name servers.
const DNS_PORT: u16 = 53;
/// The longest answer that is read, in bytes (RFC 1035 §4.2.1).
const MAX_ANSWER: usize = 512;
/// The answer's bit in the third byte of a message, and the code for "no such name" in the fourth (RFC 1035 §4.1.1).
const IS_ANSWER: u8 = 0x80;
const NO_SUCH_NAME: u8 = 3;
const CODE: u8 = 0x0f;
/// Identifies our question; the socket takes answers of the asked server only.
const ID: [u8; 2] = [0xca, 0x17];

/// The policy is not known to be in force.
#[derive(Debug, Error)]
pub enum CanaryError {
    /// An attempt could not be made.
    #[error("cannot try what the network must refuse")]
    Try(#[source] io::Error),
    /// The question was answered otherwise.
    #[error("the egress policy is not in force: a name that must be denied was not")]
    Name,
    /// The connection was made.
    #[error("the egress policy is not in force: a connection that must be denied was made")]
    Connected,
    /// The connection ended otherwise than by a refusal.
    #[error("a connection that must be denied was not refused")]
    Connection(#[source] io::Error),
    /// Nothing came back.
    #[error("the network does not answer")]
    Silent,
}

impl From<Errno> for CanaryError {
    fn from(errno: Errno) -> Self {
        Self::Try(errno.into())
    }
}

impl From<io::Error> for CanaryError {
    fn from(error: io::Error) -> Self {
        Self::Try(error)
    }
}

/// Both attempts, under way.
#[derive(Debug)]
pub struct Attempt {
    question: Vec<u8>,
    server: UdpSocket,
    connection: OwnedFd,
    patience: Duration,
}

impl Attempt {
    /// Begins both; `server` is asked.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(canary: &Canary, server: IpAddr) -> Result<Self, CanaryError> {
        Self::begin_at(canary, SocketAddr::new(server, DNS_PORT), PATIENCE)
    }

    fn begin_at(
        canary: &Canary,
        server: SocketAddr,
        patience: Duration,
    ) -> Result<Self, CanaryError> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        let question = question(&canary.name);
        socket.send(&question)?;
        let connection = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        let there = SocketAddrV4::new(canary.address, canary.port);
        match rustix::net::connect(&connection, &there) {
            // The kernel tells a refusal that comes at once by `SO_ERROR` too, or here.
            Err(Errno::INPROGRESS | Errno::CONNREFUSED) => {}
            Ok(()) => return Err(CanaryError::Connected),
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self {
            question,
            server: socket,
            connection,
            patience,
        })
    }

    /// Waits for both refusals.
    ///
    /// # Errors
    /// One was not refused, or not in time.
    pub fn refused(self) -> Result<(), CanaryError> {
        let deadline = Instant::now() + self.patience;
        let mut pending = (true, true);
        while pending != (false, false) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CanaryError::Silent);
            }
            let (answered, connected) = self.wait(pending, left.min(ASK_AGAIN))?;
            if connected {
                self.connection_refused()?;
                pending.1 = false;
            }
            if answered {
                pending.0 = !self.name_refused()?;
            } else if pending.0 && !connected {
                self.server.send(&self.question)?;
            }
        }
        Ok(())
    }

    /// Which of the pending ones have news; none when the time is over.
    fn wait(&self, pending: (bool, bool), time: Duration) -> Result<(bool, bool), CanaryError> {
        let flags = |wanted: bool, flags| if wanted { flags } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(&self.server, flags(pending.0, PollFlags::IN)),
            PollFd::new(&self.connection, flags(pending.1, PollFlags::OUT)),
        ];
        // What nothing is wanted of is left out, because an error is always told.
        let fds = match pending {
            (true, true) => &mut fds[..],
            (true, false) => &mut fds[..1],
            (false, _) => &mut fds[1..],
        };
        let timeout = time.try_into().ok();
        match poll(fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut news = fds.iter().map(|fd| !fd.revents().is_empty());
        let server = pending.0 && news.next().unwrap_or(false);
        let connection = pending.1 && news.next().unwrap_or(false);
        Ok((server, connection))
    }

    fn connection_refused(&self) -> Result<(), CanaryError> {
        match rustix::net::sockopt::socket_error(&self.connection)? {
            Err(Errno::CONNREFUSED) => Ok(()),
            Ok(()) => match rustix::net::getpeername(&self.connection) {
                // Its refusal was told by `connect`.
                Err(Errno::NOTCONN) => Ok(()),
                Ok(_) | Err(_) => Err(CanaryError::Connected),
            },
            Err(errno) => Err(CanaryError::Connection(errno.into())),
        }
    }

    /// Whether the answer is there; what is no answer to the question is passed over.
    fn name_refused(&self) -> Result<bool, CanaryError> {
        let mut answer = [0; MAX_ANSWER];
        let len = match self.server.recv(&mut answer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let answer = &answer[..len];
        let (head, asked) = (answer.get(..12), &self.question[12..]);
        let is_ours = head.is_some_and(|head| head[..2] == ID && head[2] & IS_ANSWER != 0)
            && answer.get(12..).is_some_and(|rest| rest.starts_with(asked));
        if !is_ours {
            return Ok(false);
        }
        if answer[3] & CODE == NO_SUCH_NAME {
            Ok(true)
        } else {
            Err(CanaryError::Name)
        }
    }
}

/// A question for the address of `name` (RFC 1035 §4.1), recursion desired.
fn question(name: &str) -> Vec<u8> {
    let mut message = ID.to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let label = &label.as_bytes()[..label.len().min(63)];
        message.push(u8::try_from(label.len()).expect("it was cut at 63"));
        message.extend(label);
    }
    // The root, type A, class IN.
    message.extend([0, 0, 1, 0, 1]);
    message
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    /// A name server that answers each question with the messages `answers` makes of it.
    fn server(
        answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> (SocketAddr, JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        let address = socket.local_addr().unwrap();
        let serve = move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                for answer in answers(&buffer[..len]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        };
        (address, std::thread::spawn(serve))
    }

    fn answer(question: &[u8], code: u8) -> Vec<u8> {
        let mut answer = question.to_vec();
        answer[2] |= IS_ANSWER;
        answer[3] = IS_ANSWER | code;
        answer
    }

    /// What comes of a canary whose connection goes to `port` of this host.
    fn tried(
        port: u16,
        answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Result<(), CanaryError> {
        let (address, thread) = server(answers);
        let canary = Canary {
            name: "0123abcd.canary.agent-vm.internal".into(),
            address: Ipv4Addr::LOCALHOST,
            port,
        };
        let attempt = Attempt::begin_at(&canary, address, SHORT).and_then(Attempt::refused);
        thread.join().unwrap();
        attempt
    }

    fn closed_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn both_refused_is_well() {
        tried(closed_port(), |asked| vec![answer(asked, NO_SUCH_NAME)]).unwrap();
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_passed_over() {
        let noise = |asked: &[u8]| {
            let mut other = answer(asked, 0);
            other[0] ^= 1;
            let mut name = answer(asked, 0);
            name[14] ^= 1;
            let echo = asked.to_vec();
            vec![Vec::new(), other, name, echo, answer(asked, NO_SUCH_NAME)]
        };
        tried(closed_port(), noise).unwrap();
    }

    #[test]
    fn a_connection_that_is_made_means_that_no_policy_is_in_force() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let tried = tried(port, |asked| vec![answer(asked, NO_SUCH_NAME)]);
        assert!(matches!(tried, Err(CanaryError::Connected)), "{tried:?}");
    }

    #[test]
    fn a_name_that_exists_or_that_nobody_can_tell_means_the_same() {
        for code in [0, 2, 5] {
            let tried = tried(closed_port(), move |asked| vec![answer(asked, code)]);
            assert!(matches!(tried, Err(CanaryError::Name)), "{tried:?}");
        }
    }

    #[test]
    fn silence_is_no_refusal() {
        let tried = tried(closed_port(), |_| Vec::new());
        assert!(matches!(tried, Err(CanaryError::Silent)), "{tried:?}");
    }

    #[test]
    fn a_question_is_as_rfc_1035_says() {
        let wanted = b"\xca\x17\x01\0\0\x01\0\0\0\0\0\0\x01a\x02bc\0\0\x01\0\x01";
        assert_eq!(question("a.bc"), wanted);
    }
}
