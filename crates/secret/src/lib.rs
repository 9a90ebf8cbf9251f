//! Secrets, placeholders and redaction.
