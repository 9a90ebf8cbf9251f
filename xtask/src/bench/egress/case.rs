//! What is measured, by the names that the load has for it.

use std::fmt;

use clap::ValueEnum;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Case {
    /// Requests one after the other on one connection: latency.
    One,
    /// Sixteen at a time: on as many connections with HTTP/1.1, on one with HTTP/2.
    Sixteen,
    /// A new connection for each request, with a whole handshake.
    Connect,
    /// Four streams with an event every ten milliseconds.
    Events,
    /// Downloads of 64 MiB, one at a time.
    Down,
    /// Uploads of 64 MiB, one at a time.
    Up,
}

/// What client and upstream speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A case with a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Measured {
    pub(super) protocol: Protocol,
    pub(super) case: Case,
}

impl Case {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Sixteen => "sixteen",
            Self::Connect => "connect",
            Self::Events => "events",
            Self::Down => "down",
            Self::Up => "up",
        }
    }

    /// What the load says of it.
    pub(super) fn metrics(self) -> &'static [&'static str] {
        match self {
            Self::One | Self::Sixteen | Self::Connect => &["rate", "p50_us", "p99_us"],
            Self::Events => &["first_p50_us", "first_p99_us", "p50_us", "p99_us"],
            Self::Down | Self::Up => &["mb_s"],
        }
    }

    /// What it costs the way: the metric, what its processor time is divided by, and what that is multiplied with.
    pub(super) fn cost(self) -> (&'static str, &'static str, f64) {
        match self {
            Self::Down | Self::Up => ("cpu_s_per_gb", "bytes", 1e9),
            Self::One | Self::Sixteen | Self::Connect | Self::Events => {
                ("cpu_us_each", "count", 1e6)
            }
        }
    }
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol.name(), self.case.name())
    }
}

/// The unit of a metric.
pub(super) fn unit(metric: &str) -> &'static str {
    match metric {
        "rate" => "1/s",
        "mb_s" => "MB/s",
        "cpu_s_per_gb" => "s/GB",
        "peak_bytes" => "bytes",
        _ => "us",
    }
}
