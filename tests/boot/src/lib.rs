//! Cases on a real virtual machine.
