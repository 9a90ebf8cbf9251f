//! Reads a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301) from bytes as they arrive, however they are cut
//! into segments and TLS records. Sans I/O.
//!
//! States: nothing yet → records of handshake fragments → the whole message. The first two bytes tell TLS from
//! anything else. At most [`MAX_HELLO_BYTES`] are taken. What is malformed is refused, two server names included,
//! because the server might read it in another way than we do.

use agent_vm_policy::HostName;
use thiserror::Error;

/// The most bytes, record headers included, in which the ClientHello must be complete.
pub(crate) const MAX_HELLO_BYTES: usize = 16 * 1024;

const RECORD_HEADER_BYTES: usize = 5;
const MAX_RECORD_BYTES: usize = 16 * 1024;
/// The first byte of a TLS connection.
pub(crate) const CONTENT_HANDSHAKE: u8 = 22;
const VERSION_MAJOR: u8 = 3;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;

/// What of a ClientHello matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server name, when there is one.
    pub(crate) server_name: Option<HostName>,
    /// Whether HTTP/2 is offered.
    pub(crate) offers_h2: bool,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Perhaps the beginning of a ClientHello.
    Partial,
    /// Not TLS.
    NotTls,
    /// A whole ClientHello.
    Complete(ClientHello),
}

/// Collects a ClientHello.
#[derive(Debug, Default)]
pub(crate) struct HelloReader {
    /// Everything taken, to be passed on.
    bytes: Vec<u8>,
    /// How far the records are unpacked.
    unpacked: usize,
    /// The handshake message without record headers.
    message: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they cannot be a ClientHello although they begin as TLS does.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Progress, HelloError> {
        self.bytes.extend_from_slice(piece);
        if !looks_like_tls(&self.bytes) {
            return Ok(Progress::NotTls);
        }
        self.unpack_records()?;
        if let Some(body) = self.message_body()? {
            return parse_hello(body).map(Progress::Complete);
        }
        if self.bytes.len() >= MAX_HELLO_BYTES {
            return Err(HelloError::TooLong);
        }
        Ok(Progress::Partial)
    }

    /// How many more bytes may be taken.
    pub(crate) fn room(&self) -> usize {
        MAX_HELLO_BYTES.saturating_sub(self.bytes.len())
    }

    fn unpack_records(&mut self) -> Result<(), HelloError> {
        while let Some(header) = self
            .bytes
            .get(self.unpacked..self.unpacked + RECORD_HEADER_BYTES)
        {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let known = header[0] == CONTENT_HANDSHAKE && header[1] == VERSION_MAJOR;
            if !known || length == 0 || length > MAX_RECORD_BYTES {
                return Err(HelloError::Malformed);
            }
            let start = self.unpacked + RECORD_HEADER_BYTES;
            let Some(fragment) = self.bytes.get(start..start + length) else {
                break;
            };
            self.message.extend_from_slice(fragment);
            self.unpacked = start + length;
            if self.message.len() >= 4 && self.message_body()?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// The ClientHello's body once it is there as a whole.
    fn message_body(&self) -> Result<Option<&[u8]>, HelloError> {
        let Some((&kind, rest)) = self.message.split_first() else {
            return Ok(None);
        };
        if kind != MESSAGE_CLIENT_HELLO {
            return Err(HelloError::Malformed);
        }
        let Some((&[a, b, c], body)) = rest.split_first_chunk::<3>() else {
            return Ok(None);
        };
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > MAX_HELLO_BYTES {
            return Err(HelloError::TooLong);
        }
        Ok(body.get(..length))
    }
}

/// Whether bytes may begin a TLS connection; two bytes decide, fewer are given the benefit of the doubt.
fn looks_like_tls(bytes: &[u8]) -> bool {
    let first = [CONTENT_HANDSHAKE, VERSION_MAJOR];
    let known = bytes.len().min(first.len());
    bytes[..known] == first[..known]
}

fn parse_hello(body: &[u8]) -> Result<ClientHello, HelloError> {
    let mut fields = Fields(body);
    fields.take(2 + 32)?; // legacy version, random
    fields.vector_u8()?; // session id
    fields.vector_u16()?; // cipher suites
    fields.vector_u8()?; // compression methods
    let mut hello = ClientHello {
        server_name: None,
        offers_h2: false,
    };
    if fields.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Fields(fields.vector_u16()?);
    fields.end()?;
    let (mut names, mut protocols) = (0, 0);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector_u16()?;
        match kind {
            EXTENSION_SERVER_NAME => {
                names += 1;
                hello.server_name = Some(parse_server_name(data)?);
            }
            EXTENSION_ALPN => {
                protocols += 1;
                hello.offers_h2 = parse_alpn(data)?;
            }
            _ => {}
        }
    }
    if names > 1 || protocols > 1 {
        Err(HelloError::Malformed)
    } else {
        Ok(hello)
    }
}

fn parse_server_name(data: &[u8]) -> Result<HostName, HelloError> {
    let mut fields = Fields(data);
    let mut list = Fields(fields.vector_u16()?);
    fields.end()?;
    let kind = list.take(1)?[0];
    let name = list.vector_u16()?;
    list.end()?;
    if kind != NAME_TYPE_HOST || name.ends_with(b".") {
        return Err(HelloError::Malformed);
    }
    let name = std::str::from_utf8(name).map_err(|_| HelloError::Malformed)?;
    HostName::parse(name).map_err(|_| HelloError::Malformed)
}

/// Whether the list holds `h2`.
fn parse_alpn(data: &[u8]) -> Result<bool, HelloError> {
    let mut fields = Fields(data);
    let mut list = Fields(fields.vector_u16()?);
    fields.end()?;
    let mut offers_h2 = false;
    while !list.0.is_empty() {
        offers_h2 |= list.vector_u8()? == b"h2";
    }
    Ok(offers_h2)
}

/// What is left of a structure.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        let taken = self.take(2)?;
        Ok(u16::from_be_bytes([taken[0], taken[1]]))
    }

    fn vector_u8(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    fn vector_u16(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn end(&self) -> Result<(), HelloError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(HelloError::Malformed)
        }
    }
}

/// Why bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum HelloError {
    /// They break the format.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// It is not complete after [`MAX_HELLO_BYTES`].
    #[error("the ClientHello is longer than {MAX_HELLO_BYTES} bytes")]
    TooLong,
}

/// Any bytes, whole and cut in two, give the same answer and no panic.
pub fn fuzz_client_hello(data: &[u8]) {
    let whole = HelloReader::default().push(data);
    let (first, second) = data.split_at(data.len() / 2);
    let mut reader = HelloReader::default();
    let halves = match reader.push(first) {
        Ok(Progress::Partial) => reader.push(second),
        decided => decided,
    };
    if let (Ok(Progress::Complete(one)), Ok(Progress::Complete(two))) = (&whole, &halves) {
        assert_eq!(one, two, "the answer depends on the segments");
    }
    let complete = |progress: &Result<Progress, _>| matches!(progress, Ok(Progress::Complete(_)));
    assert!(
        complete(&halves) || !complete(&whole),
        "a hello is lost when it is cut"
    );
}

#[cfg(test)]
mod tests;
