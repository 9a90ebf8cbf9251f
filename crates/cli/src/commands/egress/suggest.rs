//! `egress suggest`: the list of hosts a session needed, from the audit log.

use std::fmt::Write as _;

use agent_vm_state::Project;

use super::{open_all, unreadable};
use crate::args::EgressSuggestArgs;
use crate::command_error::{CommandError, UsageError};
use crate::egress_log::LogLine;
use crate::egress_suggest::{Needs, as_toml, counts};
use crate::launch_request::Context;
use crate::ui;

/// `agent-vm egress suggest`.
///
/// # Errors
/// When there is no project here, it has no such session, or the log cannot be read.
pub(super) fn run(context: &Context, args: &EgressSuggestArgs) -> Result<u8, CommandError> {
    let cwd = context.env.current_directory();
    let project = Project::discover(cwd.ok_or(UsageError::NoCurrentDirectory)?)?;
    let mut session = None;
    each_line(context, &mut |line| {
        let wanted = args.session.as_deref().unwrap_or_default();
        if line.project == project.id().as_str() && line.session.starts_with(wanted) {
            session = Some(line.session);
        }
    })?;
    let session = session.ok_or(UsageError::NoSession)?;
    let mut needs = Needs::default();
    each_line(context, &mut |line| {
        if line.session == session {
            needs.add(&line);
        }
    })?;
    let list = needs.suggested();
    let text = if args.json {
        let document = serde_json::json!({ "session": session, "hosts": list });
        document.to_string() + "\n"
    } else if args.toml {
        as_toml(&session, &list)
    } else {
        let mut text = String::new();
        for entry in &list {
            let listed = if entry.counts.credential {
                " (has a credential)"
            } else {
                ""
            };
            writeln!(
                text,
                "{:<40} {}{listed}",
                entry.pattern.to_string(),
                counts(entry)
            )
            .expect("writing to a String cannot fail");
        }
        text
    };
    ui::data(&text).map_err(UsageError::Output)?;
    Ok(0)
}

/// Every line of the log that is one.
fn each_line(context: &Context, seen: &mut dyn FnMut(LogLine)) -> Result<(), CommandError> {
    let path = context.directories()?.audit_log();
    let wrong = |source| unreadable(&path, source);
    for mut file in open_all(&path).map_err(wrong)? {
        while let Some(line) = file.next_line().map_err(wrong)? {
            LogLine::parse(&line).into_iter().for_each(&mut *seen);
        }
    }
    Ok(())
}
