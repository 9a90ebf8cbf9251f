//! `image expired`: which published versions are past their time. Decides only; the workflow deletes.
//!
//! Input is what GitHub's API lists as versions of a container package, an array of objects with `id`, `created_at` and
//! `metadata.container.tags`. A version is expired when all its tags are dates older than `--days`, or when it is a
//! signature or attestation (`sha256-DIGEST.sig`, `.att`, or the bare `sha256-DIGEST` of the referrers fallback) of one that is.
//! A version with any other tag, as `latest`, stays; so does one without tags, which may belong to one that stays.

use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;
use time::Date;

#[derive(Debug, Clone, Args)]
pub(crate) struct ExpiredArguments {
    /// How long a version with a date as tag is kept.
    #[arg(long, default_value_t = 14)]
    days: u64,
}

#[derive(Debug, Deserialize)]
struct Version {
    id: u64,
    /// The digest.
    name: String,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    container: Container,
}

#[derive(Debug, Deserialize)]
struct Container {
    tags: Vec<String>,
}

/// Reads the versions from standard input and prints the ids of the expired, one a line.
///
/// # Errors
/// When the input is not the list it should be.
pub(crate) fn run(arguments: &ExpiredArguments) -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    for id in expired(&text, now, arguments.days)? {
        println!("{id}");
    }
    Ok(())
}

fn expired(text: &str, now: Duration, days: u64) -> Result<Vec<u64>> {
    let versions: Vec<Version> = serde_json::from_str(text)?;
    let oldest = (now.as_secs() / 3600).saturating_sub(days * 24);
    let is_old = |version: &&Version| {
        let tags = &version.metadata.container.tags;
        let old = |tag: &String| hour(tag).is_some_and(|hour| hour < oldest);
        !tags.is_empty() && tags.iter().all(old)
    };
    let old: Vec<&Version> = versions.iter().filter(is_old).collect();
    let belongs = |version: &&Version| {
        let tags = &version.metadata.container.tags;
        let to_old = |tag: &String| {
            old.iter()
                .any(|old| tag.split('.').next() == Some(&old.name.replace(':', "-")))
        };
        !tags.is_empty() && tags.iter().all(to_old)
    };
    let signatures = versions.iter().filter(belongs);
    Ok(old
        .iter()
        .copied()
        .chain(signatures)
        .map(|version| version.id)
        .collect())
}

/// The hour since 1970 a tag `YYYY-MM-DDTHH` names.
fn hour(tag: &str) -> Option<u64> {
    let bytes = tag.as_bytes();
    let shape = bytes.len() == 13 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b'T';
    let digits = |range: std::ops::Range<usize>| {
        let all = bytes[range.clone()].iter().all(u8::is_ascii_digit);
        if all { tag.get(range) } else { None }
    };
    if !shape {
        return None;
    }
    let month: u8 = digits(5..7)?.parse().ok()?;
    let (year, day) = (digits(0..4)?.parse().ok()?, digits(8..10)?.parse().ok()?);
    let date = Date::from_calendar_date(year, month.try_into().ok()?, day).ok()?;
    let time = date.with_hms(digits(11..13)?.parse().ok()?, 0, 0).ok()?;
    u64::try_from(time.assume_utc().unix_timestamp() / 3600).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_dates_are_hours_and_others_are_none() {
        assert_eq!(hour("1970-01-01T00"), Some(0));
        assert_eq!(hour("2024-02-29T13"), Some(1_709_211_600 / 3600));
        assert_eq!(hour("2026-11-21T09"), Some(1_795_251_600 / 3600));
        for other in [
            "latest",
            "2026-11-21",
            "2026-13-21T09",
            "2026-11-21T24",
            "2026-11-21T0x",
            "20é6-11-2T09",
        ] {
            assert_eq!(hour(other), None, "{other}");
        }
    }

    #[test]
    fn only_dates_past_their_time_and_their_signatures_go() {
        let version = |id: u64, tags: &[&str]| serde_json::json!({"id": id, "name": format!("sha256:{id}"), "metadata": {"container": {"tags": tags}}});
        let versions = serde_json::json!([
            version(1, &["latest", "2026-11-01T00"]),
            version(2, &["2026-11-01T00"]),
            version(3, &["2026-11-07T09"]),
            version(4, &["2026-11-07T10"]),
            version(5, &[]),
            version(6, &["sha256-2.sig"]),
            version(7, &["sha256-4.sig"]),
            version(8, &["sha256-3"]),
            version(9, &["v1", "2026-11-01T00"]),
        ]);
        let now = Duration::from_secs(hour("2026-11-21T10").unwrap() * 3600 + 59);
        assert_eq!(
            expired(&versions.to_string(), now, 14).unwrap(),
            [2, 3, 6, 8]
        );
    }
}
