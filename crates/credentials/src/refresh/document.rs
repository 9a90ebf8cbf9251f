//! Values in a JSON document, read and replaced in place: everything else keeps its bytes, so that a client's file
//! keeps its fields, their order and its layout.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The members of an object with the text of each value; of a name that is there twice the last, as in JavaScript.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

/// The value at `path`, when the document is JSON and has one.
pub(super) fn value(text: &str, path: &[&str]) -> Option<Value> {
    let span = span(text, path)?;
    serde_json::from_str(text.get(span.0..span.1)?).ok()
}

/// The text at `path`, when the value there is one and not empty.
pub(super) fn text(document: &str, path: &[&str]) -> Option<String> {
    match value(document, path)? {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// The document with another value at `path`. A member that is missing is added at the end of its object; `None` when
/// that object is not there either.
pub(super) fn with_value(text: &str, path: &[&str], value: &Value) -> Option<String> {
    let (start, end, new) = match span(text, path) {
        Some((start, end)) => (start, end, value.to_string()),
        None => {
            let (name, parent) = path.split_last()?;
            let (start, end) = span(text, parent)?;
            let object = text.get(start..end)?;
            let members = members(object)?;
            let comma = if members.0.is_empty() { "" } else { "," };
            let at = end - 1;
            (at, at, format!("{comma}{}:{value}", Value::from(*name)))
        }
    };
    let mut changed = String::with_capacity(text.len() + new.len());
    changed.push_str(text.get(..start)?);
    changed.push_str(&new);
    changed.push_str(text.get(end..)?);
    Some(changed)
}

/// Where the value at `path` begins and ends, in bytes.
fn span(text: &str, path: &[&str]) -> Option<(usize, usize)> {
    let root: &RawValue = serde_json::from_str(text).ok()?;
    let mut here = root;
    for name in path {
        here = members(here.get())?.0.get(*name).copied()?;
    }
    let start = here.get().as_ptr().addr() - text.as_ptr().addr();
    Some((start, start + here.get().len()))
}

fn members(object: &str) -> Option<Members<'_>> {
    struct Reader;
    impl<'de> Visitor<'de> for Reader {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
            let mut members = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                members.insert(name, value);
            }
            Ok(Members(members))
        }
    }
    let mut reader = serde_json::Deserializer::from_str(object);
    reader.deserialize_map(Reader).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const FILE: &str = "{\n  \"z\": 1.50,\n  \"login\": { \"b\": \"é\\n\", \"access\" : \"old\", \"list\": [1, 2] },\n  \"a\": null\n}\n";

    #[test]
    fn everything_else_keeps_its_bytes() {
        let changed = with_value(FILE, &["login", "access"], &json!("new \"x\"")).unwrap();
        assert_eq!(changed, FILE.replace("\"old\"", "\"new \\\"x\\\"\""));
    }

    #[test]
    fn a_missing_member_is_added_at_the_end_of_its_object() {
        let changed = with_value(FILE, &["login", "expires"], &json!(5)).unwrap();
        assert_eq!(changed, FILE.replace("[1, 2] }", "[1, 2] ,\"expires\":5}"));
        assert_eq!(with_value("{}", &["a"], &json!(1)).unwrap(), "{\"a\":1}");
        assert_eq!(with_value(FILE, &["none", "x"], &json!(1)), None);
        assert_eq!(with_value("not json", &["a"], &json!(1)), None);
    }

    #[test]
    fn of_a_name_that_is_there_twice_the_last_counts() {
        let twice = r#"{"a":1,"a":2}"#;
        assert_eq!(value(twice, &["a"]), Some(json!(2)));
        assert_eq!(
            with_value(twice, &["a"], &json!(3)).unwrap(),
            r#"{"a":1,"a":3}"#
        );
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[abé\" ]{1,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn only_the_named_value_changes(others in document(), inner in document(), new in ".{0,20}", pretty: bool) {
            let mut before = json!({"tokens": {"access": "old", "inner": inner}, "others": others});
            let text = if pretty {
                serde_json::to_string_pretty(&before).unwrap()
            } else {
                before.to_string()
            };
            let changed = with_value(&text, &["tokens", "access"], &json!(new)).unwrap();
            before["tokens"]["access"] = json!(new);
            prop_assert_eq!(serde_json::from_str::<Value>(&changed).unwrap(), before);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,60}") {
            let _ = value(&text, &["a", "b"]);
            let _ = with_value(&text, &["a", "b"], &json!(1));
        }
    }
}
