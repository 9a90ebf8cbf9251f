//! The machines that change a disk to be kept: what they see, how they run, and what is known of the disk then.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agent_vm_credentials::Collected;

use super::build::{BaseError, SetupCredentials, scope};
use super::leftovers::Leftovers;
use super::program::{Authority, setup_program};
use super::record::{BaseKind, BaseRecord, Level, RECORD_FORMAT};
use super::store::NewBase;
use super::{Bases, SetupRequest};
use crate::event::LaunchObserver;
use crate::guest_view::GUEST_HOME;
use crate::keys::KeyAgents;
use crate::launch::{LaunchError, run_once};
use crate::phases::Phases;
use crate::plan::Plan;
use crate::publish::PublishSettings;
use crate::request::{LaunchRequest, NetworkSettings, ShareAccess, Streams};
use crate::resolve::{DiskPlan, Resolved};

/// The launch that makes one base: same machine, image and network; no credentials unless given, nothing of the host but
/// the project (read-only) for its own base and the mounts given for the user's.
pub(super) fn setup_launch(
    resolved: &Resolved,
    credentials: SetupCredentials,
    level: Level,
) -> Resolved {
    let request = &resolved.request;
    let credentials = match credentials {
        SetupCredentials::Given => request.credentials.clone(),
        SetupCredentials::Withheld => Collected::default(),
    };
    let recipe = request.setup.recipe(level);
    let program = setup_program(recipe, authority(&credentials));
    let directory = match level {
        Level::User => PathBuf::from(GUEST_HOME),
        Level::Project => request.project.root().to_owned(),
    };
    let mut network = NetworkSettings {
        publish: PublishSettings::default(),
        ..request.network.clone()
    };
    if level == Level::User {
        // A project's word is for its own machines; this one is for all of them.
        network.project = None;
    }
    let request = LaunchRequest {
        network,
        project_access: ShareAccess::ReadOnly,
        mounts: recipe.mounts.clone(),
        program,
        credentials,
        key_agents: KeyAgents::default(),
        streams: Streams::Report,
        setup: SetupRequest {
            bases: Bases::Ignore,
            ..SetupRequest::default()
        },
        ..request.clone()
    };
    at_level(resolved, request, level, directory)
}

pub(super) fn authority(credentials: &Collected) -> Authority {
    if credentials.credentials.is_empty() {
        Authority::Absent
    } else {
        Authority::Trusted
    }
}

/// A launch of the same image; the user's bases see nothing of the project.
pub(super) fn at_level(
    resolved: &Resolved,
    request: LaunchRequest,
    level: Level,
    directory: PathBuf,
) -> Resolved {
    let mut plan = Plan::new(&request, resolved.plan.image.digest.clone());
    plan.program.working_directory = directory;
    if level == Level::User {
        plan.mounts
            .retain(|mount| mount.guest != request.project.root());
    }
    Resolved {
        plan,
        request,
        store: resolved.store.clone(),
        image: resolved.image.clone(),
        disk: DiskPlan::default(),
        ports: None,
        watch: None,
    }
}

/// Runs `launch` on a disk that begins as `base`; the disk is then that of `new`. Gives the program's exit code, and what
/// must not be on the disk.
pub(super) async fn run_on(
    mut launch: Resolved,
    base: Option<File>,
    new: &NewBase,
    observer: &dyn LaunchObserver,
) -> Result<(u8, Leftovers), LaunchError> {
    launch.disk = DiskPlan {
        from: base,
        keep: Some(new.disk()),
    };
    let credentials = launch.request.credentials.credentials.clone();
    let ended = run_once(launch, observer, &mut Phases::since(Instant::now())).await?;
    Ok((ended.code, Leftovers::of(&credentials, &ended.ca_pem)))
}

/// What is known of a disk whose machine has ended; made of nothing, by nobody's steps.
pub(super) fn record(
    resolved: &Resolved,
    level: Level,
    new: &NewBase,
) -> Result<BaseRecord, BaseError> {
    let scope = scope(&resolved.request, level);
    let disk = fs_err::metadata(new.disk()).map_err(BaseError::Disk)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(BaseRecord {
        format: RECORD_FORMAT,
        id: new.id().clone(),
        level,
        kind: BaseKind::Setup,
        image_manifest: resolved.image.manifest_digest.to_string(),
        image: scope.image,
        parent: None,
        project: (level == Level::Project).then_some(scope.project),
        steps: Vec::new(),
        disk_bytes: disk.len(),
        made: now.map_or(0, |since| since.as_secs()),
    })
}

#[cfg(test)]
mod tests;
