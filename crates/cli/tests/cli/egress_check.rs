//! What the policy would decide, what a session needed, and answers to sessions that do not run.

use serde_json::Value;

use crate::environment::Environment;

const RULES: &str = "\
[[egress.rule]]
host = \"api.example.org\"
method = [\"GET\"]
path = \"/v1/**\"
action = \"allow\"
reason = \"reads\"
[[egress.rule]]
host = \"*.example.net\"
action = \"deny\"
";

#[test]
fn the_verdict_is_told_with_its_rule_and_as_exit_code() {
    let environment = Environment::new();
    environment.write("home/.config/agent-vm/config.toml", RULES);
    for (arguments, code, verdict, rule) in [
        (
            &["GET", "https://api.example.org/v1/x?y"][..],
            0,
            "allow",
            "rule 1 of config.toml: reads",
        ),
        (&["POST", "https://api.example.org/v1/x"], 1, "deny", ""),
        (&["https://api.example.org/v1/../x"], 1, "deny", ""),
        (&["a.example.net:22"], 1, "deny", "rule 2 of config.toml"),
        (&["other.example.com"], 0, "allow", "public"),
        (&["other.example.com", "--policy", "ask"], 1, "ask", ""),
        (
            &["other.example.com", "--policy", "allowlist"],
            1,
            "deny",
            "",
        ),
        (
            &["other.example.com", "--allow-domain", "*.example.com"],
            0,
            "allow",
            "allow-domain *.example.com",
        ),
        (
            &["pypi.org", "--policy", "allowlist"],
            0,
            "allow",
            "builtin pypi.org",
        ),
        (&["10.0.0.1:22"], 1, "deny", ""),
        (&["10.0.0.1:22", "--allow-lan"], 0, "allow", "allow-lan"),
        (&["169.254.169.254:80", "--allow-lan"], 1, "deny", ""),
    ] {
        let arguments = [&["egress", "check", "--json"][..], arguments].concat();
        let finished = environment.run(&arguments);
        assert_eq!(finished.code, Some(code), "{arguments:?} {finished:?}");
        let said: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!(said["verdict"], verdict, "{arguments:?}");
        assert_eq!(
            said["rule"].as_str().unwrap_or_default(),
            rule,
            "{arguments:?}"
        );
    }
    let finished = environment.run(&["egress", "check", "a", "b"]);
    assert_eq!(finished.code, Some(125), "{finished:?}");
    let text = environment
        .run(&["egress", "check", "GET", "https://api.example.org/v1/x"])
        .told();
    assert_eq!(
        text,
        "allow GET api.example.org:443/v1/x\nrule    rule 1 of config.toml: reads\n\
         note    TLS is intercepted: each request is judged\n"
    );
}

#[test]
fn where_logins_are_renewed_the_launcher_answers_and_the_host_is_intercepted() {
    let environment = Environment::new();
    let endpoint = "https://platform.claude.com/v1/oauth/token";
    let check = |arguments: &[&str]| {
        let arguments = [&["egress", "check", "--json"][..], arguments].concat();
        let finished = environment.run(&arguments);
        let said: Value = serde_json::from_str(&finished.stdout).unwrap();
        let word = |name: &str| said[name].as_bool().unwrap();
        (finished.code, word("intercepted"), word("renews"))
    };
    assert_eq!(check(&["POST", endpoint]), (Some(0), false, false));
    environment.write(
        "home/.claude/.credentials.json",
        r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-x","refreshToken":"sk-ant-ort01-x","expiresAt":9999999999999}}"#,
    );
    assert_eq!(check(&["POST", endpoint]), (Some(0), true, true));
    assert_eq!(check(&["GET", endpoint]), (Some(0), true, false));
    let revoke = "https://platform.claude.com/v1/oauth/revoke";
    assert_eq!(check(&["POST", revoke]), (Some(0), true, false));
    assert_eq!(
        check(&["platform.claude.com", "--policy", "allowlist"]),
        (Some(0), true, false)
    );
    let text = environment
        .run(&["egress", "check", "POST", endpoint])
        .told();
    let note = "note    the launcher renews a login here; every other grant is refused\n";
    assert!(text.ends_with(note), "{text}");
}

#[test]
fn what_the_last_session_needed_is_a_list_for_the_configuration() {
    let environment = Environment::new();
    let project = agent_vm_state::Project::exactly(environment.path("project").as_ref()).unwrap();
    let line = |session: &str, host: &str| {
        format!(
            r#"{{"session":"{session}","project":"{}","kind":"connect","host":"{host}","verdict":"tunnel"}}"#,
            project.id()
        ) + "\n"
    };
    let log = line("aaaa", "old.example.org") + &line("bbbb", "new.example.org");
    environment.write("home/.local/state/agent-vm/audit.jsonl", &log);
    let toml = environment.run(&["egress", "suggest", "--toml"]).told();
    assert!(
        toml.contains("\"new.example.org\",  # 1 connections"),
        "{toml}"
    );
    assert!(!toml.contains("old.example.org"), "{toml}");
    let old = environment
        .run(&["egress", "suggest", "--session", "aa"])
        .told();
    assert!(old.starts_with("old.example.org "), "{old}");
    environment.write("home/.config/agent-vm/config.toml", &toml);
    let shown = environment.run(&["explain", "run"]).told();
    assert!(shown.contains("listed new.example.org"), "{shown}");
}

#[test]
fn an_answer_needs_a_session_or_is_kept() {
    let environment = Environment::new();
    assert_eq!(environment.run(&["egress", "pending"]).told(), "");
    let finished = environment.run(&["egress", "allow", "a.example.org"]);
    assert_eq!(finished.code, Some(125), "{finished:?}");
    let finished = environment.run(&["egress", "deny", "a.example.org", "--always"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let checked = environment.run(&["egress", "check", "a.example.org"]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
}
