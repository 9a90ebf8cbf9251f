//! FUSE requests as bytes (include/uapi/linux/fuse.h), well-formed or not.

use anyhow::{Result, ensure};

use crate::device::{Device, PAGE};

/// Requests this probe sends.
#[allow(missing_docs, reason = "the protocol's own names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Operation {
    Lookup = 1,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Removexattr = 24,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Access = 34,
    Create = 35,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    CopyFileRange = 47,
    Tmpfile = 51,
}

const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

/// A request under construction; header fields are set when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) operation: Operation,
    pub(crate) node: u64,
    body: Vec<u8>,
}

impl Message {
    pub(crate) fn new(operation: Operation, node: u64) -> Self {
        Self {
            operation,
            node,
            body: Vec::new(),
        }
    }

    #[must_use]
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.body.extend(value.to_le_bytes());
        self
    }

    #[must_use]
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.body.extend(value.to_le_bytes());
        self
    }

    #[must_use]
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }

    /// A name with its NUL.
    #[must_use]
    pub(crate) fn name(self, name: &[u8]) -> Self {
        self.bytes(name).bytes(b"\0")
    }

    fn encode(&self, unique: u64) -> Vec<u8> {
        let length = (IN_HEADER + self.body.len()) as u32;
        let header = Self::new(self.operation, self.node)
            .u32(length)
            .u32(self.operation as u32)
            .u64(unique)
            .u64(self.node)
            // Guest root, process 1.
            .u32(0)
            .u32(0)
            .u32(1)
            .u32(0);
        [header.body, self.body.clone()].concat()
    }
}

/// What the host answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The request was taken and nothing written: refused as malformed.
    Nothing,
    /// A positive errno.
    Refused(i32),
    /// Success with this payload.
    Ok(Vec<u8>),
}

impl Answer {
    fn decode(reply: &[u8], unique: u64) -> Result<Self> {
        let word = |at: usize| {
            let bytes = reply[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        let length = word(0) as usize;
        if reply[..OUT_HEADER].iter().all(|byte| *byte == 0xff) {
            return Ok(Self::Nothing);
        }
        let same = u64::from(word(8)) | u64::from(word(12)) << 32 == unique;
        ensure!(same, "reply to another request");
        ensure!(
            (OUT_HEADER..=PAGE).contains(&length),
            "reply of {length} bytes"
        );
        Ok(match word(4) as i32 {
            0 => Self::Ok(reply[OUT_HEADER..length].to_vec()),
            errno => Self::Refused(-errno),
        })
    }
}

/// Reads a little-endian u64 of a payload; 0 beyond its end.
pub(crate) fn u64_at(payload: &[u8], at: usize) -> u64 {
    let bytes = payload
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// The session with the file server.
pub(crate) struct Connection {
    device: Device,
    unique: u64,
}

impl Connection {
    pub(crate) fn new(device: Device) -> Self {
        Self { device, unique: 0 }
    }

    /// Number of requests sent.
    pub(crate) fn requests(&self) -> u64 {
        self.unique
    }

    pub(crate) fn send(&mut self, message: &Message) -> Result<Answer> {
        self.unique += 1;
        let reply = self.device.exchange(&message.encode(self.unique))?;
        Answer::decode(&reply, self.unique)
    }

    /// A request that must succeed for the probe to prove anything.
    pub(crate) fn demand(&mut self, message: &Message) -> Result<Vec<u8>> {
        match self.send(message)? {
            Answer::Ok(payload) => Ok(payload),
            other => anyhow::bail!("control request {message:?} answered {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_the_header_of_the_protocol() {
        let bytes = Message::new(Operation::Lookup, 7).name(b"ab").encode(9);
        assert_eq!(bytes.len(), 43);
        assert_eq!(
            bytes[..16],
            [43, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(u64_at(&bytes, 16), 7);
        assert_eq!(bytes[40..], *b"ab\0");
    }

    #[test]
    fn tells_silence_refusal_and_success_apart() {
        let decode = |header: [u8; 16]| {
            let mut reply = vec![0xff; PAGE];
            reply[..16].copy_from_slice(&header);
            Answer::decode(&reply, 5)
        };
        assert_eq!(decode([0xff; 16]).unwrap(), Answer::Nothing);
        let refused = [16, 0, 0, 0, 0xea, 0xff, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(refused).unwrap(), Answer::Refused(22));
        let success = [18, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(success).unwrap(), Answer::Ok(vec![0xff; 2]));
        let stale = [16, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        assert!(decode(stale).is_err());
    }
}
