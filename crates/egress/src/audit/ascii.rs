//! JSON of printable ASCII only. The JSON writer escapes control characters below 0x20; 0x7f, those from 0x80 on (a
//! terminal obeys some) and line separators such as U+2028 (some readers end a line there) it writes as they are.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Appends `value` to `bytes` as one line of JSON without its end.
pub(crate) fn write(bytes: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(bytes, AsciiFormatter))
}

struct AsciiFormatter;

impl Formatter for AsciiFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for part in fragment.split_inclusive(|character| character >= '\u{7f}') {
            let plain = part.trim_end_matches(|character| character >= '\u{7f}');
            writer.write_all(plain.as_bytes())?;
            for unit in part[plain.len()..].encode_utf16() {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_printable_ascii_and_read_back_as_it_was(text in any::<String>()) {
            let mut bytes = Vec::new();
            write(&mut bytes, &text).unwrap();
            prop_assert!(bytes.iter().all(|byte| (0x20..0x7f).contains(byte)));
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        }
    }

    #[test]
    fn what_terminals_and_line_readers_obey_is_escaped() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"a\u{7f}\u{9b}\u{2028}\u{1f600}\n").unwrap();
        let expected = r#""a\u007f\u009b\u2028\ud83d\ude00\n""#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
