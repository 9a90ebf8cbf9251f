//! One launch as typed steps.
