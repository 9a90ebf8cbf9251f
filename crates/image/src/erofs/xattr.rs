//! Extended attributes as they follow an inode (`erofs_xattr_ibody_header`, `erofs_xattr_entry`), all inline.

/// The longest attribute name, with its prefix (Linux `XATTR_NAME_MAX`).
pub(crate) const MAX_XATTR_NAME: usize = 255;
/// The largest value (Linux `XATTR_SIZE_MAX`; the field has 16 bits).
const MAX_VALUE: usize = 0xffff;
/// The most bytes of one file's attributes: what `i_xattr_icount` can say, with room for [`Marks`].
pub(crate) const MAX_XATTR_SET: usize = 0xffff * 4 - 1024;

/// Bytes in front of a set: name filter and shared attributes, neither used.
pub(super) const HEADER: u64 = 12;

const TRUSTED: &[u8] = b"trusted.";
const TRUSTED_INDEX: u8 = 4;
/// Prefixes that are stored as a number.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (TRUSTED, TRUSTED_INDEX),
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

/// What a layer says about one of its files to the layers below; kept as attributes no archive can have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// A directory that hides all that lower layers have in it.
    pub(crate) opaque: bool,
    /// A directory the layer does not name: a lower one, or a lower symlink to one, stays what it is.
    pub(crate) implied: bool,
    /// At the root: somewhere in the layer are whiteouts or opaque directories.
    pub(crate) removes: bool,
    /// At the root: somewhere in the layer are links to lower files.
    pub(crate) links: bool,
    /// Another name of the lower file with this path.
    pub(crate) lower_link: Option<Vec<u8>>,
}

impl Marks {
    /// The marks as attributes, to be appended to the others; empty if there are none.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut set = XattrSet::default();
        let flags = [
            (self.opaque, OPAQUE),
            (self.implied, IMPLIED),
            (self.removes, REMOVES),
            (self.links, LINKS),
        ];
        for (_, name) in flags.into_iter().filter(|(is, _)| *is) {
            set.push(&[MARK_PREFIX, name].concat(), b"");
        }
        if let Some(path) = &self.lower_link {
            set.push(&[MARK_PREFIX, LOWER_LINK].concat(), path);
        }
        set.into_encoded()
    }
}

/// Splits attributes as they are stored into the marks and the others, which stay encoded. `None` if they are damaged.
pub(super) fn split_marks(mut encoded: &[u8]) -> Option<(Marks, Vec<u8>)> {
    let (mut marks, mut others) = (Marks::default(), Vec::new());
    while !encoded.is_empty() {
        let (&[name_length, index, low, high], rest) = encoded.split_first_chunk()?;
        let (name, value_length) = (
            rest.get(..usize::from(name_length))?,
            usize::from(u16::from_le_bytes([low, high])),
        );
        let value = rest.get(name.len()..name.len() + value_length)?;
        let size = (4 + name.len() + value_length).next_multiple_of(4);
        let entry = encoded.get(..size)?;
        encoded = &encoded[size..];
        let own = MARK_PREFIX.strip_prefix(TRUSTED).expect("it is trusted");
        match name.strip_prefix(own).filter(|_| index == TRUSTED_INDEX) {
            None => others.extend_from_slice(entry),
            Some(OPAQUE) => marks.opaque = true,
            Some(IMPLIED) => marks.implied = true,
            Some(REMOVES) => marks.removes = true,
            Some(LINKS) => marks.links = true,
            Some(LOWER_LINK) => marks.lower_link = Some(value.to_vec()),
            Some(_) => return None,
        }
    }
    Some((marks, others))
}

/// Where the marks are; refused in archives.
pub(crate) const MARK_PREFIX: &[u8] = b"trusted.agent-vm.";
const OPAQUE: &[u8] = b"opaque";
const IMPLIED: &[u8] = b"implied";
const REMOVES: &[u8] = b"removes";
const LINKS: &[u8] = b"links";
const LOWER_LINK: &[u8] = b"lower-link";

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
    fn marks_are_found_again_among_other_attributes() {
        let mut set = XattrSet::default();
        set.push(b"trusted.other", b"1");
        set.push(b"user.agent-vm.opaque", b"2");
        let others = set.into_encoded();
        for marks in [
            Marks::default(),
            Marks {
                opaque: true,
                implied: true,
                ..Marks::default()
            },
            Marks {
                removes: true,
                links: true,
                lower_link: Some(b"usr/lib/\xff".to_vec()),
                ..Marks::default()
            },
        ] {
            let all = [others.clone(), marks.encode()].concat();
            assert_eq!(split_marks(&all), Some((marks, others.clone())));
        }
        let cut = [others.as_slice(), &Marks::default().encode(), b"\x05"].concat();
        assert_eq!(split_marks(&cut), None);
        assert_eq!(split_marks(b"\x10\x04\0\0short"), None);
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
