//! Which shell `agent-vm shell` starts: that of the guest user's `/etc/passwd` entry, else
//! `/bin/bash`, else `/bin/sh`. Only the guest knows its files, so a few lines of POSIX shell decide
//! there; the user's arguments are passed beside the script, never inside it.

use std::ffi::OsString;

/// Needs only builtins, besides `id` for users other than root.
const SCRIPT: &str = r#"
me=$(id -u 2>/dev/null) || me=0
entry=
while IFS=: read -r _ _ uid _ _ _ shell; do
  if [ "$uid" = "$me" ]; then entry=$shell; break; fi
done </etc/passwd 2>/dev/null
case $entry in */nologin|*/false) entry= ;; esac
for shell in "$entry" /bin/bash /bin/sh; do
  if [ -n "$shell" ] && [ -x "$shell" ]; then
    export SHELL="$shell"
    exec "$shell" -l "$@"
  fi
done
"#;

/// The command that becomes the guest user's login shell, with `arguments` for it.
#[must_use]
pub fn login_shell_argv(arguments: &[OsString]) -> Vec<OsString> {
    let mut argv: Vec<OsString> = ["/bin/sh", "-c", SCRIPT, "sh"]
        .into_iter()
        .map(OsString::from)
        .collect();
    argv.extend_from_slice(arguments);
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> std::process::Output {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let argv = login_shell_argv(&arguments);
        // The test runs the guest's script on the host to see it work.
        #[expect(clippy::disallowed_methods)]
        let mut command = std::process::Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output()
            .unwrap()
    }

    #[test]
    fn starts_a_login_shell_that_knows_its_name() {
        let output = run(&["-c", "case $- in *c*) ;; esac; echo \"$SHELL\""]);
        let shell = String::from_utf8(output.stdout).unwrap();
        assert!(shell.trim().starts_with('/'), "{shell:?}");
    }

    #[test]
    fn arguments_reach_the_shell_as_they_are() {
        let output = run(&[
            "-c",
            "printf '<%s>' \"$@\"",
            "name",
            "a b",
            "$(echo x)",
            "'\"",
        ]);
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "<a b><$(echo x)><'\">"
        );
    }

    #[test]
    fn exit_status_is_that_of_the_shell() {
        assert_eq!(run(&["-c", "exit 7"]).status.code(), Some(7));
    }
}
