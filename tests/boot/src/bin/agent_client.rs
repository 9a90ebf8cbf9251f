//! Guest program: asks the SSH agent at `$SSH_AUTH_SOCK` (draft-miller-ssh-agent), for images without OpenSSH.
//!
//! `agent_client list` says the comment of each key, `agent_client sign KEY` the number of the answer to a request to sign
//! with the key whose public half is the text KEY, `agent_client raw NUMBER` that of the answer to an empty message.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, bail, ensure};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = match arguments[..] {
        ["list"] => comments(&ask(&[REQUEST_IDENTITIES])?)?.join(" "),
        ["sign", key] => {
            let mut request = vec![SIGN_REQUEST];
            for field in [key.as_bytes(), b"data"] {
                request.extend(u32::try_from(field.len())?.to_be_bytes());
                request.extend(field);
            }
            request.extend([0; 4]);
            number(&ask(&request)?)?
        }
        ["raw", kind] => number(&ask(&[kind.parse()?])?)?,
        _ => bail!("list, sign KEY, or raw NUMBER"),
    };
    Ok(writeln!(std::io::stdout(), "{said}")?)
}

fn ask(message: &[u8]) -> Result<Vec<u8>> {
    let socket = std::env::var_os("SSH_AUTH_SOCK").context("no SSH_AUTH_SOCK")?;
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
    stream.write_all(message)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn number(answer: &[u8]) -> Result<String> {
    Ok(answer.first().context("an empty answer")?.to_string())
}

fn comments(answer: &[u8]) -> Result<Vec<String>> {
    let (kind, mut rest) = answer.split_first().context("an empty answer")?;
    ensure!(*kind == IDENTITIES_ANSWER, "answer {kind}");
    let mut comments = Vec::new();
    for _ in 0..take_number(&mut rest)? {
        take(&mut rest)?;
        comments.push(String::from_utf8_lossy(take(&mut rest)?).into_owned());
    }
    Ok(comments)
}

fn take_number(rest: &mut &[u8]) -> Result<u32> {
    let (number, more) = rest.split_first_chunk().context("cut short")?;
    *rest = more;
    Ok(u32::from_be_bytes(*number))
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?)?;
    let (field, more) = rest.split_at_checked(length).context("cut short")?;
    *rest = more;
    Ok(field)
}
