//! Makes the bases a launch stands on, each once however many launches want it.

use std::fs::File;
use std::time::{Duration, Instant};

use agent_vm_image::StoreError;
use agent_vm_state::PassingLock;
use tokio::signal::unix::{SignalKind, signal};

use super::Bases;
use super::chain::{Chain, Link, LinkOrigin};
use super::machine::{record, run_on, setup_launch};
use super::record::{BaseId, BaseKind, BaseProject, BaseRecord, Level};
use super::store::{BaseStore, BaseStoreError, NewBase, Scope, chain};
use crate::event::{LaunchEvent, LaunchObserver};
use crate::launch::LaunchError;
use crate::request::LaunchRequest;
use crate::resolve::Resolved;

/// How often a launch that waits for another looks whether it is done.
const POLL: Duration = Duration::from_millis(50);

/// Why a base is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupReason {
    /// There was none.
    First,
    /// The image is another than that of the one before.
    ImageChanged,
    /// The base it stands on is another.
    BelowChanged,
    /// Scripts, packages or mounts are others.
    RecipeChanged,
    /// Somebody asked for it although it is there.
    Asked,
}

/// What happens with bases.
#[derive(Debug)]
pub enum BaseEvent<'a> {
    /// One is being made; what its steps say follows.
    Making {
        /// Whose.
        level: Level,
        /// Why.
        reason: SetupReason,
        /// What is done.
        steps: &'a [String],
    },
    /// It is made.
    Made {
        /// Whose.
        level: Level,
        /// How long it took.
        took: Duration,
    },
    /// Another launch makes it just now.
    Waiting {
        /// Whose.
        level: Level,
    },
    /// These changes by hand were made on another base or image and are not used.
    Stray {
        /// The changes.
        record: &'a BaseRecord,
    },
    /// The base's disk is larger than the one asked for, so the launch's is as well.
    LargerDisk {
        /// Its size in bytes.
        bytes: u64,
    },
}

/// Why a launch has no base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The place of the bases.
    #[error(transparent)]
    Store(#[from] BaseStoreError),
    /// The image cannot be kept for the base.
    #[error("cannot keep the image for its base")]
    Image(#[from] StoreError),
    /// The machine for the setup does not run.
    #[error("cannot run the setup of the {level}'s base")]
    Run {
        /// Whose.
        level: Level,
        /// Why.
        #[source]
        source: Box<LaunchError>,
    },
    /// A step did not succeed.
    #[error("the setup of the {level}'s base ended with exit code {code}; nothing of it is kept")]
    Ended {
        /// Whose.
        level: Level,
        /// The step's exit code.
        code: u8,
    },
    /// Something of the session is on the disk.
    #[error("the setup of the {level}'s base left {what} on its disk; nothing of it is kept")]
    Leftover {
        /// Whose.
        level: Level,
        /// What was found.
        what: String,
    },
    /// The disk cannot be looked at.
    #[error("cannot read the new disk")]
    Disk(#[source] std::io::Error),
    /// A base that was there is gone.
    #[error("base {id} was removed while it was needed")]
    Gone {
        /// Which.
        id: BaseId,
    },
    /// The user gave up while another launch was making it.
    #[error("interrupted")]
    Interrupted {
        /// By this signal.
        signal: u8,
    },
    /// The system does not tell signals.
    #[error("cannot wait for another launch")]
    Wait(#[source] std::io::Error),
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuild {
    /// Only what is not there.
    Missing,
    /// Everything of the level asked for, also what is there.
    Level,
}

/// How bases are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making {
    pub(crate) level: Level,
    pub(crate) rebuild: Rebuild,
    /// Whether setup gets the credentials of the request.
    pub(crate) credentials: SetupCredentials,
}

/// Whether setup gets credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetupCredentials {
    /// None at all.
    Withheld,
    /// Those of the request.
    Given,
}

/// The disk of the base that `resolved` stands on; makes what is missing. `None` when it stands on the bare image.
///
/// # Errors
/// [`BaseError`] when one cannot be made; nothing of it is kept.
pub(crate) async fn ready(
    resolved: &Resolved,
    making: Making,
    observer: &dyn LaunchObserver,
) -> Result<Option<File>, BaseError> {
    let request = &resolved.request;
    if request.setup.bases == Bases::Ignore {
        return Ok(None);
    }
    let store = BaseStore::at(request.directories.bases());
    let chain = chain_of(resolved, &store, making.level);
    for record in &chain.strays {
        observer.event(LaunchEvent::Base(BaseEvent::Stray { record }));
    }
    let maker = Maker {
        resolved,
        store: &store,
        making,
        observer,
    };
    let disk = maker.make(&chain).await?;
    if let Some(disk) = &disk {
        let bytes = disk.metadata().map_err(BaseError::Disk)?.len();
        if bytes > request.machine.disk_bytes {
            observer.event(LaunchEvent::Base(BaseEvent::LargerDisk { bytes }));
        }
    }
    Ok(disk)
}

/// The chain of a launch up to `level`.
pub(crate) fn chain_of(resolved: &Resolved, store: &BaseStore, level: Level) -> Chain {
    let manifest = resolved.image.manifest_digest;
    let scope = scope(&resolved.request, level);
    chain(store, manifest, &scope, &resolved.request.setup)
}

pub(crate) fn scope(request: &LaunchRequest, level: Level) -> Scope {
    Scope {
        level,
        project: BaseProject {
            id: request.project.id().to_string(),
            path: request.project.root().to_owned(),
        },
        image: request.image.reference.clone(),
    }
}

/// Makes the bases of one launch.
struct Maker<'a> {
    resolved: &'a Resolved,
    store: &'a BaseStore,
    making: Making,
    observer: &'a dyn LaunchObserver,
}

impl Maker<'_> {
    /// The topmost disk that is there is where making begins.
    async fn make(&self, chain: &Chain) -> Result<Option<File>, BaseError> {
        let again = |link: &Link| self.is_wanted_again(link);
        let end = chain.links.iter().position(again);
        let below = &chain.links[..end.unwrap_or(chain.links.len())];
        let (mut begin, mut disk) = (0, None);
        for (index, link) in below.iter().enumerate().rev() {
            disk = self.store.open_disk(&link.id);
            if disk.is_some() {
                begin = index + 1;
                break;
            }
        }
        for link in &chain.links[begin..] {
            disk = Some(match link.origin {
                LinkOrigin::Recipe => self.one(link, disk).await?,
                LinkOrigin::Hand => self.opened(&link.id)?,
            });
        }
        Ok(disk)
    }

    fn is_wanted_again(&self, link: &Link) -> bool {
        self.making.rebuild == Rebuild::Level
            && link.origin == LinkOrigin::Recipe
            && link.level == self.making.level
    }

    fn opened(&self, id: &BaseId) -> Result<File, BaseError> {
        let disk = self.store.open_disk(id);
        disk.ok_or_else(|| BaseError::Gone { id: id.clone() })
    }

    async fn one(&self, link: &Link, below: Option<File>) -> Result<File, BaseError> {
        let lock = self.lock(link).await?;
        if let Some(disk) = self.store.open_disk(&link.id)
            && !self.is_wanted_again(link)
        {
            // Another launch was quicker.
            return Ok(disk);
        }
        let steps = self.resolved.request.setup.recipe(link.level).titles();
        let level = link.level;
        self.tell(BaseEvent::Making {
            level,
            reason: self.reason(link)?,
            steps: &steps,
        });
        let started = Instant::now();
        let new = self.store.begin(&link.id, lock)?;
        self.run(link, below, &new).await?;
        let record = BaseRecord {
            parent: link.parent.clone(),
            kind: BaseKind::Setup,
            steps,
            ..record(self.resolved, level, &new)?
        };
        // First the pin: a base never lacks its image.
        let images = &self.resolved.store;
        images.pin(&record.pin_name(), &self.resolved.image)?;
        self.store.publish(new, &record)?;
        let took = started.elapsed();
        self.tell(BaseEvent::Made { level, took });
        self.opened(&link.id)
    }

    /// Runs the level's recipe; the disk is then in its place.
    async fn run(&self, link: &Link, below: Option<File>, new: &NewBase) -> Result<(), BaseError> {
        let level = link.level;
        let launch = setup_launch(self.resolved, self.making.credentials, level);
        let run = run_on(launch, below, new, self.observer);
        let (code, leftovers) = run.await.map_err(|source| BaseError::Run {
            level,
            source: Box::new(source),
        })?;
        if code != 0 {
            return Err(BaseError::Ended { level, code });
        }
        leftovers.refuse(level, new)
    }

    /// Waits for the right to make a base, and for who has it.
    async fn lock(&self, link: &Link) -> Result<PassingLock, BaseError> {
        if let Some(lock) = self.store.try_lock(&link.id)? {
            return Ok(lock);
        }
        self.tell(BaseEvent::Waiting { level: link.level });
        let mut interrupt = signal(SignalKind::interrupt()).map_err(BaseError::Wait)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(BaseError::Wait)?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Err(BaseError::Interrupted { signal: 2 }),
                _ = terminate.recv() => return Err(BaseError::Interrupted { signal: 15 }),
                () = tokio::time::sleep(POLL) => {}
            }
            if let Some(lock) = self.store.try_lock(&link.id)? {
                return Ok(lock);
            }
        }
    }

    /// Compared with the newest base of the same place.
    fn reason(&self, link: &Link) -> Result<SetupReason, BaseError> {
        if self.store.find(&link.id).is_some() {
            return Ok(SetupReason::Asked);
        }
        let image = &self.resolved.request.image.reference;
        let scope = scope(&self.resolved.request, link.level);
        let listed = self.store.list()?;
        let before = listed.iter().map(|base| &base.record).filter(|record| {
            record.kind == BaseKind::Setup && record.image == *image && scope.holds(record)
        });
        let Some(before) = before.max_by_key(|record| record.made) else {
            return Ok(SetupReason::First);
        };
        let manifest = self.resolved.image.manifest_digest.to_string();
        Ok(if before.image_manifest != manifest {
            SetupReason::ImageChanged
        } else if before.parent != link.parent {
            SetupReason::BelowChanged
        } else {
            SetupReason::RecipeChanged
        })
    }

    fn tell(&self, event: BaseEvent<'_>) {
        self.observer.event(LaunchEvent::Base(event));
    }
}
