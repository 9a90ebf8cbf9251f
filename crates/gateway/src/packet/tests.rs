use proptest::prelude::*;
use smoltcp::wire::{IpProtocol, TcpControl, TcpSeqNumber};

use super::*;
use crate::tests::refusals::{frame, udp};

fn addresses() -> LinkAddresses {
    LinkAddresses::default()
}

fn tcp(destination: IpAddress, repr: &TcpRepr<'_>) -> Vec<u8> {
    let source: IpAddress = match destination {
        IpAddress::Ipv4(_) => addresses().guest_v4.into(),
        IpAddress::Ipv6(_) => addresses().guest_v6.into(),
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[..]),
        &source,
        &destination,
        &ChecksumCapabilities::ignored(),
    );
    frame(source, destination, IpProtocol::Tcp, &bytes)
}

fn syn(payload: &[u8], max_seg_size: Option<u16>) -> TcpRepr<'_> {
    TcpRepr {
        src_port: 40_000,
        dst_port: 443,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(-5),
        ack_number: None,
        window_len: 1_000,
        window_scale: Some(7),
        max_seg_size,
        sack_permitted: true,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload,
    }
}

fn reason(frame: &[u8]) -> Option<DenyReason> {
    match classify(frame, &addresses()) {
        Inbound::Refused(refused) => Some(refused.reason),
        _ => None,
    }
}

const PUBLIC: IpAddress = IpAddress::v4(192, 0, 2, 1);

#[test]
fn a_syn_is_kept_without_its_data() {
    for destination in [PUBLIC, IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)] {
        let bytes = tcp(destination, &syn(&[7; 900], Some(1_460)));
        let Inbound::Tcp(segment) = classify(&bytes, &addresses()) else {
            panic!("a segment");
        };
        assert_eq!((segment.kind, segment.payload), (TcpKind::Open, 900));
        assert_eq!(segment.sequence, u32::MAX - 4);
        let kept = segment.syn(65_520).unwrap();
        assert_eq!((kept.mss, kept.sequence), (1_460, u32::MAX - 4));
        assert!(kept.packet.len() < 100);
        let Inbound::Tcp(again) = classify_packet(&kept.packet, &addresses()) else {
            panic!("still a segment");
        };
        assert_eq!((again.key, again.payload), (segment.key, 0));
    }
}

#[test]
fn segment_sizes_are_kept_within_what_the_link_carries() {
    for (asked, got) in [
        (None, 536),
        (Some(0), 536),
        (Some(1), 48),
        (Some(65_535), 65_480),
    ] {
        let bytes = tcp(PUBLIC, &syn(&[], asked));
        let Inbound::Tcp(segment) = classify(&bytes, &addresses()) else {
            panic!("a segment");
        };
        assert_eq!(segment.syn(65_520).unwrap().mss, got, "{asked:?}");
    }
}

#[test]
fn fragments_are_refused() {
    let mut bytes = udp(PUBLIC, 53, &[0; 64]);
    bytes[20] |= 0x20; // more fragments
    assert_eq!(reason(&bytes), Some(DenyReason::Fragment));
    bytes[20] = 0;
    bytes[21] = 8; // an offset
    assert_eq!(reason(&bytes), Some(DenyReason::Fragment));
    let v6 = frame(
        addresses().guest_v6.into(),
        addresses().gateway_v6.into(),
        IpProtocol::Ipv6Frag,
        &[0; 16],
    );
    assert_eq!(reason(&v6), Some(DenyReason::Fragment));
}

#[test]
fn addresses_nothing_can_connect_to_are_refused() {
    for destination in [
        IpAddress::v4(127, 0, 0, 1),
        IpAddress::v4(0, 0, 0, 0),
        addresses().guest_v4.into(),
        IpAddress::v6(0, 0, 0, 0, 0, 0, 0, 1),
        IpAddress::v6(0xfe80, 0, 0, 0, 0, 0, 0, 9),
    ] {
        let bytes = tcp(destination, &syn(&[], None));
        assert_eq!(
            reason(&bytes),
            Some(DenyReason::Destination),
            "{destination}"
        );
    }
}

#[test]
fn sources_other_than_the_guest_are_refused() {
    for source in [
        IpAddress::v4(10, 118, 0, 1),
        IpAddress::v4(127, 0, 0, 1),
        IpAddress::v4(0, 0, 0, 0),
    ] {
        let bytes = frame(source, PUBLIC, IpProtocol::Tcp, &[0; 20]);
        assert_eq!(reason(&bytes), Some(DenyReason::SpoofedSource), "{source}");
    }
    let link_local = addresses().guest_link_local();
    let public = IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let bytes = frame(link_local.into(), public, IpProtocol::Tcp, &[0; 20]);
    assert_eq!(reason(&bytes), Some(DenyReason::SpoofedSource));
}

#[test]
fn frames_for_another_card_are_noise() {
    let mut bytes = tcp(PUBLIC, &syn(&[], None));
    bytes[5] ^= 1;
    assert!(matches!(classify(&bytes, &addresses()), Inbound::Noise));
}

#[test]
fn subnet_broadcast_is_noise() {
    let bytes = udp(IpAddress::v4(10, 118, 0, 3), 137, b"x");
    assert!(matches!(classify(&bytes, &addresses()), Inbound::Noise));
}

#[test]
fn answers_to_our_own_errors_are_noise() {
    let guest: IpAddress = addresses().guest_v4.into();
    let unreachable = frame(guest, PUBLIC, IpProtocol::Icmp, &[3, 3, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(
        classify(&unreachable, &addresses()),
        Inbound::Noise
    ));
    let redirect = frame(guest, PUBLIC, IpProtocol::Icmp, &[5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(reason(&redirect), Some(DenyReason::Icmp));
}

/// A sound frame with some bytes changed and some cut off.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let public6 = IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let gateway6: IpAddress = addresses().gateway_v6.into();
    let sound = prop_oneof![
        Just(tcp(PUBLIC, &syn(b"data", Some(1_460)))),
        Just(tcp(public6, &syn(b"data", Some(1_460)))),
        Just(udp(addresses().gateway_v4.into(), 53, &[1; 40])),
        Just(udp(public6, 443, &[1; 40])),
        Just(frame(
            addresses().guest_v6.into(),
            gateway6,
            IpProtocol::Icmpv6,
            &[128; 40]
        )),
        Just(frame(
            addresses().guest_v6.into(),
            gateway6,
            IpProtocol::Icmpv6,
            &[135; 32]
        )),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (sound, changes, any::<prop::sample::Index>()).prop_map(|(mut bytes, changes, cut)| {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_frame_brings_the_parser_or_a_reply_down(bytes in damaged()) {
        crate::fuzz_frame(&bytes);
    }

    #[test]
    fn no_bytes_bring_the_parser_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzz_frame(&bytes);
    }

    #[test]
    fn only_the_guests_own_packets_become_flows(bytes in damaged()) {
        if let Inbound::Tcp(segment) = classify(&bytes, &addresses()) {
            let source = match segment.key.remote.ip() {
                IpAddr::V4(_) => &segment.packet[12..16] == addresses().guest_v4.octets().as_slice(),
                IpAddr::V6(_) => &segment.packet[8..24] == addresses().guest_v6.octets().as_slice(),
            };
            prop_assert!(source);
            prop_assert_eq!(&bytes[6..12], &addresses().guest_mac);
            prop_assert!(!segment.key.remote.ip().is_multicast());
            prop_assert!(!segment.key.remote.ip().is_unspecified());
        }
    }
}
