//! First step: what is asked for is looked up, and everything that can be wrong on the host is found before anything
//! is started. Needs no network.

use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;

use agent_vm_image::{ApiMismatch, Image, Reference, ReferenceError, Store, StoreError, check_api};
use agent_vm_protocol::IMAGE_API_VERSION;

use crate::integrity::Watch;
use crate::plan::Plan;
use crate::publish::{BindError, BoundPorts, bind};
use crate::request::LaunchRequest;

/// A launch whose image is known and fits.
#[derive(Debug)]
pub struct Resolved {
    pub(crate) request: LaunchRequest,
    pub(crate) plan: Plan,
    pub(crate) store: Store,
    pub(crate) image: Image,
    pub(crate) disk: DiskPlan,
    /// The host's ports, once they are taken.
    pub(crate) ports: Option<BoundPorts>,
    /// Files that must not be changed unnoticed; of launches that run a user's program.
    pub(crate) watch: Option<Rc<Watch>>,
}

/// How the writable disk begins and what becomes of it.
#[derive(Debug, Default)]
pub(crate) struct DiskPlan {
    /// It begins as a clone of this one; without, empty.
    pub(crate) from: Option<File>,
    /// Where it goes when the guest ended in order; without, it is removed with the session. What belongs to the
    /// session is kept out of a disk that stays.
    pub(crate) keep: Option<PathBuf>,
}

/// Why a launch cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The reference is not one.
    #[error("{reference:?} is not an image reference")]
    Reference {
        /// As given.
        reference: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// The store of images cannot be used.
    #[error("cannot use the image store {}", path.display())]
    Store {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The image was never pulled.
    #[error("image {reference} is not on this machine")]
    NotPulled {
        /// The image.
        reference: String,
    },
    /// The image was built for another agent-vm.
    #[error("image {reference} does not fit this agent-vm")]
    Api {
        /// The image.
        reference: String,
        /// Why, and what to do.
        #[source]
        source: ApiMismatch,
    },
}

impl Resolved {
    /// Looks up the image of a request.
    ///
    /// # Errors
    /// When it is not there or does not fit.
    pub fn new(request: LaunchRequest) -> Result<Self, ResolveError> {
        let text = &request.image.reference;
        let reference: Reference = text.parse().map_err(|source| ResolveError::Reference {
            reference: text.clone(),
            source,
        })?;
        let path = &request.image.store;
        let unusable = |source| ResolveError::Store {
            path: path.clone(),
            source,
        };
        let store = Store::open(path).map_err(unusable)?;
        let image = store.image(&reference).map_err(unusable)?;
        let Some(image) = image else {
            return Err(ResolveError::NotPulled {
                reference: reference.to_string(),
            });
        };
        check_api(&image, IMAGE_API_VERSION).map_err(|source| ResolveError::Api {
            reference: reference.to_string(),
            source,
        })?;
        let plan = Plan::new(&request, Some(image.digest.to_string()));
        Ok(Self {
            request,
            plan,
            store,
            image,
            disk: DiskPlan::default(),
            ports: None,
            watch: None,
        })
    }

    /// Takes the ports to be published, if they are not taken yet.
    ///
    /// # Errors
    /// When one cannot be had.
    pub(crate) fn take_ports(&mut self) -> Result<(), BindError> {
        if self.ports.is_none() {
            self.ports = Some(bind(&self.request.network.publish.ports)?);
        }
        Ok(())
    }

    /// What will be enforced.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}
