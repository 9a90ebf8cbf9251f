//! The 12-byte header before every frame on the link (virtio 1.2 §5.1.6, `struct virtio_net_hdr` of VERSION_1).
//!
//! From the guest it is skipped: checksums are not verified on a link without noise, and a segmentation-offload frame
//! is simply one large TCP segment for us. To the guest a TCP frame says NEEDS_CSUM with the pseudo-header sum in
//! place, not DATA_VALID: the guest's kernel treats both as valid for itself, but only NEEDS_CSUM makes it finish the
//! sum when it forwards the packet (containers, nested machines), and segmentation offload requires it.

/// Bytes before each Ethernet frame.
pub(crate) const VNET_HEADER_LEN: usize = 12;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// What the guest's driver still has to do with a TCP frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpOffload {
    /// Bytes of the Ethernet and IP headers: where the TCP header begins.
    pub(crate) transport_offset: u16,
    /// Bytes of all headers.
    pub(crate) header_len: u16,
    /// Payload of one segment, when the frame holds more than one.
    pub(crate) segment: Option<u16>,
    /// Whether the packet is IPv6.
    pub(crate) ipv6: bool,
}

/// Offset of the checksum in a UDP header (RFC 768).
const UDP_CHECKSUM_OFFSET: u16 = 6;

/// Offset of the checksum in a TCP header (RFC 9293 §3.1).
const TCP_CHECKSUM_OFFSET: u16 = 16;

/// Writes the header of a frame that needs nothing.
pub(crate) fn emit_plain(header: &mut [u8; VNET_HEADER_LEN]) {
    *header = [0; VNET_HEADER_LEN];
    header[10] = 1; // one descriptor chain, as VERSION_1 without MRG_RXBUF demands
}

/// Writes the header of a UDP frame whose checksum field holds the pseudo-header sum.
pub(crate) fn emit_udp(header: &mut [u8; VNET_HEADER_LEN], transport_offset: u16) {
    emit_plain(header);
    header[0] = FLAG_NEEDS_CSUM;
    header[6..8].copy_from_slice(&transport_offset.to_le_bytes());
    header[8..10].copy_from_slice(&UDP_CHECKSUM_OFFSET.to_le_bytes());
}

/// Writes the header of a TCP frame whose checksum field holds the pseudo-header sum.
pub(crate) fn emit_tcp(header: &mut [u8; VNET_HEADER_LEN], offload: TcpOffload) {
    emit_plain(header);
    header[0] = FLAG_NEEDS_CSUM;
    if let Some(segment) = offload.segment {
        header[1] = if offload.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
        header[2..4].copy_from_slice(&offload.header_len.to_le_bytes());
        header[4..6].copy_from_slice(&segment.to_le_bytes());
    }
    header[6..8].copy_from_slice(&offload.transport_offset.to_le_bytes());
    header[8..10].copy_from_slice(&TCP_CHECKSUM_OFFSET.to_le_bytes());
}

/// Where in a message the checksum begins and where it is written, if it is left to the receiver.
pub(crate) fn checksum_place(message: &[u8]) -> Option<(usize, usize)> {
    let header = message.first_chunk::<VNET_HEADER_LEN>()?;
    if header[0] & FLAG_NEEDS_CSUM == 0 {
        return None;
    }
    let [start, offset] =
        [6, 8].map(|at| usize::from(u16::from_le_bytes([header[at], header[at + 1]])));
    let start = VNET_HEADER_LEN + start;
    (start + offset + 2 <= message.len()).then_some((start, start + offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_frame_asks_for_nothing() {
        let mut header = [0xff; VNET_HEADER_LEN];
        emit_plain(&mut header);
        assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn tcp_frame_asks_for_the_checksum_only() {
        let mut header = [0xff; VNET_HEADER_LEN];
        let offload = TcpOffload {
            transport_offset: 34,
            header_len: 54,
            segment: None,
            ipv6: false,
        };
        emit_tcp(&mut header, offload);
        assert_eq!(header, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0]);
    }

    #[test]
    fn large_frame_names_its_segment_size() {
        let mut header = [0; VNET_HEADER_LEN];
        let offload = TcpOffload {
            transport_offset: 54,
            header_len: 74,
            segment: Some(1440),
            ipv6: true,
        };
        emit_tcp(&mut header, offload);
        assert_eq!(header, [1, 4, 74, 0, 0xa0, 5, 54, 0, 16, 0, 1, 0]);
    }
}
