//! `egress pending`, `allow` and `deny`: what running sessions wait for, and the person's answers.

use std::fmt::Write as _;

use agent_vm_launch::{ControlReply, ControlRequest, RunningSession, running_sessions};
use agent_vm_policy::{Action, Answer};
use agent_vm_state::Project;

use crate::args::{EgressAnswerArgs, EgressPendingArgs};
use crate::command_error::{CommandError, Kind, UsageError};
use crate::launch_request::Context;
use crate::rule_file::{Added, add_rule};
use crate::setup_files::user_directory;
use crate::ui::{self, Ui, harmless};

/// A running session and what it waits for.
type Asked = (RunningSession, ControlReply);

/// `agent-vm egress pending`.
///
/// # Errors
/// When sessions cannot be listed.
pub(super) fn pending(context: &Context, args: &EgressPendingArgs) -> Result<u8, CommandError> {
    let sessions = sessions(context, args.session.as_deref())?;
    let text = if args.json {
        let shown = sessions.iter().map(|(session, reply)| {
            serde_json::json!({
                "session": session.id,
                "pending": reply.pending,
                "unanswered": reply.unanswered,
            })
        });
        serde_json::Value::Array(shown.collect()).to_string() + "\n"
    } else {
        sessions.iter().map(told).collect()
    };
    ui::data(&text).map_err(UsageError::Output)?;
    Ok(0)
}

/// The questions of one session, one line each.
fn told((session, reply): &Asked) -> String {
    let mut text = String::new();
    for question in reply.pending.iter().chain(&reply.unanswered) {
        let left = match question.seconds_left {
            0 => "denied, nobody answered".to_owned(),
            seconds => format!("waits {seconds} s more"),
        };
        let request = question.request.as_deref().unwrap_or_default();
        let line = format!("{}:{} {request}", question.host, question.port);
        writeln!(
            text,
            "{}  {left}  [{}]",
            harmless(line.trim_end()),
            session.id
        )
        .expect("writing to a String cannot fail");
    }
    text
}

/// `agent-vm egress allow` and `deny`.
///
/// # Errors
/// When no session runs and nothing is to be kept, or one refuses.
pub(super) fn run(
    context: &Context,
    args: &EgressAnswerArgs,
    answer: Answer,
    ui: Ui,
) -> Result<u8, CommandError> {
    let hosts = args.hosts.to_string();
    let (request, action) = match answer {
        Answer::Allow => (ControlRequest::Allow { hosts }, Action::Allow),
        Answer::Deny => (ControlRequest::Deny { hosts }, Action::Deny),
    };
    let sessions = sessions(context, args.session.as_deref())?;
    if sessions.is_empty() && !args.always {
        return Err(UsageError::NoSession.into());
    }
    for (session, _) in &sessions {
        let reply = session.ask(&request).map_err(UsageError::Session)?;
        if let Some(why) = reply.refused {
            let why = harmless(&why);
            return Err(CommandError::new(Kind::User, UsageError::Refused { why }));
        }
        let waited = match reply.answered {
            0 => String::new(),
            1 => ", one question is answered".to_owned(),
            count => format!(", {count} questions are answered"),
        };
        ui.status(&format!(
            "session {}: {action} {}{waited}",
            session.id, args.hosts
        ));
    }
    if args.always {
        let directory = user_directory(&context.env, &context.home()?);
        match add_rule(&directory, &args.hosts, action)? {
            Added::Now => ui.status("added to config.toml"),
            Added::Before => ui.status("config.toml says so already"),
        }
    }
    Ok(0)
}

/// The running sessions that are meant: of this project, or by the beginning of an id.
fn sessions(context: &Context, id: Option<&str>) -> Result<Vec<Asked>, CommandError> {
    let project = match id {
        Some(_) => None,
        None => {
            let cwd = context.env.current_directory();
            let project = Project::discover(cwd.ok_or(UsageError::NoCurrentDirectory)?)?;
            Some(project.id().to_string())
        }
    };
    let running = running_sessions(&context.directories()?).map_err(UsageError::Session)?;
    let meant = running.into_iter().filter_map(|session| {
        if !session.id.starts_with(id.unwrap_or_default()) {
            return None;
        }
        // One that was killed does not answer.
        let reply = session.ask(&ControlRequest::Pending).ok()?;
        let own = project
            .as_ref()
            .is_none_or(|project| *project == reply.project);
        own.then_some((session, reply))
    });
    Ok(meant.collect())
}
