//! What a launch tells while it runs. The launch prints nothing; who started it decides what is shown.

use agent_vm_egress::Question;

use crate::base::BaseEvent;
use crate::integrity::IntegrityReport;
use crate::phases::Phase;
use crate::publish::PublishEvent;

/// Something happened.
#[derive(Debug)]
pub enum LaunchEvent<'a> {
    /// A part of the launch is done.
    Phase(&'a Phase),
    /// The guest is ready; its program is started now.
    Ready,
    /// The guest's console said this: raw bytes of the guest, to be escaped before they are shown.
    Console(&'a [u8]),
    /// Something does not work that the launch can do without. From the guest: to be escaped.
    Warning(&'a str),
    /// A base is made, or found to be what was not expected.
    Base(BaseEvent<'a>),
    /// The machine is gone, and watched files are not as they were.
    Integrity(&'a IntegrityReport),
    /// The guest waits for the person to say whether it may reach something. Host and request are the guest's words.
    Asking(&'a Question),
    /// Something about published ports.
    Publish(PublishEvent),
}

/// Follows a launch. Called on the launch's thread; must not block.
pub trait LaunchObserver {
    /// Something happened.
    fn event(&self, event: LaunchEvent<'_>);
}

/// An observer that looks away.
impl LaunchObserver for () {
    fn event(&self, _: LaunchEvent<'_>) {}
}
