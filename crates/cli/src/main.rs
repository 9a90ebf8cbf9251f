//! The `agent-vm` command.
fn main() {}
