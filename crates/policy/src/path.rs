//! Paths of requests as rules see them: the one spelling that is judged and then sent, and patterns of it.
//!
//! Servers read some spellings of a path in more than one way: dot segments, encoded slashes, backslashes, control
//! characters, double encoding, empty segments. A rule could be read past with each of them, so a path that holds one has
//! no [`NormalPath`]. What is left differs only in encoded unreserved characters and in the case of hexadecimal digits
//! (RFC 3986 §6.2.2), and is brought into one form.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// The longest pattern in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// A path that every server reads in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath(String);

/// A path can be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the path can be read in more than one way")]
pub struct PathUnclear;

impl NormalPath {
    /// Reads the path of a request, without its query.
    ///
    /// # Errors
    /// When servers may disagree about what it names.
    pub fn parse(path: &str) -> Result<Self, PathUnclear> {
        let mut normal = String::with_capacity(path.len());
        let mut rest = path.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            match byte {
                b'%' => {
                    let (high, low) = (tail.first(), tail.get(1));
                    let digits = digit(high).zip(digit(low)).ok_or(PathUnclear)?;
                    rest = &tail[2..];
                    push_decoded(&mut normal, digits.0 << 4 | digits.1)?;
                }
                b'\\' | b'?' | b'#' | 0..=b' ' | 0x7f.. => return Err(PathUnclear),
                byte => normal.push(char::from(byte)),
            }
        }
        let segments = normal.strip_prefix('/').ok_or(PathUnclear)?;
        let last = segments.split('/').count() - 1;
        for (index, segment) in segments.split('/').enumerate() {
            let empty = segment.is_empty() && index != last;
            if empty || segment == "." || segment == ".." {
                return Err(PathUnclear);
            }
        }
        Ok(Self(normal))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn segments(&self) -> Vec<&str> {
        self.0.split('/').skip(1).collect()
    }
}

/// Writes what `%XX` stands for: unreserved characters as themselves, other harmless bytes encoded.
fn push_decoded(normal: &mut String, byte: u8) -> Result<(), PathUnclear> {
    match byte {
        // Control characters, and what would be decoded once more or taken for a separator.
        0..=0x1f | 0x7f | b'%' | b'/' | b'\\' => Err(PathUnclear),
        b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
            normal.push(char::from(byte));
            Ok(())
        }
        byte => {
            let hex = |digit: u8| char::from(b"0123456789ABCDEF"[usize::from(digit)]);
            normal.extend(['%', hex(byte >> 4), hex(byte & 15)]);
            Ok(())
        }
    }
}

fn digit(byte: Option<&u8>) -> Option<u8> {
    let value = char::from(*byte?).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Paths that a rule covers: segments between slashes, `*` for any one segment, `**` for any number of them, none too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`
    One,
    /// `**`
    Any,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it begins with no `/`, has a star inside a segment, or could never match a path that may be sent.
    pub fn parse(text: &str) -> Result<Self, PathPatternError> {
        let refuse = |problem| PathPatternError {
            text: text.chars().take(80).collect(),
            problem,
        };
        if text.len() > MAX_PATTERN_BYTES {
            return Err(refuse(Problem::Length));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(refuse(Problem::NoSlash));
        };
        let starred = |part: &str| part.contains('*') && part != "*" && part != "**";
        if rest.split('/').any(starred) {
            return Err(refuse(Problem::Star));
        }
        // With stars taken for a harmless segment it must be a path.
        let plain = text.replace('*', "x");
        if NormalPath::parse(&plain).map_or(true, |path| path.as_str() != plain) {
            return Err(refuse(Problem::Unclear));
        }
        let segment = |part: &str| match part {
            "*" => Segment::One,
            "**" => Segment::Any,
            literal => Segment::Literal(literal.to_owned()),
        };
        Ok(Self {
            text: text.to_owned(),
            segments: rest.split('/').map(segment).collect(),
        })
    }

    /// Whether `path` is covered. Takes at most time proportional to the product of both lengths.
    #[must_use]
    pub fn matches(&self, path: &NormalPath) -> bool {
        let path = path.segments();
        let (mut at, mut here) = (0, 0);
        // The last `**`, and how far it reaches.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let matched = match (self.segments.get(at), path.get(here)) {
                (None, None) => return true,
                (Some(Segment::Any), _) => {
                    retry = Some((at, here));
                    at += 1;
                    continue;
                }
                (Some(Segment::Literal(own)), Some(theirs)) => own == theirs,
                (Some(Segment::One), Some(theirs)) => !theirs.is_empty(),
                (_, None) | (None, Some(_)) => false,
            };
            if matched {
                (at, here) = (at + 1, here + 1);
                continue;
            }
            match retry {
                Some((star, reached)) if reached < path.len() => {
                    retry = Some((star, reached + 1));
                    (at, here) = (star + 1, reached + 1);
                }
                Some(_) | None => return false,
            }
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        Self::parse(text)
    }
}

impl Serialize for PathPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no pattern of paths: {problem}")]
pub struct PathPatternError {
    text: String,
    problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Problem {
    #[error("it must have at most {MAX_PATTERN_BYTES} bytes")]
    Length,
    #[error("it must begin with `/`")]
    NoSlash,
    #[error("`*` (one segment) and `**` (any number) must stand alone between slashes")]
    Star,
    #[error(
        "no request has such a path: no `.` or `..` segment, no empty one, no `?`, `#`, `\\`, space or control \
         character; only what must be encoded is, in capitals (%C3%A9)"
    )]
    Unclear,
}

#[cfg(test)]
mod tests;
