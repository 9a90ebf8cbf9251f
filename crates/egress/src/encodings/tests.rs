//! Every usual way to write a placeholder is found, alone and inside another.

use agent_vm_secret::Placeholder;
use agent_vm_test_support::fuzz_corpus;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

const TOKEN: &str = "sk-ant-oat01-agentvmabcdefghijklmnopqrstuvwxyz234567";

fn scanner() -> PlaceholderScanner {
    PlaceholderScanner::new([&Placeholder::parse(TOKEN).unwrap()])
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn json(text: &str) -> String {
    text.bytes().map(|byte| format!("\\u{byte:04X}")).collect()
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02X}")).collect()
}

fn utf16(text: &str) -> String {
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    STANDARD.encode(bytes)
}

/// A name and a way to write a text.
type Writer = (&'static str, fn(&str) -> String);

const WRITERS: [Writer; 9] = [
    ("percent", percent),
    ("json", json),
    ("hex", hex),
    ("utf-16 in base 64", utf16),
    ("base 64", |text| STANDARD.encode(text)),
    ("base 64, one before", |text| {
        STANDARD.encode(format!("x{text}"))
    }),
    ("base 64, two before", |text| {
        STANDARD.encode(format!("xy{text}z"))
    }),
    ("url-safe base 64", |text| {
        URL_SAFE_NO_PAD.encode(format!("\u{fb}\u{ff}{text}"))
    }),
    ("upper case", str::to_uppercase),
];

#[test]
fn a_placeholder_is_found_in_every_usual_encoding_and_in_one_inside_another() {
    let scanner = scanner();
    for (name, write) in WRITERS {
        let text = write(TOKEN);
        assert_eq!(find_encoded(text.as_bytes(), &scanner), Some(0), "{name}");
        for around in ["aB3", "=", "key: \"", "/a/b?c="] {
            let text = format!("{around}{text}");
            assert_eq!(
                find_encoded(text.as_bytes(), &scanner),
                Some(0),
                "{name} after {around}"
            );
        }
        for (outer, wrap) in WRITERS {
            if name == outer && name == "utf-16 in base 64" {
                continue; // Four steps.
            }
            if outer == "upper case" && name != "hex" && name != "percent" && name != "upper case" {
                continue; // It destroys the others.
            }
            let text = wrap(&text);
            assert_eq!(
                find_encoded(text.as_bytes(), &scanner),
                Some(0),
                "{name} in {outer}"
            );
        }
    }
}

#[test]
fn nothing_is_found_in_fragments_and_in_placeholders_of_another_vm() {
    let scanner = scanner();
    let stranger = Placeholder::mint("sk-ant-oat01-").unwrap().to_string();
    for text in [
        &TOKEN[..40],
        &stranger,
        &percent(&stranger),
        "",
        "%",
        "\\",
        "%4",
        "\\u00",
    ] {
        assert_eq!(find_encoded(text.as_bytes(), &scanner), None, "{text}");
    }
}

#[test]
fn inputs_that_fuzzing_found_are_tried_again() {
    fuzz_corpus::replay("placeholder_scan", fuzz_placeholder_scan);
}

proptest! {
    #[test]
    fn what_surrounds_an_encoded_placeholder_does_not_hide_it(
        before in prop::collection::vec(any::<u8>(), 0..60),
        after in prop::collection::vec(any::<u8>(), 0..60),
        way in any::<u8>(),
    ) {
        fuzz_placeholder_scan(&[&[way][..], &before, &after].concat());
    }

    #[test]
    fn any_bytes_are_searched_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _found = find_encoded(&bytes, &scanner());
    }
}
