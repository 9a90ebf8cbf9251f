//! `--mount` as meant: sources that exist, guest paths that are absolute, no two at one place, and no
//! share that would show the guest a file with real tokens.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use agent_vm_credentials::{HostEnvironment, credential_files};
use agent_vm_launch::{Mount, ShareKind};
use thiserror::Error;

use crate::args::MountSpec;

/// Directories of the guest that are its own.
const RESERVED: &[&str] = &["/proc", "/sys", "/dev"];

/// Why a mount cannot be.
#[derive(Debug, Error)]
pub(crate) enum MountError {
    #[error("cannot mount {spec}")]
    Source {
        spec: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot mount {spec}: it is a {kind}, not a directory or regular file")]
    Kind { spec: String, kind: &'static str },
    #[error("cannot mount {spec}: its path is not valid UTF-8")]
    NotUtf8 { spec: String },
    #[error("cannot mount {spec} at {}: the guest needs that path itself", guest.display())]
    Reserved { spec: String, guest: PathBuf },
    #[error("cannot mount {spec} at {}: the guest path has `..`", guest.display())]
    Upwards { spec: String, guest: PathBuf },
    #[error("cannot mount {spec} at {}: {other} is there already", guest.display())]
    Conflict {
        spec: String,
        guest: PathBuf,
        other: String,
    },
    #[error("{} would show the guest the real tokens in {}", shared.display(), file.display())]
    Exposes { shared: PathBuf, file: PathBuf },
}

/// Checks and completes the mounts given beside the project at `project`.
///
/// # Errors
/// [`MountError`], naming the mount as given.
pub(crate) fn resolve(
    specs: &[MountSpec],
    project: &Path,
    cwd: &Path,
    environment: &HostEnvironment,
) -> Result<Vec<Mount>, MountError> {
    let mut taken = vec![(project.to_owned(), "the project".to_owned())];
    let mut mounts = Vec::with_capacity(specs.len());
    for spec in specs {
        let mount = resolve_one(spec, cwd, environment)?;
        if let Some((_, other)) = taken.iter().find(|(guest, _)| *guest == mount.guest) {
            let (spec, other) = (spec.text.clone(), other.clone());
            return Err(MountError::Conflict {
                spec,
                guest: mount.guest,
                other,
            });
        }
        taken.push((mount.guest.clone(), spec.text.clone()));
        mounts.push(mount);
    }
    let shared = std::iter::once(project).chain(mounts.iter().map(|mount| mount.host.as_path()));
    refuse_exposed(shared, environment)?;
    Ok(mounts)
}

fn resolve_one(
    spec: &MountSpec,
    cwd: &Path,
    environment: &HostEnvironment,
) -> Result<Mount, MountError> {
    let text = || spec.text.clone();
    let typed = cwd.join(environment.expand(&spec.host));
    let host = std::fs::canonicalize(&typed).map_err(|source| MountError::Source {
        spec: text(),
        source,
    })?;
    let kind = kind_of(&host, spec)?;
    let guest = match &spec.guest {
        Some(guest) => normal(Path::new(guest)).ok_or_else(|| MountError::Upwards {
            spec: text(),
            guest: guest.into(),
        })?,
        None => normal(&typed).unwrap_or_else(|| host.clone()),
    };
    if host.to_str().is_none() || guest.to_str().is_none() {
        return Err(MountError::NotUtf8 { spec: text() });
    }
    let reserved = RESERVED.iter().any(|reserved| guest.starts_with(reserved));
    if reserved || guest.parent().is_none() {
        return Err(MountError::Reserved {
            spec: text(),
            guest,
        });
    }
    Ok(Mount {
        host,
        guest,
        access: spec.access,
        kind,
    })
}

fn kind_of(host: &Path, spec: &MountSpec) -> Result<ShareKind, MountError> {
    let metadata = std::fs::metadata(host).map_err(|source| MountError::Source {
        spec: spec.text.clone(),
        source,
    })?;
    let file_type = metadata.file_type();
    let kind = if file_type.is_dir() {
        return Ok(ShareKind::Directory);
    } else if file_type.is_file() {
        return Ok(ShareKind::File);
    } else if file_type.is_socket() {
        "socket"
    } else if file_type.is_fifo() {
        "pipe"
    } else {
        "device"
    };
    Err(MountError::Kind {
        spec: spec.text.clone(),
        kind,
    })
}

/// Without `.` and doubled slashes; `None` when there is a `..`, whose meaning symlinks decide.
fn normal(path: &Path) -> Option<PathBuf> {
    let plain = path
        .components()
        .all(|part| !matches!(part, Component::ParentDir));
    plain.then(|| path.components().collect())
}

fn refuse_exposed<'a>(
    shared: impl Iterator<Item = &'a Path>,
    environment: &HostEnvironment,
) -> Result<(), MountError> {
    let files: Vec<PathBuf> = credential_files(environment)
        .iter()
        .filter_map(|file| std::fs::canonicalize(file).ok())
        .collect();
    for shared in shared {
        if let Some(file) = files.iter().find(|file| file.starts_with(shared)) {
            return Err(MountError::Exposes {
                shared: shared.to_owned(),
                file: file.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
