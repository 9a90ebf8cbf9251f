//! What is typed wrongly.

use crate::environment::Environment;

#[test]
fn version_and_help_are_data() {
    let environment = Environment::new();
    let version = environment.run(&["--version"]).told();
    assert_eq!(version, format!("agent-vm {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["claude", "shell", "run", "explain"] {
        let help = environment.run(&[command, "--help"]).told();
        for option in [
            "--memory <SIZE>",
            "--mount <HOST[:GUEST][:ro|rw]>",
            "--secret <",
            "--resolve <",
        ] {
            assert!(help.contains(option), "{command}: {help}");
        }
        assert!(!help.contains("-h,"), "our options are long only: {help}");
    }
}

#[test]
fn unknown_command_is_named() {
    Environment::new().run(&["cluade"]).refused(
        "error: unrecognized subcommand 'cluade'\n\n  tip: some similar subcommands exist: 'codex', 'usage', 'claude'\n\n\
         Usage: agent-vm <COMMAND>\n\n\
         hint: `agent-vm --help` and `agent-vm COMMAND --help` show what there is\n",
    );
}

#[test]
fn bad_value_names_the_option_and_the_accepted_form() {
    let environment = Environment::new();
    environment.run(&["run", "--memory", "lots", "--", "true"]).refused(
        "error: invalid value 'lots' for '--memory <SIZE>': a size is a number and a unit, such as 512MiB or 4GiB\n\n\
         hint: `agent-vm --help` and `agent-vm COMMAND --help` show what there is\n",
    );
    environment
        .run(&["run", "--memory", "1MiB", "--", "true"])
        .refused("error: invalid value '1MiB' for --memory: it must be from 128MiB to 1TiB\n");
    environment
        .run(&["run", "--disk", "1MiB", "--", "true"])
        .refused("error: invalid value '1MiB' for --disk: it must be from 1GiB to 1TiB\n");
    environment
        .run(&["run", "--cpus", "65", "--", "true"])
        .refused("error: invalid value '65' for --cpus: it must be from 1 to 64\n");
}

#[test]
fn bad_variable_is_named_with_the_accepted_form() {
    let mut environment = Environment::new();
    environment.set("AGENT_VM_MEMORY", "2");
    environment.run(&["explain"]).refused(
        "error: invalid value '2' for $AGENT_VM_MEMORY: a size is a number and a unit, such as 512MiB or 4GiB\n",
    );
    environment.unset("AGENT_VM_MEMORY");
    environment.set("AGENT_VM_TIMEOUT_SCALE", "fast");
    environment.run(&["explain"]).refused(
        "error: invalid value 'fast' for $AGENT_VM_TIMEOUT_SCALE: it must be a number from 0.1 to 1000\n",
    );
}

#[test]
fn mistyped_option_of_run_is_no_program() {
    Environment::new().run(&["run", "--memry", "4GiB", "--", "ls"]).refused(
        "error: `--memry` is neither an option of agent-vm nor a program; a program that begins with `-` is given after `--`\n\n\
         Usage: agent-vm run [OPTIONS] [-- <ARGUMENTS>...]\n\n\
         hint: `agent-vm --help` and `agent-vm COMMAND --help` show what there is\n",
    );
}

#[test]
fn run_needs_a_command() {
    let refused = "error: no command is given\n\nhint: name one: `agent-vm run -- CMD ARGS`\n";
    Environment::new()
        .run(&["run", "--dry-run"])
        .refused(refused);
}

#[test]
fn shell_does_not_take_a_program_for_an_agent() {
    Environment::new().run(&["shell", "ls"]).refused(
        "error: invalid value 'ls' for '[AGENT]': there is no agent \"ls\"\n\n\
         hint: `agent-vm --help` and `agent-vm COMMAND --help` show what there is\n",
    );
}

#[test]
fn missing_mount_is_named() {
    Environment::new()
        .run(&["explain", "--mount", "/no/such/directory"])
        .refused(
            "error: cannot mount /no/such/directory\n\
         caused by: no such file or directory (os error 2)\n\n\
         hint: a mount is given as HOST[:GUEST][:ro|rw]; HOST must exist\n",
        );
}

#[test]
fn conflicting_mounts_are_named() {
    Environment::new()
        .run(&["explain", "--mount", "~:/a", "--mount", "/usr:/a:ro"])
        .refused(
            "error: cannot mount /usr:/a:ro at /a: ~:/a is there already\n\n\
         hint: give it another place: --mount HOST:GUEST\n",
        );
}

#[test]
fn certificate_file_must_hold_certificates() {
    let environment = Environment::new();
    environment.write("project/ca.pem", "no certificate");
    environment
        .run(&["explain", "--upstream-ca", "ca.pem"])
        .refused(
            "error: ROOT/project/ca.pem holds no PEM certificate\n\n\
         hint: --upstream-ca takes a file with PEM certificates\n",
        );
    environment
        .run(&["explain", "--upstream-ca", "none.pem"])
        .refused(
            "error: cannot read the certificates in ROOT/project/none.pem\n\
         caused by: no such file or directory (os error 2)\n\n\
         hint: --upstream-ca takes a file with PEM certificates\n",
        );
}

#[test]
fn home_must_be_known() {
    let mut environment = Environment::new();
    environment.unset("HOME");
    environment.run(&["explain"]).refused(
        "error: HOME is not set to an absolute path\n\nhint: set HOME to your home directory\n",
    );
    environment.set("HOME", "relative");
    environment.run(&["explain"]).refused(
        "error: HOME is not set to an absolute path\n\nhint: set HOME to your home directory\n",
    );
}

#[test]
fn state_directory_must_be_absolute() {
    let mut environment = Environment::new();
    environment.set("AGENT_VM_STATE_DIR", "state");
    environment
        .run(&["explain"])
        .refused("error: AGENT_VM_STATE_DIR is not an absolute path\n");
}

#[test]
fn the_whole_host_is_no_project() {
    Environment::new().run_in("/", &["explain"]).refused(
        "error: the project directory would be /, the whole host\n\n\
         hint: start in the directory of a project\n",
    );
}

#[test]
fn bad_image_reference_is_explained() {
    let finished = Environment::new().run(&["explain", "--image", "UPPER//case"]);
    assert_eq!(finished.code, Some(125));
    assert!(
        finished
            .stderr
            .ends_with("\n\nhint: an image is named as [REGISTRY/]NAME[:TAG][@sha256:DIGEST]\n"),
        "{finished:?}"
    );
}
