//! The load of the network benchmark: `serve` is the host's end, everything else the guest's. One tool for every stack
//! that is measured. Each measurement prints one JSON object.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the results are its output")]

mod bulk;
mod datagrams;
mod held;
mod latency;
mod server;

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What every part may fail with.
type Failure = Box<dyn Error + Send + Sync>;

/// Ports of the server, counted from the first.
#[derive(Debug, Clone, Copy)]
enum Service {
    /// Reads to the end, answers with the number of bytes.
    Sink,
    /// Writes until the client goes.
    Source,
    /// Sends back what it gets, one thread a connection.
    Echo,
    /// Sends back what it gets, one task a connection.
    Crowd,
    /// Closes at once.
    Close,
    /// Sends datagrams back.
    Datagram,
}

/// Where the server is.
#[derive(Debug, Clone, Copy)]
struct Place {
    address: IpAddr,
    first_port: u16,
}

impl Place {
    fn of(self, service: Service) -> SocketAddr {
        SocketAddr::new(self.address, self.first_port + service as u16)
    }
}

const USAGE: &str = "net_load serve PORT | (up|down STREAMS SECONDS | connect WORKERS SECONDS | rtt SECONDS | \
    udp SECONDS | hold COUNT BYTES) ADDRESS PORT";

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["serve", port] = words[..] {
        return server::run(port.parse()?);
    }
    let [ref what @ .., address, port] = words[..] else {
        return Err(USAGE.into());
    };
    let place = Place {
        address: address.parse()?,
        first_port: port.parse()?,
    };
    let result = match *what {
        ["up", streams, time] => bulk::up(place, streams.parse()?, seconds(time)?)?,
        ["down", streams, time] => bulk::down(place, streams.parse()?, seconds(time)?)?,
        ["connect", workers, time] => latency::connect(place, workers.parse()?, seconds(time)?)?,
        ["rtt", time] => latency::round_trips(place, seconds(time)?)?,
        ["udp", time] => datagrams::run(place, seconds(time)?)?,
        ["hold", count, bytes] => held::run(place, count.parse()?, bytes.parse()?)?,
        _ => return Err(USAGE.into()),
    };
    println!("{result}");
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, Failure> {
    Ok(Duration::from_secs_f64(text.parse()?))
}
