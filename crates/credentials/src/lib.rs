//! Host credentials found, placeholders minted.
//!
//! Must hold: a real token is only ever inside a `Secret`; what is made for the guest is built from
//! an allow-list of fields and holds placeholders; every read is bounded; the environment is what
//! the caller passed, never the process's; no error repeats a byte of a credential file.
#![forbid(unsafe_code)]

mod claude_login;
mod collect;
mod credential;
mod host_environment;
mod provider;
mod refresh_endpoint;
mod secret_spec;

pub use claude_login::fuzz_claude_login;
pub use collect::{CollectError, collect, collect_secrets};
pub use credential::{AuthScheme, Collected, Credential, GuestFile, HeaderSpec, Notice};
pub use host_environment::{HostEnvironment, MAX_CREDENTIAL_FILE_BYTES, ReadError};
pub use provider::{ProviderId, credential_files};
pub use refresh_endpoint::{
    ClientValue, ExpiryField, FieldPath, LoginFields, RefreshBody, RefreshEndpoint, RefreshFacts,
    ScopeField,
};
pub use secret_spec::{SecretSource, SecretSpec, SecretSpecError};
