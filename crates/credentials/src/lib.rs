//! Host credentials found, placeholders minted.
//!
//! Must hold: a real token is only ever inside a `Secret`; what is made for the guest is built from
//! an allow-list of fields and holds placeholders; every read is bounded; the environment is what
//! the caller passed, never the process's; no error repeats a byte of a credential file.
#![forbid(unsafe_code)]

mod collect;
mod credential;
mod finder;
mod gh_hosts;
mod guest_document;
mod host_environment;
mod jwt;
mod provider;
mod refresh;
mod refresh_endpoint;
mod secret_spec;
mod secrets;
mod timestamp;

pub use collect::{CollectError, collect};
pub use credential::{AuthScheme, Collected, Credential, GuestFile, HeaderSpec, Notice};
pub use finder::fuzz_login_files;
pub use gh_hosts::GhHostsError;
pub use host_environment::{HostEnvironment, MAX_CREDENTIAL_FILE_BYTES, ReadError};
pub use provider::{ProviderId, credential_files};
pub use refresh::{
    GrantAnswer, GrantRequest, HostLogin, Issuer, IssuerUnreachable, Login, MARGIN, RenewError,
    Renewing, SETTLED, Step, Why, guest_answer,
};
pub use refresh_endpoint::{
    ClientLock, ClientValue, ExpiryField, FieldPath, LoginFields, RefreshBody, RefreshEndpoint,
    RefreshFacts, ScopeField,
};
pub use secret_spec::{SecretSource, SecretSpec, SecretSpecError};
pub use secrets::collect_secrets;
