use smoltcp::wire::Icmpv6Message;

use super::*;
use crate::config::LinkAddresses;
use crate::packet::{Inbound, classify};
use crate::tests::refusals::{frame, udp};

fn addresses() -> LinkAddresses {
    LinkAddresses::default()
}

fn segment(
    control: TcpControl,
    ack: Option<i32>,
    payload: &[u8],
    v6: bool,
) -> Option<TcpRepr<'static>> {
    let (guest, remote): (IpAddress, IpAddress) = if v6 {
        (
            addresses().guest_v6.into(),
            IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        )
    } else {
        (addresses().guest_v4.into(), IpAddress::v4(192, 0, 2, 1))
    };
    let repr = TcpRepr {
        src_port: 40_000,
        dst_port: 443,
        control,
        seq_number: TcpSeqNumber(1_000),
        ack_number: ack.map(TcpSeqNumber),
        window_len: 1_000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    let ignored = ChecksumCapabilities::ignored();
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[..]),
        &guest,
        &remote,
        &ignored,
    );
    let bytes = frame(guest, remote, IpProtocol::Tcp, &bytes);
    let Inbound::Tcp(inbound) = classify(&bytes, &addresses()) else {
        panic!("a segment");
    };
    let reply = reset(&inbound)?;
    // The guest verifies every checksum.
    let checked = ChecksumCapabilities::default();
    let header_len = if v6 { 40 } else { 20 };
    assert_eq!(ends(&reply), Some((remote, guest)));
    if !v6 {
        Ipv4Repr::parse(&Ipv4Packet::new_checked(&reply[..]).unwrap(), &checked).unwrap();
    }
    let tcp = TcpPacket::new_checked(&reply[header_len..]).unwrap();
    let repr = TcpRepr::parse(&tcp, &remote, &guest, &checked).unwrap();
    assert_eq!((repr.src_port, repr.dst_port), (443, 40_000));
    assert_eq!(repr.control, TcpControl::Rst);
    Some(TcpRepr {
        payload: &[],
        ..repr
    })
}

#[test]
fn a_syn_is_reset_with_an_ack_of_it() {
    for v6 in [false, true] {
        let repr = segment(TcpControl::Syn, None, &[], v6).unwrap();
        assert_eq!(repr.ack_number, Some(TcpSeqNumber(1_001)));
        assert_eq!(repr.seq_number, TcpSeqNumber(0));
    }
}

#[test]
fn a_segment_with_an_ack_is_reset_where_it_expects_the_next_byte() {
    let repr = segment(TcpControl::Psh, Some(77), b"data", false).unwrap();
    assert_eq!(repr.seq_number, TcpSeqNumber(77));
    assert_eq!(repr.ack_number, None);
}

#[test]
fn a_reset_is_never_reset() {
    assert!(segment(TcpControl::Rst, Some(77), &[], false).is_none());
}

#[test]
fn errors_quote_the_packet_and_stay_short() {
    let checked = ChecksumCapabilities::default();
    let long = udp(IpAddress::v4(192, 0, 2, 1), 443, &[9; 3_000]);
    let from = addresses().gateway_v4;
    for (why, code) in [
        (Unreachable::Port, 3),
        (Unreachable::Host, 1),
        (Unreachable::Prohibited, 13),
    ] {
        let error = unreachable(&long[14..], from.into(), why).unwrap();
        assert!(error.len() <= 576);
        let icmp = Icmpv4Packet::new_checked(&error[20..]).unwrap();
        assert_eq!((icmp.msg_type().into(), icmp.msg_code()), (3_u8, code));
        assert!(icmp.verify_checksum());
        // The quoted ports let the guest find its socket.
        assert_eq!(error[48..52], long[34..38]);
    }
    let long = udp(
        IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        443,
        &[9; 3_000],
    );
    let from = addresses().gateway_v6;
    let error = unreachable(&long[14..], from.into(), Unreachable::Port).unwrap();
    assert!(error.len() <= 1_280);
    let icmp = Icmpv6Packet::new_checked(&error[40..]).unwrap();
    assert_eq!(
        (icmp.msg_type(), icmp.msg_code()),
        (Icmpv6Message::DstUnreachable, 4)
    );
    let guest = addresses().guest_v6;
    assert!(Icmpv6Repr::parse(&from, &guest, &icmp, &checked).is_ok());
}

#[test]
fn datagrams_carry_their_payload_and_checksum() {
    let (server, guest) = (addresses().gateway_v6, addresses().guest_v6);
    let packet = datagram((server.into(), 53), (guest.into(), 4_000), b"answer").unwrap();
    let udp = UdpPacket::new_checked(&packet[40..]).unwrap();
    assert!(udp.verify_checksum(&server.into(), &guest.into()));
    assert_eq!(
        (udp.src_port(), udp.dst_port(), udp.payload()),
        (53, 4_000, &b"answer"[..])
    );
    let v4 = addresses().guest_v4;
    assert!(datagram((server.into(), 53), (v4.into(), 4_000), b"x").is_none());
}
