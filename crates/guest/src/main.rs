//! The guest's `/init`.
#![forbid(unsafe_code)]

fn main() {
    agent_vm_guest::init::run();
}
