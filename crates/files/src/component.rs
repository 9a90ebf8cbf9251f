//! Names as they come from the guest: one component each, or refused.
//!
//! The guest's kernel never sends anything else; guest root driving the device by hand does.
//! Every operation that takes a name parses it here first, before anything touches the host.

use std::ffi::CStr;

use rustix::io::Errno;

/// Longest name in bytes (`NAME_MAX`).
pub(crate) const NAME_LENGTH_MAX: usize = 255;

/// A name that is exactly one path component.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Component<'a>(&'a CStr);

impl<'a> Component<'a> {
    /// Accepts a single component.
    ///
    /// # Errors
    /// `ENOENT` empty, `EINVAL` `.`, `..` or with a slash, `ENAMETOOLONG` above [`NAME_LENGTH_MAX`].
    pub(crate) fn parse(name: &'a CStr) -> Result<Self, Errno> {
        match name.to_bytes() {
            b"" => Err(Errno::NOENT),
            b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > NAME_LENGTH_MAX => Err(Errno::NAMETOOLONG),
            _ => Ok(Self(name)),
        }
    }

    /// The name for a system call.
    pub(crate) fn as_c_str(self) -> &'a CStr {
        self.0
    }

    /// The name without its NUL.
    pub(crate) fn as_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }
}

/// Fuzz body: whatever passes the check is one component.
pub fn fuzz_component(data: &[u8]) {
    let Ok(name) = CStr::from_bytes_until_nul(data) else {
        return;
    };
    if let Ok(component) = Component::parse(name) {
        let bytes = component.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= NAME_LENGTH_MAX);
        assert!(!bytes.contains(&b'/') && !bytes.contains(&0));
        assert!(bytes != b"." && bytes != b"..");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_everything_that_is_not_one_component() {
        let long = vec![b'a'; 256];
        let hostile: &[(&[u8], Errno)] = &[
            (b"", Errno::NOENT),
            (b".", Errno::INVAL),
            (b"..", Errno::INVAL),
            (b"/", Errno::INVAL),
            (b"/etc/passwd", Errno::INVAL),
            (b"../../etc/passwd", Errno::INVAL),
            (b"a/../../b", Errno::INVAL),
            (b"a/", Errno::INVAL),
            (&long, Errno::NAMETOOLONG),
        ];
        for (name, errno) in hostile {
            let name = std::ffi::CString::new(*name).unwrap();
            assert_eq!(Component::parse(&name).unwrap_err(), *errno, "{name:?}");
        }
    }

    #[test]
    fn accepts_dots_spaces_and_bytes_that_are_not_utf8() {
        for name in [c"...", c"..a", c" ", c"\xff\xfe", c"a\nb", c"*"] {
            assert_eq!(Component::parse(name).unwrap().as_c_str(), name);
        }
        let longest = std::ffi::CString::new(vec![b'a'; 255]).unwrap();
        assert!(Component::parse(&longest).is_ok());
    }

    proptest! {
        #[test]
        fn accepted_names_are_one_component(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_component(&data);
        }
    }
}
