//! `docs/image-corpus.md` is made from the cases, so it can say nothing that is not checked.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::case::{Case, Other, Outcome};
use crate::cases::GROUPS;

const HEAD: &str = "\
# The hostile corpus

What becomes of strange and hostile images: each row is an image that `crates/image/tests/corpus` makes, serves from a real
registry (or, where no registry would take it, from a server that gives out anything) and pulls. This file is made from the same
table as the tests (`cargo nextest run -p agent-vm-image --run-ignored only write_document`); a test compares the two.

**Accepted** images are checked by `fsck.erofs`, mounted by the kernel and compared line by line with the tree in the row: name,
permissions, content, then owner, time (`@seconds`), extended attributes (`{name=value}`) and the other name of a hard-linked file
(`=name`) where they are not zero or empty. The same layers are unpacked by umoci 0.4.7, the reference unpacker of the OCI; it makes
the same tree unless the row says what it does otherwise. **Refused** images end the pull with an error that names the image, the
layer by its digest, and says what the row quotes; nothing of the image is kept. In all cases the files beside the store and the
places that absolute names lead to are untouched, and every message is printable and short.

Beyond the table: archives GNU tar itself writes in all its sparse forms, a Debian image of three layers, and stacks of layers made by
chance are compared in the same way (`cases/sparse.rs`, `debian.rs`, `random.rs`); all rows and a layer of a million files are pulled
by a process whose peak memory is measured (`memory.rs`; also behind a zstd window of 64 MiB; three such layers are refused); what
fuzzing found is tried again (`replay.rs`).
Faults of the wire (cuts, stalls, lying headers, tokens, redirects) are in `crates/image/tests/pull`.
";

/// The most lines of a tree, and the most characters of a line, that the document shows.
const MAX_LINES: usize = 12;
const MAX_LINE: usize = 120;

#[test]
fn the_document_lists_every_case_with_its_result() {
    let document = fs_err::read_to_string(path()).unwrap();
    assert!(
        document == rendered(),
        "docs/image-corpus.md is out of date: run `cargo nextest run -p agent-vm-image --run-ignored only write_document`"
    );
}

#[test]
#[ignore = "writes the document"]
fn write_document() {
    fs_err::write(path(), rendered()).unwrap();
}

#[test]
fn case_names_are_unique() {
    let mut names: Vec<_> = GROUPS
        .iter()
        .flat_map(|(_, cases)| cases.iter())
        .map(|case| case.name)
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../docs/image-corpus.md"]
        .iter()
        .collect()
}

fn rendered() -> String {
    let mut text = HEAD.to_owned();
    let all = || GROUPS.iter().flat_map(|(_, cases)| cases.iter());
    let refused = all()
        .filter(|case| matches!(case.outcome, Outcome::Refused { .. }))
        .count();
    writeln!(
        text,
        "\n{} cases: {} accepted, {refused} refused.",
        all().count(),
        all().count() - refused
    )
    .unwrap();
    for (title, cases) in GROUPS {
        writeln!(
            text,
            "\n## {title}\n\n| case | image | result |\n|---|---|---|"
        )
        .unwrap();
        for case in *cases {
            writeln!(
                text,
                "| {} | {} | {} |",
                case.name,
                cell(case.hazard),
                cell(&result(case))
            )
            .unwrap();
        }
    }
    text
}

fn result(case: &Case) -> String {
    match case.outcome {
        Outcome::Refused { says } => format!("**refused**: {says}"),
        Outcome::Accepted {
            meaning,
            tree,
            other,
        } => {
            let mut lines: Vec<_> = tree
                .iter()
                .take(MAX_LINES)
                .map(|line| shown(line))
                .collect();
            if tree.len() > MAX_LINES {
                lines.push(format!("and {} more", tree.len() - MAX_LINES));
            }
            let other = match other {
                Other::Same => String::new(),
                Other::Differs(why) => format!(". umoci: {why}"),
            };
            format!("**accepted**: {meaning}: {}{other}", lines.join(", "))
        }
    }
}

/// A line of a tree; the tests compare all of it.
fn shown(line: &str) -> String {
    let short: String = line.chars().take(MAX_LINE).collect();
    let more = if short.len() < line.len() {
        "\u{2026}"
    } else {
        ""
    };
    format!("`` {short}{more} ``")
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
