//! Which segments of the guest a flow's socket gets to see, and how much of what we sent they acknowledge.
//!
//! Two are kept from smoltcp 0.14, which does not survive them:
//! - A segment that reaches beyond the receive buffer. After the handshake smoltcp takes its own window for larger than
//!   the buffer (the window of a SYN is never scaled, it scales it), and would take more bytes than fit.
//! - A repeated acknowledgement while only our FIN is on its way. The third is taken for a lost segment, there is no
//!   data to send again, and the timer that would send the FIN again is off from then on.

use smoltcp::socket::tcp::State;

use super::{FlowState, Shared};
use crate::config::FLOW_BUFFER;
use crate::packet::{TcpKind, TcpSegment};

impl FlowState {
    /// Whether the socket may see `segment`; what it will hold of it is reserved.
    pub(super) fn admits(&mut self, segment: &TcpSegment<'_>, shared: &Shared) -> bool {
        let Some((tcp, queued)) = self.with_socket(|socket| (socket.state(), socket.send_queue()))
        else {
            return false;
        };
        if segment.kind == TcpKind::Other {
            // That of a SYN is not scaled.
            self.window = segment.window;
        }
        let repeated = !self.acknowledges_more(segment, tcp, queued);
        if repeated && segment.bare && queued == 0 && is_closing(tcp) {
            return false;
        }
        segment.payload == 0 || self.has_room(segment, shared)
    }

    fn has_room(&mut self, segment: &TcpSegment<'_>, shared: &Shared) -> bool {
        let ahead = segment.sequence.wrapping_sub(self.read_sequence) as i32;
        let held = ahead.max(0) as usize + segment.payload;
        if held > FLOW_BUFFER || !shared.reserve(&mut self.receive_reserved, held) {
            return false;
        }
        let end = segment.sequence.wrapping_sub(self.first_sequence) as i32;
        let end = end.max(0) as usize + segment.payload;
        self.touched[1] = self.touched[1].max(end.min(FLOW_BUFFER));
        true
    }

    /// Notes what `segment` acknowledges; says whether it is more than was acknowledged before. `queued` bytes were not.
    fn acknowledges_more(&mut self, segment: &TcpSegment<'_>, tcp: State, queued: usize) -> bool {
        let Some(ack) = segment.ack else {
            return false;
        };
        let more = match self.acknowledged {
            // smoltcp refuses what is not the acknowledgement of its SYN, and stays where it is.
            Some(known) if tcp != State::SynReceived => {
                let more = ack.wrapping_sub(known) as usize;
                (1..=queued + usize::from(is_closing(tcp))).contains(&more)
            }
            _ => true,
        };
        if more {
            self.acknowledged = Some(ack);
        }
        more
    }
}

/// Whether our FIN is sent or will be next, and is not acknowledged.
fn is_closing(tcp: State) -> bool {
    matches!(tcp, State::FinWait1 | State::Closing | State::LastAck)
}
