//! `pull`: brings an image into the store. Needs no KVM.

use std::cell::RefCell;
use std::path::PathBuf;

use agent_vm_image::{
    AuthSources, Image, PlainHttp, Proxies, PullEvent, PullObserver, PullOptions, Reference, Store,
    pull,
};

use crate::args::PullArgs;
use crate::command_error::{CommandError, UsageError};
use crate::env_vars;
use crate::image_settings::ImageSettings;
use crate::launch_request::{Context, read_certificates};
use crate::settings::DEFAULT_IMAGE;
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
    let progress = Progress::new(ui);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(UsageError::Runtime)?;
    let result = runtime.block_on(pull(&store, &reference, &options, &progress));
    ui.progress_done();
    Ok((reference, result?))
}

/// The argument, else the variable, else the template.
pub(crate) fn reference_text(context: &Context, args: &PullArgs) -> String {
    let given = args
        .reference
        .as_deref()
        .or_else(|| context.env.text(env_vars::IMAGE));
    given.unwrap_or(DEFAULT_IMAGE).to_owned()
}

/// How registries are spoken to: logins and proxies of this user.
///
/// # Errors
/// When `HOME` is no absolute path.
pub(crate) fn options(context: &Context) -> Result<PullOptions, UsageError> {
    Ok(PullOptions {
        auth: AuthSources {
            files: auth_files(context)?,
            helper_environment: context.env.all().clone().into_iter().collect(),
        },
        proxies: Proxies {
            https: context.env.proxy("HTTPS_PROXY"),
            http: context.env.proxy("HTTP_PROXY"),
            no_proxy: context.env.proxy("NO_PROXY"),
        },
        ..PullOptions::default()
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

/// Says how far a pull is.
struct Progress {
    ui: Ui,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    sizes: Vec<u64>,
    received: Vec<u64>,
    done: usize,
}

impl Progress {
    fn new(ui: Ui) -> Self {
        Self {
            ui,
            state: RefCell::default(),
        }
    }
}

impl PullObserver for Progress {
    fn event(&self, event: PullEvent<'_>) {
        let mut state = self.state.borrow_mut();
        match event {
            PullEvent::Resolved { digest, layers } => {
                state.sizes = layers.iter().map(|layer| layer.size).collect();
                state.received = vec![0; layers.len()];
                let total = megabytes(state.sizes.iter().sum());
                self.ui
                    .status(&format!("{digest}: {} layers, {total} MB", layers.len()));
            }
            PullEvent::LayerReused { layer } | PullEvent::LayerDone { layer } => {
                let size = state.sizes.get(layer).copied().unwrap_or_default();
                if let Some(received) = state.received.get_mut(layer) {
                    *received = size;
                }
                state.done += 1;
            }
            PullEvent::LayerProgress { layer, received } => {
                if let Some(known) = state.received.get_mut(layer) {
                    *known = received;
                }
            }
            PullEvent::LayerRetried { layer, reason } => {
                self.ui.progress_done();
                self.ui.warn(&format!(
                    "layer {} again: {}",
                    layer + 1,
                    ui::harmless(&reason.to_string())
                ));
            }
            PullEvent::LayerStarted { .. } => {}
        }
        self.ui.progress(&state.line());
    }
}

impl State {
    fn line(&self) -> String {
        let (got, all) = (self.received.iter().sum(), self.sizes.iter().sum());
        let (done, layers) = (self.done, self.sizes.len());
        format!(
            "{done} of {layers} layers, {} of {} MB",
            megabytes(got),
            megabytes(all)
        )
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_line_tells_layers_and_bytes() {
        let state = State {
            sizes: vec![2_000_000, 10_500_000],
            received: vec![2_000_000, 40_000],
            done: 1,
        };
        assert_eq!(state.line(), "1 of 2 layers, 2.0 of 12.5 MB");
    }
}
