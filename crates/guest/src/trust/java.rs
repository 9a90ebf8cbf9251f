//! Java's store of authorities in the form "JKS", in which the distributions keep it.
//!
//! The form (as OpenJDK's `sun.security.provider.JavaKeyStore` reads it), all numbers big endian: `FEEDFEED`, version 2, number
//! of entries; of each entry a kind (1 key, 2 certificate), name, milliseconds since 1970; of a certificate then its type
//! and bytes, of a key its bytes and certificates; at the end SHA-1 of the password in UTF-16, a fixed phrase and all
//! before it. Names and types are preceded by 16 bits of length, bytes by 32.

use super::sha1::sha1;

/// The name of our entry.
const ALIAS: &[u8] = b"agent-vm";

/// The password of every distribution's store.
const PASSWORD: &str = "changeit";

/// Part of the digest.
const PHRASE: &[u8] = b"Mighty Aphrodite";

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const KEY: u32 = 1;
const CERTIFICATE: u32 = 2;
const DIGEST_BYTES: usize = 20;

/// The store with this certificate in place of what stood there under our name; nothing when it is not of this form or
/// has another password.
pub(super) fn with_certificate(store: &[u8], certificate: &[u8]) -> Option<Vec<u8>> {
    let (content, digest) = store.split_at_checked(store.len().checked_sub(DIGEST_BYTES)?)?;
    if sign(content) != digest {
        return None;
    }
    let mut rest = content;
    if number(&mut rest)? != MAGIC || number(&mut rest)? != VERSION {
        return None;
    }
    let count = number(&mut rest)?;
    let mut kept: u32 = 0;
    let mut entries: Vec<u8> = Vec::with_capacity(content.len() + certificate.len());
    for _ in 0..count {
        let start = rest;
        let alias = entry(&mut rest)?;
        if alias != ALIAS {
            entries.extend(&start[..start.len() - rest.len()]);
            kept += 1;
        }
    }
    if !rest.is_empty() {
        return None;
    }
    let mut new = [MAGIC, VERSION, kept + 1].map(u32::to_be_bytes).concat();
    new.extend(entries);
    new.extend(CERTIFICATE.to_be_bytes());
    new.extend(u16::try_from(ALIAS.len()).ok()?.to_be_bytes());
    new.extend(ALIAS);
    // When it was added; nobody asks.
    new.extend([0; 8]);
    new.extend([0, 5]);
    new.extend(b"X.509");
    new.extend(u32::try_from(certificate.len()).ok()?.to_be_bytes());
    new.extend(certificate);
    let digest = sign(&new);
    new.extend(digest);
    Some(new)
}

/// Takes one entry off `input` and gives its name.
fn entry<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let kind = number(input)?;
    let alias = short(input)?;
    take(input, 8)?;
    match kind {
        CERTIFICATE => certificate(input)?,
        KEY => {
            long(input)?;
            for _ in 0..number(input)? {
                certificate(input)?;
            }
        }
        _ => return None,
    }
    Some(alias)
}

fn certificate(input: &mut &[u8]) -> Option<()> {
    short(input)?;
    long(input)?;
    Some(())
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}

fn number(input: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(input, 4)?.try_into().ok()?))
}

fn short<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_be_bytes(take(input, 2)?.try_into().ok()?);
    take(input, usize::from(length))
}

fn long<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(input)?;
    take(input, usize::try_from(length).ok()?)
}

fn sign(content: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut message: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    message.extend(PHRASE);
    message.extend(content);
    sha1(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty store.
    fn empty() -> Vec<u8> {
        let mut store = [MAGIC, VERSION, 0].map(u32::to_be_bytes).concat();
        let digest = sign(&store);
        store.extend(digest);
        store
    }

    fn aliases(store: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = &store[8..store.len() - DIGEST_BYTES];
        let count = number(&mut rest).unwrap();
        (0..count)
            .map(|_| entry(&mut rest).unwrap().to_vec())
            .collect()
    }

    #[test]
    fn the_empty_store_of_keytool_is_one() {
        // As OpenJDK 17 writes it with the password `changeit`.
        let digest = empty()[12..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        assert_eq!(
            digest,
            "e268 6e45 fb43 dfa4 d992 dd41 ceb6 b21c 6330 d792".replace(' ', "")
        );
    }

    #[test]
    fn a_certificate_is_added_and_replaced_by_the_next() {
        let once = with_certificate(&empty(), b"first certificate").unwrap();
        assert_eq!(aliases(&once), [ALIAS.to_vec()]);
        let twice = with_certificate(&once, b"second").unwrap();
        assert_eq!(twice, with_certificate(&empty(), b"second").unwrap());
    }

    #[test]
    fn other_entries_stay() {
        let other = with_certificate(&empty(), b"theirs").unwrap();
        let at = other
            .windows(ALIAS.len())
            .position(|window| window == ALIAS)
            .unwrap();
        let mut other = other[..other.len() - DIGEST_BYTES].to_vec();
        other[at..at + ALIAS.len()].copy_from_slice(b"agent-v1");
        let digest = sign(&other);
        other.extend(digest);
        let both = with_certificate(&other, b"ours").unwrap();
        assert_eq!(aliases(&both), [b"agent-v1".to_vec(), ALIAS.to_vec()]);
    }

    #[test]
    fn what_is_no_such_store_is_left_alone() {
        let store = with_certificate(&empty(), b"certificate").unwrap();
        assert_eq!(with_certificate(b"", b"x"), None);
        for end in 0..store.len() {
            assert_eq!(with_certificate(&store[..end], b"x"), None);
        }
        let mut changed = store.clone();
        changed[14] ^= 1;
        assert_eq!(with_certificate(&changed, b"x"), None);
    }
}
