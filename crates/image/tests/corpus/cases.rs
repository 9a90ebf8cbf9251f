//! The cases by what they are about.

use crate::case::Case;

mod bombs;
mod configs;
mod damage;
mod indexes;
mod links;
mod manifests;
mod metadata;
mod names;
mod readers;
mod replacements;
mod sparse;
mod whiteouts;

/// All cases, in the order of the document.
pub(crate) const GROUPS: &[(&str, &[Case])] = &[
    ("Names", names::CASES),
    ("What readers of archives disagree about", readers::CASES),
    ("Links", links::CASES),
    (
        "Duplicates, changes of type, implied parents",
        replacements::CASES,
    ),
    ("Whiteouts", whiteouts::CASES),
    ("Metadata", metadata::CASES),
    ("Sparse files", sparse::CASES),
    ("Too much of everything", bombs::CASES),
    ("Damage", damage::CASES),
    ("Manifests", manifests::CASES),
    ("Indexes", indexes::CASES),
    ("Configurations", configs::CASES),
];
