//! An agent, a shell or a command in a fresh machine for the project.

use std::cell::{Cell, RefCell};

use agent_vm_credentials::Notice;
use agent_vm_image::Store;
use agent_vm_launch::{
    BaseEvent, Change, IntegrityReport, LaunchError, LaunchEvent, LaunchObserver, LaunchRequest,
    MAX_MIRRORED, Phase, PublishEvent, SetupReason, Streams, launch,
};

use crate::args::{ByteSize, Target};
use crate::command_error::CommandError;
use crate::commands::base::whose;
use crate::commands::explain::{Format, explain};
use crate::commands::pull::options;
use crate::env_vars;
use crate::host_facts::HostFacts;
use crate::image_settings::ImageSettings;
use crate::launch_request::{Context, Typed, build};
use crate::preflight::Preflight;
use crate::settings::Settings;
use crate::ui::{Ui, harmless};
use crate::update_notice::{Asking, UpdateQuestion};

/// Most bytes of console output kept while the guest owns the terminal.
const MAX_HELD_CONSOLE: usize = 256 * 1024;

/// Launches what was typed; the exit code is the program's.
///
/// # Errors
/// Whatever kept the program from running to its end.
pub(crate) fn run(context: &Context, typed: &Typed<'_>, ui: Ui) -> Result<u8, CommandError> {
    if typed.options.dry_run {
        return explain(context, typed, Format::Text, ui);
    }
    let host = HostFacts::read();
    let settings = Settings::resolve(typed.options, &context.env, &host)?;
    let preflight = Preflight::start(context, &settings, &host)?;
    let request = build(context, typed, settings, preflight.kernel().to_owned())?;
    preflight.finish()?;
    tell_notices(&request, typed, ui);
    let question = update_question(context, typed, &request, ui);
    shown_asking(request, (ui, question), launch)
}

/// Tells of a newer image that is known, and gives the question whether there is one if it is to be asked.
fn update_question(
    context: &Context,
    typed: &Typed<'_>,
    request: &LaunchRequest,
    ui: Ui,
) -> Option<UpdateQuestion> {
    let off = typed.options.no_update_check
        || context.env.value(env_vars::NO_UPDATE_CHECK).is_some()
        || !ImageSettings::read(context).is_ok_and(|settings| settings.update_check);
    // An image that is not there, or a store, is told by the launch itself.
    if off || !request.image.store.exists() {
        return None;
    }
    let reference = request.image.reference.parse().ok()?;
    let store = Store::open(&request.image.store).ok()?;
    let scale = request.diagnostics.timeout_scale;
    UpdateQuestion::new(store, reference, || options(context).ok(), scale, ui)
}

/// Launches and shows what was asked to be shown.
///
/// # Errors
/// The launch's.
pub(crate) fn launch_shown(request: LaunchRequest, ui: Ui) -> Result<u8, CommandError> {
    shown(request, ui, launch)
}

/// Runs something that launches, and shows what happens.
///
/// # Errors
/// The launch's.
pub(crate) fn shown<T>(
    request: LaunchRequest,
    ui: Ui,
    run: impl FnOnce(LaunchRequest, &dyn LaunchObserver) -> Result<T, LaunchError>,
) -> Result<T, CommandError> {
    shown_asking(request, (ui, None), run)
}

/// As [`shown`]; the question is asked once the guest is ready.
fn shown_asking<T>(
    request: LaunchRequest,
    (ui, question): (Ui, Option<UpdateQuestion>),
    run: impl FnOnce(LaunchRequest, &dyn LaunchObserver) -> Result<T, LaunchError>,
) -> Result<T, CommandError> {
    let profile = request.diagnostics.profile;
    let shown = Shown {
        question: Cell::new(question),
        asking: Cell::default(),
        ui,
        verbose: request.diagnostics.verbose,
        terminal: request.streams == Streams::Terminal,
        state: RefCell::default(),
    };
    let result = run(request, &shown);
    shown.finish(profile);
    Ok(result?)
}

/// What a person should know about the credentials of a launch that uses logins.
pub(crate) fn tell_notices(request: &LaunchRequest, typed: &Typed<'_>, ui: Ui) {
    if !matches!(typed.target, Target::Run) || typed.options.github {
        tell(&request.credentials.notices, ui);
    }
}

/// What a person should know about the credentials.
pub(crate) fn tell(notices: &[Notice], ui: Ui) {
    for notice in notices {
        match notice {
            Notice::NotLoggedIn { provider, fix } => {
                ui.warn(&format!("no login of {provider} was found on this host"));
                ui.hint(fix);
            }
            Notice::Expired { source, fix } => {
                ui.warn(&format!("the login in {source} has expired"));
                ui.hint(fix);
            }
            Notice::NotAccepted { variable, accepts } => {
                ui.warn(&format!("the token in {variable} is passed over"));
                ui.hint(&format!(
                    "one that works begins with {}",
                    accepts.join(", ")
                ));
            }
            Notice::PassedOver { source, why } => {
                ui.warn(&format!("{} is not used: {why}", harmless(source)));
            }
            Notice::LeftOut { source, what } => {
                let what = what.as_ref().map(|what| format!("{} of ", harmless(what)));
                ui.warn(&format!(
                    "{}{source} is not used: it is not known to which hosts it may be sent",
                    what.unwrap_or_default()
                ));
                ui.hint("give a token with --secret NAME=SOURCE@HOST");
            }
        }
    }
}

/// Follows a launch. While the guest owns the terminal its console is held back.
struct Shown {
    ui: Ui,
    verbose: bool,
    terminal: bool,
    question: Cell<Option<UpdateQuestion>>,
    asking: Cell<Option<Asking>>,
    state: RefCell<ShownState>,
}

#[derive(Default)]
struct ShownState {
    phases: Vec<Phase>,
    console: Vec<u8>,
}

impl LaunchObserver for Shown {
    fn event(&self, event: LaunchEvent<'_>) {
        let mut state = self.state.borrow_mut();
        match event {
            LaunchEvent::Phase(phase) => state.phases.push(phase.clone()),
            LaunchEvent::Console(bytes) if self.verbose => {
                let room = MAX_HELD_CONSOLE.saturating_sub(state.console.len());
                state
                    .console
                    .extend_from_slice(&bytes[..bytes.len().min(room)]);
                if !self.terminal {
                    show_lines(self.ui, &mut state.console);
                }
            }
            LaunchEvent::Console(_) => {}
            LaunchEvent::Ready => {
                if let Some(question) = self.question.take() {
                    self.asking.set(Some(question.ask()));
                }
            }
            LaunchEvent::Warning(text) => self.ui.warn(&harmless(text)),
            LaunchEvent::Base(event) => tell_base(&event, self.ui),
            LaunchEvent::Integrity(report) => tell_changes(report, self.ui),
            LaunchEvent::Publish(event) => self.tell_publish(&event),
            // A terminal that the guest owns is left alone: the audit log and `egress pending` tell.
            LaunchEvent::Asking(_) if self.terminal => {}
            LaunchEvent::Asking(question) => {
                let (host, port) = (&question.host, question.port);
                self.ui.status(&format!(
                    "the guest waits to reach {host}:{port}: `agent-vm egress allow {host}` or \
                     `agent-vm egress deny {host}` in another terminal"
                ));
            }
        }
    }
}

/// What the session left otherwise than it was: one block.
fn tell_changes(report: &IntegrityReport, ui: Ui) {
    if !report.changes.is_empty() {
        ui.warn(
            "files that git, editors or agents act upon are not as they were before this session:",
        );
        for Change { path, kind } in &report.changes {
            ui.status(&format!(
                "  {kind:<8} {}",
                harmless(&path.to_string_lossy())
            ));
        }
        if report.more > 0 {
            ui.status(&format!("  and {} more", report.more));
        }
        ui.hint("look at them before you run anything in this project on this machine");
    }
    for gap in &report.gaps {
        ui.warn(&format!("not all watched files were compared: {gap}"));
    }
}

fn tell_base(event: &BaseEvent<'_>, ui: Ui) {
    match event {
        BaseEvent::Making {
            level,
            reason,
            steps,
        } => {
            let steps = harmless(&steps.join(", "));
            let whose = whose(*level);
            ui.status(&match stale(*reason) {
                None => format!("setting up {whose}: {steps}"),
                Some(why) => format!("{whose} is stale, {why}: setting it up again: {steps}"),
            });
        }
        BaseEvent::Made { level, took } => {
            let seconds = took.as_secs_f64();
            ui.status(&format!("{} is ready ({seconds:.1} s)", whose(*level)));
        }
        BaseEvent::Waiting { level } => ui.status(&format!(
            "waiting for another launch, which sets up {}",
            whose(*level)
        )),
        BaseEvent::Stray { record } => {
            ui.warn(&format!(
                "changes kept in {} are not used: what they were made on has changed",
                whose(record.level)
            ));
            ui.hint(
                "make them again in `agent-vm base shell`, or forget them by `agent-vm base reset`",
            );
        }
        BaseEvent::LargerDisk { bytes } => ui.warn(&format!(
            "the disk has {}, because its base has",
            ByteSize::from_mib(bytes >> 20)
        )),
    }
}

fn stale(reason: SetupReason) -> Option<&'static str> {
    match reason {
        SetupReason::First | SetupReason::Asked => None,
        SetupReason::ImageChanged => Some("the image changed"),
        SetupReason::BelowChanged => Some("what it stands on changed"),
        SetupReason::RecipeChanged => Some("its scripts or packages changed"),
    }
}

impl Shown {
    /// The guest may own the terminal, which is raw then: the next line begins at the left by our own doing.
    fn tell_publish(&self, event: &PublishEvent) {
        let text = match event {
            PublishEvent::Open {
                guest_port,
                protocol,
                at,
            } => format!("published: {at} is port {guest_port}/{protocol} of the guest"),
            PublishEvent::TooMany { guest_port } => format!(
                "port {guest_port} of the guest is not published: {MAX_MIRRORED} others are"
            ),
            PublishEvent::Unbound { guest_port } => {
                format!(
                    "port {guest_port} of the guest is not published: this host has no free port"
                )
            }
            PublishEvent::Lost => "no port of the guest is published any more".to_owned(),
        };
        let text = if self.terminal {
            format!("{text}\r")
        } else {
            text
        };
        match event {
            PublishEvent::Open { .. } => self.ui.status(&text),
            PublishEvent::TooMany { .. } | PublishEvent::Unbound { .. } | PublishEvent::Lost => {
                self.ui.warn(&text);
            }
        }
    }

    /// Shows what was held back, and the phases when they are wanted.
    fn finish(self, profile: bool) {
        let mut state = self.state.into_inner();
        if !state.console.is_empty() {
            state.console.push(b'\n');
        }
        show_lines(self.ui, &mut state.console);
        if profile {
            for line in phase_table(&state.phases) {
                self.ui.status(&line);
            }
        }
    }
}

/// Shows all complete lines and leaves the rest.
fn show_lines(ui: Ui, console: &mut Vec<u8>) {
    let Some(end) = console.iter().rposition(|byte| *byte == b'\n') else {
        return;
    };
    for line in console
        .drain(..=end)
        .collect::<Vec<u8>>()
        .split(|byte| *byte == b'\n')
    {
        if !line.is_empty() {
            ui.foreign("console", &String::from_utf8_lossy(line));
        }
    }
}

/// One line per phase and the sum.
fn phase_table(phases: &[Phase]) -> Vec<String> {
    let milliseconds =
        |took: std::time::Duration| format!("{:>10.1} ms", took.as_secs_f64() * 1000.0);
    let mut lines: Vec<String> = phases
        .iter()
        .map(|phase| format!("{:<24}{}", phase.name, milliseconds(phase.took)))
        .collect();
    let all = phases.iter().map(|phase| phase.took).sum();
    lines.push(format!("{:<24}{}", "total", milliseconds(all)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn phases_are_listed_with_their_sum() {
        let phase = |name, ms| Phase {
            name,
            took: Duration::from_millis(ms),
        };
        assert_eq!(
            phase_table(&[phase("resolve", 2), phase("boot", 150)]),
            [
                "resolve                        2.0 ms",
                "boot                         150.0 ms",
                "total                        152.0 ms",
            ]
        );
    }

    #[test]
    fn incomplete_console_line_waits_for_its_end() {
        let ui = Ui::new(&crate::env_vars::EnvVars::of(&[]));
        let mut console = b"one\ntwo".to_vec();
        show_lines(ui, &mut console);
        assert_eq!(console, b"two");
    }
}
