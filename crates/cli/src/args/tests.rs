use super::*;

fn parsed(arguments: &[&str]) -> Result<Command, clap::Error> {
    let arguments: Vec<OsString> = std::iter::once(&"agent-vm")
        .chain(arguments)
        .map(OsString::from)
        .collect();
    parse(&arguments).map(|cli| cli.command)
}

fn launch(arguments: &[&str]) -> LaunchArgs {
    match parsed(arguments).unwrap() {
        Command::Claude(launch) | Command::Run(launch) => launch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn command_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn agent_gets_its_own_arguments_as_they_are() {
    let of = |arguments: &[&str]| launch(arguments).arguments;
    assert_eq!(of(&["claude", "-p", "say hi"]), ["-p", "say hi"]);
    assert_eq!(of(&["claude", "--version"]), ["--version"]);
    assert_eq!(of(&["claude", "--memory", "1GiB", "--help"]), ["--help"]);
    assert_eq!(of(&["claude", "--", "--help"]), ["--help"]);
    assert_eq!(
        of(&["run", "--readonly", "--", "ls", "--readonly"]),
        ["ls", "--readonly"]
    );
    assert_eq!(of(&["run", "ls", "-l", "--", "x"]), ["ls", "-l", "--", "x"]);
    assert_eq!(of(&["claude", "--", "--", "x"]), ["--", "x"]);
    assert!(of(&["claude"]).is_empty());
}

#[test]
fn every_option_is_read_before_the_agents_arguments() {
    let launch = launch(&[
        "claude",
        "--memory",
        "4GiB",
        "--cpus=3",
        "--disk",
        "40GiB",
        "--image",
        "a:b",
        "--env",
        "A=b",
        "--env=C=d",
        "--mount",
        "/x:ro",
        "--readonly",
        "--secret",
        "T@a.b",
        "--resolve",
        "a.b:443:127.0.0.1:1",
        "--upstream-ca",
        "ca.pem",
        "--no-update-check",
        "--verbose",
        "--profile-launch",
        "--dry-run",
        "-p",
        "--memory",
    ]);
    let options = launch.options;
    assert_eq!(options.memory.map(ByteSize::mib), Some(4096));
    assert_eq!(
        (options.cpus, options.disk.map(ByteSize::mib)),
        (Some(3), Some(40 * 1024))
    );
    assert_eq!(options.env.len(), 2);
    assert_eq!(
        (
            options.mount.len(),
            options.secret.len(),
            options.resolve.len()
        ),
        (1, 1, 1)
    );
    assert!(options.readonly && options.verbose && options.profile_launch && options.dry_run);
    assert_eq!(launch.arguments, ["-p", "--memory"]);
}

#[test]
fn shell_takes_an_agent_before_or_after_its_options() {
    let of = |arguments: &[&str]| match parsed(arguments).unwrap() {
        Command::Shell(shell) => (
            shell.agent,
            shell.launch.arguments,
            shell.launch.options.readonly,
        ),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(&["shell"]), (None, vec![], false));
    assert_eq!(
        of(&["shell", "claude"]),
        (Some(AgentId::Claude), vec![], false)
    );
    assert_eq!(
        of(&["shell", "codex", "--readonly"]),
        (Some(AgentId::Codex), vec![], true)
    );
    assert_eq!(
        of(&["shell", "--readonly", "codex"]),
        (Some(AgentId::Codex), vec![], true)
    );
    assert_eq!(
        of(&["shell", "-c", "ls"]),
        (None, vec!["-c".into(), "ls".into()], false)
    );
    assert_eq!(of(&["shell", "--", "ls"]), (None, vec!["ls".into()], false));
}

#[test]
fn shell_does_not_take_a_program_for_an_agent() {
    let error = parsed(&["shell", "ls"]).unwrap_err().to_string();
    assert!(error.contains("there is no agent \"ls\""), "{error}");
}

#[test]
fn explain_takes_its_target_anywhere_among_its_options() {
    let of = |arguments: &[&str]| match parsed(arguments).unwrap() {
        Command::Explain(explain) => (explain.target, explain.json, explain.launch.arguments),
        other => panic!("{other:?}"),
    };
    let claude = Some(Target::Agent(AgentId::Claude));
    assert_eq!(of(&["explain"]), (None, false, vec![]));
    assert_eq!(of(&["explain", "claude", "--json"]), (claude, true, vec![]));
    assert_eq!(
        of(&["explain", "--json", "claude", "-p"]),
        (claude, true, vec!["-p".into()])
    );
    assert_eq!(
        of(&["explain", "run", "--", "ls"]),
        (Some(Target::Run), false, vec!["ls".into()])
    );
    assert_eq!(
        of(&["explain", "shell"]),
        (Some(Target::Shell), false, vec![])
    );
}

#[test]
fn mistyped_option_of_run_is_no_program() {
    let error = parsed(&["run", "--memry", "4GiB", "--", "ls"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("`--memry` is neither an option"), "{error}");
    assert_eq!(launch(&["run", "--", "--memry"]).arguments, ["--memry"]);
}

#[test]
fn bad_value_names_the_option_and_the_accepted_form() {
    for (arguments, option, form) in [
        (&["run", "--memory", "lots", "ls"][..], "--memory", "4GiB"),
        (&["run", "--memory"], "--memory", "value"),
        (&["run", "--cpus", "two", "ls"], "--cpus", "digit"),
        (&["run", "--disk", "40", "ls"], "--disk", "4GiB"),
        (&["run", "--env", "A", "ls"], "--env", "NAME=VALUE"),
        (
            &["run", "--mount", "/a:b", "ls"],
            "--mount",
            "HOST[:GUEST][:ro|rw]",
        ),
        (
            &["run", "--resolve", "a.b", "ls"],
            "--resolve",
            "HOST:PORT:ADDR:PORT",
        ),
        (&["run", "--readonly=yes", "ls"], "--readonly", "value"),
    ] {
        let error = parsed(arguments).unwrap_err().to_string();
        assert!(
            error.contains(option) && error.contains(form),
            "{arguments:?}: {error}"
        );
    }
}

#[test]
fn help_is_ours_directly_after_every_command() {
    for command in ["claude", "run", "shell", "explain", "setup", "pull"] {
        let error = parsed(&[command, "--help"]).unwrap_err();
        assert_eq!(
            error.kind(),
            clap::error::ErrorKind::DisplayHelp,
            "{command}"
        );
    }
}
