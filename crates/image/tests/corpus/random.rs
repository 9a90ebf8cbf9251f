//! Stacks of layers nobody thought of: made by chance (the same at every run) in the order builders write, what is below taken away first.
//! What both umoci and we accept must be the same tree.

use agent_vm_test_support::registry::Registry;

use crate::build::Hostile;
use crate::test_archive::{TestArchive, TestEntry as E};
use crate::{judge, umoci};

/// A generator of numbers that are odd enough (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// Names of directories, and of links to them.
    fn name(&mut self) -> &'static str {
        ["a", "b", "c", "d"][usize::try_from(self.below(4)).unwrap()]
    }

    /// Names of files, so that files are seldom in the way of directories.
    fn file_name(&mut self) -> &'static str {
        ["f", "g", "h"][usize::try_from(self.below(3)).unwrap()]
    }

    /// Up to three directories, then `last`.
    fn path(&mut self, last: &str) -> String {
        let parents = (0..self.below(3)).map(|_| format!("{}/", self.name()));
        let parents: String = parents.collect();
        format!("{parents}{last}")
    }

    fn target(&mut self) -> String {
        let start = ["", "/", "../", "./"][usize::try_from(self.below(4)).unwrap()];
        let name = self.name();
        format!("{start}{}", self.path(name))
    }

    fn entry(&mut self) -> E {
        let (directory, file) = (self.name(), self.file_name());
        let content = ["", "x", "yy"][usize::try_from(self.below(3)).unwrap()];
        let mode = [0o755, 0o700, 0o1777, 0o644][usize::try_from(self.below(4)).unwrap()];
        let entry = match self.below(20) {
            0..9 => E::file(self.path(file), content).mode(mode),
            9..16 => E::directory(self.path(directory)).mode(mode),
            16 => E::symlink(self.path(directory), self.target()),
            17 => E::symlink(self.path(file), self.target()),
            18 => E::file(self.path(directory), content),
            _ => {
                let target = self.file_name();
                return E::hard_link(self.path(file), self.path(target));
            }
        };
        entry.owner(self.below(3), 0).mtime(1 + self.below(9))
    }

    fn layer(&mut self) -> Vec<E> {
        let mut entries = Vec::new();
        for _ in 0..self.below(3) {
            let name = match self.below(2) {
                0 => format!(".wh.{}", self.name()),
                _ => format!(".wh.{}", self.file_name()),
            };
            entries.push(E::file(self.path(&name), ""));
        }
        if self.below(4) == 0 {
            entries.push(E::file(format!("{}/.wh..wh..opq", self.name()), ""));
        }
        let count = 1 + self.below(6);
        entries.extend((0..count).map(|_| self.entry()));
        entries
    }
}

/// The entries of a layer, as people read them.
fn described(layer: &[E]) -> String {
    let archive = TestArchive::of(layer.iter().cloned());
    let mut archive = tar::Archive::new(&archive[..]);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let kind = char::from(entry.header().entry_type().as_byte());
        let target =
            String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
        format!(
            "{kind} {} {target}",
            String::from_utf8_lossy(&entry.path_bytes())
        )
    });
    entries.collect::<Vec<_>>().join(", ")
}

/// Without what umoci has its own way with: it forgets the times of directories it adds to, and makes no directory for a whiteout of
/// nothing in a place that is not there (containerd and Docker do).
fn comparable(tree: &[String]) -> Vec<String> {
    let lines = tree.iter().map(|line| {
        let is_directory = line
            .split(' ')
            .next()
            .is_some_and(|name| name.ends_with('/'));
        let kept = line
            .split(' ')
            .filter(|part| !(is_directory && part.starts_with('@')));
        kept.collect::<Vec<_>>().join(" ")
    });
    lines.filter(|line| !line.ends_with("/ 755")).collect()
}

/// Judges `stacks` images; gives what differs and how many both accepted.
fn compare(seed: u64, stacks: usize) -> (Vec<String>, usize) {
    let registry = Registry::start().unwrap();
    let mut chance = Chance(seed);
    let (mut different, mut both) = (Vec::new(), 0);
    for number in 0..stacks {
        let layers = [chance.layer(), chance.layer(), chance.layer()];
        let told = layers.each_ref().map(|layer| described(layer)).join("\n");
        let image = Hostile::stack(layers);
        let name = format!("random-{seed}-{number}");
        let Ok(expected) = umoci::unpacked(&image) else {
            continue;
        };
        let Some(shown) = judge::shown(&registry, &name, &image) else {
            continue;
        };
        both += 1;
        if comparable(&shown) != comparable(&expected) {
            different.push(format!("{told}\nwe: {shown:#?}\numoci: {expected:#?}"));
        }
    }
    (different, both)
}

#[test]
fn stacks_made_by_chance_become_what_umoci_makes_of_them() {
    let (different, both) = compare(20_261_121, 80);
    println!("{both} of 80 stacks are accepted by both");
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    assert!(both > 20, "{both}");
}

#[test]
#[ignore = "takes minutes"]
fn many_stacks_made_by_chance_become_what_umoci_makes_of_them() {
    let (different, both) = compare(4711, 1000);
    println!("{both} of 1000 stacks are accepted by both");
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}
