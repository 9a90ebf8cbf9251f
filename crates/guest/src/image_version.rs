//! The image-API version in the image's own files. The launcher compared the label before the boot, but a label is as easily
//! set as kept: an image made of another one's files, or of a newer template with the label of before, tells here what it is.

use agent_vm_protocol::IMAGE_API_VERSION;
use thiserror::Error;

use crate::tree::{Tree, TreeError};

/// One line, a decimal integer. An image that is not made from the template need not have it.
pub const FILE: &str = "/etc/agent-vm-image-version";

/// Longest content that is shown, in characters.
const MAX_SHOWN: usize = 40;

/// The image was made for another agent-vm.
#[derive(Debug, Error)]
pub enum ImageVersionError {
    /// For an older one.
    #[error(
        "{FILE} of the image says version {found}, this agent-vm needs {IMAGE_API_VERSION}: pull a newer image, or build it from the newer template"
    )]
    TooOld {
        /// What the file says.
        found: u32,
    },
    /// For a newer one.
    #[error(
        "{FILE} of the image says version {found}, this agent-vm knows {IMAGE_API_VERSION}: update agent-vm, or use an older image"
    )]
    TooNew {
        /// What the file says.
        found: u32,
    },
    /// It says something else.
    #[error("{FILE} of the image says {found:?}, this agent-vm needs {IMAGE_API_VERSION}")]
    Malformed {
        /// Its beginning.
        found: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] TreeError),
}

/// Compares the file of the image, if it has one, with what this program works with.
///
/// # Errors
/// [`ImageVersionError`] unless the two are equal; its message says what to do.
pub fn check(tree: &Tree) -> Result<(), ImageVersionError> {
    let Some(content) = tree.read(FILE)? else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(&content);
    match text.trim_end().parse::<u32>() {
        Ok(IMAGE_API_VERSION) => Ok(()),
        Ok(found) if found < IMAGE_API_VERSION => Err(ImageVersionError::TooOld { found }),
        Ok(found) => Err(ImageVersionError::TooNew { found }),
        Err(_) => Err(ImageVersionError::Malformed {
            found: text.chars().take(MAX_SHOWN).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(content: Option<&str>) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::open(directory.path().to_str().unwrap()).unwrap();
        if let Some(content) = content {
            tree.write_at(FILE, content.as_bytes()).unwrap();
        }
        check(&tree).map_err(|error| error.to_string())
    }

    #[test]
    fn the_version_of_the_template_and_an_image_without_one_fit() {
        assert_eq!(checked(Some(&format!("{IMAGE_API_VERSION}\n"))), Ok(()));
        assert_eq!(checked(None), Ok(()));
    }

    #[test]
    fn another_version_is_refused_with_what_to_do() {
        for (content, expected) in [
            ("0\n".to_owned(), "pull a newer image"),
            (format!("{}", IMAGE_API_VERSION + 1), "update agent-vm"),
            ("one\u{1b}[2J".to_owned(), "says \"one\\u{1b}[2J\""),
            (String::new(), "says \"\""),
            ("9".repeat(9999), "says \"9999"),
        ] {
            let refused = checked(Some(&content)).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
            assert!(refused.len() < 200, "{refused}");
        }
    }
}
