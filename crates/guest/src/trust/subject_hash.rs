//! OpenSSL's name for a certificate in a hashed directory: SHA-1 of the canonical form of the subject, the first four
//! bytes as a little-endian number (OpenSSL `X509_NAME_hash_ex`, `x509_name_canon`).
//!
//! Canonical: every string becomes a UTF8String in lower case, without space at its ends and with single spaces
//! inside; the relative names follow each other without the outer sequence. Only what this project's own authority
//! writes is handled: one certificate, subject attributes of UTF8String or PrintableString.

use super::sha1::sha1;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const VERSION: u8 = 0xa0;

/// The hash for the first certificate of `pem`; `None` when it is not of the expected form.
pub(super) fn of_pem(pem: &[u8]) -> Option<u32> {
    let der = decode_pem(pem)?;
    let name = canonical(subject(&der)?)?;
    let digest = sha1(&name);
    Some(u32::from_le_bytes(digest[..4].try_into().ok()?))
}

/// The bytes of the first certificate of `pem` (RFC 7468).
pub(super) fn decode_pem(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let mut bits = 0u32;
    let mut held = 0;
    let mut out = Vec::new();
    for byte in body
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=')
    {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Takes one DER element off `input`: its tag and content (X.690, definite lengths).
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        length = bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    *input = after;
    Some((tag, content))
}

fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    element(input)
        .filter(|(found, _)| *found == tag)
        .map(|(_, content)| content)
}

/// The subject inside a certificate (RFC 5280 §4.1): after version, serial, algorithm, issuer, validity.
fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let mut outer = certificate;
    let mut body = expect(&mut outer, SEQUENCE)?;
    let mut fields = expect(&mut body, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        element(&mut fields)?;
    }
    for _ in 0..4 {
        element(&mut fields)?;
    }
    expect(&mut fields, SEQUENCE)
}

fn canonical(mut name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !name.is_empty() {
        let mut set = expect(&mut name, SET)?;
        let mut attribute = expect(&mut set, SEQUENCE)?;
        let kind = expect(&mut attribute, OBJECT_ID)?;
        let (tag, value) = element(&mut attribute)?;
        if !set.is_empty() || !matches!(tag, UTF8_STRING | PRINTABLE_STRING) {
            return None;
        }
        let words: Vec<String> = std::str::from_utf8(value)
            .ok()?
            .split_ascii_whitespace()
            .map(str::to_ascii_lowercase)
            .collect();
        let pair = [
            wrap(OBJECT_ID, kind)?,
            wrap(UTF8_STRING, words.join(" ").as_bytes())?,
        ]
        .concat();
        out.extend(wrap(SET, &wrap(SEQUENCE, &pair)?)?);
    }
    Some(out)
}

fn wrap(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(content.len())
        .ok()
        .filter(|length| *length < 0x80)?;
    Some([&[tag, length], content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl x509 -subject_hash` says cd22324f for this certificate.
    const PEM: &[u8] = include_bytes!("test_ca.pem");

    #[test]
    fn the_hash_is_what_openssl_computes() {
        assert_eq!(of_pem(PEM), Some(0xcd22_324f));
    }

    #[test]
    fn damaged_certificates_have_no_hash_and_do_not_panic() {
        assert_eq!(of_pem(b""), None);
        for cut in 0..PEM.len() {
            let _ = of_pem(&PEM[..cut]);
        }
        let der = decode_pem(PEM).unwrap();
        for at in 0..der.len().min(300) {
            let mut bad = der.clone();
            bad[at] ^= 0x84;
            let _ = subject(&bad).and_then(canonical);
        }
    }
}
