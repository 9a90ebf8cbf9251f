//! Children with a scrubbed environment and named file descriptors.
