//! UDP: round trips of 64 bytes, then a window of larger datagrams in flight.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::latency::percentiles;
use crate::{Failure, Place, Service};

/// Bytes of a round trip.
const BALL: usize = 64;
/// Bytes of a datagram of the second part.
const LARGE: usize = 1_400;
/// Datagrams in flight in the second part.
const WINDOW: usize = 32;
/// One that is not back by then is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Half of the time for each part.
pub(crate) fn run(place: Place, time: Duration) -> Result<String, Failure> {
    let server = place.of(Service::Datagram);
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0x5a; LARGE];
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time / 2 {
        let start = Instant::now();
        socket.send(&buffer[..BALL])?;
        match socket.recv(&mut buffer) {
            Ok(_) => times.push(start.elapsed()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (p50, p99) = percentiles(times);
    let (mut returned, mut lost) = (0_u64, 0_u64);
    let began = Instant::now();
    for _ in 0..WINDOW {
        socket.send(&buffer)?;
    }
    while began.elapsed() < time / 2 {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                returned += 1;
                socket.send(&buffer)?;
            }
            Err(_) => {
                lost += WINDOW as u64;
                for _ in 0..WINDOW {
                    socket.send(&buffer)?;
                }
            }
        }
    }
    let rate = returned as f64 / began.elapsed().as_secs_f64();
    Ok(format!(
        r#"{{"p50_us":{p50},"p99_us":{p99},"datagrams_s":{rate},"lost":{lost}}}"#
    ))
}
