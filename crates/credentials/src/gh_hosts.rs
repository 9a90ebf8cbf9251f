//! `gh`'s `hosts.yml`: nested maps of plain or quoted texts, the part of YAML that `gh` writes. What is
//! written otherwise is not understood, and said to be so, rather than guessed.

use std::iter::Peekable;

use serde_json::{Map, Value};
use thiserror::Error;

/// Deepest nesting; `gh` needs four: host, `users`, name, field.
const MAX_DEPTH: usize = 8;

/// The text is not in the form `gh` writes; says where, never what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("line {line} is not of the form that gh writes")]
pub struct GhHostsError {
    /// Counted from 1; one after the last where something is missing at the end.
    pub line: usize,
}

/// A line that says something.
struct Line<'t> {
    number: usize,
    indent: usize,
    content: &'t str,
}

/// Reads the file as the document it stands for; every value is a text, a map or `null`.
pub(crate) fn parse(text: &str) -> Result<Value, GhHostsError> {
    let lines = text.lines().enumerate().map(|(index, line)| {
        let content = line.trim_start_matches(' ');
        Line {
            number: index + 1,
            indent: line.len() - content.len(),
            content: content.trim_end(),
        }
    });
    let mut lines = lines
        .filter(|line| !(line.content.is_empty() || line.content.starts_with('#')))
        .filter(|line| line.content != "---")
        .peekable();
    let all = block(&mut lines, 0, 0)?;
    match lines.next() {
        Some(line) => Err(GhHostsError { line: line.number }),
        None => Ok(Value::Object(all)),
    }
}

/// The map whose keys stand at `indent`.
fn block<'t>(
    lines: &mut Peekable<impl Iterator<Item = Line<'t>>>,
    indent: usize,
    depth: usize,
) -> Result<Map<String, Value>, GhHostsError> {
    let mut all = Map::new();
    while let Some(line) = lines.next_if(|line| line.indent == indent) {
        let refuse = || GhHostsError { line: line.number };
        let (key, rest) = line.content.split_once(':').ok_or_else(refuse)?;
        let key = Some(key).filter(|key| *key == key.trim()).and_then(scalar);
        let key = key.ok_or_else(refuse)?;
        let value = match rest {
            "" => {
                let below = lines.peek().map_or(0, |next| next.indent);
                if below > indent {
                    if depth == MAX_DEPTH {
                        return Err(refuse());
                    }
                    Value::Object(block(lines, below, depth + 1)?)
                } else {
                    Value::Null
                }
            }
            rest => {
                let text = rest.strip_prefix(' ').and_then(scalar);
                Value::String(text.ok_or_else(refuse)?)
            }
        };
        if all.insert(key, value).is_some() {
            return Err(refuse());
        }
    }
    Ok(all)
}

/// A plain or simply quoted text; nothing that YAML would read as something else than text or number.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            let inner = rest.strip_suffix(quote)?;
            return (!inner.contains([quote, '\\'])).then(|| inner.to_owned());
        }
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"{}[]&*!|>%@`,?#\"'\\".contains(&byte);
    (!text.is_empty() && text.bytes().all(plain)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_the_old_and_the_new_form() {
        let old =
            "github.com:\n    oauth_token: gho_x\n    user: someone\n    git_protocol: https\n";
        let fields = json!({"oauth_token": "gho_x", "user": "someone", "git_protocol": "https"});
        assert_eq!(parse(old).unwrap(), json!({ "github.com": fields }));
        let new = "# kept by gh\ngithub.com:\n    users:\n        someone:\n            oauth_token: gho_x\n    \
                   git_protocol: 'https'\n    user: \"someone\"\nghe.example.org:\n    users:\n";
        assert_eq!(
            parse(new).unwrap(),
            json!({
                "github.com": {
                    "users": {"someone": {"oauth_token": "gho_x"}},
                    "git_protocol": "https",
                    "user": "someone",
                },
                "ghe.example.org": {"users": null},
            })
        );
        assert_eq!(parse("").unwrap(), json!({}));
    }

    #[test]
    fn refuses_what_gh_does_not_write_without_showing_it() {
        for (text, line) in [
            ("github.com", 1),
            ("a:\n    b: c\n  d: e\n", 3),
            ("a: b\n    c: d\n", 2),
            ("a:\n\tb: c\n", 2),
            ("a: {b: c}\n", 1),
            ("a: *x\n", 1),
            ("a: \"x\\n\"\n", 1),
            ("a: b\na: c\n", 2),
            ("- a\n", 1),
            ("  a: b\n", 1),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, GhHostsError { line }, "{text:?}");
        }
        let deep: String = (0..20)
            .map(|depth| format!("{}k:\n", " ".repeat(depth)))
            .collect();
        assert!(parse(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_a_panic(text in "[ a-c:\"'\n#-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
