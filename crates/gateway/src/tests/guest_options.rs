//! What a simulated guest and its network are like.

use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct GuestOptions {
    pub(crate) mtu: usize,
    /// Of 1 000 frames in each direction, so many are lost.
    pub(crate) loss_per_mille: u32,
    /// So many come twice.
    pub(crate) twice_per_mille: u32,
    /// So many come after the next ones: half a delay later.
    pub(crate) late_per_mille: u32,
    /// Whether every segment says that its data is urgent.
    pub(crate) urgent: bool,
    /// How long a frame is on its way.
    pub(crate) delay: Duration,
    /// Buffers of each socket.
    pub(crate) buffer: usize,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            mtu: 65_520,
            loss_per_mille: 0,
            twice_per_mille: 0,
            late_per_mille: 0,
            urgent: false,
            delay: Duration::ZERO,
            buffer: 256 * 1024,
        }
    }
}
