//! Framing: round trips under any chunking, bounds, poisoned decoders, frozen `Hello`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::*;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn path() -> impl Strategy<Value = GuestPath> {
    prop::collection::vec("[a-zA-Zа-я ]{1,8}", 0..4)
        .prop_map(|parts| GuestPath::new(format!("/{}", parts.join("/"))).unwrap())
}

fn share() -> impl Strategy<Value = Share> {
    (any::<u32>(), path(), any::<bool>(), any::<bool>()).prop_map(
        |(index, guest_path, dir, read_only)| Share {
            index,
            guest_path,
            kind: if dir {
                ShareKind::Directory
            } else {
                ShareKind::File
            },
            access: if read_only {
                Access::ReadOnly
            } else {
                Access::ReadWrite
            },
        },
    )
}

fn network() -> impl Strategy<Value = Network> {
    (
        any::<[u8; 6]>(),
        any::<u32>(),
        any::<[u8; 4]>(),
        any::<[u8; 16]>(),
        any::<bool>(),
    )
        .prop_map(|(mac, mtu, v4, v6, dual)| Network {
            mac,
            mtu,
            ipv4: Ipv4Config {
                address: Ipv4Addr::from(v4),
                prefix: 30,
                gateway: Ipv4Addr::from(v4),
            },
            ipv6: dual.then(|| Ipv6Config {
                address: Ipv6Addr::from(v6),
                prefix: 64,
                gateway: Ipv6Addr::from(v6),
            }),
            dns: vec![IpAddr::from(v4), IpAddr::from(v6)],
            search: vec!["corp.test".to_owned(); usize::from(v4[0] % 3)],
            ndots: v4[1],
        })
}

fn boot() -> impl Strategy<Value = HostMessage> {
    let files = prop::collection::vec((path(), any::<u32>(), bytes(300)), 0..4);
    let shares = prop::collection::vec(share(), 0..4);
    (
        any::<bool>(),
        shares,
        prop::option::of(network()),
        "[a-z]{0,9}",
        files,
        any::<u64>(),
    )
        .prop_map(|(image, shares, network, hostname, files, unix_ns)| {
            let (lower, upper) = if image {
                (Lower::Image, Upper::Disk)
            } else {
                (Lower::Empty, Upper::Tmpfs)
            };
            HostMessage::Boot(Box::new(Boot {
                root: Root { lower, upper },
                shares,
                network,
                ca_pem: hostname.clone().into_bytes(),
                files: files
                    .into_iter()
                    .map(|(path, mode, content)| BootFile {
                        path,
                        mode,
                        uid: mode,
                        gid: 7,
                        content,
                    })
                    .collect(),
                unix_ns,
                sysctls: vec![Sysctl {
                    name: hostname.clone(),
                    value: "1".into(),
                }],
                canary: Some(crate::Canary {
                    name: hostname.clone(),
                    address: std::net::Ipv4Addr::LOCALHOST,
                    port: 1,
                }),
                hostname,
                forwarding: crate::Forwarding::ConnectAndReport,
                sockets: vec![crate::HostSocket {
                    service: crate::HostService::SshAgent,
                    path: crate::GuestPath::root(),
                }],
                max_open_files: unix_ns,
            }))
        })
}

fn exec() -> impl Strategy<Value = HostMessage> {
    let user = prop_oneof![
        "[a-z:0-9]{0,9}".prop_map(User::Spec),
        (
            any::<u32>(),
            any::<u32>(),
            prop::collection::vec(any::<u32>(), 0..3)
        )
            .prop_map(|(uid, gid, groups)| User::Ids { uid, gid, groups }),
    ];
    let tty = prop::option::of((any::<u16>(), any::<u16>(), bytes(9))).prop_map(|tty| {
        tty.map(|(rows, cols, term)| Tty {
            size: WindowSize { rows, cols },
            term,
        })
    });
    let list = || prop::collection::vec(bytes(40), 0..4);
    (any::<u32>(), list(), list(), path(), user, tty).prop_map(|(id, argv, env, cwd, user, tty)| {
        let env = env
            .into_iter()
            .map(|value| (b"NAME".to_vec(), value))
            .collect();
        HostMessage::Exec(Box::new(Exec {
            id: ExecId(id),
            argv,
            env,
            cwd,
            user,
            tty,
        }))
    })
}

fn host_message() -> impl Strategy<Value = HostMessage> {
    let id = || any::<u32>().prop_map(ExecId);
    prop_oneof![
        boot(),
        exec(),
        (id(), bytes(2000)).prop_map(|(id, data)| HostMessage::Stdin { id, data }),
        id().prop_map(|id| HostMessage::StdinEof { id }),
        (id(), any::<u32>()).prop_map(|(id, bytes)| HostMessage::OutputCredit {
            id,
            stream: OutputStream::Stderr,
            bytes
        }),
        id().prop_map(|id| HostMessage::OutputClosed {
            id,
            stream: OutputStream::Stdout
        }),
        (id(), any::<u16>(), any::<u16>()).prop_map(|(id, rows, cols)| HostMessage::Resize {
            id,
            size: WindowSize { rows, cols }
        }),
        (id(), any::<u8>()).prop_map(|(id, signal)| HostMessage::Signal { id, signal }),
        any::<u64>().prop_map(|unix_ns| HostMessage::ClockSync { unix_ns }),
        any::<u32>().prop_map(|grace_ms| HostMessage::Shutdown { grace_ms }),
    ]
}

fn guest_message() -> impl Strategy<Value = GuestMessage> {
    let id = || any::<u32>().prop_map(ExecId);
    prop_oneof![
        any::<u32>().prop_map(|version| GuestMessage::Hello {
            magic: MAGIC,
            version
        }),
        (any::<u64>(), prop::collection::vec(".{0,20}", 0..3)).prop_map(|(ns, warnings)| {
            GuestMessage::Ready {
                timings: Timings {
                    init_ns: ns,
                    ..Timings::default()
                },
                warnings,
            }
        }),
        (id(), any::<u32>()).prop_map(|(id, pid)| GuestMessage::Started { id, pid }),
        (id(), ".{0,40}").prop_map(|(id, message)| GuestMessage::ExecFailed {
            id,
            failure: ExecFailure {
                kind: ExecFailureKind::Directory,
                message
            }
        }),
        (id(), bytes(3000)).prop_map(|(id, data)| GuestMessage::Output {
            id,
            stream: OutputStream::Stdout,
            data
        }),
        id().prop_map(|id| GuestMessage::OutputEof {
            id,
            stream: OutputStream::Stderr
        }),
        (id(), any::<u32>()).prop_map(|(id, bytes)| GuestMessage::StdinCredit { id, bytes }),
        (id(), any::<u8>()).prop_map(|(id, code)| GuestMessage::Exited {
            id,
            status: ExitStatus::Code(code)
        }),
        ".{0,40}".prop_map(|message| GuestMessage::Error(GuestError {
            kind: GuestErrorKind::Mount,
            message
        })),
        Just(GuestMessage::Stopped),
    ]
}

fn round_trip<M: Message + PartialEq + std::fmt::Debug>(messages: &[M], chunk: usize) {
    let mut wire = Vec::new();
    for message in messages {
        encode(message, &mut wire).unwrap();
    }
    let (parsed, error) = decode_in_chunks::<M>(&wire, chunk);
    assert_eq!(error, None);
    assert_eq!(parsed, messages);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn host_messages_survive_any_chunking(list in prop::collection::vec(host_message(), 0..5), chunk in 1usize..900) {
        round_trip(&list, chunk);
    }

    #[test]
    fn guest_messages_survive_any_chunking(list in prop::collection::vec(guest_message(), 0..6), chunk in 1usize..900) {
        round_trip(&list, chunk);
    }

    #[test]
    fn arbitrary_bytes_never_panic(data in bytes(600)) {
        fuzz_decoder(&data);
    }

    #[test]
    fn damaged_frames_never_panic(message in host_message(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut wire = Vec::new();
        encode(&message, &mut wire).unwrap();
        let at = at.index(wire.len());
        wire[at] ^= flip;
        fuzz_decoder(&wire);
    }
}

#[test]
fn a_header_over_the_bound_is_refused_before_its_payload_is_buffered() {
    let mut decoder = Decoder::<GuestMessage>::new();
    let wire = u32::MAX.to_le_bytes();
    let error = decoder.next(&mut &wire[..]).unwrap_err();
    assert_eq!(
        error,
        DecodeError::TooLong {
            bytes: u32::MAX as usize,
            limit: MAX_GUEST_PAYLOAD
        }
    );
    assert_eq!(decoder.payload.capacity(), 0);
}

#[test]
fn an_announced_length_alone_allocates_nothing() {
    let mut decoder = Decoder::<HostMessage>::new();
    let wire = u32::try_from(MAX_HOST_PAYLOAD).unwrap().to_le_bytes();
    assert_eq!(decoder.next(&mut &wire[..]), Ok(None));
    assert_eq!(decoder.payload.capacity(), 0);
}

#[test]
fn after_an_error_the_decoder_gives_only_that_error() {
    let mut decoder = Decoder::<GuestMessage>::new();
    let first = decoder.next(&mut &[1, 0, 0, 0, 0xff][..]).unwrap_err();
    let mut good = Vec::new();
    encode(&GuestMessage::Stopped, &mut good).unwrap();
    assert_eq!(decoder.next(&mut good.as_slice()), Err(first));
    assert!(!decoder.is_at_boundary());
}

#[test]
fn bytes_after_the_message_in_its_frame_are_refused() {
    let mut wire = Vec::new();
    encode(&GuestMessage::Stopped, &mut wire).unwrap();
    wire[0] += 2;
    wire.extend_from_slice(&[0, 0]);
    let error = Decoder::<GuestMessage>::new()
        .next(&mut wire.as_slice())
        .unwrap_err();
    assert_eq!(error, DecodeError::Trailing { bytes: 2 });
}

#[test]
fn a_chunk_over_the_limit_is_refused_on_both_ends() {
    let data = vec![0; MAX_CHUNK + 1];
    let message = GuestMessage::Output {
        id: ExecId(1),
        stream: OutputStream::Stdout,
        data,
    };
    let mut out = vec![9];
    assert_eq!(encode(&message, &mut out), Err(EncodeError::OverLimit));
    assert_eq!(out, [9]);
    let payload = postcard::to_stdvec(&message).unwrap();
    let mut wire = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    wire.extend(payload);
    assert_eq!(
        Decoder::<GuestMessage>::new().next(&mut wire.as_slice()),
        Err(DecodeError::OverLimit)
    );
}

#[test]
fn a_message_over_the_bound_leaves_the_buffer_as_it_was() {
    let message = GuestMessage::Error(GuestError {
        kind: GuestErrorKind::System,
        message: "x".repeat(MAX_GUEST_PAYLOAD),
    });
    let mut out = vec![1, 2, 3];
    assert!(matches!(
        encode(&message, &mut out),
        Err(EncodeError::TooLong { .. })
    ));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn the_largest_chunk_fits_a_frame() {
    let data = vec![7; MAX_CHUNK];
    round_trip(
        &[GuestMessage::Output {
            id: ExecId(u32::MAX),
            stream: OutputStream::Stderr,
            data,
        }],
        4096,
    );
}

#[test]
fn hello_has_its_frozen_encoding() {
    let mut wire = Vec::new();
    encode(
        &GuestMessage::Hello {
            magic: MAGIC,
            version: 1,
        },
        &mut wire,
    )
    .unwrap();
    assert_eq!(wire, b"\x0a\0\0\0\0agent-vm\x01");
}
