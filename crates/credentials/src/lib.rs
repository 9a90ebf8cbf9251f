//! Host credentials found, placeholders minted.
