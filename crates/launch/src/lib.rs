//! One launch as typed steps.
//!
//! `Resolved` (image known, plan made) → its base ready → `Prepared` (all parts opened) → `Booting` (machine runs) → attached → the exit
//! code. Each step is a type that owns what it made; dropping one undoes it. Nothing here prints, exits, or reads the
//! environment: a [`LaunchObserver`] is told what happens.

#![forbid(unsafe_code)]

mod attach;
mod base;
mod boot;
mod console;
mod egress_control;
mod event;
mod guest_program;
mod guest_view;
mod host_logins;
mod integrity;
mod keys;
mod launch;
mod link;
mod machine;
mod network;
mod phases;
mod plan;
mod prepare;
mod publish;
mod request;
mod resolve;
pub mod session;

pub use agent_vm_egress::{CanaryAlive, ProxyError, ProxyServer, ProxySettings, audit_files};
pub use agent_vm_protocol::PortProtocol;
pub use attach::{AttachError, NotStarted};
pub use base::{
    BaseError, BaseEvent, BaseId, BaseKind, BaseProject, BaseRecord, BaseStore, BaseStoreError,
    Bases, Level, ListedBase, Rebuild, Recipe, Scope, SetupReason, SetupRequest, SetupScript,
    base_shell, expected_bases, make_bases,
};
pub use boot::{BootError, Booting};
pub use egress_control::{
    ControlQuestion, ControlReply, ControlRequest, RunningSession, running_sessions,
};
pub use event::{LaunchEvent, LaunchObserver};
pub use guest_view::GuestPathInvalid;
pub use integrity::{Change, ChangeKind, GitAccess, IntegrityReport, IntegritySettings};
pub use keys::{
    FindAgentError, KeyAgents, KeyFilter, KeyFilterError, SshAgent, find_gpg_agent, find_ssh_agent,
};
pub use launch::{LaunchError, launch};
pub use link::{LinkError, serve_link};
pub use machine::MachineEnded;
pub use network::NetworkEnded;
pub use phases::{Phase, Phases};
pub use plan::{
    Plan, PlannedCredential, PlannedImage, PlannedNetwork, PlannedProgram, PlannedProxies,
    PlannedSetup,
};
pub use prepare::{PrepareError, Prepared, enforced_policy};
pub use publish::{
    AutoPublish, BindError, MAX_MIRRORED, PublishEvent, PublishSettings, PublishedPort,
};
pub use request::{
    Diagnostics, ImageSource, LaunchRequest, Machine as MachineSize, Mount, NetworkSettings,
    Origin, Program, ResolveOverride, ShareAccess, ShareKind, Streams,
};
pub use resolve::{ResolveError, Resolved};
