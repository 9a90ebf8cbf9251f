//! `image`: what is in the store, and how it gets out of it.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_vm_image::{
    Image, Inventory, LeaseHolder, PruneMode, PruneScope, Reference, RemoveError, Removed, Store,
    StoredImage,
};
use serde_json::{Value, json};

use crate::args::ImageCommand;
use crate::command_error::{CommandError, UsageError};
use crate::launch_request::Context;
use crate::ui::{self, Ui, harmless};

/// Digits of a digest that are shown in a table.
const SHORT_DIGEST: usize = 12;

/// `agent-vm image …`.
///
/// # Errors
/// Whatever kept it from being done; nothing is removed then.
pub(crate) fn run(context: &Context, command: &ImageCommand, ui: Ui) -> Result<u8, CommandError> {
    let root = context.directories()?.images();
    // Looking makes nothing.
    let store = root.exists().then(|| Store::open(root)).transpose()?;
    let store = store.as_ref();
    match command {
        ImageCommand::Ls { json } => list(store, *json),
        ImageCommand::Inspect { reference, json } => inspect(store, reference, *json),
        ImageCommand::Rm { references } => remove(store, references, ui),
        ImageCommand::Prune { all, dry_run } => prune(store, (*all, *dry_run), ui),
    }
}

fn list(store: Option<&Store>, json: bool) -> Result<u8, CommandError> {
    let inventory = match store {
        Some(store) => store.inventory()?,
        None => Inventory {
            images: Vec::new(),
            total_bytes: 0,
            unreferenced_bytes: 0,
        },
    };
    let text = if json {
        document(&json!(inventory))
    } else {
        table(&inventory, now())
    };
    said(&text)
}

fn inspect(store: Option<&Store>, reference: &str, json: bool) -> Result<u8, CommandError> {
    let reference: Reference = reference.parse()?;
    let missing = || RemoveError::NotFound {
        reference: reference.clone(),
    };
    let store = store.ok_or_else(missing)?;
    let stored = store.stored(&reference)?.ok_or_else(missing)?;
    // A damaged image has no configuration to tell; the rest of it is told all the same.
    let image = if stored.whole {
        store.image(&reference)?
    } else {
        None
    };
    let text = if json {
        document(&details(&stored, image.as_ref()))
    } else {
        description(&stored, image.as_ref(), now())
    };
    said(&text)
}

fn remove(store: Option<&Store>, references: &[String], ui: Ui) -> Result<u8, CommandError> {
    let references = references.iter().map(|text| text.parse());
    let references: Vec<Reference> = references.collect::<Result<_, _>>()?;
    let missing = |reference: &Reference| RemoveError::NotFound {
        reference: reference.clone(),
    };
    let store = store.ok_or_else(|| missing(&references[0]))?;
    let removed = store.remove(&references)?;
    report(&removed, "freed", ui)
}

fn prune(store: Option<&Store>, (all, dry_run): (bool, bool), ui: Ui) -> Result<u8, CommandError> {
    let scope = if all {
        PruneScope::All
    } else {
        PruneScope::Unnamed
    };
    let (mode, word) = if dry_run {
        (PruneMode::DryRun, "would be freed")
    } else {
        (PruneMode::Remove, "freed")
    };
    let removed = store.map(|store| store.prune(scope, mode)).transpose()?;
    report(&removed.unwrap_or_default(), word, ui)
}

/// What went is data, how much that is is for people.
fn report(removed: &Removed, word: &str, ui: Ui) -> Result<u8, CommandError> {
    let lines = removed.references.iter().map(|name| format!("{name}\n"));
    said(&lines.collect::<String>())?;
    ui.status(&format!("{} {word}", size(removed.bytes)));
    Ok(0)
}

fn said(text: &str) -> Result<u8, CommandError> {
    ui::data(text).map_err(UsageError::Output)?;
    Ok(0)
}

fn document(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value always serialises") + "\n"
}

fn table(inventory: &Inventory, now: u64) -> String {
    let mut rows = vec![["IMAGE", "DIGEST", "PULLED", "SIZE", "OWN", "STATE"].map(str::to_owned)];
    for image in &inventory.images {
        let mut names = image.references.iter().map(|name| harmless(name));
        rows.push([
            names.next().unwrap_or_default(),
            image.digest.hex()[..SHORT_DIGEST].to_owned(),
            age(image.pulled, now),
            size(image.bytes),
            size(image.own_bytes),
            state(image),
        ]);
        // Its other names, each on a line of its own.
        rows.extend(names.map(|name| {
            [
                name,
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ]
        }));
    }
    let mut text = columns(&rows);
    let count = inventory.images.len();
    let plural = if count == 1 { "" } else { "s" };
    let total = size(inventory.total_bytes);
    writeln!(text, "{count} image{plural}, {total} on disk").expect("a String takes all");
    if inventory.unreferenced_bytes > 0 {
        let lost = size(inventory.unreferenced_bytes);
        writeln!(
            text,
            "{lost} of that belong to no image: `agent-vm image prune` frees them"
        )
        .expect("a String takes all");
    }
    text
}

/// Rows with their columns below each other.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N)
        .map(|column| width(column).unwrap_or_default())
        .collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        line.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn state(image: &StoredImage) -> String {
    let mut words = Vec::new();
    let machines = image.users.iter();
    let machines = machines
        .filter(|user| matches!(user, LeaseHolder::Machine { .. }))
        .count();
    if machines > 0 {
        words.push(format!("in use by {machines}"));
    }
    if machines < image.users.len() {
        words.push("being pulled".to_owned());
    }
    if !image.pins.is_empty() {
        words.push(format!("base of {}", image.pins.len()));
    }
    if image.signed {
        words.push("verified".to_owned());
    }
    if !image.named {
        words.push("replaced".to_owned());
    }
    if !image.whole {
        words.push("damaged".to_owned());
    }
    words.join(", ")
}

fn description(stored: &StoredImage, image: Option<&Image>, now: u64) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push([format!("{name}:"), harmless(&value)]);
    for name in &stored.references {
        row("image", name.clone());
    }
    row("digest", stored.digest.to_string());
    row("manifest", stored.manifest_digest.to_string());
    row("platform", format!("linux/{}", stored.architecture));
    row("pulled", age(stored.pulled, now));
    row(
        "size",
        format!(
            "{}, {} of it its own",
            size(stored.bytes),
            size(stored.own_bytes)
        ),
    );
    row("state", state(stored));
    for name in &stored.pins {
        row("base", name.clone());
    }
    for layer in &stored.layers {
        let bytes = layer.bytes.map_or("missing".to_owned(), size);
        row(
            "layer",
            format!(
                "{} {bytes}, in {} of the images",
                layer.diff_id, layer.images
            ),
        );
    }
    if let Some(config) = image.map(|image| &image.config) {
        let version = config.image_api_version;
        row(
            "image API",
            version.map_or("none".to_owned(), |version| version.to_string()),
        );
        row("entrypoint", json!(config.entrypoint).to_string());
        row("command", json!(config.cmd).to_string());
        row("user", config.user.clone().unwrap_or_default());
        row("directory", config.working_dir.clone().unwrap_or_default());
        for variable in &config.env {
            row("variable", variable.clone());
        }
        for (name, value) in &config.labels {
            row("label", format!("{name}={value}"));
        }
    }
    rows.retain(|[_, value]| !value.is_empty());
    columns(&rows)
}

fn details(stored: &StoredImage, image: Option<&Image>) -> Value {
    let mut details = json!(stored);
    details["config"] = image.map_or(Value::Null, |image| {
        let config = &image.config;
        json!({
            "image_api_version": config.image_api_version, "entrypoint": config.entrypoint,
            "cmd": config.cmd, "user": config.user, "working_dir": config.working_dir,
            "env": config.env, "labels": config.labels,
        })
    });
    details
}

/// Bytes with three digits or so.
fn size(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}

/// How long ago, in the largest unit that fits.
fn age(then: Option<u64>, now: u64) -> String {
    let Some(then) = then else {
        return "at an unknown time".to_owned();
    };
    let seconds = now.saturating_sub(then);
    let units = [("day", 86_400), ("hour", 3600), ("minute", 60)];
    match units.into_iter().find(|(_, unit)| seconds >= *unit) {
        Some((name, unit)) if seconds / unit == 1 => format!("1 {name} ago"),
        Some((name, unit)) => format!("{} {name}s ago", seconds / unit),
        None => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_fits() {
        let shown = [
            0,
            999,
            1000,
            12_345,
            999_999,
            1_427_000_000,
            2_000_000_000_000,
        ]
        .map(size);
        assert_eq!(
            shown,
            [
                "0 B",
                "999 B",
                "1.0 kB",
                "12.3 kB",
                "999.9 kB",
                "1.4 GB",
                "2000.0 GB"
            ]
        );
    }

    #[test]
    fn ages_have_the_unit_that_fits() {
        let shown =
            [0, 59, 60, 7200, 86_400, 864_000].map(|past| age(Some(1_000_000 - past), 1_000_000));
        let expected = [
            "just now",
            "just now",
            "1 minute ago",
            "2 hours ago",
            "1 day ago",
            "10 days ago",
        ];
        assert_eq!(shown, expected);
        assert_eq!(age(Some(9), 1), "just now");
        assert_eq!(age(None, 1), "at an unknown time");
    }

    fn image(references: &[&str]) -> StoredImage {
        let digest = format!("sha256:{}", "5a".repeat(32)).parse().unwrap();
        StoredImage {
            references: references.iter().map(|name| (*name).to_owned()).collect(),
            named: true,
            digest,
            manifest_digest: digest,
            architecture: "amd64".to_owned(),
            pulled: Some(1000),
            bytes: 3_500_000,
            own_bytes: 1_000_000,
            layers: Vec::new(),
            whole: true,
            users: vec![
                LeaseHolder::Machine { pid: 1 },
                LeaseHolder::Pull { pid: 2 },
            ],
            pins: vec!["p".to_owned()],
            signed: true,
        }
    }

    #[test]
    fn table_tells_names_sizes_and_state() {
        let mut other = image(&["h/c@sha256:5a5a"]);
        (other.users, other.pins) = (Vec::new(), Vec::new());
        (other.signed, other.named, other.whole) = (false, false, false);
        let inventory = Inventory {
            images: vec![image(&["h/a:1", "h/b:latest"]), other],
            total_bytes: 6_000_000,
            unreferenced_bytes: 4096,
        };
        let expected = "\
IMAGE            DIGEST        PULLED        SIZE    OWN     STATE
h/a:1            5a5a5a5a5a5a  1 minute ago  3.5 MB  1.0 MB  in use by 1, being pulled, base of 1, verified
h/b:latest
h/c@sha256:5a5a  5a5a5a5a5a5a  1 minute ago  3.5 MB  1.0 MB  replaced, damaged
2 images, 6.0 MB on disk
4.0 kB of that belong to no image: `agent-vm image prune` frees them
";
        assert_eq!(table(&inventory, 1060), expected);
    }

    #[test]
    fn labels_cannot_drive_the_terminal() {
        let mut stored = image(&["h/a:1"]);
        stored.pins = vec!["\u{1b}]0;x\u{7}".to_owned()];
        assert!(!description(&stored, None, 0).contains('\u{1b}'));
    }
}
