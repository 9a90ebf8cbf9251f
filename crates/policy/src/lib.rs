//! Address classes, egress rules and verdicts; pure.
