//! The network of a launch without its machine, for `cargo xtask netns`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use agent_vm_launch::serve_link;

use crate::args::{ShellArgs, Target};
use crate::command_error::{CommandError, UsageError};
use crate::host_facts::HostFacts;
use crate::launch_request::{ConfiguredSecrets, Context, Typed, build};
use crate::settings::Settings;

/// Serves the network that `socket` asks for; set up as a shell is, whatever the command is.
///
/// # Errors
/// What would stop the launch, or the network.
pub(crate) fn run(context: &Context, socket: &Path, shell: &ShellArgs) -> Result<u8, CommandError> {
    let launch = &shell.launch;
    let arguments: &[OsString] = &launch.arguments;
    if arguments.is_empty() {
        return Err(UsageError::NoProgram.into());
    }
    let typed = Typed {
        target: Target::Shell,
        shell_agent: shell.agent,
        options: &launch.options,
        arguments,
        configured: ConfiguredSecrets::Given,
    };
    let settings = Settings::resolve(typed.options, &context.env, &HostFacts::read())?;
    // There is no machine, so there is no kernel.
    let mut request = build(context, &typed, settings, PathBuf::new())?;
    request.program.argv = arguments.to_vec();
    serve_link(request, socket)?;
    Ok(0)
}
