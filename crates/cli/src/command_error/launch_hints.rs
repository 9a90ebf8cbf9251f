//! What to do when a launch did not succeed.

use agent_vm_launch::session::failure_exit_code;
use agent_vm_launch::{
    AttachError, BaseError, BindError, BootError, CanaryAlive, LaunchError, LinkError,
    MachineEnded, PrepareError, PublishedPort, ResolveError,
};
use agent_vm_vmm::ExitReason;

use super::{CommandError, Kind};
use crate::exit_code;

/// Shown where the guest's own log tells more.
const VERBOSE_HINT: &str = "--verbose shows the log of the guest's kernel";

impl From<LaunchError> for CommandError {
    fn from(error: LaunchError) -> Self {
        let (kind, hint) = match &error {
            LaunchError::Resolve(error) => resolve(error),
            LaunchError::Base(error) => base(error),
            LaunchError::Prepare(error) => prepare(error),
            LaunchError::Boot(error) => boot(error),
            LaunchError::Attach(error) => attach(error),
            LaunchError::Runtime(_) => (Kind::Internal, None),
        };
        let code = exit_code(&error);
        let mut this = Self::new(kind, error).exit_code(code);
        this.hints.extend(hint);
        this
    }
}

impl From<LinkError> for CommandError {
    fn from(error: LinkError) -> Self {
        let (kind, hint) = match &error {
            LinkError::Prepare(error) => prepare(error),
            LinkError::Connect { .. } | LinkError::Stream(_) | LinkError::NoDescriptor => {
                (Kind::Host, None)
            }
            LinkError::Gateway(_) | LinkError::Runtime(_) => (Kind::Internal, None),
        };
        let mut this = Self::new(kind, error);
        this.hints.extend(hint);
        this
    }
}

/// 126 and 127 for a program that cannot be executed or is not there.
fn exit_code(error: &LaunchError) -> u8 {
    match error {
        LaunchError::Attach(AttachError::NotStarted(refused)) => {
            failure_exit_code(&refused.failure).unwrap_or(exit_code::FAILED)
        }
        LaunchError::Base(BaseError::Interrupted { signal }) => 128_u8.saturating_add(*signal),
        LaunchError::Attach(_)
        | LaunchError::Base(_)
        | LaunchError::Resolve(_)
        | LaunchError::Prepare(_)
        | LaunchError::Boot(_)
        | LaunchError::Runtime(_) => exit_code::FAILED,
    }
}

fn attach(error: &AttachError) -> (Kind, Option<String>) {
    match error {
        AttachError::Machine(ended) => machine(ended),
        AttachError::Guest(_) => (Kind::Guest, Some(VERBOSE_HINT.to_owned())),
        AttachError::NotStarted(_) | AttachError::Path(_) => (Kind::User, None),
        AttachError::Streams(_) | AttachError::Publish(_) | AttachError::Keep(_) => {
            (Kind::Host, None)
        }
        AttachError::Canary(CanaryAlive::Audit) => (
            Kind::Host,
            Some("is the disk full, or the state directory not yours?".to_owned()),
        ),
        AttachError::Canary(_) | AttachError::Network(_) => (Kind::Internal, None),
        AttachError::NotClean => (Kind::Guest, Some(VERBOSE_HINT.to_owned())),
    }
}

fn base(error: &BaseError) -> (Kind, Option<String>) {
    let without = "--no-setup launches on the bare image";
    match error {
        BaseError::Ended { .. } => (
            Kind::Guest,
            Some(format!(
                "correct the script; {without}; `agent-vm base apply --secret …` runs it with credentials"
            )),
        ),
        BaseError::Leftover { .. } => (
            Kind::Guest,
            Some(
                "let the script use what it gets in variables and write it into no file; deleted files count"
                    .to_owned(),
            ),
        ),
        BaseError::Run { .. } => (Kind::Guest, Some(without.to_owned())),
        BaseError::Store(_) | BaseError::Image(_) | BaseError::Disk(_) => (
            Kind::Host,
            Some("is the disk full, or the state directory not yours?".to_owned()),
        ),
        BaseError::Gone { .. } => (Kind::User, Some("start again: it is made anew".to_owned())),
        BaseError::Interrupted { .. } => (Kind::User, None),
        BaseError::Wait(_) => (Kind::Host, None),
    }
}

fn resolve(error: &ResolveError) -> (Kind, Option<String>) {
    match error {
        ResolveError::Reference { .. } => (
            Kind::User,
            Some("an image is named as [REGISTRY/]NAME[:TAG][@sha256:DIGEST]".to_owned()),
        ),
        ResolveError::Store { .. } => (Kind::Host, None),
        ResolveError::NotPulled { reference } => (
            Kind::User,
            Some(format!("get it: `agent-vm pull {reference}`")),
        ),
        ResolveError::Api { .. } => (Kind::Config, None),
    }
}

fn prepare(error: &PrepareError) -> (Kind, Option<String>) {
    match error {
        PrepareError::Session(_) | PrepareError::Disk(_) | PrepareError::Audit(_) => (
            Kind::Host,
            Some("is the disk full, or the state directory not yours?".to_owned()),
        ),
        PrepareError::Image(_) => (
            Kind::Host,
            Some("was the image removed just now? `agent-vm pull` gets it again".to_owned()),
        ),
        PrepareError::Open { .. } => (Kind::Host, None),
        PrepareError::Publish(error) => publish(error),
        PrepareError::Header { .. } => (Kind::User, None),
        PrepareError::Egress(_) => (Kind::Config, None),
    }
}

fn publish(error: &BindError) -> (Kind, Option<String>) {
    let other = |port: &PublishedPort, host_port: u16| PublishedPort {
        host_port,
        ..port.clone()
    };
    let hint = match error {
        BindError::InUse { port } => format!(
            "end the program that has it, or publish elsewhere: `--publish {}` takes any free port",
            other(port, 0)
        ),
        BindError::Twice { .. } => {
            "--publish and [publish] of config.toml count together".to_owned()
        }
        BindError::Privileged { port } => format!(
            "ports from 1024 on need none: `--publish {}`",
            other(port, port.host_port.saturating_add(8000))
        ),
        BindError::NotHere { .. } => {
            "BIND is 127.0.0.1, 0.0.0.0, or an address `ip address` shows".to_owned()
        }
        BindError::Other { .. } => return (Kind::Host, None),
    };
    (Kind::User, Some(hint))
}

fn boot(error: &BootError) -> (Kind, Option<String>) {
    match error {
        BootError::Descriptors(_) => (
            Kind::Host,
            Some("raise the limit of open files: `ulimit -n`".to_owned()),
        ),
        BootError::Gateway(_) => (Kind::Internal, None),
        BootError::Path(_) => (Kind::User, None),
        BootError::Control(_) | BootError::Spawn(_) => (Kind::Host, None),
    }
}

fn machine(ended: &MachineEnded) -> (Kind, Option<String>) {
    match ended.reason {
        ExitReason::KilledBySignal { signal: 9 } => (
            Kind::Host,
            Some(
                "somebody killed it, or this host ran out of memory: ask for less with --memory"
                    .to_owned(),
            ),
        ),
        ExitReason::ProcessorFault => (
            Kind::Host,
            Some("`agent-vm __kvm-probe` tells whether KVM of this host works".to_owned()),
        ),
        ExitReason::ConfinementUnavailable { .. } => (
            Kind::Host,
            Some("Linux 5.13 or newer with Landlock and seccomp is needed".to_owned()),
        ),
        ExitReason::PoweredOff { .. } | ExitReason::Reset | ExitReason::Panicked { .. } => {
            (Kind::Guest, Some(VERBOSE_HINT.to_owned()))
        }
        ExitReason::KilledBySignal { .. } | ExitReason::SetupFailed { .. } => (Kind::Host, None),
        ExitReason::Crashed { .. }
        | ExitReason::ForbiddenSystemCall
        | ExitReason::Unexplained { .. } => (Kind::Internal, None),
    }
}
