//! Extended attributes as they follow an inode (`erofs_xattr_ibody_header`, `erofs_xattr_entry`), all inline.

/// The longest attribute name, with its prefix (Linux `XATTR_NAME_MAX`).
pub(crate) const MAX_XATTR_NAME: usize = 255;
/// The largest value (Linux `XATTR_SIZE_MAX`; the field has 16 bits).
const MAX_VALUE: usize = 0xffff;
/// The most bytes of one file's attributes: what `i_xattr_icount` can say, with room for the opaque mark.
pub(crate) const MAX_XATTR_SET: usize = 0xffff * 4 - 1024;

/// Bytes in front of a set: name filter and shared attributes, neither used.
pub(super) const HEADER: u64 = 12;

/// Prefixes that are stored as a number.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// A file's attributes, encoded.
#[derive(Debug, Default)]
pub(crate) struct XattrSet(Vec<u8>);

impl XattrSet {
    /// Adds an attribute. Names outside the namespaces of Linux file systems are passed over; `false` if it cannot be represented.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) -> bool {
        let matching = PREFIXES
            .iter()
            .find_map(|(prefix, index)| name.strip_prefix(*prefix).map(|rest| (rest, *index)));
        let Some((rest, index)) = matching else {
            return true;
        };
        let whole_name = matches!(index, 2 | 3);
        if rest.is_empty() != whole_name {
            // `user.` names nothing; `system.posix_acl_access2` is not a namespace of its own.
            return whole_name;
        }
        let (Ok(name_length), true) = (u8::try_from(rest.len()), value.len() <= MAX_VALUE) else {
            return false;
        };
        self.0.push(name_length);
        self.0.push(index);
        self.0.extend_from_slice(
            &u16::try_from(value.len())
                .expect("checked above")
                .to_le_bytes(),
        );
        self.0.extend_from_slice(rest);
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        true
    }

    pub(crate) fn into_encoded(self) -> Vec<u8> {
        self.0
    }
}

/// The mark of an opaque directory, encoded: it is appended to whatever else the directory has.
pub(super) fn opaque_mark() -> Vec<u8> {
    let mut set = XattrSet::default();
    set.push(b"trusted.overlay.opaque", b"y");
    set.into_encoded()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_prefix_lengths_and_padding() {
        let mut set = XattrSet::default();
        assert!(set.push(b"user.ab", b"xyz"));
        assert_eq!(set.into_encoded(), b"\x02\x01\x03\0abxyz\0\0\0");
    }

    #[test]
    fn names_linux_cannot_store_are_left_out() {
        let mut set = XattrSet::default();
        assert!(
            set.push(b"com.apple.quarantine", b"x") && set.push(b"system.posix_acl_access_", b"x")
        );
        assert!(set.into_encoded().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut set = XattrSet::default();
        assert!(!set.push(b"user.", b"x"));
        assert!(!set.push(b"user.a", &[0; MAX_VALUE + 1]));
        assert!(set.push(b"user.a", &[0; MAX_VALUE]));
    }
}
