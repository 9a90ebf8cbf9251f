//! Recorded hellos of real clients, cut in every way, and hellos that must be refused.

use proptest::prelude::*;

use super::*;

/// File name, server name, whether it offers h2.
const SAMPLES: &[(&[u8], &str, bool)] = &[
    (
        include_bytes!("../../tests/fixtures/claude-api.anthropic.com-http1.1-1503.bin"),
        "api.anthropic.com",
        false,
    ),
    (
        include_bytes!("../../tests/fixtures/claude-api.anthropic.com-noalpn-1748.bin"),
        "api.anthropic.com",
        false,
    ),
    (
        include_bytes!("../../tests/fixtures/codex-env-chatgpt.com-h2+http1.1-1481.bin"),
        "chatgpt.com",
        true,
    ),
    (
        include_bytes!("../../tests/fixtures/codex-sys-ab.chatgpt.com-noalpn-1540.bin"),
        "ab.chatgpt.com",
        false,
    ),
    (
        include_bytes!(
            "../../tests/fixtures/copilot-api.individual.githubcopilot.com-h2+http1.1-1578.bin"
        ),
        "api.individual.githubcopilot.com",
        true,
    ),
    (
        include_bytes!("../../tests/fixtures/gemini-oauth2.googleapis.com-noalpn-374.bin"),
        "oauth2.googleapis.com",
        false,
    ),
    (
        include_bytes!("../../tests/fixtures/gh-api.github.com-h2+http1.1-275.bin"),
        "api.github.com",
        true,
    ),
    (
        include_bytes!("../../tests/fixtures/git-github.com-h2+http1.1-394.bin"),
        "github.com",
        true,
    ),
    (
        include_bytes!("../../tests/fixtures/opencode-models.opencode.ai-http1.1-512.bin"),
        "models.opencode.ai",
        false,
    ),
];

fn expected(name: &str, offers_h2: bool) -> Progress {
    let server_name = Some(HostName::parse(name).unwrap());
    Progress::Complete(ClientHello {
        server_name,
        offers_h2,
    })
}

/// The same message in records of `length` bytes.
fn cut_into_records(sample: &[u8], length: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| {
        let size = u16::try_from(fragment.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &size[..], fragment].concat()
    };
    sample[5..].chunks(length).flat_map(record).collect()
}

/// A hello with these extensions.
fn hello_with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let vector =
        |data: &[u8]| [&u16::try_from(data.len()).unwrap().to_be_bytes()[..], data].concat();
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &vector(data)].concat())
        .collect();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 2, 0x13, 1],
        &[1, 0],
        &vector(&extensions),
    ];
    let body = body.concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body[..]].concat();
    [&[22, 3, 1][..], &vector(&message)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    let entry = [
        &[0][..],
        &u16::try_from(name.len()).unwrap().to_be_bytes(),
        name,
    ]
    .concat();
    [
        &u16::try_from(entry.len()).unwrap().to_be_bytes()[..],
        &entry,
    ]
    .concat()
}

#[test]
fn reads_the_hellos_of_real_clients() {
    for (sample, name, offers_h2) in SAMPLES {
        let mut reader = HelloReader::default();
        assert_eq!(
            reader.push(sample),
            Ok(expected(name, *offers_h2)),
            "{name}"
        );
    }
}

#[test]
fn reads_them_from_single_bytes_and_tiny_records() {
    for (sample, name, offers_h2) in SAMPLES {
        for bytes in [
            sample.to_vec(),
            cut_into_records(sample, 1),
            cut_into_records(sample, 100),
        ] {
            let mut reader = HelloReader::default();
            let (last, first) = bytes.split_last().unwrap();
            for byte in first {
                assert_eq!(reader.push(&[*byte]), Ok(Progress::Partial));
            }
            assert_eq!(reader.push(&[*last]), Ok(expected(name, *offers_h2)));
        }
    }
}

#[test]
fn tells_other_protocols_by_their_first_bytes() {
    for other in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-x\r\n",
        b"\x16\x02",
        b"\x00",
        b"\x80\x2e\x01\x03\x01",
    ] {
        assert_eq!(HelloReader::default().push(other), Ok(Progress::NotTls));
    }
    assert_eq!(HelloReader::default().push(b"\x16"), Ok(Progress::Partial));
}

#[test]
fn a_hello_without_extensions_has_no_name() {
    let none = Progress::Complete(ClientHello {
        server_name: None,
        offers_h2: false,
    });
    assert_eq!(HelloReader::default().push(&hello_with(&[])), Ok(none));
}

#[test]
fn refuses_two_names_addresses_and_odd_names() {
    let twice = [(0, server_name(b"a.test")), (0, server_name(b"b.test"))];
    let mut two_in_one = server_name(b"a.test");
    two_in_one.extend_from_slice(&server_name(b"b.test")[2..]);
    let length = u16::try_from(two_in_one.len() - 2).unwrap().to_be_bytes();
    two_in_one[..2].copy_from_slice(&length);
    let mut bad = vec![hello_with(&twice), hello_with(&[(0, two_in_one)])];
    for name in [
        &b"127.0.0.1"[..],
        b"a.test.",
        b"",
        b"a\0.test",
        b"\xff",
        b"a.test:443",
    ] {
        bad.push(hello_with(&[(0, server_name(name))]));
    }
    for hello in bad {
        assert_eq!(
            HelloReader::default().push(&hello),
            Err(HelloError::Malformed)
        );
    }
}

#[test]
fn names_are_compared_without_case() {
    let hello = hello_with(&[(0, server_name(b"API.Bound.TEST"))]);
    assert_eq!(
        HelloReader::default().push(&hello),
        Ok(expected("api.bound.test", false))
    );
}

#[test]
fn refuses_what_never_ends() {
    let endless = [
        &[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..],
        &[0; MAX_HELLO_BYTES],
    ]
    .concat();
    assert_eq!(
        HelloReader::default().push(&endless),
        Err(HelloError::TooLong)
    );
    let huge = [22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff];
    assert_eq!(HelloReader::default().push(&huge), Err(HelloError::TooLong));
}

#[test]
fn refuses_other_messages_and_records() {
    for bytes in [
        &[22, 3, 1, 0, 4, 2, 0, 0, 0][..],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0xff, 0xff],
    ] {
        assert_eq!(
            HelloReader::default().push(bytes),
            Err(HelloError::Malformed)
        );
    }
}

#[test]
fn the_corpus_passes_the_fuzz_body() {
    for (sample, ..) in SAMPLES {
        for end in 0..sample.len() {
            fuzz_client_hello(&sample[..end]);
        }
        fuzz_client_hello(&cut_into_records(sample, 7));
    }
}

proptest! {
    #[test]
    fn damaged_hellos_never_panic(
        which in 0..SAMPLES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = SAMPLES[which].0.to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        fuzz_client_hello(&bytes);
    }
}

#[test]
fn inputs_that_fuzzing_found_are_tried_again() {
    agent_vm_test_support::fuzz_corpus::replay("client_hello", fuzz_client_hello);
}
