//! Guest program: answers every datagram that comes to a UDP port of 127.0.0.1 with itself.
//!
//! Usage: `udp_echo PORT`. Says `bound` when it is. Runs until it is killed.

use std::io::Write as _;
use std::net::UdpSocket;

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let port: u16 = std::env::args().nth(1).context("which port?")?.parse()?;
    let socket = UdpSocket::bind(("127.0.0.1", port))?;
    writeln!(std::io::stdout(), "bound")?;
    let mut buffer = vec![0; 65_536];
    loop {
        let (count, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..count], peer)?;
    }
}
