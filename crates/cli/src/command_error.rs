//! The one bridge from typed errors to what a person is told: a kind and what to do.

use std::error::Error;
use std::path::PathBuf;

use agent_vm_credentials::SecretSpecError;
use agent_vm_image::{NotVerified, PullError, ReferenceError, RemoveError, StoreError};
use agent_vm_launch::{BaseStoreError, ProxyError};
use agent_vm_state::ProjectError;
use agent_vm_vmm::KvmError;
use thiserror::Error;

use crate::args::ByteSize;
use crate::commands::egress::LogUnreadable;
use crate::exit_code;
use crate::image_settings::ImageSettingsError;
use crate::kernel_file::KernelMissing;
use crate::mounts::MountError;
use crate::publish_settings::PublishSettingsError;
use crate::settings::SettingsError;
use crate::setup_files::SetupFileError;

mod credential_hints;
mod launch_hints;
mod network_hints;
mod records;

/// Whose matter an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What was typed.
    User,
    /// Files and variables that describe how we are used.
    Config,
    /// The machine.
    Host,
    /// A registry or another server.
    Network,
    /// What runs in the virtual machine.
    Guest,
    /// A mistake of ours.
    Internal,
}

/// An error as a person gets it.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub(crate) kind: Kind,
    pub(crate) error: Box<dyn Error + Send + Sync>,
    pub(crate) hints: Vec<String>,
    /// What the process ends with.
    pub(crate) exit_code: u8,
}

/// Errors of the command line itself.
#[derive(Debug, Error)]
pub(crate) enum UsageError {
    /// clap's message.
    #[error("{text}")]
    Arguments { text: String },
    #[error("no command is given")]
    NoProgram,
    #[error("HOME is not set to an absolute path")]
    NoHome,
    #[error("the current directory does not exist any more")]
    NoCurrentDirectory,
    #[error("{variable} is not an absolute path")]
    NotAbsolute { variable: &'static str },
    #[error("invalid value for '--secret'")]
    Secret(#[source] SecretSpecError),
    #[error("the variable {name} is given by --env and by --secret")]
    SecretAndVariable { name: String },
    #[error("{place} holds the real token of {credential}, which must not enter the guest")]
    TokenInPlain { place: String, credential: String },
    #[error("the proxy that ${variable} names cannot be used")]
    Proxy {
        variable: &'static str,
        #[source]
        source: ProxyError,
    },
    #[error("cannot read the certificates in {}", path.display())]
    ReadCertificates {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no PEM certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("the machine needs {asked} of memory, this host has {available} available")]
    Memory {
        asked: ByteSize,
        available: ByteSize,
    },
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    #[error("cannot make the directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] std::io::Error),
    #[error("setup stopped at the step: {step}")]
    SetupStep { step: &'static str },
    #[error("{given:?} is neither a request nor a connection")]
    CheckForm { given: String },
    #[error("there is no such session of this project")]
    NoSession,
    #[error("a session does not answer")]
    Session(#[source] std::io::Error),
    #[error("the session refuses: {why}")]
    Refused { why: String },
}

/// Errors of `agent-vm base`.
#[derive(Debug, Error)]
pub(crate) enum BaseCommandError {
    #[error("no `base shell` left any changes here")]
    NoDraft,
    #[error("--no-setup leaves nothing to do for `base`")]
    NoSetup,
    #[error("cannot read the answer")]
    Answer(#[source] std::io::Error),
}

const SECRET_FORM: &str = "a secret is given as NAME[=SOURCE]@HOST[,HOST…][:HEADER], \
     SOURCE one of env:VARIABLE, file:PATH, cmd:PROGRAM ARG…";

impl CommandError {
    pub(crate) fn new(kind: Kind, error: impl Error + Send + Sync + 'static) -> Self {
        Self {
            kind,
            error: Box::new(error),
            hints: Vec::new(),
            exit_code: exit_code::FAILED,
        }
    }

    /// For an error that has an exit code of its own.
    pub(crate) fn exit_code(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<UsageError> for CommandError {
    fn from(error: UsageError) -> Self {
        let (kind, hint) = match &error {
            UsageError::Arguments { .. } => (
                Kind::User,
                Some(
                    "`agent-vm --help` and `agent-vm COMMAND --help` show what there is".to_owned(),
                ),
            ),
            UsageError::NoProgram => (
                Kind::User,
                Some("name one: `agent-vm run -- CMD ARGS`".to_owned()),
            ),
            UsageError::NoHome => (
                Kind::Config,
                Some("set HOME to your home directory".to_owned()),
            ),
            UsageError::NoCurrentDirectory => (
                Kind::User,
                Some("change to a directory that exists".to_owned()),
            ),
            UsageError::NotAbsolute { .. } => (Kind::Config, None),
            UsageError::Proxy { .. } => (
                Kind::Config,
                Some("set it to such a proxy; NO_PROXY='*' does without any".to_owned()),
            ),
            UsageError::Secret(_) => (Kind::User, Some(SECRET_FORM.to_owned())),
            UsageError::SecretAndVariable { name } => (
                Kind::User,
                Some(format!(
                    "leave out --env {name}: the guest gets a placeholder in it"
                )),
            ),
            UsageError::TokenInPlain { .. } => (
                Kind::User,
                Some("let the guest use the placeholder it gets in a variable or file".to_owned()),
            ),
            UsageError::ReadCertificates { .. } | UsageError::NoCertificate { .. } => (
                Kind::User,
                Some("--upstream-ca takes a file with PEM certificates".to_owned()),
            ),
            UsageError::Memory { available, .. } => {
                let fit = ByteSize::from_mib((available.mib() / 4 * 3).max(128));
                (
                    Kind::Host,
                    Some(format!(
                        "ask for less, such as --memory {fit}, or end other programs"
                    )),
                )
            }
            UsageError::Output(_) | UsageError::Directory { .. } => (Kind::Host, None),
            UsageError::Runtime(_) => (Kind::Internal, None),
            UsageError::SetupStep { .. } => (Kind::Guest, None),
            UsageError::CheckForm { .. } => (
                Kind::User,
                Some("give METHOD URL, URL (http or https), or HOST[:PORT]".to_owned()),
            ),
            UsageError::NoSession => (
                Kind::User,
                Some("`agent-vm egress log --all` shows what sessions there were".to_owned()),
            ),
            UsageError::Session(_) => (Kind::Host, None),
            UsageError::Refused { .. } => (Kind::User, None),
        };
        let mut this = Self::new(kind, error);
        this.hints.extend(hint);
        this
    }
}

impl From<SettingsError> for CommandError {
    fn from(error: SettingsError) -> Self {
        Self::new(Kind::User, error)
    }
}

impl From<BaseCommandError> for CommandError {
    fn from(error: BaseCommandError) -> Self {
        match error {
            BaseCommandError::NoDraft => Self::new(Kind::User, error).hint(
                "`agent-vm base shell` makes some; --user and --image must be as they were there",
            ),
            BaseCommandError::NoSetup => Self::new(Kind::User, error),
            BaseCommandError::Answer(_) => Self::new(Kind::Host, error),
        }
    }
}

impl From<LogUnreadable> for CommandError {
    fn from(error: LogUnreadable) -> Self {
        Self::new(Kind::Host, error)
    }
}

impl From<BaseStoreError> for CommandError {
    fn from(error: BaseStoreError) -> Self {
        Self::new(Kind::Host, error)
    }
}

impl From<PublishSettingsError> for CommandError {
    fn from(error: PublishSettingsError) -> Self {
        let hint = match error {
            PublishSettingsError::File(error) => return error.into(),
            PublishSettingsError::Except { .. }
            | PublishSettingsError::Port { .. }
            | PublishSettingsError::TooMany { .. } => None,
            PublishSettingsError::ExceptAlone => Some("add --auto-publish, or leave it out"),
            PublishSettingsError::Syntax { .. } => {
                Some("[publish] has `ports = [\"8080:80\"]`, `auto = true` and `except = [9229]`")
            }
        };
        let mut this = Self::new(Kind::Config, error);
        this.hints.extend(hint.map(str::to_owned));
        this
    }
}

impl From<SetupFileError> for CommandError {
    fn from(error: SetupFileError) -> Self {
        let hint = match &error {
            SetupFileError::Read { .. } | SetupFileError::Large { .. } => None,
            SetupFileError::Kind { .. } => Some("put the script itself there"),
            SetupFileError::NotUtf8 { .. }
            | SetupFileError::Syntax { .. }
            | SetupFileError::NotTexts { .. }
            | SetupFileError::Package { .. }
            | SetupFileError::UnknownKey { .. } => Some(
                "known so far: `packages = [\"NAME\"]` under [setup], and in your own configuration `mounts`",
            ),
            SetupFileError::ProjectMounts { .. } => {
                Some("put them into ~/.config/agent-vm/config.toml, for the setup of your own base")
            }
            SetupFileError::ProjectPublish { .. } => {
                Some("put it into ~/.config/agent-vm/config.toml, or give --publish")
            }
            SetupFileError::ProjectSecrets { .. } => {
                Some("put it into ~/.config/agent-vm/config.toml, or give --secret")
            }
            SetupFileError::Mount { .. } => Some("a mount is given as \"HOST[:GUEST]\""),
        };
        let mut this = Self::new(Kind::Config, error);
        this.hints.extend(hint.map(str::to_owned));
        this
    }
}

impl From<ProjectError> for CommandError {
    fn from(error: ProjectError) -> Self {
        let hint = match &error {
            ProjectError::Unresolvable { .. } => None,
            ProjectError::NotUtf8 { .. } => Some("rename it, or start in another directory"),
            ProjectError::FileSystemRoot => Some("start in the directory of a project"),
        };
        let mut this = Self::new(Kind::User, error);
        this.hints.extend(hint.map(str::to_owned));
        this
    }
}

impl From<MountError> for CommandError {
    fn from(error: MountError) -> Self {
        let hint = match &error {
            MountError::Source { .. } | MountError::Kind { .. } | MountError::NotUtf8 { .. } => {
                Some("a mount is given as HOST[:GUEST][:ro|rw]; HOST must exist".to_owned())
            }
            MountError::Reserved { .. }
            | MountError::Upwards { .. }
            | MountError::Conflict { .. } => {
                Some("give it another place: --mount HOST:GUEST".to_owned())
            }
            MountError::Exposes { .. } => Some(
                "start in a project directory, and mount only the directories the agent needs"
                    .to_owned(),
            ),
        };
        let mut this = Self::new(Kind::User, error);
        this.hints.extend(hint);
        this
    }
}

impl From<KernelMissing> for CommandError {
    fn from(error: KernelMissing) -> Self {
        let hint = match &error {
            KernelMissing::Named { .. } => {
                "let AGENT_VM_KERNEL name a libkrunfw shared object, or unset it"
            }
            KernelMissing::NotInstalled { .. } => {
                "install agent-vm with its kernel; in a source tree run `cargo xtask vendor`"
            }
        };
        Self::new(Kind::Host, error).hint(hint)
    }
}

impl From<KvmError> for CommandError {
    fn from(error: KvmError) -> Self {
        let hint = match &error {
            KvmError::Missing => {
                "turn on virtualisation in the firmware (in a virtual machine: nested \
                 virtualisation), then `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`"
                    .to_owned()
            }
            KvmError::PermissionDenied {
                group_name: Some(group),
                group_may_use: true,
                ..
            } => format!(
                "add yourself to the `{group}` group: `sudo usermod -aG {group} $USER`, then log in again"
            ),
            KvmError::PermissionDenied { .. } => {
                "give your group access: `sudo chgrp kvm /dev/kvm && \
                 sudo chmod 660 /dev/kvm && sudo usermod -aG kvm $USER`, then log in again"
                    .to_owned()
            }
            KvmError::Open(_) | KvmError::Unusable { .. } | KvmError::Refused { .. } => {
                "look at `dmesg | grep -i kvm`; Linux 5.10 or newer with KVM is needed".to_owned()
            }
            KvmError::CannotRunGuests { .. } => "this host is a virtual machine without nested \
                 virtualisation: turn that on, or use another host"
                .to_owned(),
        };
        Self::new(Kind::Host, error).hint(hint)
    }
}

impl From<ReferenceError> for CommandError {
    fn from(error: ReferenceError) -> Self {
        Self::new(Kind::User, error)
            .hint("an image is named as [REGISTRY/]NAME[:TAG][@sha256:DIGEST]")
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::new(Kind::Host, error)
    }
}

impl From<RemoveError> for CommandError {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::NotFound { .. } => {
                Self::new(Kind::User, error).hint("`agent-vm image ls` shows what there is")
            }
            RemoveError::InUse { .. } => Self::new(Kind::User, error)
                .hint("`agent-vm image ls` shows what is in use; nothing was removed"),
            RemoveError::Store(error) => error.into(),
        }
    }
}

impl From<NotVerified> for CommandError {
    fn from(error: NotVerified) -> Self {
        match error {
            NotVerified::OtherPolicy { reference } => {
                let hint = format!("`agent-vm pull {reference}` verifies it");
                Self::new(Kind::Config, NotVerified::OtherPolicy { reference }).hint(hint)
            }
            NotVerified::Store(error) => error.into(),
        }
    }
}

impl From<ImageSettingsError> for CommandError {
    fn from(error: ImageSettingsError) -> Self {
        Self::new(Kind::Config, error)
    }
}

impl From<PullError> for CommandError {
    fn from(error: PullError) -> Self {
        let (kind, hint) = match &error {
            PullError::Registry { .. } => (
                Kind::Network,
                Some(
                    "is the name right, and the registry reachable? --plain-http for one without TLS",
                ),
            ),
            PullError::Signature { .. } => (
                Kind::Config,
                Some("`[image.signature]` of config.toml says who must have signed it"),
            ),
            PullError::Document { .. }
            | PullError::Digest { .. }
            | PullError::Size { .. }
            | PullError::Layer { .. } => (Kind::Network, None),
            PullError::Store { .. } => (Kind::Host, None),
        };
        let mut this = Self::new(kind, error);
        this.hints.extend(hint.map(str::to_owned));
        this
    }
}
