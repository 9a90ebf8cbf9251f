//! VmSpec to a confined child process that is the virtual machine.
