//! What is published: the options, and `[publish]` of the user's configuration `~/.config/agent-vm/config.toml`:
//!
//! ```toml
//! [publish]
//! ports = ["8080:80", "0.0.0.0:5353:53/udp"]   # as --publish
//! auto = true                                   # as --auto-publish
//! except = [9229]                               # as --auto-publish-except
//! ```
//!
//! Both together count. A project's `.agent-vm.toml` publishes nothing: the guest can write it, and a port of this host,
//! also of its loopback, is where other programs expect somebody else.

use std::path::{Path, PathBuf};

use agent_vm_launch::{AutoPublish, PublishSettings, PublishedPort};
use serde::Deserialize;
use thiserror::Error;

use crate::args::{PublishFormError, PublishOptions, parse_publish};
use crate::setup_files::{Links, SetupFileError, USER_CONFIG, read_toml};

/// Most ports that are named.
const MAX_PORTS: usize = 256;

/// Why it cannot be said what is published.
#[derive(Debug, Error)]
pub(crate) enum PublishSettingsError {
    #[error(transparent)]
    File(#[from] SetupFileError),
    #[error("{} cannot be understood", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("{}: invalid port {text:?} in [publish]", path.display())]
    Port {
        path: PathBuf,
        text: String,
        #[source]
        source: PublishFormError,
    },
    #[error("{}: a port of [publish] except is a number from 1 to 65535", path.display())]
    Except { path: PathBuf },
    #[error("--auto-publish-except has no effect without --auto-publish")]
    ExceptAlone,
    #[error("at most {MAX_PORTS} ports can be published, not {count}")]
    TooMany { count: usize },
}

/// The part of the file that is read here; the rest is for others.
#[derive(Default, Deserialize)]
struct Raw {
    #[serde(default)]
    publish: RawPublish,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawPublish {
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    auto: bool,
    #[serde(default)]
    except: Vec<u16>,
}

/// What options and the user's configuration in `directory` publish.
///
/// # Errors
/// When the configuration cannot be used, or something that was said would have no effect.
pub(crate) fn read(
    options: &PublishOptions,
    directory: &Path,
) -> Result<PublishSettings, PublishSettingsError> {
    let path = directory.join(USER_CONFIG);
    let raw: Raw = read_toml(&path, Links::Followed, |path, source| {
        PublishSettingsError::Syntax { path, source }
    })?;
    let RawPublish {
        ports: texts,
        auto,
        except,
    } = raw.publish;
    let auto = auto || options.auto_publish;
    if !auto && !options.auto_publish_except.is_empty() {
        return Err(PublishSettingsError::ExceptAlone);
    }
    if except.contains(&0) {
        return Err(PublishSettingsError::Except { path });
    }
    let mut ports = options.publish.clone();
    for text in texts {
        let port = parse_publish(&text);
        let port = port.map_err(|source| PublishSettingsError::Port {
            path: path.clone(),
            text,
            source,
        })?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let count = ports.len();
    if count > MAX_PORTS {
        return Err(PublishSettingsError::TooMany { count });
    }
    let except = options.auto_publish_except.iter().copied().chain(except);
    Ok(PublishSettings {
        auto: auto.then(|| AutoPublish {
            except: except.collect(),
        }),
        ports,
    })
}

/// As a person reads it, for `explain` and messages.
pub(crate) fn described(port: &PublishedPort) -> String {
    let host = match port.host_port {
        0 => format!("any free port of {}", port.bind),
        number => std::net::SocketAddr::new(port.bind, number).to_string(),
    };
    format!(
        "{host} is port {}/{} of the guest",
        port.guest_port, port.protocol
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(options: &PublishOptions, config: &str) -> Result<PublishSettings, String> {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("config.toml"), config).unwrap();
        read(options, directory.path()).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        })
    }

    fn options(publish: &[&str], auto: bool, except: &[u16]) -> PublishOptions {
        PublishOptions {
            publish: publish
                .iter()
                .map(|text| parse_publish(text).unwrap())
                .collect(),
            auto_publish: auto,
            auto_publish_except: except.to_vec(),
        }
    }

    #[test]
    fn options_and_configuration_count_together() {
        let config = "[publish]\nports = ['8080:80', '1:2/udp']\nauto = true\nexcept = [9]\n";
        let settings = read_with(&options(&["8080:80", "[::]:3:4"], false, &[7]), config).unwrap();
        let shown: Vec<String> = settings.ports.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["127.0.0.1:8080:80/tcp", "[::]:3:4/tcp", "127.0.0.1:1:2/udp"]
        );
        assert_eq!(settings.auto.unwrap().except, [7, 9].into());
    }

    #[test]
    fn nothing_is_published_unless_asked_for() {
        let settings = read_with(&options(&[], false, &[]), "[image]\n").unwrap();
        assert_eq!(settings, PublishSettings::default());
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused() {
        let none = options(&[], false, &[]);
        for (config, part) in [
            ("[publish]\nport = ['1:2']\n", "unknown field"),
            ("[publish]\nports = ['nonsense']\n", "[BIND:]HOST:GUEST"),
            ("[publish]\nexcept = [0]\n", "from 1 to 65535"),
            ("publish = 5\n", "invalid type"),
        ] {
            let error = read_with(&none, config).unwrap_err();
            assert!(error.contains(part), "{config}: {error}");
        }
        let alone = read_with(&options(&[], false, &[9]), "").unwrap_err();
        assert!(alone.contains("without --auto-publish"), "{alone}");
    }
}
