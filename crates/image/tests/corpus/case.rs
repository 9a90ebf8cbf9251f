//! What a case is: a hazard, the image that has it, and what must come of it.

use crate::build::Hostile;

/// One row of the table.
pub(crate) struct Case {
    /// Unique; also the repository the image is served from.
    pub(crate) name: &'static str,
    /// What is wrong or strange, in a few words.
    pub(crate) hazard: &'static str,
    pub(crate) image: fn() -> Hostile,
    pub(crate) outcome: Outcome,
}

/// What must come of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// The pull succeeds and the kernel shows this tree (see `listing.rs` for the form of its lines).
    Accepted {
        /// The rule that applies.
        meaning: &'static str,
        tree: &'static [&'static str],
        other: Other,
    },
    /// The pull fails, with this in its message.
    Refused { says: &'static str },
}

/// What the independent implementation (umoci, the reference unpacker of the OCI) makes of an accepted image.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Other {
    /// The same tree in every byte and attribute.
    Same,
    /// Something else, which is why.
    Differs(&'static str),
}

impl Case {
    /// A case that must be accepted, and that umoci understands in the same way.
    pub(crate) const fn accepted(
        name: &'static str,
        hazard: &'static str,
        image: fn() -> Hostile,
        meaning: &'static str,
        tree: &'static [&'static str],
    ) -> Self {
        let outcome = Outcome::Accepted {
            meaning,
            tree,
            other: Other::Same,
        };
        Self {
            name,
            hazard,
            image,
            outcome,
        }
    }

    /// A case that must be refused with these words.
    pub(crate) const fn refused(
        name: &'static str,
        hazard: &'static str,
        image: fn() -> Hostile,
        says: &'static str,
    ) -> Self {
        Self {
            name,
            hazard,
            image,
            outcome: Outcome::Refused { says },
        }
    }

    /// As [`Self::accepted`] was made, but umoci makes something else of it.
    pub(crate) const fn unlike_umoci(self, why: &'static str) -> Self {
        let outcome = match self.outcome {
            Outcome::Accepted { meaning, tree, .. } => Outcome::Accepted {
                meaning,
                tree,
                other: Other::Differs(why),
            },
            refused @ Outcome::Refused { .. } => refused,
        };
        Self { outcome, ..self }
    }
}
