//! The user's own secrets: `--secret`, and `[[secret]]` of the user's configuration
//! `~/.config/agent-vm/config.toml`:
//!
//! ```toml
//! [[secret]]
//! name = "NPM_TOKEN"                       # the variable in the guest
//! hosts = ["registry.npmjs.org"]           # the only hosts that get the token
//! source = { env = "NPM_TOKEN" }           # or { file = "~/token" }, { command = ["pass", "show", "npm"] }; as `name` unless given
//! header = "authorization"                 # unless given
//! ```
//!
//! An option takes the place of the file's secret of the same name. A project's `.agent-vm.toml` has no secrets: the guest
//! can write it, and a source reads any file and runs any program of the user's.
//!
//! Must hold: no error repeats a value of the file, which could be a token written there by mistake.

use std::path::{Path, PathBuf};

use agent_vm_credentials::{SecretSource, SecretSpec, SecretSpecError};
use serde::Deserialize;
use thiserror::Error;

use crate::command_error::{CommandError, UsageError};
use crate::setup_files::{Links, SetupFileError, USER_CONFIG, read_text};

/// Most secrets of the file.
const MAX_SECRETS: usize = 64;

/// Why the file's secrets cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SecretSettingsError {
    #[error(transparent)]
    File(#[from] SetupFileError),
    #[error("{}: a [[secret]] cannot be understood (line {line})", path.display())]
    Syntax { path: PathBuf, line: usize },
    #[error("{}: the [[secret]] number {number} cannot be used", path.display())]
    Secret {
        path: PathBuf,
        number: usize,
        #[source]
        source: SecretSpecError,
    },
    #[error("{}: the [[secret]] number {number} has the name of an earlier one", path.display())]
    Twice { path: PathBuf, number: usize },
    #[error("{}: more than {MAX_SECRETS} [[secret]]", path.display())]
    TooMany { path: PathBuf },
}

/// The part of the file that is read here; the rest is for others.
#[derive(Default, Deserialize)]
struct Raw {
    #[serde(default)]
    secret: Vec<RawSecret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawSecret {
    name: String,
    hosts: Vec<String>,
    source: Option<RawSource>,
    header: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawSource {
    Env(String),
    File(String),
    Command(Vec<String>),
}

/// What options and the user's configuration in `directory` name; without a directory, options alone.
///
/// # Errors
/// When one of them is none.
pub(crate) fn read(
    options: &[String],
    directory: Option<&Path>,
) -> Result<Vec<SecretSpec>, CommandError> {
    let given = options.iter().map(|text| text.parse());
    let mut specs: Vec<SecretSpec> = given
        .collect::<Result<_, _>>()
        .map_err(UsageError::Secret)?;
    let Some(directory) = directory else {
        return Ok(specs);
    };
    let path = directory.join(USER_CONFIG);
    let text = read_text(&path, Links::Followed).map_err(SecretSettingsError::File)?;
    let listed = match text {
        Some(text) => listed(&path, &text)?,
        None => Vec::new(),
    };
    for spec in listed {
        if !specs.iter().any(|given| given.name == spec.name) {
            specs.push(spec);
        }
    }
    Ok(specs)
}

fn listed(path: &Path, text: &str) -> Result<Vec<SecretSpec>, SecretSettingsError> {
    let owned = || path.to_owned();
    // The parser's own message shows what it stumbled over.
    let raw: Raw = toml::from_str(text).map_err(|error| SecretSettingsError::Syntax {
        path: owned(),
        line: line(text, error.span().map_or(0, |span| span.start)),
    })?;
    if raw.secret.len() > MAX_SECRETS {
        return Err(SecretSettingsError::TooMany { path: owned() });
    }
    let mut specs: Vec<SecretSpec> = Vec::new();
    for (index, raw) in raw.secret.into_iter().enumerate() {
        let number = index + 1;
        let spec = spec(raw).map_err(|source| SecretSettingsError::Secret {
            path: owned(),
            number,
            source,
        })?;
        if specs.iter().any(|earlier| earlier.name == spec.name) {
            return Err(SecretSettingsError::Twice {
                path: owned(),
                number,
            });
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn spec(raw: RawSecret) -> Result<SecretSpec, SecretSpecError> {
    let source = raw.source.map(|source| match source {
        RawSource::Env(variable) => SecretSource::Environment(variable),
        RawSource::File(path) => SecretSource::File(path),
        RawSource::Command(words) => SecretSource::Command(words),
    });
    let hosts: Vec<&str> = raw.hosts.iter().map(String::as_str).collect();
    SecretSpec::new(&raw.name, source, &hosts, raw.header.as_deref())
}

/// The line of a position, counted from 1.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<SecretSpec>, String> {
        listed(Path::new("/c.toml"), text).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", cause.unwrap_or_default())
        })
    }

    #[test]
    fn each_example_of_the_guide_is_the_same_as_an_option() {
        let guide = include_str!("../../../docs/credentials.md");
        let blocks = guide.split("```toml\n").skip(1);
        let examples: Vec<SecretSpec> = blocks
            .flat_map(|block| parsed(block.split("```").next().unwrap()).unwrap())
            .collect();
        let options: Vec<SecretSpec> = [
            "NPM_TOKEN@registry.npmjs.org",
            "DEPLOY_KEY=file:~/.config/deploy-key@deploy.example.org,*.deploy.example.org:X-Deploy-Key",
            "CI_TOKEN=cmd:pass show ci@ci.example.org",
        ]
        .iter()
        .map(|option| option.parse().unwrap())
        .collect();
        assert_eq!(examples, options);
    }

    #[test]
    fn option_takes_the_place_of_the_secret_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let text = "[[secret]]\nname = \"A\"\nhosts = [\"a.b\"]\n[[secret]]\nname = \"B\"\nhosts = [\"a.b\"]\n";
        fs_err::write(directory.path().join(USER_CONFIG), text).unwrap();
        let specs = read(&["B@c.d".to_owned()], Some(directory.path())).unwrap();
        let shown: Vec<String> = specs
            .iter()
            .map(|spec| format!("{} {}", spec.name, spec.hosts[0]))
            .collect();
        assert_eq!(shown, ["B c.d", "A a.b"]);
        assert_eq!(read(&[], Some(Path::new("/none"))).unwrap(), []);
        assert_eq!(read(&[], None).unwrap(), []);
    }

    #[test]
    fn what_an_option_may_not_be_a_secret_of_the_file_may_not_either() {
        for (text, expected) in [
            (
                "name = \"A\"\nhosts = []",
                "no host is named to which the token may be sent",
            ),
            ("name = \"A-B\"\nhosts = [\"a.b\"]", "the name must be"),
            ("name = \"A\"\nhosts = [\"*.org\"]", "a host"),
            (
                "name = \"A\"\nhosts = [\"a.b\"]\nheader = \"Host\"",
                "\"Host\" is not the name",
            ),
            (
                "name = \"A\"\nhosts = [\"a.b\"]\nsource = { command = [] }",
                "the source is no",
            ),
            (
                "name = \"A\"\nhosts = [\"a.b\"]\nsource = { env = \"A B\" }",
                "the source is no",
            ),
        ] {
            let error = parsed(&format!("[[secret]]\n{text}\n")).unwrap_err();
            assert!(
                error.contains("number 1") && error.contains(expected),
                "{error}"
            );
        }
        let twice = "[[secret]]\nname = \"A\"\nhosts = [\"a.b\"]\n".repeat(2);
        assert!(
            parsed(&twice)
                .unwrap_err()
                .contains("number 2 has the name")
        );
        let many: String = (0..=MAX_SECRETS)
            .map(|n| format!("[[secret]]\nname = \"A{n}\"\nhosts = [\"a.b\"]\n"))
            .collect();
        assert!(parsed(&many).unwrap_err().contains("more than 64"));
    }

    #[test]
    fn token_in_place_of_a_source_is_not_repeated() {
        for source in [
            "\"sk-real\"",
            "{ literal = \"sk-real\" }",
            "{ sk-real = \"x\" }",
            "7",
            "{ env = \"sk-real\" }",
        ] {
            let text = format!("[[secret]]\nname = \"A\"\nhosts = [\"a.b\"]\nsource = {source}\n");
            let error = parsed(&text).unwrap_err();
            assert!(!error.contains("real"), "{error}");
        }
        let error = parsed("[[secret]]\nname = \"A\"\nhosts = [\"a.b\"]\nvalue = \"sk-real\"\n")
            .unwrap_err();
        assert!(
            error.contains("(line 4)") && !error.contains("real"),
            "{error}"
        );
    }
}
