//! Extended attributes of an entry: which are kept, which are refused.

use super::Refusal;
use crate::erofs::{MARK_PREFIX, MAX_XATTR_NAME, MAX_XATTR_SET, XattrSet};

/// Encodes extended attributes. Namespaces Linux does not have (`com.apple.…`) are left out, as no Linux could store them.
pub(super) fn xattrs(entries: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>, Refusal> {
    let mut set = XattrSet::default();
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        if name.starts_with(b"trusted.overlay.") {
            return Err(Refusal::Entry(
                "an extended attribute of the overlay file system itself",
            ));
        }
        if name.starts_with(MARK_PREFIX) {
            return Err(Refusal::Entry(
                "an extended attribute of the image store itself",
            ));
        }
        if name.len() > MAX_XATTR_NAME {
            return Err(Refusal::Entry(
                "the name of an extended attribute is too long",
            ));
        }
        if !set.push(name, value) {
            return Err(Refusal::Entry(
                "an extended attribute is too large or unnamed",
            ));
        }
    }
    let encoded = set.into_encoded();
    if encoded.len() > MAX_XATTR_SET {
        Err(Refusal::Entry(
            "its extended attributes are too large together",
        ))
    } else {
        Ok(encoded)
    }
}
