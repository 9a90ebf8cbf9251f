//! Connections that are held: each proves itself with bytes of its own when it is made and, when standard input ends,
//! once more.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::{Failure, Place, Service};

/// A connection that does not answer by then is dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes sent before the echo is read.
const PIECE: usize = 4_096;

/// Holds so many connections, of which each has carried so many bytes both ways.
pub(crate) fn run(place: Place, count: usize, bytes: usize) -> Result<String, Failure> {
    let began = Instant::now();
    let mut streams = Vec::with_capacity(count);
    for index in 0..count {
        let mut stream = TcpStream::connect(place.of(Service::Crowd))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        prove(&mut stream, index as u64, bytes)?;
        streams.push(stream);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(r#"{{"held":{count},"seconds":{seconds}}}"#);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for (index, stream) in streams.iter_mut().enumerate() {
        prove(stream, !(index as u64), bytes)?;
    }
    Ok(format!(r#"{{"proved":{count}}}"#))
}

/// Sends bytes that no other connection sends and compares what comes back.
fn prove(stream: &mut TcpStream, seed: u64, bytes: usize) -> Result<(), Failure> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut left = bytes;
    while left > 0 {
        let len = left.min(PIECE);
        let mut sent = vec![0; len];
        for byte in &mut sent {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        stream.write_all(&sent)?;
        let mut received = vec![0; len];
        stream.read_exact(&mut received)?;
        if sent != received {
            return Err("a connection brought other bytes than were sent".into());
        }
        left -= len;
    }
    Ok(())
}
