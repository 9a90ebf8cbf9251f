//! Text messages of a WebSocket's server (RFC 6455 §5.2), one document each.

use super::count::Tally;
use super::scanner::Scanner;

/// Bits of a frame's first two bytes.
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
/// Control frames come between the parts of a message and are no part of it.
const FIRST_CONTROL: u8 = 8;

/// Where frames are read.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: Vec<u8>,
    /// Bytes of the frame's payload that are to come.
    left: u64,
    frame: Frame,
    /// Whether the message that is under way is one of text that can be read.
    readable: bool,
    scanner: Scanner,
}

#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    control: bool,
    last: bool,
}

impl Frames {
    /// Reads what the server sent; `ended` is called after each text message.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        tally: &mut Tally,
        ended: &mut dyn FnMut(&mut Tally),
    ) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (byte, rest) = (bytes[0], &bytes[1..]);
                self.head.push(byte);
                bytes = rest;
                if !self.begin() {
                    continue;
                }
            }
            let count =
                usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (payload, rest) = bytes.split_at(count);
            if self.readable && !self.frame.control {
                self.scanner.push(payload, tally);
            }
            self.left -= count as u64;
            bytes = rest;
            if self.left == 0 && self.frame.last && !self.frame.control {
                self.scanner.end();
                if std::mem::take(&mut self.readable) {
                    ended(tally);
                }
            }
        }
    }

    /// Whether the head is whole; then the frame has begun.
    fn begin(&mut self) -> bool {
        let [first, second, more @ ..] = self.head.as_slice() else {
            return false;
        };
        let extended = match second & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        // A server does not mask; one that does all the same is not read.
        let masked = second & MASKED != 0;
        let wanted = extended + if masked { 4 } else { 0 };
        if more.len() < wanted {
            return false;
        }
        self.left = if extended == 0 {
            u64::from(second & LENGTH)
        } else {
            more[..extended]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte))
        };
        let opcode = first & OPCODE;
        self.frame = Frame {
            control: opcode >= FIRST_CONTROL,
            last: first & FINAL != 0,
        };
        if !self.frame.control {
            let plain = first & RESERVED == 0 && !masked;
            self.readable = plain && (opcode == TEXT || (opcode == CONTINUATION && self.readable));
        }
        self.head.clear();
        true
    }
}
