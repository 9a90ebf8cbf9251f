//! A writer that passes on and remembers.

use std::io::{Result, Write};

/// Passes everything on to `to` and keeps it.
#[derive(Debug)]
pub(crate) struct Tee<W> {
    to: W,
    kept: Vec<u8>,
}

impl<W: Write> Tee<W> {
    pub(crate) fn new(to: W) -> Self {
        Self {
            to,
            kept: Vec::new(),
        }
    }

    /// Where everything is passed on to.
    pub(crate) fn passes_to(&mut self) -> &mut W {
        &mut self.to
    }

    /// What was written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.to.write_all(bytes)?;
        self.kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_and_keeps() {
        let mut passed = Vec::new();
        let mut tee = Tee::new(&mut passed);
        tee.write_all(b"one ").unwrap();
        tee.write_all(b"two").unwrap();
        assert_eq!(tee.text(), "one two");
        assert_eq!(passed, b"one two");
    }
}
