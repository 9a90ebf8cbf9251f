//! New connections and round trips.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Failure, Place, Service};

/// Bytes of a round trip.
const BALL: usize = 64;

/// Connects, reads to the end and closes, over and over, with so many workers.
pub(crate) fn connect(place: Place, workers: usize, time: Duration) -> Result<String, Failure> {
    let began = Instant::now();
    let workers: Vec<_> = (0..workers)
        .map(|_| {
            thread::spawn(move || {
                let mut times = Vec::new();
                while began.elapsed() < time {
                    let start = Instant::now();
                    let mut stream = TcpStream::connect(place.of(Service::Close))?;
                    if stream.read(&mut [0; 1])? != 0 {
                        return Err("bytes from a server that sends none".into());
                    }
                    drop(stream);
                    times.push(start.elapsed());
                }
                Ok::<_, Failure>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.join().map_err(|_| "a worker panicked")??);
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    let (p50, p99) = percentiles(times);
    Ok(format!(
        r#"{{"connections_s":{rate},"p50_us":{p50},"p99_us":{p99}}}"#
    ))
}

/// Sends 64 bytes and awaits them, over and over.
pub(crate) fn round_trips(place: Place, time: Duration) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(place.of(Service::Echo))?;
    stream.set_nodelay(true)?;
    let mut ball = [0x5a; BALL];
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let start = Instant::now();
        stream.write_all(&ball)?;
        stream.read_exact(&mut ball)?;
        times.push(start.elapsed());
    }
    let count = times.len();
    let (p50, p99) = percentiles(times);
    Ok(format!(
        r#"{{"trips":{count},"p50_us":{p50},"p99_us":{p99}}}"#
    ))
}

/// The middle and the 99th percentile, in microseconds.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        times
            .get(index.min(times.len().saturating_sub(1)))
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    (at(0.5), at(0.99))
}
