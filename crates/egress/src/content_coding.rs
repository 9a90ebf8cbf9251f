//! Codings of answers that have to be looked into (RFC 9110 §8.4.1), read whole and within bounds.
//!
//! Such answers are asked for without a coding, but a server may use one all the same. An answer of a token endpoint
//! that is not read is worse than an error: the refresh token that it replaces is used up. So gzip, deflate and zstd are
//! read. `br` and codings on top of each other are not: no server uses those unasked.

use std::io::{self, Read};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, HeaderMap};
use thiserror::Error;
use zstd::stream::read::Decoder as ZstdDecoder;

/// The largest window of a zstd frame, as a power of two: 8 MiB (RFC 9659 §3).
const MAX_ZSTD_WINDOW_LOG: u32 = 23;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentCoding {
    /// As it is.
    Identity,
    /// RFC 1952, one member or several.
    Gzip,
    /// RFC 1950.
    Deflate,
    /// RFC 8878.
    Zstd,
}

/// Why a body was not read.
#[derive(Debug, Error)]
pub(crate) enum CodingError {
    /// It is written in a way that is not read.
    #[error("its coding is not known")]
    Unknown,
    /// It is not what its coding says, or ends too early.
    #[error("its coding is broken")]
    Broken {
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// It is larger than it may be.
    #[error("it is larger than {limit} bytes")]
    TooLarge {
        /// The most that is read, in bytes.
        limit: usize,
    },
}

impl ContentCoding {
    /// What the fields of an answer say.
    ///
    /// # Errors
    /// [`CodingError::Unknown`] for one that is not read, and for several.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, CodingError> {
        let mut coding = Self::Identity;
        let fields = headers.get_all(CONTENT_ENCODING).iter();
        let names = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
        for name in names.map(<[u8]>::trim_ascii) {
            let named = match name.to_ascii_lowercase().as_slice() {
                b"" | b"identity" => continue,
                b"gzip" | b"x-gzip" => Self::Gzip,
                b"deflate" => Self::Deflate,
                b"zstd" => Self::Zstd,
                _ => return Err(CodingError::Unknown),
            };
            if coding != Self::Identity {
                return Err(CodingError::Unknown);
            }
            coding = named;
        }
        Ok(coding)
    }

    /// The whole body `coded`, at most `limit` bytes of it.
    ///
    /// # Errors
    /// [`CodingError::Broken`] and [`CodingError::TooLarge`].
    pub(crate) fn decode(self, coded: &[u8], limit: usize) -> Result<Vec<u8>, CodingError> {
        let read = match self {
            Self::Identity => bounded(coded, limit),
            Self::Gzip => bounded(MultiGzDecoder::new(coded), limit),
            Self::Deflate => bounded(ZlibDecoder::new(coded), limit),
            Self::Zstd => ZstdDecoder::with_buffer(coded).and_then(|mut decoder| {
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                bounded(decoder, limit)
            }),
        };
        let bytes = read.map_err(|source| CodingError::Broken { source })?;
        if bytes.len() > limit {
            return Err(CodingError::TooLarge { limit });
        }
        Ok(bytes)
    }
}

/// All there is, or one byte more than `limit`.
fn bounded(from: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 100_000;
    const ALL: [ContentCoding; 3] = [
        ContentCoding::Gzip,
        ContentCoding::Deflate,
        ContentCoding::Zstd,
    ];

    fn coded(coding: ContentCoding, plain: &[u8]) -> Vec<u8> {
        match coding {
            ContentCoding::Identity => plain.to_vec(),
            ContentCoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            ContentCoding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            ContentCoding::Zstd => zstd::encode_all(plain, 3).unwrap(),
        }
    }

    fn fields(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| value.parse().unwrap());
        values.map(|value| (CONTENT_ENCODING, value)).collect()
    }

    #[test]
    fn one_coding_is_read_and_several_are_not() {
        for (values, coding) in [
            (&[][..], ContentCoding::Identity),
            (&["identity", ""], ContentCoding::Identity),
            (&["GZip"], ContentCoding::Gzip),
            (&["identity, x-gzip"], ContentCoding::Gzip),
            (&[" deflate "], ContentCoding::Deflate),
            (&["zstd"], ContentCoding::Zstd),
        ] {
            assert_eq!(ContentCoding::of(&fields(values)).unwrap(), coding);
        }
        for values in [
            &["br"][..],
            &["gzip, gzip"],
            &["gzip", "zstd"],
            &["gzip;q=1"],
        ] {
            assert!(ContentCoding::of(&fields(values)).is_err(), "{values:?}");
        }
    }

    #[test]
    fn reads_what_is_whole_and_nothing_that_is_cut_or_too_large() {
        let plain = br#"{"access_token":"abc","expires_in":3600}"#;
        for coding in ALL {
            let whole = coded(coding, plain);
            assert_eq!(coding.decode(&whole, plain.len()).unwrap(), plain);
            assert!(matches!(
                coding.decode(&whole, plain.len() - 1),
                Err(CodingError::TooLarge { .. })
            ));
            for end in 0..whole.len() {
                assert!(
                    coding
                        .decode(&whole[..end], LIMIT)
                        .map_or(true, |got| got != plain),
                    "{coding:?} cut at {end}"
                );
            }
            let bomb = coded(coding, &vec![0; 50_000_000]);
            assert!(bomb.len() < LIMIT, "{}", bomb.len());
            assert!(matches!(
                coding.decode(&bomb, LIMIT),
                Err(CodingError::TooLarge { .. })
            ));
        }
        let two = [
            coded(ContentCoding::Gzip, b"a"),
            coded(ContentCoding::Gzip, b"b"),
        ]
        .concat();
        assert_eq!(ContentCoding::Gzip.decode(&two, 2).unwrap(), b"ab");
    }

    #[test]
    fn refuses_a_window_larger_than_browsers_take() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&vec![7; 20_000_000]).unwrap();
        let large = encoder.finish().unwrap();
        assert!(matches!(
            ContentCoding::Zstd.decode(&large, 30_000_000),
            Err(CodingError::Broken { .. })
        ));
    }

    proptest! {
        #[test]
        fn anything_is_read_within_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for coding in ALL {
                let decoded = coding.decode(&bytes, 100);
                prop_assert!(decoded.map_or(true, |decoded| decoded.len() <= 100));
            }
        }

        #[test]
        fn what_is_coded_is_read_again(plain in prop::collection::vec(any::<u8>(), 0..600)) {
            for coding in ALL {
                prop_assert_eq!(coding.decode(&coded(coding, &plain), 600).unwrap(), plain.clone());
            }
        }
    }
}
