//! zstd (RFC 8878), frame by frame: each frame's window is known, and accounted for, before a decoder reads it.
//!
//! All frames of the stream are read, skippable ones too, as `zstd:chunked` images have them.

use std::io::{self, BufRead as _};
use std::sync::Arc;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::source::Source;
use crate::memory::{MemoryBudget, MemoryShare};

/// `Magic_Number` of a frame (RFC 8878 §3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The most bytes of a frame in front of its first block: magic, descriptor, window, dictionary, content size.
const MAX_HEADER: usize = 18;
/// The largest window that is read (`zstd -21`, `--long=26`), as a power of two; `zstd -19` makes 8 MiB.
const MAX_WINDOW_LOG: u32 = 26;
const MAX_WINDOW: u64 = 1 << MAX_WINDOW_LOG;

/// A stream of frames.
pub(super) struct ZstdFrames {
    source: Source,
    budget: Arc<MemoryBudget>,
    /// Kept from one frame to the next: its memory is what the share stands for.
    decoder: Option<(Decoder<'static>, MemoryShare)>,
    in_frame: bool,
    frames: u64,
}

impl ZstdFrames {
    pub(super) fn new(source: Source, budget: Arc<MemoryBudget>) -> Self {
        Self {
            source,
            budget,
            decoder: None,
            in_frame: false,
            frames: 0,
        }
    }

    pub(super) fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    /// Some bytes of content; none at the end of the last frame.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            let (decoder, _) = self.decoder.as_mut().expect("a frame has begun");
            let available = self.source.fill_buf()?;
            let at_end = available.is_empty();
            let (mut input, mut output) = (InBuffer::around(available), OutBuffer::around(buffer));
            let hint = decoder.run(&mut input, &mut output)?;
            let (consumed, produced) = (input.pos(), output.pos());
            self.source.consume(consumed);
            self.in_frame = hint != 0;
            if produced > 0 || buffer.is_empty() {
                return Ok(produced);
            }
            if self.in_frame && at_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Makes the decoder ready for the next frame; `false` at the end of the stream.
    fn begin_frame(&mut self) -> io::Result<bool> {
        let header = self.source.peek(MAX_HEADER)?;
        if header.is_empty() {
            self.decoder = None;
            return match self.frames {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(false),
            };
        }
        let window = window(header).unwrap_or(0);
        if window > MAX_WINDOW {
            return Err(io::Error::other(format!(
                "its window is {} MiB, at most {} MiB are read: compress it with a level up to 21, or --long={MAX_WINDOW_LOG}",
                window.div_ceil(1 << 20),
                MAX_WINDOW >> 20,
            )));
        }
        self.frames += 1;
        self.in_frame = true;
        match &mut self.decoder {
            Some((decoder, share)) if share.bytes() >= window => decoder.reinit(),
            held => {
                // Nothing is held while waiting for more.
                *held = None;
                let share = self.budget.take(window);
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
                *held = Some((decoder, share));
                Ok(())
            }
        }
        .map(|()| true)
    }
}

/// The bytes a decoder must hold for the frame that begins here (RFC 8878 §3.1.1.1); `None` where there is no such frame: the decoder
/// says what it thinks of that.
fn window(header: &[u8]) -> Option<u64> {
    let rest = header.strip_prefix(&MAGIC)?;
    let (&descriptor, rest) = rest.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    let (window, rest) = if single_segment {
        (None, rest)
    } else {
        let (&byte, rest) = rest.split_first()?;
        let base = 1_u64 << (10 + (byte >> 3));
        (Some(base + base / 8 * u64::from(byte & 7)), rest)
    };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = match descriptor >> 6 {
        0 => usize::from(single_segment),
        flag => 1 << flag,
    };
    let mut size = [0; 8];
    size[..size_bytes].copy_from_slice(rest.get(dictionary..dictionary + size_bytes)?);
    let content = u64::from_le_bytes(size) + if size_bytes == 2 { 256 } else { 0 };
    match window {
        None => Some(content),
        Some(window) if size_bytes > 0 => Some(window.min(content)),
        window => window,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_window_is_read_as_the_format_says() {
        let frame = |log: u32, content: &[u8]| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.long_distance_matching(true).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        for log in [20, 24, 27] {
            assert_eq!(window(&frame(log, &[7; 100_000])), Some(1 << log));
        }
        for size in [0, 1, 255, 256, 300, 70_000] {
            let whole = zstd::bulk::compress(&vec![7; size], 1).unwrap();
            assert_eq!(window(&whole), Some(size as u64), "{size}");
        }
        // 1.875 · 2^41 bytes, the largest there can be.
        assert_eq!(window(&[&MAGIC[..], &[0, 0xff]].concat()), Some(15 << 38));
    }

    #[test]
    fn what_is_no_frame_has_no_window() {
        for header in [
            &b""[..],
            b"\x28\xb5\x2f",
            b"\x28\xb5\x2f\xfd",
            b"\x50\x2a\x4d\x18\x04\0\0\0skip",
            b"\x28\xb5\x2f\xfd\xff\0",
        ] {
            assert_eq!(window(header), None, "{header:?}");
        }
    }
}
