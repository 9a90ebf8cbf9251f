//! Looks for placeholders in text as it is and as programs write it: percent-encoded, with `\u` and `\x` escapes, in
//! base 64 of both alphabets at any alignment, in hexadecimal, in UTF-16, in other letter case, and in any of these
//! inside another, three deep. Sans I/O.
//!
//! A placeholder is worthless wherever it is not exchanged, so what is overlooked here (another encoding, one cut into
//! two fields) leaks nothing. The search is there to tell the person, and to stop a program that sends credentials to
//! the wrong place.

use agent_vm_secret::PlaceholderScanner;
use base64::Engine as _;

use crate::credential::{BASE64, BASE64_URL};

/// The identifying bytes of a placeholder; no encoding makes them fewer.
const SHORTEST: usize = 39;
/// The shortest run of base 64 that can hold them.
const SHORTEST_BASE64: usize = 52;
/// The shortest run of hexadecimal digits that can hold them.
const SHORTEST_HEX: usize = 2 * SHORTEST;
/// How many encodings may lie inside each other.
const DEPTH: u32 = 3;

/// Index of the first placeholder in `bytes`, in any of the encodings.
pub(crate) fn find_encoded(bytes: &[u8], scanner: &PlaceholderScanner) -> Option<usize> {
    look(bytes, scanner, DEPTH)
}

fn look(bytes: &[u8], scanner: &PlaceholderScanner, depth: u32) -> Option<usize> {
    if bytes.len() < SHORTEST {
        return None;
    }
    let plain = scanner.find(bytes).or_else(|| find_folded(bytes, scanner));
    if plain.is_some() || depth == 0 {
        return plain;
    }
    let look = |decoded: Vec<u8>| look(&decoded, scanner, depth - 1);
    let escaped = |mark: u8, decode: fn(&[u8]) -> Vec<u8>| {
        let marked = bytes.contains(&mark);
        marked.then(|| look(decode(bytes))).flatten()
    };
    escaped(0, |bytes| {
        bytes.iter().copied().filter(|byte| *byte != 0).collect()
    })
    .or_else(|| escaped(b'%', percent_decoded))
    .or_else(|| escaped(b'\\', unescaped))
    .or_else(|| runs(bytes, in_base64, SHORTEST_BASE64).find_map(|run| find_base64(run, look)))
    .or_else(|| runs(bytes, in_hex, SHORTEST_HEX).find_map(|run| find_hex(run, look)))
}

/// In other letter case.
fn find_folded(bytes: &[u8], scanner: &PlaceholderScanner) -> Option<usize> {
    let folds = bytes.iter().any(u8::is_ascii_uppercase);
    folds
        .then(|| scanner.find(&bytes.to_ascii_lowercase()))
        .flatten()
}

/// The runs of at least `shortest` bytes of an alphabet.
fn runs(bytes: &[u8], alphabet: fn(u8) -> bool, shortest: usize) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(move |byte| !alphabet(*byte))
        .filter(move |run| run.len() >= shortest)
}

fn in_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte)
}

fn in_hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

/// Decodes a run of base 64 characters from each of the four places where the encoding may begin, for the case that
/// text of the same alphabet stands before it.
fn find_base64(run: &[u8], look: impl Fn(Vec<u8>) -> Option<usize>) -> Option<usize> {
    (0..4).find_map(|skipped| {
        let run = run.get(skipped..)?;
        // A single character beyond whole groups of four encodes nothing.
        let run = if run.len() % 4 == 1 {
            &run[..run.len() - 1]
        } else {
            run
        };
        let decoded = BASE64
            .decode(run)
            .or_else(|_| BASE64_URL.decode(run))
            .ok()?;
        look(decoded)
    })
}

/// Decodes a run of hexadecimal digits from both places where a pair may begin.
fn find_hex(run: &[u8], look: impl Fn(Vec<u8>) -> Option<usize>) -> Option<usize> {
    (0..2).find_map(|skipped| {
        let (pairs, _odd) = run[skipped..].as_chunks::<2>();
        look(pairs.iter().filter_map(|pair| byte_of(*pair)).collect())
    })
}

/// `%41` and the like decoded; everything else as it is.
pub(crate) fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let pair = tail.first_chunk::<2>().filter(|_| first == b'%');
        if let Some(byte) = pair.copied().and_then(byte_of) {
            decoded.push(byte);
            rest = &tail[2..];
        } else {
            decoded.push(first);
            rest = tail;
        }
    }
    decoded
}

/// `\u0041` (of Latin characters), `\x41` and `\/` decoded as in JSON and program text; everything else as it is.
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, length) = match (first, tail) {
            (b'\\', [b'u' | b'U', b'0', b'0', a, b, ..]) => (byte_of([*a, *b]), 6),
            (b'\\', [b'x' | b'X', a, b, ..]) => (byte_of([*a, *b]), 4),
            (b'\\', [other, ..]) => (Some(*other), 2),
            _ => (None, 1),
        };
        decoded.push(byte.unwrap_or(first));
        rest = &rest[if byte.is_some() { length } else { 1 }..];
    }
    decoded
}

fn byte_of([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Any bytes are searched without a panic, and what contains a placeholder is found however it was written.
pub fn fuzz_placeholder_scan(data: &[u8]) {
    use agent_vm_secret::Placeholder;

    let placeholder = Placeholder::parse("fuzz-agentvmabcdefghijklmnopqrstuvwxyz234567")
        .expect("the text has the shape of a placeholder");
    let scanner = PlaceholderScanner::new([&placeholder]);
    let (way, text) = data.split_first().unwrap_or((&0, &[]));
    let _anything = find_encoded(text, &scanner);
    let at = text.len() / 2;
    let whole = [&text[..at], placeholder.as_str().as_bytes(), &text[at..]].concat();
    let written = match way % 4 {
        0 => whole.clone(),
        1 => whole
            .iter()
            .flat_map(|byte| format!("%{byte:02X}").into_bytes())
            .collect(),
        2 => base64::engine::general_purpose::STANDARD
            .encode(&whole)
            .into_bytes(),
        _ => whole
            .iter()
            .flat_map(|byte| format!("{byte:02x}").into_bytes())
            .collect(),
    };
    assert_eq!(find_encoded(&written, &scanner), Some(0), "overlooked");
    let mut stream = scanner.stream();
    let pieces = whole.chunks(usize::from(way / 4) + 1);
    let found = pieces.filter_map(|piece| stream.push(piece)).next();
    assert_eq!(found, Some(0), "overlooked in pieces");
}

#[cfg(test)]
mod tests;
