//! Whose records are wanted: of what sessions asked, reached and used.

use agent_vm_state::Project;

use crate::args::SessionsArgs;
use crate::command_error::{CommandError, UsageError};
use crate::launch_request::Context;

/// Whose records are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Everybody's.
    All,
    /// Those of one project, by its id.
    Project(String),
    /// Those of the session whose id begins so.
    Session(String),
}

impl Whose {
    /// What is asked for in this directory.
    ///
    /// # Errors
    /// When it is this project's and there is no project here.
    pub(crate) fn asked(context: &Context, args: &SessionsArgs) -> Result<Self, CommandError> {
        if let Some(session) = &args.session {
            return Ok(Self::Session(session.clone()));
        }
        if args.all {
            return Ok(Self::All);
        }
        let cwd = context.env.current_directory();
        let project = Project::discover(cwd.ok_or(UsageError::NoCurrentDirectory)?)?;
        Ok(Self::Project(project.id().to_string()))
    }

    /// Whether a record of this session and project is wanted.
    pub(crate) fn wants(&self, session: &str, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::Project(id) => project == *id,
            Self::Session(id) => session.starts_with(id),
        }
    }
}
