//! The server's end of a WebSocket (RFC 6455) as Codex uses one: text messages in whole frames, no extensions.

use anyhow::{Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::reply::{self, Reply};

/// The largest message taken.
const MAX_MESSAGE_BYTES: u64 = 16 * 1024 * 1024;

/// What every server appends to the client's key (RFC 6455 §1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks for a WebSocket.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    let value = headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    value.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
}

/// The answer that switches protocols.
pub(crate) fn accepted(headers: &HeaderMap) -> Reply {
    let key = headers.get("sec-websocket-key");
    let key = key.map(HeaderValue::as_bytes).unwrap_or_default();
    let digest = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        &[key, ACCEPT_SUFFIX].concat(),
    );
    let accept = STANDARD.encode(digest.as_ref());
    let mut answer = reply::events([]);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).expect("base64 is a header value");
    headers.insert("sec-websocket-accept", accept);
    answer
}

/// The next text message; none when the client is done. Pings are answered.
///
/// # Errors
/// When the connection breaks or the client does not keep to what this server offers.
pub(crate) async fn next(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<Option<String>> {
    let mut message = Vec::new();
    loop {
        let (first, payload) = frame(stream).await?;
        match first & 0x0f {
            0x0 | 0x1 => message.extend(payload),
            0x8 => {
                send(stream, 0x8, &payload).await?;
                return Ok(None);
            }
            0x9 => {
                send(stream, 0xa, &payload).await?;
                continue;
            }
            0xa => continue,
            other => bail!("a frame of kind {other:#x}"),
        }
        ensure!(message.len() as u64 <= MAX_MESSAGE_BYTES, "too large");
        if first & 0x80 != 0 {
            return Ok(Some(String::from_utf8(message)?));
        }
    }
}

/// Sends a text message.
///
/// # Errors
/// When the connection is broken.
pub(crate) async fn send_text(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> Result<()> {
    send(stream, 0x1, text.as_bytes()).await
}

/// One frame: its first byte and what it carries, unmasked.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let second = stream.read_u8().await?;
    ensure!(first & 0x70 == 0, "an extension that was not agreed on");
    ensure!(second & 0x80 != 0, "a client masks its frames");
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    ensure!(length <= MAX_MESSAGE_BYTES, "too large");
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await?;
    let mut payload = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut payload).await?;
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    Ok((first, payload))
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> Result<()> {
    let mut head = vec![0x80 | kind];
    match payload.len() {
        length @ 0..126 => head.push(u8::try_from(length)?),
        length @ 126..65_536 => {
            head.push(126);
            head.extend(u16::try_from(length)?.to_be_bytes());
        }
        length => {
            head.push(127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    stream.write_all(&[&head, payload].concat()).await?;
    stream.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_as_the_standard_says() {
        let mut headers = HeaderMap::new();
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        headers.insert("sec-websocket-key", key);
        let answer = accepted(&headers);
        assert_eq!(
            answer.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn reads_a_masked_message_in_two_frames_and_answers_a_ping_between() {
        // RFC 6455 §5.7: "Hello" in one masked frame; here halves of it.
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let masked = |first: u8, text: &[u8]| {
            let mut frame = vec![first, 0x80 | u8::try_from(text.len()).unwrap()];
            frame.extend(mask);
            frame.extend(
                text.iter()
                    .enumerate()
                    .map(|(at, byte)| byte ^ mask[at % 4]),
            );
            frame
        };
        let input = [
            masked(0x01, b"Hel"),
            masked(0x89, b"p"),
            masked(0x80, b"lo"),
        ]
        .concat();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(&input).await.unwrap();
            let message = next(&mut ours).await.unwrap();
            assert_eq!(message.as_deref(), Some("Hello"));
            let mut pong = [0; 3];
            theirs.read_exact(&mut pong).await.unwrap();
            assert_eq!(pong, [0x8a, 1, b'p']);
        });
    }
}
