//! Adds a rule to the user's `config.toml`, behind what stands there: comments and order stay as they are.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use agent_vm_policy::{Action, HostPattern};
use thiserror::Error;

use crate::egress_rules::{EgressRulesError, RawRules, parse};
use crate::setup_files::USER_CONFIG;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// It was added.
    Now,
    /// It stood there before.
    Before,
}

/// Why it was not added. The file is as it was.
#[derive(Debug, Error)]
pub(crate) enum RuleFileError {
    #[error(transparent)]
    Rules(#[from] EgressRulesError),
    #[error("cannot change {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: a rule cannot be added behind what stands there", path.display())]
    Form {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
}

/// Adds `[[egress.rule]]` for `hosts`, unless it is there. Writes a new file and renames it; a link is followed.
///
/// # Errors
/// [`RuleFileError`].
pub(crate) fn add_rule(
    directory: &Path,
    hosts: &HostPattern,
    action: Action,
) -> Result<Added, RuleFileError> {
    let path = directory.join(USER_CONFIG);
    let wrong = |source| RuleFileError::File {
        path: path.clone(),
        source,
    };
    fs_err::create_dir_all(directory).map_err(wrong)?;
    let place = fs_err::canonicalize(&path).unwrap_or_else(|_absent| path.clone());
    let (text, mode) = match fs_err::read_to_string(&place) {
        Ok(text) => (
            text,
            Some(fs_err::metadata(&place).map_err(wrong)?.permissions()),
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (String::new(), None),
        Err(error) => return Err(wrong(error)),
    };
    let rules = |text: &str| -> Result<_, RuleFileError> {
        let raw: RawRules = toml::from_str(text).map_err(|source| RuleFileError::Form {
            path: path.clone(),
            source,
        })?;
        Ok(parse(&path, USER_CONFIG, raw)?)
    };
    let before = rules(&text)?;
    let whole = before.iter().any(|rule| {
        rule.host == *hosts
            && rule.action == action
            && rule.port.is_none()
            && !rule.is_about_requests()
    });
    if whole {
        return Ok(Added::Before);
    }
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let added =
        format!("{text}{gap}\n[[egress.rule]]\nhost = \"{hosts}\"\naction = \"{action}\"\n");
    rules(&added)?;
    let folder = place.parent().unwrap_or(directory);
    let temporary = folder.join(format!(".{USER_CONFIG}.{}", std::process::id()));
    let written = (|| {
        let mut file = fs_err::File::create(&temporary)?;
        if let Some(mode) = mode {
            file.set_permissions(mode)?;
        }
        file.write_all(added.as_bytes())?;
        file.sync_all()?;
        fs_err::rename(&temporary, &place)
    })();
    if written.is_err() {
        let _left = fs_err::remove_file(&temporary);
    }
    written.map_err(wrong)?;
    Ok(Added::Now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_added_once_behind_what_stands_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(USER_CONFIG);
        let (a, b): (HostPattern, HostPattern) =
            ("a.test".parse().unwrap(), "*.b.test".parse().unwrap());
        let add = |hosts, action| add_rule(directory.path(), hosts, action);
        assert_eq!(add(&a, Action::Allow).unwrap(), Added::Now);
        let text = fs_err::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "\n[[egress.rule]]\nhost = \"a.test\"\naction = \"allow\"\n"
        );
        fs_err::write(
            &path,
            format!("# mine\n[network]  # kept\nallow-lan = true{text}# end"),
        )
        .unwrap();
        assert_eq!(add(&a, Action::Allow).unwrap(), Added::Before);
        assert_eq!(add(&b, Action::Deny).unwrap(), Added::Now);
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# mine\n[network]  # kept\nallow-lan = true\n"),
            "{text}"
        );
        assert!(
            text.ends_with("# end\n\n[[egress.rule]]\nhost = \"*.b.test\"\naction = \"deny\"\n")
        );
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed_and_a_file_that_cannot_take_it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (path, real) = (
            directory.path().join(USER_CONFIG),
            directory.path().join("dot"),
        );
        for text in [
            "egress = { rule = [] }\n",
            "no toml",
            "[[egress.rule]]\nhost = 1\n",
        ] {
            fs_err::write(&path, text).unwrap();
            assert!(add_rule(directory.path(), &"a.test".parse().unwrap(), Action::Deny).is_err());
            assert_eq!(fs_err::read_to_string(&path).unwrap(), text);
        }
        fs_err::rename(&path, &real).unwrap();
        fs_err::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        add_rule(directory.path(), &"a.test".parse().unwrap(), Action::Deny).unwrap();
        assert!(fs_err::symlink_metadata(&path).unwrap().is_symlink());
        assert!(fs_err::read_to_string(&real).unwrap().contains("a.test"));
    }
}
