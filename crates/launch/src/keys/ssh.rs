//! The SSH agent protocol (draft-miller-ssh-agent-15), as far as a guest may speak it.
//!
//! Two requests pass: the list of keys, of which only the chosen ones are told, and a signature by a chosen key. Which
//! those are is asked of the agent itself before each signature, so that a key that was removed or renamed is none. All
//! others, among them adding, removing, locking and extensions, are answered with a failure without asking the agent. What
//! is signed is not looked at: it is a hash or a login that only the user's server can judge.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest message, in bytes, as in OpenSSH (`AGENT_MAX_LEN`).
const MAX_MESSAGE: u32 = 256 * 1024;
/// Most keys that are told (OpenSSH: 2048).
const MAX_KEYS: u32 = 2048;

/// Message numbers (§6.1).
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Which key is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum KeyFilter {
    /// The one with this fingerprint, as `ssh-add -l` shows it: `SHA256:…`.
    Fingerprint([u8; 32]),
    /// All with this comment.
    Comment(String),
}

/// The text names no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a key is given by its comment, or by its fingerprint SHA256:… as `ssh-add -l` shows them")]
pub struct KeyFilterError;

impl FromStr for KeyFilter {
    type Err = KeyFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(encoded) = text.strip_prefix("SHA256:") else {
            let given = !text.is_empty() && !text.chars().any(char::is_control);
            return given
                .then(|| Self::Comment(text.to_owned()))
                .ok_or(KeyFilterError);
        };
        let digest = STANDARD_NO_PAD.decode(encoded.trim_end_matches('='));
        let digest = digest.ok().and_then(|digest| digest.try_into().ok());
        digest.map(Self::Fingerprint).ok_or(KeyFilterError)
    }
}

impl fmt::Display for KeyFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fingerprint(digest) => write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(digest)),
            Self::Comment(text) => f.write_str(text),
        }
    }
}

impl From<KeyFilter> for String {
    fn from(filter: KeyFilter) -> Self {
        filter.to_string()
    }
}

impl KeyFilter {
    fn matches(&self, key: &Key<'_>) -> bool {
        match self {
            Self::Fingerprint(digest) => *digest == <[u8; 32]>::from(Sha256::digest(key.blob)),
            Self::Comment(text) => text.as_bytes() == key.comment,
        }
    }
}

/// A key the agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key<'a> {
    blob: &'a [u8],
    comment: &'a [u8],
}

/// Answers what the guest asks until it ends the stream.
///
/// # Errors
/// Either side breaks off or does not keep to the protocol.
pub(super) async fn filter(
    mut guest: impl AsyncRead + AsyncWrite + Unpin,
    mut agent: impl AsyncRead + AsyncWrite + Unpin,
    chosen: &[KeyFilter],
) -> io::Result<()> {
    while let Some(request) = read_message(&mut guest).await? {
        let answer = answer(&mut agent, &request, chosen).await?;
        write_message(&mut guest, &answer).await?;
    }
    Ok(())
}

/// What the guest is answered.
async fn answer(
    agent: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    chosen: &[KeyFilter],
) -> io::Result<Vec<u8>> {
    let refused = vec![FAILURE];
    match request.split_first() {
        Some((&REQUEST_IDENTITIES, [])) => {
            let listed = ask(agent, &[REQUEST_IDENTITIES]).await?;
            let Some(keys) = keys(&listed) else {
                return Ok(refused);
            };
            Ok(listing(&wanted(&keys, chosen)))
        }
        Some((&SIGN_REQUEST, fields)) => {
            let Some(blob) = signing_key(fields) else {
                return Ok(refused);
            };
            let listed = ask(agent, &[REQUEST_IDENTITIES]).await?;
            let keys = keys(&listed).unwrap_or_default();
            if !wanted(&keys, chosen).iter().any(|key| key.blob == blob) {
                return Ok(refused);
            }
            let signed = ask(agent, request).await?;
            match signed.first() {
                Some(&SIGN_RESPONSE) => Ok(signed),
                _ => Ok(refused),
            }
        }
        _ => Ok(refused),
    }
}

async fn ask(
    agent: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
) -> io::Result<Vec<u8>> {
    write_message(agent, request).await?;
    let answer = read_message(agent).await?;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The chosen ones of the keys; all when none is named.
fn wanted<'a>(keys: &[Key<'a>], chosen: &[KeyFilter]) -> Vec<Key<'a>> {
    let is_chosen = |key: &&Key<'_>| chosen.is_empty() || chosen.iter().any(|one| one.matches(key));
    keys.iter().filter(is_chosen).copied().collect()
}

/// The key of a request to sign; the request must have its three fields and no more (§4.6).
fn signing_key(mut fields: &[u8]) -> Option<&[u8]> {
    let blob = take_string(&mut fields)?;
    take_string(&mut fields)?;
    take_number(&mut fields)?;
    fields.is_empty().then_some(blob)
}

/// The keys of an agent's answer (§4.4).
fn keys(answer: &[u8]) -> Option<Vec<Key<'_>>> {
    let (IDENTITIES_ANSWER, mut fields) = answer.split_first().map(|(kind, rest)| (*kind, rest))?
    else {
        return None;
    };
    let count = take_number(&mut fields).filter(|count| *count <= MAX_KEYS)?;
    let key = |_| {
        Some(Key {
            blob: take_string(&mut fields)?,
            comment: take_string(&mut fields)?,
        })
    };
    (0..count).map(key).collect()
}

fn listing(keys: &[Key<'_>]) -> Vec<u8> {
    let mut answer = vec![IDENTITIES_ANSWER];
    put_number(&mut answer, keys.len());
    for key in keys {
        for field in [key.blob, key.comment] {
            put_number(&mut answer, field.len());
            answer.extend(field);
        }
    }
    answer
}

fn take_number(fields: &mut &[u8]) -> Option<u32> {
    let (number, rest) = fields.split_first_chunk::<4>()?;
    *fields = rest;
    Some(u32::from_be_bytes(*number))
}

fn take_string<'a>(fields: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(fields)?).ok()?;
    let (string, rest) = fields.split_at_checked(length)?;
    *fields = rest;
    Some(string)
}

fn put_number(message: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("it was part of a message");
    message.extend(number.to_be_bytes());
}

/// The next message without its length; nothing at the end of the stream.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length == 0 || length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Grows with what arrives, not with what is promised.
    let mut message = Vec::new();
    let read = stream
        .take(u64::from(length))
        .read_to_end(&mut message)
        .await?;
    if read as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(message))
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes).await?;
    stream.flush().await
}
