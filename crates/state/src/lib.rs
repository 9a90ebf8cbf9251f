//! Project identity, session directories and locks.
