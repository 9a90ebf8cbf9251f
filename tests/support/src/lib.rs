//! Fakes and environments for tests.
