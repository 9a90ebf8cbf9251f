//! Lists of frames for the fuzz target `frames`: what a guest may send in its life. They are tried here, and so is what
//! fuzzing has left in `fuzz/corpus/frames`.

use agent_vm_test_support::fuzz_corpus;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};

use super::refusals::{frame, public, udp};
use crate::config::LinkAddresses;
use crate::fuzz_frames;

/// Handler accepts, consumers work, acknowledgements fit.
const GO_ON: u8 = 2 | 4 | 16;

fn tcp(to: IpAddress, control: TcpControl, sequence: i32, payload: &[u8]) -> Vec<u8> {
    let addresses = LinkAddresses::default();
    let from: IpAddress = match to {
        IpAddress::Ipv4(_) => addresses.guest_v4.into(),
        IpAddress::Ipv6(_) => addresses.guest_v6.into(),
    };
    let repr = TcpRepr {
        src_port: 5_000,
        dst_port: 80,
        control,
        seq_number: TcpSeqNumber(sequence),
        ack_number: (control != TcpControl::Syn).then_some(TcpSeqNumber(0)),
        window_len: 1_000,
        window_scale: (control == TcpControl::Syn).then_some(7),
        max_seg_size: (control == TcpControl::Syn).then_some(1_460),
        sack_permitted: control == TcpControl::Syn,
        sack_ranges: [None; 3],
        timestamp: Some(TcpTimestampRepr::new(1, 2)),
        payload,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    let packet = &mut TcpPacket::new_unchecked(&mut bytes[..]);
    repr.emit(packet, &from, &to, &ChecksumCapabilities::default());
    frame(from, to, IpProtocol::Tcp, &bytes)
}

fn records(records: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (control, frame) in records {
        out.push(*control);
        out.extend_from_slice(&u16::try_from(frame.len()).unwrap().to_le_bytes());
        out.extend_from_slice(frame);
    }
    out
}

/// What is neither TCP nor UDP.
fn others() -> [(String, Vec<u8>); 2] {
    let addresses = LinkAddresses::default();
    let [v4, v6] = public();
    let (guest4, guest6) = (addresses.guest_v4.into(), addresses.guest_v6.into());
    let echo4 = frame(guest4, v4, IpProtocol::Icmp, &[8, 0, 0, 0, 1, 2, 3, 4]);
    let echo6 = frame(guest6, v6, IpProtocol::Icmpv6, &[128, 0, 0, 0, 1, 2, 3, 4]);
    let mut fragment = udp(v4, 123, b"part");
    fragment[20] = 0x20;
    let fragment6 = frame(
        guest6,
        v6,
        IpProtocol::Ipv6Frag,
        &[17, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    );
    let others = (
        "others".to_owned(),
        records(&[
            (GO_ON, echo4),
            (GO_ON, echo6),
            (0, fragment),
            (0, fragment6),
        ]),
    );
    let mut arp = [&addresses.gateway_mac[..], &addresses.guest_mac, &[8, 6]].concat();
    arp.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend_from_slice(&addresses.guest_mac);
    arp.extend_from_slice(&addresses.guest_v4.octets());
    arp.extend_from_slice(&[0; 6]);
    arp.extend_from_slice(&addresses.gateway_v4.octets());
    let gateway6 = addresses.gateway_v6.into();
    let mut solicit = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicit.extend_from_slice(&addresses.gateway_v6.octets());
    solicit.extend_from_slice(&[1, 1]);
    solicit.extend_from_slice(&addresses.guest_mac);
    let solicit = frame(guest6, gateway6, IpProtocol::Icmpv6, &solicit);
    [
        others,
        ("neighbours".to_owned(), records(&[(0, arp), (0, solicit)])),
    ]
}

/// By name.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (family, to) in ["v4", "v6"].into_iter().zip(public()) {
        let mut add = |name: &str, list: &[(u8, Vec<u8>)]| {
            seeds.push((format!("{name}-{family}"), records(list)));
        };
        let syn = || (GO_ON, tcp(to, TcpControl::Syn, 99, b""));
        let data = |at, bytes: &[u8]| (GO_ON, tcp(to, TcpControl::Psh, at, bytes));
        let fin = |at| (GO_ON, tcp(to, TcpControl::Fin, at, b""));
        add(
            "life",
            &[
                syn(),
                data(100, b""),
                data(100, b"hello"),
                fin(105),
                data(106, b""),
            ],
        );
        add(
            "reset",
            &[
                syn(),
                data(100, b"hello"),
                (GO_ON, tcp(to, TcpControl::Rst, 105, b"")),
            ],
        );
        add(
            "out-of-order",
            &[
                syn(),
                data(100, b"a"),
                data(103, b"d"),
                data(102, b"c"),
                data(101, b"b"),
            ],
        );
        add(
            "overlap",
            &[
                syn(),
                data(100, b"abc"),
                data(98, b"zabcd"),
                data(101, b"bcde"),
            ],
        );
        add(
            "again",
            &[
                syn(),
                syn(),
                data(100, b"x"),
                syn(),
                (GO_ON | 8, fin(101).1),
                syn(),
            ],
        );
        add("refused", &[(0, syn().1), (1, syn().1), data(100, b"x")]);
        let mut urgent = data(100, b"urgent");
        let flags = if family == "v4" {
            14 + 20 + 13
        } else {
            14 + 40 + 13
        };
        urgent.1[flags] |= 0x20;
        add("urgent", &[syn(), urgent, fin(106)]);
        add(
            "udp",
            &[
                (GO_ON, udp(to, 123, b"x")),
                (0, udp(to, 124, b"y")),
                (1, udp(to, 53, b"z")),
            ],
        );
        let late = |bits: u8| (GO_ON | (bits << 5), tcp(to, TcpControl::Psh, 100, b"late"));
        add("late", &[syn(), late(3), late(5), late(6), late(7), syn()]);
    }
    seeds.extend(others());
    seeds
}

#[test]
fn no_list_of_frames_brings_the_switch_down() {
    for (_name, seed) in seeds() {
        fuzz_frames(&seed);
        // Cut anywhere, and with every control.
        for cut in (0..seed.len()).step_by(7) {
            fuzz_frames(&seed[..cut]);
        }
        for control in 0..=u8::MAX {
            let mut changed = seed.clone();
            changed[0] = control;
            fuzz_frames(&changed);
        }
    }
}

#[test]
fn what_fuzzing_found_stays_found() {
    fuzz_corpus::replay("frames", fuzz_frames);
}

#[test]
#[ignore = "writes the seeds into the fuzz corpus"]
fn write_fuzz_seeds() {
    let directory = fuzz_corpus::directory("frames");
    fs_err::create_dir_all(&directory).unwrap();
    for (name, seed) in seeds() {
        fs_err::write(directory.join(name), seed).unwrap();
    }
}
