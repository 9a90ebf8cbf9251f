//! What the caller says about a pull, and what a pull says to the caller.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::digest::ImageDigest;
use crate::manifest::Architecture;
use crate::registry::RegistryError;
use crate::signature::SignaturePolicy;

/// [`PullOptions::stall_timeout`] unless the caller says otherwise.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How to pull. Paths and values come from the caller; nothing is read from the environment.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Which variant of the image.
    pub architecture: Architecture,
    /// Where HTTP without TLS may be spoken.
    pub plain_http: PlainHttp,
    /// Where logins are.
    pub auth: AuthSources,
    /// Certificate authorities in PEM form, trusted besides those of the system.
    pub extra_ca_pem: Vec<Vec<u8>>,
    /// Proxies; not used for registries on this machine.
    pub proxies: Proxies,
    /// How many layers are downloaded and converted at once; at least one.
    pub concurrent_layers: usize,
    /// How long a server may stay silent in the middle of an answer before the connection counts as broken.
    pub stall_timeout: Duration,
    /// Whose signature the image must have; `None` if it needs none.
    pub signature: Option<SignaturePolicy>,
}

/// Where logins for registries are looked for.
#[derive(Clone, Default)]
pub struct AuthSources {
    /// docker `config.json` and podman `auth.json` files, the first with an entry wins; missing files are passed over.
    pub files: Vec<PathBuf>,
    /// The whole environment of the credential helpers those files name; `PATH` of it is where they are looked for.
    pub helper_environment: Vec<(OsString, OsString)>,
}

impl std::fmt::Debug for AuthSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment may hold secrets.
        f.debug_struct("AuthSources")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Proxy settings, as the variables of the same names have them.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For `https` registries: `[http|socks5|socks5h]://[USER:PASSWORD@]HOST:PORT`.
    pub https: Option<String>,
    /// For `http` registries.
    pub http: Option<String>,
    /// For both, where they have none of their own.
    pub all: Option<String>,
    /// Hosts that are reached directly, comma-separated.
    pub no_proxy: Option<String>,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // They may hold logins.
        f.debug_struct("Proxies")
            .field("no_proxy", &self.no_proxy)
            .finish_non_exhaustive()
    }
}

/// Where HTTP without TLS may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// To registries on this machine only.
    LoopbackOnly,
    /// To the registry of this pull, wherever it is: the user said so.
    Allowed,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            architecture: Architecture::native(),
            plain_http: PlainHttp::LoopbackOnly,
            auth: AuthSources::default(),
            extra_ca_pem: Vec::new(),
            proxies: Proxies::default(),
            concurrent_layers: 4,
            stall_timeout: STALL_TIMEOUT,
            signature: None,
        }
    }
}

/// Follows a pull, to draw its progress. Called on the thread that polls the pull.
pub trait PullObserver {
    /// Something happened. Must not block.
    fn event(&self, event: PullEvent<'_>);
}

/// An observer that looks away.
impl PullObserver for () {
    fn event(&self, _: PullEvent<'_>) {}
}

/// A step of a pull. `layer` counts from the bottom, from zero.
#[derive(Debug, Clone, Copy)]
pub enum PullEvent<'a> {
    /// The reference is resolved; these are the layers, bottom first.
    Resolved {
        /// What the reference stands for.
        digest: ImageDigest,
        /// All layers.
        layers: &'a [LayerSummary],
    },
    /// The layer is in the store already, or another pull has made it.
    LayerReused {
        /// Which layer.
        layer: usize,
    },
    /// The download begins.
    LayerStarted {
        /// Which layer.
        layer: usize,
    },
    /// More of the layer has come.
    LayerProgress {
        /// Which layer.
        layer: usize,
        /// Compressed bytes so far.
        received: u64,
    },
    /// The connection broke; it is tried again after a pause.
    LayerRetried {
        /// Which layer.
        layer: usize,
        /// Why.
        reason: &'a RegistryError,
    },
    /// The layer is verified, converted and in the store.
    LayerDone {
        /// Which layer.
        layer: usize,
    },
}

/// One layer, before it is downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSummary {
    /// Digest of the compressed layer.
    pub digest: ImageDigest,
    /// Compressed bytes.
    pub size: u64,
}
