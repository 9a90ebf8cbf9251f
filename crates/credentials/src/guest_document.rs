//! Files for the guest, built from an allow-list of fields: what is not named here is not in them.
//!
//! Must hold: of the host's document only values of a plain, short shape are copied, and only where a
//! [`GuestValue::Copy`] says so.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::credential::GuestFile;
use crate::jwt;
use crate::refresh_endpoint::FieldPath;
use crate::timestamp::rfc3339;

/// 2100-01-01T00:00:00Z in seconds: guests do not renew by themselves before.
pub(crate) const FAR_FUTURE: u64 = 4_102_444_800;
/// Most words copied of one list, and the longest of them in bytes.
const MAX_WORDS: usize = 32;
const MAX_WORD_BYTES: usize = 64;
const MAX_SCOPE_BYTES: usize = 128;

/// One file, or a part of one.
pub(crate) struct Document {
    /// Relative to the home directory of the guest's user.
    pub(crate) path: &'static str,
    pub(crate) format: Format,
    pub(crate) fields: &'static [(FieldPath, GuestValue)],
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Parts with the same path become one document.
    Json,
    /// Nested maps of texts.
    Yaml,
    /// This text, with the placeholder in place of `{access}`.
    Text(&'static str),
}

/// What stands in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestValue {
    /// The placeholder.
    Access,
    /// The placeholder of the refresh token.
    Refresh,
    /// A token of identity that says nothing of anybody.
    Identity,
    /// An end far away, in milliseconds.
    FarFuture,
    /// The time of the launch, RFC 3339.
    Now,
    /// `null`.
    Null,
    /// This text.
    Text(&'static str),
    /// The host's value at the same place, when it has the shape; else there is no such field.
    Copy(Shape),
    /// The same, with a text for when it is not there.
    CopyOr(Shape, &'static str),
}

/// Shapes of values that may be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A short word such as `default_claude_max_20x`.
    Word,
    /// A list of them.
    Words,
    /// Scopes in one text, which may be addresses.
    Scopes,
}

/// What the fields are made of.
pub(crate) struct Rendering<'a> {
    pub(crate) access: &'a str,
    pub(crate) refresh: &'a str,
    /// The document of the host; `Null` where there is none.
    pub(crate) host: &'a Value,
    pub(crate) now: SystemTime,
}

/// The files of a launch while they are put together.
#[derive(Default)]
pub(crate) struct GuestDocuments {
    json: BTreeMap<&'static str, Map<String, Value>>,
    written: Vec<GuestFile>,
}

impl GuestDocuments {
    /// Adds a document, or its fields to the one that has its path.
    pub(crate) fn add(&mut self, document: &Document, rendering: &Rendering<'_>) {
        let fields = || rendering.fields(document.fields);
        match document.format {
            Format::Json => merge(self.json.entry(document.path).or_default(), fields()),
            Format::Yaml => self.write(document.path, &yaml(&fields(), 0)),
            Format::Text(text) => {
                let text = text.replace("{access}", rendering.access);
                self.write(document.path, &text);
            }
        }
    }

    /// All of them.
    pub(crate) fn finish(self) -> Vec<GuestFile> {
        let json = self.json.into_iter().map(|(path, fields)| GuestFile {
            path: path.to_owned(),
            mode: 0o600,
            content: Value::Object(fields).to_string().into_bytes(),
        });
        json.chain(self.written).collect()
    }

    fn write(&mut self, path: &str, text: &str) {
        self.written.push(GuestFile {
            path: path.to_owned(),
            mode: 0o600,
            content: text.as_bytes().to_vec(),
        });
    }
}

impl Rendering<'_> {
    fn fields(&self, fields: &[(FieldPath, GuestValue)]) -> Map<String, Value> {
        let mut all = Map::new();
        for (path, value) in fields {
            if let Some(value) = self.value(path, *value) {
                merge(&mut all, nested(path, value));
            }
        }
        all
    }

    fn value(&self, path: FieldPath, value: GuestValue) -> Option<Value> {
        let copied = |shape| at(self.host, path).and_then(|value| copy(value, shape));
        Some(match value {
            GuestValue::Access => json!(self.access),
            GuestValue::Refresh => json!(self.refresh),
            GuestValue::Identity => json!(jwt::guest_identity()),
            GuestValue::FarFuture => json!(FAR_FUTURE * 1000),
            GuestValue::Now => json!(rfc3339(self.now)),
            GuestValue::Null => Value::Null,
            GuestValue::Text(text) => json!(text),
            GuestValue::Copy(shape) => copied(shape)?,
            GuestValue::CopyOr(shape, text) => copied(shape).unwrap_or_else(|| json!(text)),
        })
    }
}

/// The value at a path.
pub(crate) fn at(document: &Value, path: FieldPath) -> Option<&Value> {
    path.iter().try_fold(document, |value, key| value.get(key))
}

/// The value if it has the shape, without what is not plain.
pub(crate) fn copy(value: &Value, shape: Shape) -> Option<Value> {
    match shape {
        Shape::Word => value
            .as_str()
            .filter(|text| is_word(text))
            .map(|text| json!(text)),
        Shape::Words => {
            let words = value.as_array()?.iter().filter_map(Value::as_str);
            Some(json!(
                words
                    .filter(|text| is_word(text))
                    .take(MAX_WORDS)
                    .collect::<Vec<_>>()
            ))
        }
        Shape::Scopes => {
            let words = value.as_str()?.split(' ').filter(|word| is_scope(word));
            Some(json!(words.take(MAX_WORDS).collect::<Vec<_>>().join(" ")))
        }
    }
}

/// A short word such as `user:inference`.
pub(crate) fn is_word(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
    (1..=MAX_WORD_BYTES).contains(&text.len()) && text.bytes().all(known)
}

fn is_scope(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b":_-./".contains(&byte);
    (1..=MAX_SCOPE_BYTES).contains(&text.len()) && text.bytes().all(known)
}

fn nested(path: FieldPath, value: Value) -> Map<String, Value> {
    let (last, above) = path.split_last().expect("a field of the table has a name");
    let leaf = Map::from_iter([((*last).to_owned(), value)]);
    above.iter().rev().fold(leaf, |below, key| {
        Map::from_iter([((*key).to_owned(), Value::Object(below))])
    })
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Every text in double quotes: none is taken for a number or a truth.
fn yaml(fields: &Map<String, Value>, depth: usize) -> String {
    let indent = "    ".repeat(depth);
    let lines = fields.iter().map(|(key, value)| match value {
        Value::Object(below) => format!("{indent}{key}:\n{}", yaml(below, depth + 1)),
        // Texts in JSON are texts of YAML.
        value => format!("{indent}{key}: {value}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENDERING: Rendering<'_> = Rendering {
        access: "ACCESS",
        refresh: "REFRESH",
        host: &Value::Null,
        now: SystemTime::UNIX_EPOCH,
    };

    #[test]
    fn parts_of_one_file_become_one_document() {
        let part = |fields| Document {
            path: "a/b",
            format: Format::Json,
            fields,
        };
        let mut documents = GuestDocuments::default();
        documents.add(&part(&[(&["x", "one"], GuestValue::Access)]), &RENDERING);
        documents.add(
            &part(&[(&["x", "two"], GuestValue::Now), (&["y"], GuestValue::Null)]),
            &RENDERING,
        );
        let files = documents.finish();
        assert_eq!(files.len(), 1);
        assert_eq!(
            String::from_utf8(files[0].content.clone()).unwrap(),
            r#"{"x":{"one":"ACCESS","two":"1970-01-01T00:00:00Z"},"y":null}"#
        );
    }

    #[test]
    fn only_plain_short_values_are_copied() {
        for (value, shape, expected) in [
            (json!("max"), Shape::Word, Some(json!("max"))),
            (json!("x y"), Shape::Word, None),
            (json!("x".repeat(65)), Shape::Word, None),
            (json!({"a": 1}), Shape::Word, None),
            (json!(""), Shape::Word, None),
            (json!(["a", "b c", 7]), Shape::Words, Some(json!(["a"]))),
            (json!("a"), Shape::Words, None),
            (
                json!("openid https://www.example.org/auth/x a\"b"),
                Shape::Scopes,
                Some(json!("openid https://www.example.org/auth/x")),
            ),
        ] {
            assert_eq!(copy(&value, shape), expected, "{value}");
        }
        let many = json!(vec!["w"; MAX_WORDS + 1]);
        let copied = copy(&many, Shape::Words).unwrap();
        assert_eq!(copied.as_array().unwrap().len(), MAX_WORDS);
    }

    #[test]
    fn yaml_quotes_every_text() {
        let fields = json!({"github.com": {"oauth_token": "gho_x", "user": "123"}});
        assert_eq!(
            yaml(fields.as_object().unwrap(), 0),
            "github.com:\n    oauth_token: \"gho_x\"\n    user: \"123\"\n"
        );
    }
}
