//! The forwarder against real servers on this machine's loopback, its host end driven frame by frame.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;

use agent_vm_protocol::{Decoder, FORWARD_WINDOW, encode};

use super::*;

/// The launcher's end.
struct Host {
    stream: std::os::unix::net::UnixStream,
    decoder: Decoder<ForwardReply>,
    buffer: Vec<u8>,
    rest: Vec<u8>,
    thread: JoinHandle<ControlError>,
}

impl Host {
    fn new(forwarding: Forwarding) -> Self {
        let (stream, guest) = std::os::unix::net::UnixStream::pair().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let forwarder = Forwarder::new(guest.into(), forwarding, Vec::new()).unwrap();
        Self {
            stream,
            decoder: Decoder::new(),
            buffer: vec![0; 64 * 1024],
            rest: Vec::new(),
            thread: std::thread::spawn(move || forwarder.run()),
        }
    }

    fn send(&mut self, request: ForwardRequest) {
        let mut wire = Vec::new();
        encode(&request, &mut wire).unwrap();
        self.stream.write_all(&wire).unwrap();
    }

    fn open(&mut self, id: u32, protocol: PortProtocol, port: u16) -> StreamId {
        let id = StreamId(id);
        self.send(ForwardRequest::Open { id, protocol, port });
        id
    }

    fn data(&mut self, id: StreamId, data: &[u8]) {
        let data = data.to_vec();
        self.send(ForwardRequest::Data { id, data });
    }

    fn next(&mut self) -> ForwardReply {
        loop {
            let mut input = self.rest.as_slice();
            let message = self.decoder.next(&mut input).unwrap();
            self.rest = input.to_vec();
            if let Some(message) = message {
                return message;
            }
            let count = self
                .stream
                .read(&mut self.buffer)
                .expect("an answer in time");
            assert_ne!(count, 0, "the forwarder ended");
            self.rest = self.buffer[..count].to_vec();
        }
    }

    /// The next message that is no credit.
    fn next_but_credit(&mut self) -> ForwardReply {
        loop {
            match self.next() {
                ForwardReply::Credit { .. } => {}
                other => return other,
            }
        }
    }

    /// Everything a stream says to its end, giving credit for it.
    fn read_to_end(&mut self, of: StreamId) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next_but_credit() {
                ForwardReply::Data { id, data } if id == of => {
                    let bytes = u32::try_from(data.len()).unwrap();
                    self.send(ForwardRequest::Credit { id, bytes });
                    all.extend(data);
                }
                ForwardReply::Eof { id } if id == of => return all,
                other => panic!("{other:?}"),
            }
        }
    }

    fn end(self) {
        drop(self.stream);
        // Closed, or reset when something was not read.
        let error = self.thread.join().unwrap();
        assert!(
            matches!(error, ControlError::Closed | ControlError::Io(_)),
            "{error}"
        );
    }
}

fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_half_close_goes_through_and_the_answer_comes_after_it() {
    let mut host = Host::new(Forwarding::Connect);
    let (listener, port) = server();
    let id = host.open(1, PortProtocol::Tcp, port);
    // Before it is connected.
    host.data(id, b"question");
    host.send(ForwardRequest::Eof { id });
    let (mut server, _) = listener.accept().unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "question");
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(host.read_to_end(id), b"answer");
    host.end();
}

#[test]
fn the_server_may_end_first() {
    let mut host = Host::new(Forwarding::Connect);
    let (listener, port) = server();
    let id = host.open(1, PortProtocol::Tcp, port);
    let (mut server, _) = listener.accept().unwrap();
    server.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(host.next(), ForwardReply::Eof { id });
    host.data(id, b"still said");
    host.send(ForwardRequest::Eof { id });
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "still said");
    host.end();
}

#[test]
fn resets_are_resets_both_ways_and_a_port_nobody_listens_at_is_one() {
    let mut host = Host::new(Forwarding::Connect);
    let (listener, port) = server();
    let id = host.open(1, PortProtocol::Tcp, port);
    let (mut server, _) = listener.accept().unwrap();
    host.data(id, b"x");
    server.read_exact(&mut [0]).unwrap();
    host.send(ForwardRequest::Reset { id });
    let error = server.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let id = host.open(2, PortProtocol::Tcp, port);
    let (server, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
    drop(server);
    assert_eq!(host.next_but_credit(), ForwardReply::Reset { id });

    drop(listener);
    let id = host.open(3, PortProtocol::Tcp, port);
    assert_eq!(host.next(), ForwardReply::Reset { id });
    host.end();
}

#[test]
fn a_server_on_ipv6_loopback_is_reached() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("no IPv6 here");
        return;
    };
    let mut host = Host::new(Forwarding::Connect);
    let port = listener.local_addr().unwrap().port();
    let id = host.open(1, PortProtocol::Tcp, port);
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"six").unwrap();
    drop(server);
    assert_eq!(host.read_to_end(id), b"six");
    host.end();
}

#[test]
fn a_slow_client_stops_its_server_at_the_window_and_nobody_else() {
    let mut host = Host::new(Forwarding::Connect);
    let (listener, port) = server();
    let slow = host.open(1, PortProtocol::Tcp, port);
    let (mut server, _) = listener.accept().unwrap();
    let sent = vec![7; 20 << 20];
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || {
            let _ = server.write_all(&sent);
        }
    });
    let (mut got, window) = (0, usize::try_from(FORWARD_WINDOW).unwrap());
    while got < window {
        match host.next() {
            ForwardReply::Data { data, .. } => got += data.len(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, window);
    let quick = host.open(2, PortProtocol::Tcp, port);
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"quick").unwrap();
    drop(server);
    // The slow one is silent, although its server would have more.
    assert_eq!(host.read_to_end(quick), b"quick");
    let bytes = FORWARD_WINDOW;
    host.send(ForwardRequest::Credit { id: slow, bytes });
    assert_eq!(got + host.read_to_end(slow).len(), sent.len());
    writer.join().unwrap();
    host.end();
}

#[test]
fn a_slow_server_gets_its_window_and_more_ends_the_stream() {
    let mut host = Host::new(Forwarding::Connect);
    let (listener, port) = server();
    let id = host.open(1, PortProtocol::Tcp, port);
    let (mut server, _) = listener.accept().unwrap();
    let (mut sent, mut granted) = (0_u64, u64::from(FORWARD_WINDOW));
    // The server reads nothing, so the kernel's buffers and one window are all that is taken.
    host.stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    loop {
        while sent + 32_768 <= granted {
            host.data(id, &[9; 32_768]);
            sent += 32_768;
        }
        let mut header = [0; 4096];
        let Ok(count) = host.stream.read(&mut header) else {
            break;
        };
        let mut input = &header[..count];
        while let Some(reply) = host.decoder.next(&mut input).unwrap() {
            let ForwardReply::Credit { bytes, .. } = reply else {
                panic!("{reply:?}");
            };
            granted += u64::from(bytes);
        }
    }
    host.stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let ended = server.read_to_end(&mut all);
        (all.len() as u64, ended.map_err(|error| error.kind()))
    });
    host.send(ForwardRequest::Eof { id });
    let (received, ended) = reader.join().unwrap();
    assert_eq!(
        (received, ended.is_ok()),
        (sent, true),
        "everything granted arrives"
    );
    assert_eq!(host.next_but_credit(), ForwardReply::Eof { id });

    let id = host.open(2, PortProtocol::Tcp, port);
    let (_server, _) = listener.accept().unwrap();
    drop(listener);
    for _ in 0..2000 {
        // Far beyond any window, without waiting for credit.
        host.data(id, &[9; 65_536]);
        if sent_back_reset(&mut host, id) {
            host.end();
            return;
        }
    }
    panic!("the window was not kept");
}

/// Whether the forwarder ended the stream; does not wait.
fn sent_back_reset(host: &mut Host, of: StreamId) -> bool {
    host.stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let count = host.stream.read(&mut buffer).unwrap_or(0);
    host.stream.set_nonblocking(false).unwrap();
    let (mut input, mut reset) = (&buffer[..count], false);
    while let Some(reply) = host.decoder.next(&mut input).unwrap() {
        reset |= reply == ForwardReply::Reset { id: of };
    }
    reset
}

#[test]
fn as_many_streams_as_the_limit_run_side_by_side_and_one_more_is_reset() {
    let mut host = Host::new(Forwarding::Connect);
    let (listener, port) = server();
    let servers = std::thread::spawn(move || {
        let mut all: Vec<TcpStream> = Vec::new();
        for _ in 0..MAX_FORWARD_STREAMS {
            all.push(listener.accept().unwrap().0);
        }
        for server in &mut all {
            let mut said = [0; 4];
            server.read_exact(&mut said).unwrap();
            server.write_all(&said).unwrap();
        }
        all
    });
    let count = u32::try_from(MAX_FORWARD_STREAMS).unwrap();
    for number in 0..count {
        let id = host.open(number, PortProtocol::Tcp, port);
        host.data(id, &number.to_le_bytes());
    }
    let id = host.open(count, PortProtocol::Tcp, port);
    let (mut answered, mut refused) = (std::collections::BTreeSet::new(), 0);
    while answered.len() + refused < MAX_FORWARD_STREAMS + 1 {
        match host.next_but_credit() {
            ForwardReply::Data { id, data } => {
                assert_eq!(data, id.0.to_le_bytes());
                answered.insert(id);
            }
            other => {
                assert_eq!(other, ForwardReply::Reset { id });
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1);
    drop(servers.join().unwrap());
    host.end();
}

#[test]
fn datagrams_keep_their_bounds_and_a_port_nobody_is_bound_to_ends_the_stream() {
    let mut host = Host::new(Forwarding::Connect);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let port = server.local_addr().unwrap().port();
    let id = host.open(1, PortProtocol::Udp, port);
    let mut buffer = vec![0; 65536];
    for size in [5, 0, 60_000] {
        host.data(id, &vec![3; size]);
        let (count, peer) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(count, size);
        server.send_to(&buffer[..count], peer).unwrap();
        let data = vec![3; size];
        assert_eq!(host.next_but_credit(), ForwardReply::Data { id, data });
    }
    drop(server);
    let id = host.open(2, PortProtocol::Udp, port);
    host.data(id, b"anybody?");
    assert_eq!(host.next_but_credit(), ForwardReply::Reset { id });
    host.end();
}

#[test]
fn tells_listeners_soon_and_that_they_are_gone() {
    let mut host = Host::new(Forwarding::ConnectAndReport);
    let mut told = |port: u16, there: bool| {
        let begun = Instant::now();
        loop {
            // Other tests' listeners come and go as well.
            if let ForwardReply::Listening { ports } = host.next()
                && ports.contains(&port) == there
            {
                return begun.elapsed();
            }
        }
    };
    let (listener, port) = server();
    let opened = told(port, true);
    drop(listener);
    let closed = told(port, false);
    // The boot case holds it to the half second; here other tests take the processors.
    let limit = Duration::from_secs(2);
    assert!(opened < limit && closed < limit, "{opened:?} {closed:?}");
}
