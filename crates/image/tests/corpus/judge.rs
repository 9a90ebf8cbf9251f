//! Judges cases: pulls each, checks the result against the table, and that nothing else happened.

use std::path::{Path, PathBuf};

use agent_vm_image::{Image, PullError, PullOptions, Reference, Store, pull};
use agent_vm_test_support::registry::Registry;

use crate::build::Hostile;
use crate::case::{Case, Other, Outcome};
use crate::oci::told;
use crate::{served, umoci, view};

/// Where absolute names and links of the corpus lead.
pub(crate) const ESCAPE: &str = "/tmp/agent-vm-corpus-escape";
/// The longest error message; whatever an image says, people must be able to read what is wrong.
const MAX_MESSAGE: usize = 1200;

/// Judges all cases of a group, then tells everything that is not as documented.
pub(crate) fn judge(cases: &[Case]) {
    let registry = Registry::start().unwrap();
    let failures: Vec<_> = cases
        .iter()
        .filter_map(|case| {
            let wrong = Bench::new().judge(&registry, case).err()?;
            Some(format!("{}: {wrong}", case.name))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases are not as documented\n\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n\n")
    );
}

/// What the kernel shows of `image`, if it is accepted.
pub(crate) fn shown(registry: &Registry, name: &str, image: &Hostile) -> Option<Vec<String>> {
    let bench = Bench::new();
    let reference: Reference = served::serve(registry, name, image).parse().unwrap();
    let pulled = bench.pull(&reference).ok()?;
    Some(view::mounted(&pulled).unwrap())
}

/// A store with something beside it that must stay as it is.
struct Bench {
    directory: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let canaries = directory.path();
        fs_err::write(canaries.join("canary"), "sings").unwrap();
        fs_err::create_dir(canaries.join("etc")).unwrap();
        fs_err::write(canaries.join("etc/passwd"), "root").unwrap();
        let store = Store::open(canaries.join("store")).unwrap();
        Self { directory, store }
    }

    fn judge(&self, registry: &Registry, case: &Case) -> Result<(), String> {
        let image = (case.image)();
        let reference: Reference = served::serve(registry, case.name, &image).parse().unwrap();
        let before = self.surroundings();
        let pulled = self.pull(&reference);
        if self.surroundings() != before || Path::new(ESCAPE).symlink_metadata().is_ok() {
            return Err("the pull touched files beside the store".into());
        }
        if fs_err::read_dir(self.store.root().join("tmp"))
            .unwrap()
            .count()
            > 0
        {
            return Err("the pull left temporary files".into());
        }
        match (case.outcome, pulled) {
            (Outcome::Accepted { tree, other, .. }, Ok(pulled)) => {
                self.accepted(&pulled, tree, &image, other)
            }
            (Outcome::Refused { says }, Err(error)) => self.refused(&reference, &error, says),
            (Outcome::Accepted { .. }, Err(error)) => Err(format!("refused: {}", told(&error))),
            (Outcome::Refused { .. }, Ok(pulled)) => {
                Err(format!("accepted: {:#?}", view::mounted(&pulled)))
            }
        }
    }

    fn pull(&self, reference: &Reference) -> Result<Image, PullError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(pull(&self.store, reference, &PullOptions::default(), &()))
    }

    /// What is beside the store, with its times.
    fn surroundings(&self) -> Vec<String> {
        let lines = crate::listing::list(self.directory.path(), i64::MAX - 3600);
        lines
            .into_iter()
            .filter(|line| !line.starts_with("store"))
            .collect()
    }

    fn accepted(
        &self,
        pulled: &Image,
        tree: &[&str],
        image: &Hostile,
        other: Other,
    ) -> Result<(), String> {
        self.layers().iter().try_for_each(|file| view::fsck(file))?;
        let shown = view::mounted(pulled)?;
        if shown != tree {
            return Err(format!(
                "the kernel shows {shown:#?}, documented is {tree:#?}"
            ));
        }
        let opinion = umoci::unpacked(image);
        match (other, opinion) {
            (Other::Same, Ok(opinion)) if opinion == shown => Ok(()),
            (Other::Same, opinion) => {
                Err(format!("umoci makes something else of it: {opinion:#?}"))
            }
            (Other::Differs(why), Ok(opinion)) if opinion == shown => Err(format!(
                "umoci agrees, which is not documented: it should differ, for {why}"
            )),
            (Other::Differs(_), _) => Ok(()),
        }
    }

    /// Each layer is a file system of its own.
    fn layers(&self) -> Vec<PathBuf> {
        let entries = fs_err::read_dir(self.store.root().join("layers")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn refused(&self, reference: &Reference, error: &PullError, says: &str) -> Result<(), String> {
        let message = told(error);
        if !message.contains(says) {
            return Err(format!("it is refused with other words: {message}"));
        }
        if !message.contains(&reference.to_string()) {
            return Err(format!("the message does not name the image: {message}"));
        }
        let clean =
            message.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) || message.contains('\u{2026}');
        if !clean || message.len() > MAX_MESSAGE || message.chars().any(char::is_control) {
            return Err(format!(
                "the message is not fit for a terminal: {message:?}"
            ));
        }
        match self.store.image(reference) {
            Ok(None) => Ok(()),
            found => Err(format!("the store has it all the same: {found:?}")),
        }
    }
}
