//! The files that say what is set up on top of the image:
//!
//! | whose | script | packages and mounts |
//! |---|---|---|
//! | the user's | `~/.config/agent-vm/setup.sh` | `[setup]` of `~/.config/agent-vm/config.toml` |
//! | the project's | `.agent-vm.setup.sh` | `[setup]` of `.agent-vm.toml`, packages only |
//!
//! A project's files are the project's word, not the user's: they run in the virtual machine only and get nothing of the
//! host, so they may name packages but no mounts. The guest can write them, so nothing but a regular file is read: a link
//! could point at any file of the host.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use agent_vm_credentials::HostEnvironment;
use agent_vm_launch::{Bases, Recipe, SetupRequest, SetupScript, ShareAccess};
use agent_vm_state::Project;
use rustix::fs::{FileType, Mode, OFlags};
use thiserror::Error;

use crate::args::{LaunchOptions, MountSpec};
use crate::command_error::CommandError;
use crate::env_vars::{self, EnvVars};
use crate::mounts;

/// The user's script, in the directory of the user's configuration.
const USER_SCRIPT: &str = "setup.sh";
/// The user's configuration, there.
pub(crate) const USER_CONFIG: &str = "config.toml";
/// A project's script, in its root.
const PROJECT_SCRIPT: &str = ".agent-vm.setup.sh";
/// A project's configuration, there.
pub(crate) const PROJECT_CONFIG: &str = ".agent-vm.toml";
/// Largest script or configuration file, in bytes: all of a base's scripts travel in one message of 4 MiB.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Most packages and scripts of one base.
const MAX_ITEMS: usize = 256;
/// Longest name of a package.
const MAX_PACKAGE_BYTES: usize = 128;

/// Why the setup cannot be read.
#[derive(Debug, Error)]
pub(crate) enum SetupFileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is a {kind}, not a regular file", path.display())]
    Kind { path: PathBuf, kind: &'static str },
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", path.display())]
    Large { path: PathBuf },
    #[error("{} is not valid UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("{} cannot be understood", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("{}: `{key}` is not known here", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("{}: `{key}` must be a list of at most {MAX_ITEMS} texts", path.display())]
    NotTexts { path: PathBuf, key: &'static str },
    #[error("{}: {name:?} cannot be the name of a package", path.display())]
    Package { path: PathBuf, name: String },
    #[error("{} asks for mounts, which only the user's own configuration may", path.display())]
    ProjectMounts { path: PathBuf },
    #[error("{} asks to publish ports, which only the user's own configuration may", path.display())]
    ProjectPublish { path: PathBuf },
    #[error("{} names secrets, which only the user's own configuration may", path.display())]
    ProjectSecrets { path: PathBuf },
    #[error("{}: invalid mount {text:?}: {reason}", path.display())]
    Mount {
        path: PathBuf,
        text: String,
        reason: String,
    },
}

/// The recipes of a launch for `project`.
///
/// # Errors
/// When a file is there but cannot be used, or a mount cannot be.
pub(crate) fn read(
    options: &LaunchOptions,
    env: &EnvVars,
    project: &Project,
    cwd: &Path,
    host: &HostEnvironment,
) -> Result<SetupRequest, CommandError> {
    if options.no_setup {
        return Ok(SetupRequest {
            bases: Bases::Ignore,
            ..SetupRequest::default()
        });
    }
    let configuration = user_directory(env, &host.home);
    let user = user_recipe(&configuration, project, host)?;
    let mut project = project_recipe(project.root())?;
    for given in &options.setup_script {
        let path = cwd.join(given);
        let content = read_file(&path, Links::Followed)?;
        let missing = || SetupFileError::Read {
            path: path.clone(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        project.scripts.push(SetupScript {
            name: given.display().to_string(),
            content: content.ok_or_else(missing)?,
        });
    }
    Ok(SetupRequest {
        user,
        project,
        bases: Bases::Use,
    })
}

/// `$XDG_CONFIG_HOME/agent-vm`, by default `~/.config/agent-vm`.
pub(crate) fn user_directory(env: &EnvVars, home: &Path) -> PathBuf {
    let xdg = env.path(env_vars::XDG_CONFIG_HOME);
    let root = xdg.filter(|path| path.is_absolute());
    root.unwrap_or_else(|| home.join(".config"))
        .join("agent-vm")
}

fn user_recipe(
    directory: &Path,
    project: &Project,
    host: &HostEnvironment,
) -> Result<Recipe, CommandError> {
    let path = directory.join(USER_CONFIG);
    let table = setup_table(&path, Links::Followed)?;
    let mut specs = Vec::new();
    for text in texts(&path, &table, "mounts")? {
        specs.push(mount(&path, &text)?);
    }
    let mut mounts = mounts::resolve(&specs, project.root(), directory, host)?;
    for mount in &mut mounts {
        mount.access = ShareAccess::ReadOnly;
    }
    Ok(Recipe {
        packages: packages(&path, &table)?,
        scripts: script(directory, USER_SCRIPT, Links::Followed)?,
        mounts,
    })
}

fn project_recipe(root: &Path) -> Result<Recipe, SetupFileError> {
    let path = root.join(PROJECT_CONFIG);
    let table = setup_table(&path, Links::Refused)?;
    if table.contains_key("mounts") {
        return Err(SetupFileError::ProjectMounts { path });
    }
    Ok(Recipe {
        packages: packages(&path, &table)?,
        scripts: script(root, PROJECT_SCRIPT, Links::Refused)?,
        mounts: Vec::new(),
    })
}

fn script(directory: &Path, name: &str, links: Links) -> Result<Vec<SetupScript>, SetupFileError> {
    let content = read_file(&directory.join(name), links)?;
    let script = content.map(|content| SetupScript {
        name: name.to_owned(),
        content,
    });
    Ok(script.into_iter().collect())
}

/// The table `[setup]`; empty when there is no file or no such table.
fn setup_table(path: &Path, links: Links) -> Result<toml::Table, SetupFileError> {
    let Some(text) = read_text(path, links)? else {
        return Ok(toml::Table::new());
    };
    let path = path.to_owned();
    let mut all: toml::Table = match text.parse() {
        Ok(all) => all,
        Err(source) => return Err(SetupFileError::Syntax { path, source }),
    };
    // `network_settings.rs` and `egress_rules.rs` read them.
    all.remove("network");
    all.remove("egress");
    if matches!(links, Links::Followed) {
        // The user's own: `image_settings.rs` reads it.
        all.remove("image");
        // `publish_settings.rs` reads it.
        all.remove("publish");
        // `secret_settings.rs` reads it.
        all.remove("secret");
    } else if all.contains_key("publish") {
        return Err(SetupFileError::ProjectPublish { path });
    } else if all.contains_key("secret") {
        return Err(SetupFileError::ProjectSecrets { path });
    }
    let setup = match all.remove("setup") {
        None => toml::Table::new(),
        Some(toml::Value::Table(setup)) => setup,
        Some(_) => {
            let key = "setup".to_owned();
            return Err(SetupFileError::UnknownKey { path, key });
        }
    };
    // What is not obeyed must not look as if it were.
    let unknown = setup
        .keys()
        .find(|key| !matches!(key.as_str(), "packages" | "mounts"));
    let unknown = unknown.map(|key| format!("setup.{key}"));
    match unknown.or_else(|| all.keys().next().cloned()) {
        Some(key) => Err(SetupFileError::UnknownKey { path, key }),
        None => Ok(setup),
    }
}

fn texts(
    path: &Path,
    table: &toml::Table,
    key: &'static str,
) -> Result<Vec<String>, SetupFileError> {
    let wrong = || SetupFileError::NotTexts {
        path: path.to_owned(),
        key,
    };
    let Some(value) = table.get(key) else {
        return Ok(Vec::new());
    };
    let list = value.as_array().ok_or_else(wrong)?;
    if list.len() > MAX_ITEMS {
        return Err(wrong());
    }
    let text = |value: &toml::Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
    list.iter().map(text).collect()
}

fn packages(path: &Path, table: &toml::Table) -> Result<Vec<String>, SetupFileError> {
    let names = texts(path, table, "packages")?;
    match names.iter().find(|name| !is_package_name(name)) {
        Some(name) => Err(SetupFileError::Package {
            path: path.to_owned(),
            name: name.clone(),
        }),
        None => Ok(names),
    }
}

/// A name, version or release as the package managers write them (`g++`, `jq=1.7-1`, `nodejs/stable`); never an option,
/// never anything a shell would obey.
fn is_package_name(name: &str) -> bool {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._:=~/@".contains(&byte);
    first && name.len() <= MAX_PACKAGE_BYTES && name.bytes().all(allowed)
}

fn mount(path: &Path, text: &str) -> Result<MountSpec, SetupFileError> {
    let refuse = |reason: String| SetupFileError::Mount {
        path: path.to_owned(),
        text: text.to_owned(),
        reason,
    };
    if text.ends_with(":rw") {
        return Err(refuse("mounts of a setup are read-only".to_owned()));
    }
    text.parse()
        .map_err(|error: crate::args::MountSpecError| refuse(error.to_string()))
}

/// Whether the last part of a path may be a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// The user's own, often kept elsewhere.
    Followed,
    /// The guest could have made it.
    Refused,
}

/// A regular file of text, whole; `None` when there is none.
///
/// # Errors
/// When it is something else, larger than 256 KiB, or cannot be read.
pub(crate) fn read_text(path: &Path, links: Links) -> Result<Option<String>, SetupFileError> {
    let text = read_file(path, links)?.map(String::from_utf8).transpose();
    text.map_err(|_| SetupFileError::NotUtf8 {
        path: path.to_owned(),
    })
}

/// A TOML file in its form; the default when there is none. `not_understood` makes the error of its syntax.
///
/// # Errors
/// That one, and those of [`read_text`].
pub(crate) fn read_toml<T, E>(
    path: &Path,
    links: Links,
    not_understood: impl FnOnce(PathBuf, toml::de::Error) -> E,
) -> Result<T, E>
where
    T: Default + serde::de::DeserializeOwned,
    E: From<SetupFileError>,
{
    match read_text(path, links)? {
        None => Ok(T::default()),
        Some(text) => {
            toml::from_str(&text).map_err(|source| not_understood(path.to_owned(), source))
        }
    }
}

/// A regular file, whole; `None` when there is none.
fn read_file(path: &Path, links: Links) -> Result<Option<Vec<u8>>, SetupFileError> {
    let unreadable = |source| SetupFileError::Read {
        path: path.to_owned(),
        source,
    };
    let follow = match links {
        Links::Followed => OFlags::empty(),
        Links::Refused => OFlags::NOFOLLOW,
    };
    // Without blocking: it could be a pipe nobody writes to.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | follow;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err(SetupFileError::Kind {
                path: path.to_owned(),
                kind: "symbolic link",
            });
        }
        Err(errno) => return Err(unreadable(errno.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(errno.into()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("directory"),
        _ => Some("special file"),
    };
    if let Some(kind) = kind {
        return Err(SetupFileError::Kind {
            path: path.to_owned(),
            kind,
        });
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::from(file)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes);
    read.map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(SetupFileError::Large {
            path: path.to_owned(),
        });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
