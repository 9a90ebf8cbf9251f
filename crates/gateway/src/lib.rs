//! User-space network: frames to flows.
