//! The host's end.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{Failure, Service};

/// Bytes of one read or write.
pub(crate) const CHUNK: usize = 128 * 1024;

/// Waiting connections the kernel keeps.
const BACKLOG: i32 = 4_096;

/// Serves for ever.
pub(crate) fn run(first_port: u16) -> Result<(), Failure> {
    let at =
        |service: Service| SocketAddr::from((Ipv6Addr::UNSPECIFIED, first_port + service as u16));
    spawn_each(listen(at(Service::Sink))?, |stream| drop(sink(stream)));
    spawn_each(listen(at(Service::Source))?, |stream| drop(source(stream)));
    spawn_each(listen(at(Service::Echo))?, |stream| drop(echo(stream)));
    let close = listen(at(Service::Close))?;
    thread::spawn(move || {
        for stream in close.incoming().flatten() {
            drop(stream)
        }
    });
    let datagrams = UdpSocket::bind(at(Service::Datagram))?;
    thread::spawn(move || send_back(&datagrams));
    crowd(listen(at(Service::Crowd))?)
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address)?;
    // Again, for a longer queue.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

fn spawn_each(listener: TcpListener, serve: fn(TcpStream)) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
}

fn sink(mut stream: TcpStream) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK];
    let mut total: u64 = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => total += read as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())?;
    Ok(())
}

fn source(mut stream: TcpStream) -> Result<(), Failure> {
    let buffer = vec![0x5a; CHUNK];
    loop {
        stream.write_all(&buffer)?;
    }
}

fn echo(mut stream: TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

fn send_back(socket: &UdpSocket) {
    let mut buffer = vec![0; CHUNK];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        drop(socket.send_to(&buffer[..len], from));
    }
}

fn crowd(listener: TcpListener) -> Result<(), Failure> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::task::spawn_local(crowd_echo(stream));
        }
    })
}

async fn crowd_echo(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        stream.readable().await?;
        let mut buffer = [0; 4_096];
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}
