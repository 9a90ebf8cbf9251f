//! `pull`: brings an image into the store. Needs no KVM.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use agent_vm_image::{
    AuthSources, Image, PlainHttp, Proxies, PullError, PullOptions, Reference, Store, pull,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::PullArgs;
use crate::command_error::{CommandError, Kind, UsageError};
use crate::env_vars;
use crate::image_settings::ImageSettings;
use crate::launch_request::{Context, read_certificates};
use crate::progress::{Outcome, PullProgress, TICK};
use crate::settings::{DEFAULT_IMAGE, timeout_scale};
use crate::ui::{self, Ui};

/// `agent-vm pull`: prints the reference with its digest.
///
/// # Errors
/// Whatever kept the image away.
pub(crate) fn run(context: &Context, args: &PullArgs, ui: Ui) -> Result<u8, CommandError> {
    let (reference, image) = fetch(context, args, ui)?;
    ui::data(&format!("{reference} {}\n", image.digest)).map_err(UsageError::Output)?;
    Ok(0)
}

/// Pulls the image and says so on standard error.
///
/// # Errors
/// As [`run`].
pub(crate) fn fetch(
    context: &Context,
    args: &PullArgs,
    ui: Ui,
) -> Result<(Reference, Image), CommandError> {
    let reference: Reference = reference_text(context, args).parse()?;
    let cwd = context
        .env
        .current_directory()
        .ok_or(UsageError::NoCurrentDirectory)?;
    let options = PullOptions {
        extra_ca_pem: read_certificates(cwd, &args.upstream_ca)?,
        signature: ImageSettings::read(context)?.signature,
        plain_http: if args.plain_http {
            PlainHttp::Allowed
        } else {
            PlainHttp::LoopbackOnly
        },
        ..options(context)?
    };
    let store = Store::open(context.directories()?.images())?;
    ui.status(&format!("pulling {reference}"));
    let progress = PullProgress::new(ui);
    let pull = pull(&store, &reference, &options, &progress);
    let image = on_runtime(pull, &progress)?;
    Ok((reference, image))
}

/// Runs a pull to its end, or to the signal that ends it: then nothing unfinished is left.
fn on_runtime(
    pull: impl Future<Output = Result<Image, PullError>>,
    progress: &PullProgress,
) -> Result<Image, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(UsageError::Runtime)?;
    let ended = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(UsageError::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(UsageError::Runtime)?;
        let mut tick = tokio::time::interval(TICK);
        let mut pull = std::pin::pin!(pull);
        loop {
            tokio::select! {
                result = &mut pull => return Ok::<_, CommandError>(Ended::ByItself(Box::new(result))),
                _ = interrupt.recv() => return Ok(Ended::BySignal(SignalKind::interrupt())),
                _ = terminate.recv() => return Ok(Ended::BySignal(SignalKind::terminate())),
                _ = tick.tick() => progress.tick(),
            }
        }
    })?;
    // What converts layers sees that nothing more comes, and removes what it began.
    runtime.shutdown_timeout(CLEANUP_TIME);
    progress.finish(match &ended {
        Ended::ByItself(result) if result.is_ok() => Outcome::Complete,
        _ => Outcome::Broken,
    });
    match ended {
        Ended::ByItself(result) => Ok((*result)?),
        Ended::BySignal(signal) => {
            let number = u8::try_from(signal.as_raw_value()).unwrap_or_default();
            Err(CommandError::new(Kind::User, Interrupted)
                .exit_code(SIGNAL_BASE + number)
                .hint("layers that were complete are kept: the next pull gets the others"))
        }
    }
}

/// How long the threads that write may take to end.
const CLEANUP_TIME: Duration = Duration::from_secs(20);
/// What a shell adds to the number of a signal.
const SIGNAL_BASE: u8 = 128;

enum Ended {
    ByItself(Box<Result<Image, PullError>>),
    BySignal(SignalKind),
}

/// ^C, or a request to end.
#[derive(Debug, thiserror::Error)]
#[error("the pull was interrupted")]
struct Interrupted;

/// The argument, else the variable, else the template.
pub(crate) fn reference_text(context: &Context, args: &PullArgs) -> String {
    let given = args
        .reference
        .as_deref()
        .or_else(|| context.env.text(env_vars::IMAGE));
    given.unwrap_or(DEFAULT_IMAGE).to_owned()
}

/// How registries are spoken to: logins and proxies of this user, patience of this machine.
///
/// # Errors
/// When `HOME` is no absolute path, or the factor of timeouts is none.
pub(crate) fn options(context: &Context) -> Result<PullOptions, CommandError> {
    let usual = PullOptions::default();
    Ok(PullOptions {
        stall_timeout: usual.stall_timeout.mul_f64(timeout_scale(&context.env)?),
        auth: AuthSources {
            files: auth_files(context)?,
            helper_environment: context.env.all().clone().into_iter().collect(),
        },
        proxies: Proxies {
            https: context.env.proxy("HTTPS_PROXY"),
            http: context.env.proxy("HTTP_PROXY"),
            all: context.env.proxy("ALL_PROXY"),
            no_proxy: context.env.proxy("NO_PROXY"),
        },
        ..usual
    })
}

/// Where docker and podman keep registry logins, in the order podman looks.
fn auth_files(context: &Context) -> Result<Vec<PathBuf>, UsageError> {
    let env = &context.env;
    let home = context.home()?;
    let named = env.path(env_vars::REGISTRY_AUTH_FILE);
    let runtime = env
        .path(env_vars::XDG_RUNTIME_DIR)
        .map(|path| path.join("containers/auth.json"));
    let docker = env
        .path(env_vars::DOCKER_CONFIG)
        .unwrap_or_else(|| home.join(".docker"));
    let all = [
        named,
        runtime,
        Some(home.join(".config/containers/auth.json")),
        Some(docker.join("config.json")),
    ];
    Ok(all.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env_vars::EnvVars;

    fn stall_timeout(scale: &str) -> Option<Duration> {
        let context = Context {
            env: EnvVars::of(&[("HOME", "/home/u"), ("AGENT_VM_TIMEOUT_SCALE", scale)]),
            started: std::time::Instant::now(),
        };
        Some(options(&context).ok()?.stall_timeout)
    }

    #[test]
    fn slow_machines_have_more_patience_with_registries() {
        let usual = PullOptions::default().stall_timeout;
        assert_eq!(stall_timeout("1"), Some(usual));
        assert_eq!(stall_timeout("20"), Some(usual * 20));
        assert_eq!(stall_timeout("fast"), None);
    }
}
