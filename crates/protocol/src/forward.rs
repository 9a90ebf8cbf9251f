//! Forwarding: connections of the host to ports of the guest, and of the guest to services of the host, on a stream of
//! their own beside the control stream.
//!
//! The framing is that of the control stream. The host opens streams, the guest connects each to a port of its own:
//!
//! ```text
//! host                                           guest
//!                            ◄───────  Listening{ports}     the whole set, whenever it changes (only when mirrored)
//! Open{id, transport, port}  ───────►
//! Data{id} …                 ───────►  connects meanwhile; holds at most a window
//!                            ◄───────  Credit{id}, Data{id} …
//! Eof{id}                    ───────►  half-close, each way
//!                            ◄───────  Eof{id}              both: the stream is over
//! Reset{id}                  ◄──────►  at any time: over at once; refused, reset, or given up
//! ```
//!
//! The guest opens streams in the same way, by `Open{id, service}`, for connections to the sockets that `Boot` names; their
//! ids have the bit [`GUEST_STREAM`]. What the host does not serve it resets.
//!
//! Each direction of each stream has a window of [`FORWARD_WINDOW`] bytes, as on the control stream. A datagram is one
//! `Data`; one that does not fit into the window is lost, as datagrams are. Messages for a stream that is unknown or over
//! are ignored: they crossed its end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::MAX_CHUNK;
use crate::codec::{MAX_GUEST_PAYLOAD, MAX_HOST_PAYLOAD, Message};
use crate::guest_path::GuestPath;

/// vsock port on the host (CID 2) the guest's forwarder connects to.
pub const FORWARD_PORT: u32 = 1025;

/// Bytes a sender may have outstanding on each direction of a forwarded stream before the first `Credit`.
pub const FORWARD_WINDOW: u32 = 128 * 1024;

/// Most forwarded streams at a time, datagram peers included.
pub const MAX_FORWARD_STREAMS: usize = 1024;

/// Most streams at a time that the guest opened.
pub const MAX_GUEST_STREAMS: usize = 32;

/// The bit that ids of streams have which the guest opened, and no others.
pub const GUEST_STREAM: u32 = 1 << 31;

/// Most ports in one [`ForwardReply::Listening`].
pub const MAX_LISTENING: usize = 256;

/// Names one forwarded stream. Chosen by who opens it, ascending, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId(pub u32);

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortProtocol {
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// As in `/tcp` and `/udp` of a port's notation.
impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What the host serves to the guest's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HostService {
    /// The user's SSH agent, filtered.
    SshAgent,
    /// The user's GPG agent, filtered.
    GpgAgent,
}

/// A unix socket of the guest. Connections to it are streams to a service of the host. In `Boot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSocket {
    /// Where its connections lead.
    pub service: HostService,
    /// Where it is; of the guest's root alone.
    pub path: GuestPath,
}

/// What the guest does about its ports. In `Boot`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarding {
    /// Nothing: there is no forwarder.
    #[default]
    Off,
    /// It connects to the ports the host names.
    Connect,
    /// And tells which TCP ports are listened at.
    ConnectAndReport,
}

/// From the launcher to the forwarder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardRequest {
    /// Connect to this port of the guest: its loopback, else its own addresses.
    Open {
        /// The name of the new stream.
        id: StreamId,
        /// How.
        protocol: PortProtocol,
        /// Where, 1–65535.
        port: u16,
    },
    /// Bytes for the guest's server (never none), or one datagram; at most `MAX_CHUNK`.
    Data {
        /// Which stream.
        id: StreamId,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// The client sends no more.
    Eof {
        /// Which stream.
        id: StreamId,
    },
    /// The client is gone. The last message for this stream.
    Reset {
        /// Which stream.
        id: StreamId,
    },
    /// The guest may send that many more bytes.
    Credit {
        /// Which stream.
        id: StreamId,
        /// Added to the window.
        bytes: u32,
    },
}

/// From the forwarder to the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardReply {
    /// All TCP ports a client inside could connect to at the guest's loopback or own addresses, ascending.
    Listening {
        /// The ports; at most `MAX_LISTENING`, the lowest.
        ports: Vec<u16>,
    },
    /// A program connected to a socket of `Boot`.
    Open {
        /// The name of the new stream, with [`GUEST_STREAM`].
        id: StreamId,
        /// What it asks for.
        service: HostService,
    },
    /// Bytes of the guest's server (never none), or one datagram; at most `MAX_CHUNK`.
    Data {
        /// Which stream.
        id: StreamId,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// The server sends no more.
    Eof {
        /// Which stream.
        id: StreamId,
    },
    /// Nobody listens there, or the server is gone. The last message for this stream.
    Reset {
        /// Which stream.
        id: StreamId,
    },
    /// The host may send that many more bytes.
    Credit {
        /// Which stream.
        id: StreamId,
        /// Added to the window.
        bytes: u32,
    },
}

impl Message for ForwardRequest {
    const MAX_PAYLOAD: usize = MAX_GUEST_PAYLOAD;

    fn within_limits(&self) -> bool {
        match self {
            Self::Data { data, .. } => data.len() <= MAX_CHUNK,
            Self::Open { id, port, .. } => *port != 0 && id.0 & GUEST_STREAM == 0,
            Self::Eof { .. } | Self::Reset { .. } | Self::Credit { .. } => true,
        }
    }
}

impl Message for ForwardReply {
    const MAX_PAYLOAD: usize = MAX_GUEST_PAYLOAD;

    fn within_limits(&self) -> bool {
        match self {
            Self::Data { data, .. } => data.len() <= MAX_CHUNK,
            Self::Open { id, .. } => id.0 & GUEST_STREAM != 0,
            Self::Listening { ports } => {
                ports.len() <= MAX_LISTENING
                    && ports.first().is_none_or(|port| *port != 0)
                    && ports.is_sorted_by(|one, next| one < next)
            }
            Self::Eof { .. } | Self::Reset { .. } | Self::Credit { .. } => true,
        }
    }
}

const _: () = assert!(MAX_GUEST_PAYLOAD < MAX_HOST_PAYLOAD && MAX_CHUNK < MAX_GUEST_PAYLOAD);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{DecodeError, Decoder, encode};

    fn wire<M: Serialize>(message: &M) -> Vec<u8> {
        let payload = postcard::to_stdvec(message).unwrap();
        let mut wire = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        wire.extend(payload);
        wire
    }

    #[test]
    fn messages_come_back_as_they_were_sent() {
        let id = StreamId(7);
        let sent = [
            ForwardRequest::Open {
                id,
                protocol: PortProtocol::Udp,
                port: 65535,
            },
            ForwardRequest::Data {
                id,
                data: vec![0xa5; MAX_CHUNK],
            },
            ForwardRequest::Eof { id },
            ForwardRequest::Reset { id },
            ForwardRequest::Credit { id, bytes: 9 },
        ];
        let mut wire = Vec::new();
        for message in &sent {
            encode(message, &mut wire).unwrap();
        }
        let (mut decoder, mut input) = (Decoder::<ForwardRequest>::new(), wire.as_slice());
        for message in sent {
            assert_eq!(decoder.next(&mut input), Ok(Some(message)));
        }
        assert_eq!(decoder.next(&mut input), Ok(None));
    }

    #[test]
    fn refuses_lists_of_ports_that_are_too_long_unsorted_or_hold_none_or_twice() {
        let ports = |ports: Vec<u16>| wire(&ForwardReply::Listening { ports });
        let decode = |wire: Vec<u8>| Decoder::<ForwardReply>::new().next(&mut wire.as_slice());
        let most: Vec<u16> = (1..=256).collect();
        assert!(decode(ports(most)).is_ok());
        for bad in [(1..=257).collect(), vec![0], vec![2, 1], vec![5, 5]] {
            assert_eq!(decode(ports(bad)), Err(DecodeError::OverLimit));
        }
    }

    #[test]
    fn each_side_names_its_own_streams() {
        let service = HostService::SshAgent;
        let decode = |wire: Vec<u8>| Decoder::<ForwardReply>::new().next(&mut wire.as_slice());
        let id = StreamId(GUEST_STREAM | 3);
        assert!(decode(wire(&ForwardReply::Open { id, service })).is_ok());
        let theirs = ForwardReply::Open {
            id: StreamId(3),
            service,
        };
        assert_eq!(decode(wire(&theirs)), Err(DecodeError::OverLimit));
        let open = ForwardRequest::Open {
            id,
            protocol: PortProtocol::Tcp,
            port: 1,
        };
        let read = Decoder::<ForwardRequest>::new().next(&mut wire(&open).as_slice());
        assert_eq!(read, Err(DecodeError::OverLimit));
    }

    #[test]
    fn refuses_port_zero_and_chunks_over_the_limit() {
        let id = StreamId(1);
        let open = ForwardRequest::Open {
            id,
            protocol: PortProtocol::Tcp,
            port: 0,
        };
        let long = ForwardRequest::Data {
            id,
            data: vec![0; MAX_CHUNK + 1],
        };
        for bad in [open, long] {
            let read = Decoder::<ForwardRequest>::new().next(&mut wire(&bad).as_slice());
            assert_eq!(read, Err(DecodeError::OverLimit));
        }
    }
}
