//! GnuPG's protocol with its agent (Assuan), as far as a guest may speak it.
//!
//! The host's agent is asked at its *extra* socket, where gpg-agent itself refuses what is not meant for remote use. Before
//! that, only commands that signing, decrypting and listing need pass here. A line is at most 1000 bytes (libassuan,
//! "Client requests"); answers to the agent's inquiries, which are data, pass as they are.

use std::io;

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// The longest line with its end, in bytes.
const MAX_LINE: usize = 1002;

/// What a guest may ask.
const COMMANDS: &[&str] = &[
    "AGENT_ID",
    "BYE",
    "GETEVENTCOUNTER",
    "GETINFO",
    "HAVEKEY",
    "HELP",
    "KEYINFO",
    "NOP",
    "OPTION",
    "PKDECRYPT",
    "PKSIGN",
    "READKEY",
    "RESET",
    "SETHASH",
    "SETKEY",
    "SETKEYDESC",
    "SIGKEY",
];
/// The kinds of information among `GETINFO`'s that tell nothing of the host.
const INFORMATION: &[&str] = &["version", "restricted", "cmd_has_option", "jent_active"];
/// What answers an inquiry of the agent.
const ANSWERS: &[&str] = &["D", "END", "CAN"];
/// `GPG_ERR_FORBIDDEN` of source `GPG_ERR_SOURCE_GPGAGENT`.
const FORBIDDEN: &[u8] = b"ERR 67109115 Forbidden <GPG Agent>\n";

/// Passes on what may be asked until the guest or the agent ends the stream.
///
/// # Errors
/// Either side breaks off or sends a line that is too long.
pub(super) async fn filter(
    guest: impl AsyncRead + AsyncWrite,
    agent: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let (from_guest, mut to_guest) = tokio::io::split(guest);
    let (from_agent, mut to_agent) = tokio::io::split(agent);
    let (mut from_guest, mut from_agent) = (BufReader::new(from_guest), BufReader::new(from_agent));
    // The agent greets first.
    if !answered(&mut from_agent, &mut to_guest)
        .await?
        .is_some_and(|end| end == End::Done)
    {
        return Ok(());
    }
    while let Some(line) = read_line(&mut from_guest).await? {
        if !may_be_asked(&line) {
            to_guest.write_all(FORBIDDEN).await?;
            continue;
        }
        to_agent.write_all(&line).await?;
        loop {
            match answered(&mut from_agent, &mut to_guest).await? {
                None => return Ok(()),
                Some(End::Done) => break,
                Some(End::Inquiry) => answer_inquiry(&mut from_guest, &mut to_agent).await?,
            }
        }
    }
    Ok(())
}

/// How the agent's answer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// `OK` or `ERR`: the next command may come.
    Done,
    /// It wants to know something of the guest first.
    Inquiry,
}

/// Passes on what the agent says up to its end; nothing when it ended the stream.
async fn answered(
    agent: &mut (impl AsyncBufRead + Unpin),
    guest: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Option<End>> {
    while let Some(line) = read_line(agent).await? {
        guest.write_all(&line).await?;
        match word(&line) {
            "OK" | "ERR" => return Ok(Some(End::Done)),
            "INQUIRE" => return Ok(Some(End::Inquiry)),
            _ => {}
        }
    }
    Ok(None)
}

/// Passes on what the guest answers, up to its end.
async fn answer_inquiry(
    guest: &mut (impl AsyncBufRead + Unpin),
    agent: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    while let Some(line) = read_line(guest).await? {
        let word = word(&line);
        if !ANSWERS.contains(&word) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        agent.write_all(&line).await?;
        if word != "D" {
            return Ok(());
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn may_be_asked(line: &[u8]) -> bool {
    let command = word(line).to_ascii_uppercase();
    if command == "GETINFO" {
        let what = line.split(|byte| byte.is_ascii_whitespace()).nth(1);
        return what.is_some_and(|what| INFORMATION.iter().any(|known| known.as_bytes() == what));
    }
    COMMANDS.contains(&command.as_str())
}

/// The first word of a line; none when it is no text.
fn word(line: &[u8]) -> &str {
    let first = line.split(|byte| byte.is_ascii_whitespace()).next();
    std::str::from_utf8(first.unwrap_or_default()).unwrap_or_default()
}

/// A line with its end; nothing at the end of the stream.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let available = stream.fill_buf().await?;
        if available.is_empty() {
            return match line.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(available.len(), |end| end + 1);
        if line.len() + count > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        line.extend(&available[..count]);
        stream.consume(count);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}
