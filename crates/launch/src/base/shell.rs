//! Bases without an agent: made ahead of a launch, and changed by hand.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::task::LocalSet;

use super::build::{BaseError, Making, Rebuild, SetupCredentials, chain_of, ready, scope};
use super::machine::{at_level, authority, record, run_on};
use super::program::by_hand;
use super::record::{BaseId, BaseKind, BaseRecord, Level};
use super::store::BaseStore;
use crate::event::LaunchObserver;
use crate::guest_view::GUEST_HOME;
use crate::launch::{LaunchError, event_loop};
use crate::request::LaunchRequest;
use crate::resolve::Resolved;

/// Makes the bases of a launch up to `level`; setup gets the request's credentials. Gives whether there is any base.
///
/// # Errors
/// See [`LaunchError`]; what was made before stays.
pub fn make_bases(
    request: LaunchRequest,
    level: Level,
    rebuild: Rebuild,
    observer: &dyn LaunchObserver,
) -> Result<bool, LaunchError> {
    let resolved = Resolved::new(request)?;
    let making = Making {
        level,
        rebuild,
        credentials: SetupCredentials::Given,
    };
    let made = LocalSet::new().block_on(&event_loop()?, ready(&resolved, making, observer))?;
    Ok(made.is_some())
}

/// Runs the request's program on a clone of its base up to `level` and leaves the changed disk as a draft; gives the
/// program's exit code and what is known of the draft. See [`BaseStore::keep_draft`].
///
/// # Errors
/// See [`LaunchError`]; no draft is left then, and one from before stays.
pub fn base_shell(
    request: LaunchRequest,
    level: Level,
    observer: &dyn LaunchObserver,
) -> Result<(u8, BaseRecord), LaunchError> {
    let resolved = Resolved::new(request)?;
    LocalSet::new().block_on(&event_loop()?, shell(&resolved, level, observer))
}

async fn shell(
    resolved: &Resolved,
    level: Level,
    observer: &dyn LaunchObserver,
) -> Result<(u8, BaseRecord), LaunchError> {
    let making = Making {
        level,
        rebuild: Rebuild::Missing,
        credentials: SetupCredentials::Given,
    };
    let base = ready(resolved, making, observer).await?;
    let store = BaseStore::at(resolved.request.directories.bases());
    let parent = chain_of(resolved, &store, level).below_hand(level);
    let id = draft_id(resolved, level);
    let lock = store.try_lock(&id).map_err(BaseError::from)?;
    let lock = lock.ok_or_else(|| BaseError::Gone { id: id.clone() })?;
    let new = store.begin(&id, lock).map_err(BaseError::from)?;

    let mut request = resolved.request.clone();
    request.program = by_hand(request.program, authority(&request.credentials));
    let directory = match level {
        Level::User => PathBuf::from(GUEST_HOME),
        Level::Project => request.project.working_directory().to_owned(),
    };
    let launch = at_level(resolved, request, level, directory);
    let (code, leftovers) = run_on(launch, base, &new, observer).await?;
    leftovers.refuse(level, &new)?;
    let record = BaseRecord {
        parent,
        kind: BaseKind::Snapshot,
        steps: vec!["by hand".to_owned()],
        ..record(resolved, level, &new)?
    };
    let images = &resolved.store;
    images
        .pin(&record.pin_name(), &resolved.image)
        .map_err(BaseError::from)?;
    let scope = scope(&resolved.request, level);
    store
        .put_draft(&scope, new, &record)
        .map_err(BaseError::from)?;
    Ok((code, record))
}

/// Changes by hand are like no others.
fn draft_id(resolved: &Resolved, level: Level) -> BaseId {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let text = format!(
        "{level} {} {} {}",
        resolved.request.project.id(),
        std::process::id(),
        now.as_nanos()
    );
    BaseId::of(text.as_bytes())
}
