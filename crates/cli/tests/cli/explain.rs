//! The plan, as text and as JSON.

use serde_json::{Value, json};

use crate::environment::Environment;

#[test]
fn plan_is_shown_with_where_each_setting_came_from() {
    let mut environment = Environment::new();
    environment.set("TOK", "the-real-token");
    environment.write("home/.claude/.credentials.json", "{}");
    let arguments = [
        "explain",
        "run",
        "--disk",
        "20GiB",
        "--mount",
        "/usr/share:/s:ro",
        "--env",
        "A=b",
        "--secret",
        "TOK@api.example.org:X-Key",
        "--resolve",
        "api.example.org:443:127.0.0.1:8443",
        "--readonly",
        "--",
        "ls",
        "-l",
    ];
    assert_eq!(
        environment.run(&arguments).told(),
        "\
program     ls -l
directory   ROOT/project
image       ghcr.io/agent-vm/template:latest  (default)
            not on this machine: `agent-vm pull` gets it
memory      256MiB  ($AGENT_VM_MEMORY)
processors  1  ($AGENT_VM_CPUS)
disk        20GiB  (--disk)
kernel      ROOT/kernel
mounts      /usr/share at /s (read-only)
            ROOT/project (read-only)
credentials TOK from $TOK: sent to api.example.org in the header x-key
network     public addresses and DNS; nothing of this host, no private network
intercepted api.example.org
addresses   api.example.org:443 at 127.0.0.1:8443
variables   TOK
            A
"
    );
}

#[test]
fn what_a_launch_would_tell_of_its_logins_is_told_beside_the_plan() {
    let environment = Environment::new();
    let expired = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-x","expiresAt":1}}"#;
    for (login, warning) in [
        ("", "no login of Claude was found on this host"),
        (expired, "has expired"),
    ] {
        if !login.is_empty() {
            environment.write("home/.claude/.credentials.json", login);
        }
        for arguments in [
            &["explain", "claude"][..],
            &["explain", "claude", "--json"],
            &["claude", "--dry-run"],
        ] {
            let finished = environment.run(arguments);
            assert_eq!(finished.code, Some(0), "{finished:?}");
            assert!(finished.stderr.contains(warning), "{finished:?}");
            assert!(!finished.stdout.contains(warning), "{finished:?}");
        }
    }
    // A program of the user's own needs no login.
    environment.run(&["explain", "run", "--", "claude"]).told();
}

#[test]
fn dry_run_prints_the_same_plan() {
    let environment = Environment::new();
    let explained = environment
        .run(&["explain", "run", "--cpus", "3", "--", "ls"])
        .told();
    let dry = environment
        .run(&["run", "--cpus", "3", "--dry-run", "--", "ls"])
        .told();
    assert_eq!(explained, dry);
}

#[test]
fn json_plan_has_the_settings_and_their_origins() {
    let environment = Environment::new();
    let finished = environment.run(&[
        "explain", "claude", "--json", "--memory", "1GiB", "-p", "say hi",
    ]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let text = finished.stdout;
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        plan["program"]["argv"],
        json!(["claude", "--dangerously-skip-permissions", "-p", "say hi"])
    );
    assert_eq!(
        plan["program"]["env"],
        json!(["IS_SANDBOX", "DISABLE_AUTOUPDATER"])
    );
    assert_eq!(
        plan["program"]["files"],
        json!([".claude/settings.json", ".claude.json"])
    );
    assert_eq!(plan["machine"]["memory_mib"], 1024);
    assert_eq!(
        plan["origins"]["memory"],
        json!({"from": "flag", "name": "--memory"})
    );
    assert_eq!(plan["origins"]["disk"], json!({"from": "default"}));
    assert_eq!(plan["mounts"][0]["access"], "read-write");
    assert_eq!(plan["network"]["policy"], "public");
    assert_eq!(plan["image"]["digest"], Value::Null);
}

#[test]
fn project_is_the_git_toplevel_and_the_agent_starts_where_we_are() {
    let environment = Environment::new();
    environment.write("project/.git/HEAD", "ref: refs/heads/main\n");
    let text = environment
        .run_in("project/sub", &["explain", "run", "--json"])
        .told();
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["program"]["working_directory"], "ROOT/project/sub");
    assert_eq!(plan["mounts"][0]["guest"], "ROOT/project");
}

#[test]
fn explaining_makes_nothing() {
    let environment = Environment::new();
    let finished = environment.run(&["explain", "claude"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(
        fs_err::read_dir(environment.path("home")).unwrap().count(),
        0
    );
}
