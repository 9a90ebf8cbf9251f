//! Frames on a stream socket, as libkrun's `unixstream` back end and passt carry them: each behind its length (4 bytes, big
//! endian), without the virtio header.
//!
//! Nothing says what is left to do with a frame there. So what leaves is finished here: its checksum is whole, and it is
//! larger than the far end's MTU only where that takes such frames. What comes may be unfinished: checksums from the guest
//! are never looked at.
//!
//! One read takes as many frames as there are. They are handed on where they lie; the bytes before a frame stand for the
//! virtio header, which nobody reads.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::net::RecvFlags;

use super::{MAX_MESSAGE, VNET_HEADER_LEN};
use crate::checksum;
use crate::virtio_header::checksum_place;

/// Bytes of a frame's length.
const LENGTH: usize = 4;

/// What must stand before a length, so that a whole virtio header fits before the frame.
const HEADROOM: usize = VNET_HEADER_LEN - LENGTH;

/// Bytes of the longest frame; a longer one is no frame, and what follows it cannot be found.
const MAX_FRAME: usize = MAX_MESSAGE - VNET_HEADER_LEN;

/// Buffer for what one read takes, in bytes.
pub(super) const RECEIVE_BUFFER: usize = 256 * 1024;

/// What of the receive buffer has been read and not been handed on.
#[derive(Debug)]
pub(super) struct FrameStream {
    unread: Range<usize>,
}

impl Default for FrameStream {
    fn default() -> Self {
        Self {
            unread: HEADROOM..HEADROOM,
        }
    }
}

impl FrameStream {
    /// The next message, if it is there as a whole.
    ///
    /// # Errors
    /// When a frame is longer than [`MAX_FRAME`].
    pub(super) fn next(&mut self, buffer: &[u8]) -> io::Result<Option<Range<usize>>> {
        let Range { start, end } = self.unread;
        let Some(length) = buffer[start..end].first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let frame_end = start + LENGTH + length;
        if frame_end > end {
            return Ok(None);
        }
        self.unread.start = frame_end;
        Ok(Some(start - HEADROOM..frame_end))
    }

    /// Reads what there is; gives the number of bytes, 0 at the end of the stream.
    pub(super) fn receive(
        &mut self,
        fd: impl AsFd,
        buffer: &mut [u8],
    ) -> rustix::io::Result<usize> {
        if self.unread.start + LENGTH + MAX_FRAME > buffer.len() || self.unread.is_empty() {
            buffer.copy_within(self.unread.clone(), HEADROOM);
            self.unread = HEADROOM..HEADROOM + self.unread.len();
        }
        let room = &mut buffer[self.unread.end..];
        let (len, _) = rustix::net::recv(fd, room, RecvFlags::empty())?;
        self.unread.end += len;
        Ok(len)
    }
}

/// Makes of a message what goes over the stream.
pub(super) fn finish(message: &mut [u8]) -> &mut [u8] {
    if let Some((start, at)) = checksum_place(message) {
        // The field holds the pseudo-header sum. A UDP sum of 0 means "none" (RFC 768).
        let sum = !checksum::sum(&message[start..]);
        let sum = if sum == 0 { 0xffff } else { sum };
        message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let length = (message.len() - VNET_HEADER_LEN) as u32;
    message[HEADROOM..VNET_HEADER_LEN].copy_from_slice(&length.to_be_bytes());
    &mut message[HEADROOM..]
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn framed(frame: &[u8]) -> Vec<u8> {
        [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
    }

    #[test]
    fn frames_come_whole_however_the_stream_is_cut() {
        let frames: Vec<Vec<u8>> = [60, 0, 65_549, 1_514, 1, 65_549, 65_549, 65_549, 60]
            .iter()
            .enumerate()
            .map(|(number, len)| vec![number as u8 + 1; *len])
            .collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
        for piece in [7, 4_000, 60_001, 100_000] {
            let (mut far, near) = UnixStream::pair().unwrap();
            let mut buffer = vec![0; RECEIVE_BUFFER];
            let (mut stream, mut seen) = (FrameStream::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                far.write_all(piece).unwrap();
                stream.receive(&near, &mut buffer).unwrap();
                while let Some(message) = stream.next(&buffer).unwrap() {
                    seen.push(buffer[message][VNET_HEADER_LEN..].to_vec());
                }
            }
            assert!(seen == frames, "pieces of {piece}");
        }
    }

    #[test]
    fn a_length_that_no_frame_has_ends_the_link() {
        let (mut far, near) = UnixStream::pair().unwrap();
        far.write_all(&(MAX_FRAME as u32 + 1).to_be_bytes())
            .unwrap();
        let (mut buffer, mut stream) = (vec![0; RECEIVE_BUFFER], FrameStream::default());
        stream.receive(&near, &mut buffer).unwrap();
        assert!(stream.next(&buffer).is_err());
    }

    #[test]
    fn checksum_is_finished_and_the_length_put_before_the_frame() {
        let mut message = vec![0; VNET_HEADER_LEN];
        // NEEDS_CSUM, from byte 2 of the frame, at byte 2 of that.
        message[0] = 1;
        message[6] = 2;
        message[8] = 2;
        message.extend([9, 9, 0x12, 0x34, 0x00, 0x01, 0x00]);
        assert_eq!(
            finish(&mut message),
            [0, 0, 0, 7, 9, 9, 0x12, 0x34, 0xed, 0xca, 0x00]
        );
    }

    #[test]
    fn a_frame_that_needs_nothing_is_left_as_it_is() {
        let mut message = vec![0; VNET_HEADER_LEN];
        message.extend([1, 2, 3]);
        assert_eq!(finish(&mut message), [0, 0, 0, 3, 1, 2, 3]);
    }
}
