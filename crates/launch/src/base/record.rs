//! What is written beside a base's disk: `bases/ID/base.json`. The collector of images reads `image_manifest` from it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use agent_vm_image::ImageDigest;
use serde::{Deserialize, Serialize};

/// The version of [`BaseRecord`] this program writes and reads.
pub(crate) const RECORD_FORMAT: u32 = 1;
/// Hexadecimal digits of a [`BaseId`].
const ID_DIGITS: usize = 32;

/// Whose base it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The user's; shared by all projects.
    User,
    /// One project's; never used by another.
    Project,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Project => "project",
        })
    }
}

/// How a base came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseKind {
    /// By its recipe; it can be made again.
    Setup,
    /// By hand, in `base shell`.
    Snapshot,
}

/// Name of a base: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseId(String);

/// A text that is not the name of a base.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name of a base is {ID_DIGITS} hexadecimal digits")]
pub struct BaseIdInvalid;

impl BaseId {
    /// Named by what it is made of.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut digits = ImageDigest::of(bytes).hex();
        digits.truncate(ID_DIGITS);
        Self(digits)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BaseId {
    type Err = BaseIdInvalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        if text.len() == ID_DIGITS && text.as_bytes().iter().all(digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BaseIdInvalid)
        }
    }
}

impl TryFrom<String> for BaseId {
    type Error = BaseIdInvalid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BaseId> for String {
    fn from(id: BaseId) -> Self {
        id.0
    }
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose project a base belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseProject {
    /// The project's stable name.
    pub id: String,
    /// Where it was when the base was made.
    pub path: PathBuf,
}

/// All that is known of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The version of this format, `RECORD_FORMAT`.
    pub format: u32,
    /// Its name.
    pub id: BaseId,
    /// Whose it is.
    pub level: Level,
    /// How it came to be.
    pub kind: BaseKind,
    /// The manifest of the image it stands on, `sha256:…`: that image must stay as long as the base.
    pub image_manifest: String,
    /// The image's reference, as given.
    pub image: String,
    /// The base it was cloned from (for changes by hand: that of the recipe).
    pub parent: Option<BaseId>,
    /// Whose project; absent for the user's.
    pub project: Option<BaseProject>,
    /// What was done, for people.
    pub steps: Vec<String>,
    /// Size of the disk in bytes; what it occupies is less.
    pub disk_bytes: u64,
    /// When it was made, seconds since 1970.
    pub made: u64,
}

impl BaseRecord {
    /// Under what name its image is pinned: one pin for a project (or the user) and a reference, the newest base's.
    #[must_use]
    pub fn pin_name(&self) -> String {
        match &self.project {
            Some(project) => format!("the base of {} on {}", project.path.display(), self.image),
            None => format!("the user's base on {}", self.image),
        }
    }

    /// Whether this one takes the other's place: the same project (or user) and image, made the same way.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        let project = |record: &Self| record.project.as_ref().map(|project| project.id.clone());
        self.level == other.level
            && self.kind == other.kind
            && self.image == other.image
            && project(self) == project(other)
            && self.id != other.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_digits_of_an_id_become_a_file_name() {
        let id = BaseId::of(b"x");
        assert_eq!(id.as_str().parse::<BaseId>(), Ok(id.clone()));
        for text in ["", "..", "../../etc", &"A".repeat(32), &"a".repeat(33)] {
            assert_eq!(text.parse::<BaseId>(), Err(BaseIdInvalid), "{text}");
        }
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<BaseId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<BaseId>("\"../x\"").is_err());
    }
}
