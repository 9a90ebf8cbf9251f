//! The ways a server may write a token it was sent, each with what is to stand there instead. Sans I/O.

use agent_vm_secret::{Placeholder, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// One way.
pub(crate) struct Written {
    pub(crate) needle: Secret,
    pub(crate) stands: Bytes,
}

/// All but the unreserved characters of RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The ways to write `secret`; in `pair`, what stood around it inside `Basic`.
pub(crate) fn forms(
    secret: &Secret,
    placeholder: &Placeholder,
    pair: Option<(&[u8], &[u8])>,
) -> Vec<Written> {
    let (real, stands) = (secret.expose(), placeholder.as_str());
    let percent = utf8_percent_encode(real, RESERVED).to_string();
    let json = serde_json::Value::from(real).to_string();
    let json = json.trim_matches('"').to_owned();
    let mut forms = vec![
        (real.to_owned(), stands.to_owned()),
        (percent.to_ascii_lowercase(), stands.to_owned()),
        (percent, stands.to_owned()),
        (json.replace('/', "\\/"), stands.to_owned()),
        (json, stands.to_owned()),
        (hex(real), hex(stands)),
        (hex(real).to_ascii_uppercase(), hex(stands)),
    ];
    for before in 0..3 {
        let url_safe = |text: &str| text.replace('+', "-").replace('/', "_");
        let (real, stands) = (core(real, before), core(stands, before));
        forms.push((url_safe(&real), url_safe(&stands)));
        forms.push((real, stands));
    }
    if let Some((before, after)) = pair {
        let pair = |token: &str| [before, token.as_bytes(), after].concat();
        let encoded = |engine: &base64::engine::GeneralPurpose| {
            (engine.encode(pair(real)), engine.encode(pair(stands)))
        };
        forms.extend([encoded(&STANDARD), encoded(&URL_SAFE_NO_PAD)]);
    }
    let written = forms.into_iter().filter_map(|(needle, stands)| {
        Some(Written {
            needle: Secret::new(needle).ok()?,
            stands: stands.into(),
        })
    });
    written.collect()
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The characters of base 64 that are determined by `text` alone when `before` (0 to 2) bytes stand before it in its
/// first group of three: at most two characters of a token at each end are in others.
fn core(text: &str, before: usize) -> String {
    let padded = [&[0; 2][..before], text.as_bytes()].concat();
    let encoded = STANDARD.encode(&padded);
    let first = (before * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    encoded[first..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_is_in_every_encoding_at_its_alignment() {
        let token = "sk-real-token/+value";
        for before in 0..9 {
            for after in ["", "a", "bc"] {
                let text = format!("{}{token}{after}", &"prefixed!"[..before]);
                let encoded = STANDARD.encode(text);
                assert!(encoded.contains(&core(token, before % 3)), "{encoded}");
            }
        }
    }

    #[test]
    fn a_token_of_plain_characters_has_few_forms() {
        let secret = Secret::new("gho_0123456789abcdef").unwrap();
        let placeholder = Placeholder::mint("gho_").unwrap();
        let plain = forms(&secret, &placeholder, None);
        let mut needles: Vec<_> = plain.iter().map(|form| form.needle.expose()).collect();
        needles.sort_unstable();
        needles.dedup();
        assert!(needles.len() <= 9, "{needles:?}");
        for form in &plain {
            assert!(!String::from_utf8_lossy(&form.stands).contains("0123456789"));
        }
    }
}
