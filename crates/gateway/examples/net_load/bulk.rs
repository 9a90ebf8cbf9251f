//! Throughput. What counts is what has arrived: the sink says how much it got, downloads are counted as they are read.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::CHUNK;
use crate::{Failure, Place, Service};

/// Writes on so many streams for this long.
pub(crate) fn up(place: Place, streams: usize, time: Duration) -> Result<String, Failure> {
    at_once(place, Service::Sink, streams, move |mut stream, began| {
        let buffer = vec![0x5a; CHUNK];
        while began.elapsed() < time {
            stream.write_all(&buffer)?;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut total = [0; 8];
        stream.read_exact(&mut total)?;
        Ok(u64::from_be_bytes(total))
    })
}

/// Reads on so many streams for this long.
pub(crate) fn down(place: Place, streams: usize, time: Duration) -> Result<String, Failure> {
    at_once(place, Service::Source, streams, move |mut stream, began| {
        let mut buffer = vec![0; CHUNK];
        let mut total = 0;
        while began.elapsed() < time {
            match stream.read(&mut buffer)? {
                0 => return Err("the source ended".into()),
                read => total += read as u64,
            }
        }
        Ok(total)
    })
}

fn at_once(
    place: Place,
    service: Service,
    streams: usize,
    work: impl Fn(TcpStream, Instant) -> Result<u64, Failure> + Clone + Send + 'static,
) -> Result<String, Failure> {
    let barrier = Arc::new(Barrier::new(streams));
    let connections: Vec<_> = (0..streams)
        .map(|_| TcpStream::connect(place.of(service)))
        .collect::<Result<_, _>>()?;
    let workers: Vec<_> = connections
        .into_iter()
        .map(|stream| {
            let (barrier, work) = (Arc::clone(&barrier), work.clone());
            thread::spawn(move || {
                barrier.wait();
                let began = Instant::now();
                let bytes = work(stream, began)?;
                Ok::<_, Failure>((bytes, began.elapsed()))
            })
        })
        .collect();
    let mut total = 0;
    let mut longest = Duration::ZERO;
    let mut least = u64::MAX;
    let mut most = 0;
    for worker in workers {
        let (bytes, elapsed) = worker.join().map_err(|_| "a stream panicked")??;
        total += bytes;
        least = least.min(bytes);
        most = most.max(bytes);
        longest = longest.max(elapsed);
    }
    let seconds = longest.as_secs_f64();
    let gbits = total as f64 * 8.0 / 1e9 / seconds;
    let fairness = least as f64 / most as f64;
    Ok(format!(
        r#"{{"bytes":{total},"seconds":{seconds},"gbit_s":{gbits},"fairness":{fairness}}}"#
    ))
}
