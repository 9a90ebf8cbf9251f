//! `base`: what setup scripts made of the image.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _};

use agent_vm_image::{Reference, Store};
use agent_vm_launch::{
    BaseKind, BaseProject, BaseRecord, BaseStore, LaunchRequest, Level, ListedBase, Rebuild, Scope,
    base_shell, expected_bases, make_bases,
};
use agent_vm_state::Project;
use serde_json::json;

use crate::args::{
    BaseApplyArgs, BaseCommand, BaseLsArgs, BaseResetArgs, BaseScopeArgs, BaseShellArgs, ByteSize,
    LaunchOptions, Target,
};
use crate::command_error::{BaseCommandError, CommandError, UsageError};
use crate::commands::run_agent::shown;
use crate::host_facts::HostFacts;
use crate::launch_request::{ConfiguredSecrets, Context, Typed, build};
use crate::preflight::{Preflight, kernel_for_plan};
use crate::settings::Settings;
use crate::ui::{self, Ui, harmless};

/// `agent-vm base …`.
///
/// # Errors
/// Whatever kept it from being done.
pub(crate) fn run(context: &Context, command: &BaseCommand, ui: Ui) -> Result<u8, CommandError> {
    match command {
        BaseCommand::Ls(args) => list(context, args),
        BaseCommand::Shell(args) => shell(context, args, ui),
        BaseCommand::Apply(args) => apply(context, args, ui),
        BaseCommand::Snapshot(args) => snapshot(context, args, ui),
        BaseCommand::Reset(args) => reset(context, args, ui),
    }
}

fn apply(context: &Context, args: &BaseApplyArgs, ui: Ui) -> Result<u8, CommandError> {
    let request = request(context, &args.options, &["true".into()])?;
    let rebuild = if args.force {
        Rebuild::Level
    } else {
        Rebuild::Missing
    };
    let level = level(args.user);
    let any = shown(request, ui, |request, observer| {
        make_bases(request, level, rebuild, observer)
    })?;
    if any {
        ui.status(&format!("{} is up to date", whose(level)));
    } else {
        ui.status("there is nothing to set up: no script, no packages, no kept changes");
    }
    Ok(0)
}

fn shell(context: &Context, args: &BaseShellArgs, ui: Ui) -> Result<u8, CommandError> {
    let level = level(args.user);
    let argv = agent_vm_agents::login_shell_argv(&[]);
    let request = request(context, &args.options, &argv)?;
    let scope = scope_of(&request, level);
    let store = BaseStore::at(request.directories.bases());
    let (code, _) = shown(request, ui, |request, observer| {
        base_shell(request, level, observer)
    })?;
    if args.keep || asked(ui, level)? {
        store.keep_draft(&scope)?;
        ui.status("the changes are kept");
    } else {
        let user = if args.user { " --user" } else { "" };
        ui.status("the changes are not kept");
        ui.hint(&format!(
            "`agent-vm base snapshot{user}` keeps them, until the next `agent-vm base shell{user}`"
        ));
    }
    Ok(code)
}

/// Whether the person at the terminal says yes; without a terminal nobody does.
fn asked(ui: Ui, level: Level) -> Result<bool, CommandError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    let question = format!("keep the changes in {}? [y/N] ", whose(level));
    ui.question(&question);
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(BaseCommandError::Answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn snapshot(context: &Context, args: &BaseScopeArgs, ui: Ui) -> Result<u8, CommandError> {
    let options = LaunchOptions {
        image: args.image.clone(),
        no_setup: true,
        ..LaunchOptions::default()
    };
    let (scope, store) = place(context, &options, level(args.user))?;
    match store.keep_draft(&scope)? {
        Some(_) => {
            ui.status(&format!(
                "the changes of the last `base shell` are kept in {}",
                whose(scope.level)
            ));
            Ok(0)
        }
        None => Err(BaseCommandError::NoDraft.into()),
    }
}

fn reset(context: &Context, args: &BaseResetArgs, ui: Ui) -> Result<u8, CommandError> {
    let store = BaseStore::at(context.directories()?.bases());
    let removed = if args.all {
        store.remove(|_| true)?
    } else {
        let scope = Scope {
            level: level(args.user),
            project: project(context)?,
            image: String::new(),
        };
        store.remove(|record| scope.holds(record))?
    };
    let images = context.directories()?.images();
    if !removed.is_empty() && images.is_dir() {
        let images = Store::open(images)?;
        for base in &removed {
            images.unpin(&base.record.pin_name())?;
        }
    }
    let bytes = removed.iter().map(|base| base.allocated_bytes).sum();
    ui.status(&format!(
        "{} removed, {} freed",
        counted(removed.len()),
        size(bytes)
    ));
    Ok(0)
}

fn list(context: &Context, args: &BaseLsArgs) -> Result<u8, CommandError> {
    let options = LaunchOptions {
        image: args.image.clone(),
        ..LaunchOptions::default()
    };
    let listed = BaseStore::at(context.directories()?.bases()).list()?;
    let current = Current::of(context, &options)?;
    let text = if args.json {
        let bases: Vec<_> = listed.iter().map(|base| as_json(base, &current)).collect();
        serde_json::to_string_pretty(&bases).expect("bases have UTF-8 paths and text keys") + "\n"
    } else {
        table(&listed, &current)
    };
    ui::data(&text).map_err(UsageError::Output)?;
    Ok(0)
}

/// What a launch in this directory would begin with.
struct Current {
    scope: Scope,
    ids: Vec<String>,
}

impl Current {
    fn of(context: &Context, options: &LaunchOptions) -> Result<Self, CommandError> {
        let request = planned(context, options)?;
        let scope = scope_of(&request, Level::Project);
        let store = BaseStore::at(request.directories.bases());
        let reference: Reference = request.image.reference.parse()?;
        let image = if request.image.store.is_dir() {
            Store::open(&request.image.store)?.image(&reference)?
        } else {
            None
        };
        let ids = image.map(|image| {
            let ids = expected_bases(&store, image.manifest_digest, &scope, &request.setup);
            ids.iter().map(ToString::to_string).collect()
        });
        Ok(Self {
            scope,
            ids: ids.unwrap_or_default(),
        })
    }

    /// `other` for what a launch elsewhere, or of another image, would use.
    fn state(&self, base: &ListedBase) -> &'static str {
        let record = &base.record;
        let user = Scope {
            level: Level::User,
            ..self.scope.clone()
        };
        if base.draft {
            "draft"
        } else if self.ids.iter().any(|id| id == record.id.as_str()) {
            "current"
        } else if record.image == self.scope.image
            && (self.scope.holds(record) || user.holds(record))
        {
            "stale"
        } else {
            "other"
        }
    }
}

fn table(listed: &[ListedBase], current: &Current) -> String {
    let mut text = String::new();
    if listed.is_empty() {
        return text;
    }
    let mut row = |cells: [&str; 6]| {
        let [id, size, state, kind, image, whose] = cells.map(harmless);
        writeln!(
            text,
            "{id:<12}  {size:>9}  {state:<7}  {kind:<7}  {whose}  {image}"
        )
        .expect("a String takes all");
    };
    row(["ID", "SIZE", "STATE", "MADE BY", "IMAGE", "WHOSE"]);
    for base in listed {
        let record = &base.record;
        let made_by = match record.kind {
            BaseKind::Setup => "setup",
            BaseKind::Snapshot => "hand",
        };
        let whose = match &record.project {
            Some(project) => project.path.display().to_string(),
            None => "user".to_owned(),
        };
        row([
            &record.id.as_str()[..12],
            &size(base.allocated_bytes),
            current.state(base),
            made_by,
            &record.image,
            &whose,
        ]);
    }
    text
}

fn as_json(base: &ListedBase, current: &Current) -> serde_json::Value {
    let BaseRecord {
        id,
        level,
        kind,
        image_manifest,
        image,
        parent,
        project,
        steps,
        disk_bytes,
        made,
        format: _,
    } = &base.record;
    json!({
        "id": id, "level": level, "kind": kind, "state": current.state(base),
        "image": image, "image_manifest": image_manifest, "parent": parent,
        "project": project.as_ref().map(|project| &project.path), "steps": steps,
        "disk_bytes": disk_bytes, "allocated_bytes": base.allocated_bytes, "made": made,
    })
}

/// A launch that will be, with the machine looked at.
fn request(
    context: &Context,
    options: &LaunchOptions,
    argv: &[std::ffi::OsString],
) -> Result<LaunchRequest, CommandError> {
    if options.no_setup {
        return Err(BaseCommandError::NoSetup.into());
    }
    let host = HostFacts::read();
    let settings = Settings::resolve(options, &context.env, &host)?;
    let preflight = Preflight::start(context, &settings, &host)?;
    let typed = typed(options, argv);
    let request = build(context, &typed, settings, preflight.kernel().to_owned())?;
    preflight.finish()?;
    Ok(request)
}

/// The same without a machine.
fn planned(context: &Context, options: &LaunchOptions) -> Result<LaunchRequest, CommandError> {
    let settings = Settings::resolve(options, &context.env, &HostFacts::read())?;
    let argv = ["true".into()];
    build(
        context,
        &typed(options, &argv),
        settings,
        kernel_for_plan(context),
    )
}

fn place(
    context: &Context,
    options: &LaunchOptions,
    level: Level,
) -> Result<(Scope, BaseStore), CommandError> {
    let request = planned(context, options)?;
    let store = BaseStore::at(request.directories.bases());
    Ok((scope_of(&request, level), store))
}

/// No agent: no profile, so no credentials but those of `--secret`.
fn typed<'a>(options: &'a LaunchOptions, argv: &'a [std::ffi::OsString]) -> Typed<'a> {
    Typed {
        target: Target::Run,
        shell_agent: None,
        options,
        arguments: argv,
        configured: ConfiguredSecrets::Withheld,
    }
}

fn scope_of(request: &LaunchRequest, level: Level) -> Scope {
    Scope {
        level,
        project: base_project(&request.project),
        image: request.image.reference.clone(),
    }
}

fn project(context: &Context) -> Result<BaseProject, CommandError> {
    let cwd = context
        .env
        .current_directory()
        .ok_or(UsageError::NoCurrentDirectory)?;
    Ok(base_project(&Project::discover(cwd)?))
}

fn base_project(project: &Project) -> BaseProject {
    BaseProject {
        id: project.id().to_string(),
        path: project.root().to_owned(),
    }
}

fn level(user: bool) -> Level {
    if user { Level::User } else { Level::Project }
}

/// A base, as a person calls it.
pub(crate) fn whose(level: Level) -> &'static str {
    match level {
        Level::User => "your base",
        Level::Project => "the base of this project",
    }
}

fn counted(bases: usize) -> String {
    match bases {
        1 => "1 base".to_owned(),
        many => format!("{many} bases"),
    }
}

/// Rounded up to whole MiB.
fn size(bytes: u64) -> String {
    ByteSize::from_mib(bytes.div_ceil(1 << 20)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_and_numbers_agree() {
        assert_eq!(size(1), "1MiB");
        assert_eq!(size(2 << 30), "2GiB");
        assert_eq!(counted(1), "1 base");
        assert_eq!(counted(0), "0 bases");
    }
}
