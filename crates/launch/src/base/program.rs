//! What runs in the guest to make a base: the packages, then the scripts, in order; the first that fails ends it.
//!
//! Scripts and certificate are put into the guest's memory (`/run`), not onto the disk that is kept.

use std::ffi::OsString;

use agent_vm_credentials::GuestFile;
use agent_vm_protocol::{Boot, BootFile, GuestPath, Upper};

use super::Recipe;
use crate::guest_view::AUTHORITY_VARIABLES;
use crate::request::Program;

/// Directory of the guest's memory for what belongs to the session.
const SESSION_DIRECTORY: &str = "/run/agent-vm";
/// The session's authority there.
const AUTHORITY: &str = "/run/agent-vm/ca.pem";
/// The image's authorities and the session's in one file.
const BUNDLE: &str = "/run/agent-vm/ca-bundle.pem";
/// Variables by which programs find authorities elsewhere than in the image's own places.
const BUNDLE_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
];

const NODE: &str = "NODE_EXTRA_CA_CERTS";

/// Makes the bundle where there is a credential, so that intercepted hosts are trusted.
const PRELUDE: &str = r#"
if [ "${SSL_CERT_FILE-}" = /run/agent-vm/ca-bundle.pem ]; then
  cat /etc/ssl/certs/ca-certificates.crt /run/agent-vm/ca.pem >/run/agent-vm/ca-bundle.pem 2>/dev/null ||
    cat /run/agent-vm/ca.pem >/run/agent-vm/ca-bundle.pem
fi
"#;

/// Runs name and file of each step; then gives back the room of deleted files (what `/var/lib/docker` is on is the disk).
const STEPS: &str = r#"
while [ $# -gt 0 ]; do
  printf 'agent-vm: running %s\n' "$1" >&2
  "$2" </dev/null
  code=$?
  if [ "$code" != 0 ]; then
    printf 'agent-vm: %s ended with exit code %s\n' "$1" "$code" >&2
    exit "$code"
  fi
  shift 2
done
sync
fstrim /var/lib/docker >/dev/null 2>&1
exit 0
"#;

/// Installs its arguments by the image's package manager.
const INSTALL: &str = r#"#!/bin/sh
install() {
  if command -v apt-get >/dev/null; then
    apt-get update && apt-get install --yes --no-install-recommends -- "$@" && apt-get clean
  elif command -v apk >/dev/null; then
    apk add --no-cache -- "$@"
  elif command -v dnf >/dev/null; then
    dnf install --assumeyes -- "$@"
  else
    echo 'this image has no package manager that is known: apt-get, apk, dnf' >&2
    return 127
  fi
}
"#;

/// Whether the guest gets credentials, and with them the session's authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    Trusted,
    Absent,
}

/// The program that makes a base of `recipe`.
pub(super) fn setup_program(recipe: &Recipe, authority: Authority) -> Program {
    let packages = (!recipe.packages.is_empty()).then(|| {
        let names = recipe.packages.join(" ");
        (
            "the packages".to_owned(),
            format!("{INSTALL}install {names}\n").into_bytes(),
        )
    });
    let scripts = recipe.scripts.iter();
    let scripts = scripts.map(|script| (script.name.clone(), script.content.clone()));
    let mut files = Vec::new();
    let mut argv = shell(STEPS);
    for (index, (name, content)) in packages.into_iter().chain(scripts).enumerate() {
        let path = format!("{SESSION_DIRECTORY}/setup/{index}");
        argv.extend([OsString::from(name), OsString::from(&path)]);
        files.push(GuestFile {
            path,
            mode: 0o700,
            content,
        });
    }
    let mut env = variables(authority);
    env.extend([
        ("AGENT_VM_SETUP".to_owned(), "1".to_owned()),
        ("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned()),
    ]);
    Program {
        agent: "setup".to_owned(),
        argv,
        env,
        files,
    }
}

/// The same surroundings for a program of the user.
pub(super) fn by_hand(program: Program, authority: Authority) -> Program {
    let mut argv = shell("exec \"$@\"");
    argv.extend(program.argv);
    let mut env = variables(authority);
    env.extend(program.env);
    Program {
        argv,
        env,
        ..program
    }
}

/// The guest of a disk that is kept: what belongs to the session goes where the disk does not keep it, and the disk ends
/// clean.
pub(crate) fn for_kept_disk(boot: &mut Boot) {
    boot.root.upper = Upper::KeptDisk;
    let content = std::mem::take(&mut boot.ca_pem);
    boot.files.push(BootFile {
        path: GuestPath::new(AUTHORITY).expect("a constant path is valid"),
        mode: 0o644,
        uid: 0,
        gid: 0,
        content,
    });
}

fn shell(script: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", &format!("{PRELUDE}{script}"), "setup"]
        .into_iter()
        .map(OsString::from)
        .collect()
}

fn variables(authority: Authority) -> Vec<(String, String)> {
    let every_guest = AUTHORITY_VARIABLES.iter().map(|(name, _)| *name);
    match authority {
        // Every guest has these variables; here the files they name are not there.
        Authority::Absent => every_guest
            .map(|name| (name.to_owned(), String::new()))
            .collect(),
        Authority::Trusted => {
            let names = every_guest.chain(BUNDLE_VARIABLES.iter().copied());
            names
                .map(|name| {
                    // Node adds the file to what it has.
                    let file = if name == NODE { AUTHORITY } else { BUNDLE };
                    (name.to_owned(), file.to_owned())
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SetupScript;

    /// Runs the steps on this machine, the scripts at places of their own.
    #[expect(
        clippy::disallowed_methods,
        reason = "tests run the guest's script here"
    )]
    fn run(scripts: &[(&str, &str)]) -> (Option<i32>, String) {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let scripts = scripts.iter().map(|(name, content)| SetupScript {
            name: (*name).to_owned(),
            content: content.as_bytes().to_vec(),
        });
        let recipe = Recipe {
            scripts: scripts.collect(),
            ..Recipe::default()
        };
        let program = setup_program(&recipe, Authority::Absent);
        let mut argv = program.argv;
        for (file, place) in program.files.iter().zip(argv.iter_mut().skip(5).step_by(2)) {
            let path = directory.path().join(file.path.rsplit('/').next().unwrap());
            fs_err::write(&path, &file.content).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            assert_eq!(*place, *file.path);
            *place = path.into_os_string();
        }
        let output = std::process::Command::new(&argv[0])
            .args(&argv[1..])
            .current_dir(&directory)
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    }

    #[test]
    fn scripts_run_in_order_with_and_without_an_interpreter_line() {
        let (code, text) = run(&[
            ("one", "echo first > made"),
            ("two", "#!/bin/sh\ncat made\ncat"),
        ]);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(
            text,
            "first\nagent-vm: running one\nagent-vm: running two\n"
        );
    }

    #[test]
    fn first_script_that_fails_ends_it_with_its_code_and_name() {
        let (code, text) = run(&[("one", "exit 7"), ("two", "echo never")]);
        assert_eq!(code, Some(7));
        assert!(
            text.ends_with("agent-vm: one ended with exit code 7\n"),
            "{text}"
        );
        assert!(!text.contains("never"));
    }

    #[test]
    fn packages_come_before_the_scripts() {
        let recipe = Recipe {
            packages: vec!["jq".to_owned(), "g++".to_owned()],
            scripts: vec![SetupScript {
                name: "setup.sh".to_owned(),
                content: b"true".to_vec(),
            }],
            mounts: Vec::new(),
        };
        let program = setup_program(&recipe, Authority::Absent);
        assert_eq!(program.argv[4], "the packages");
        let text = String::from_utf8(program.files[0].content.clone()).unwrap();
        assert!(text.ends_with("install jq g++\n"), "{text}");
        assert_eq!(program.files[1].content, b"true");
    }

    #[test]
    fn session_is_kept_out_of_the_disk() {
        let recipe = Recipe {
            scripts: vec![SetupScript {
                name: "s".to_owned(),
                content: Vec::new(),
            }],
            ..Recipe::default()
        };
        let program = setup_program(&recipe, Authority::Trusted);
        assert!(
            program
                .files
                .iter()
                .all(|file| file.path.starts_with("/run/"))
        );
        let in_memory = program.env.iter().filter(|(_, value)| value == BUNDLE);
        let all = BUNDLE_VARIABLES.len() + AUTHORITY_VARIABLES.len();
        assert_eq!(in_memory.count(), all - 1, "all but Node's");
    }
}
