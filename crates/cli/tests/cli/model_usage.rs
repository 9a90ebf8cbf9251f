//! `agent-vm usage` sums what sessions recorded.

use serde_json::{Value, json};

use crate::environment::Environment;

/// The answers of one session, which began at this second.
fn lines(session: &str, project: &str, second: u8) -> String {
    let line = |at: u8, model: Value, input: u64, output: u64, unread: bool| {
        let time = format!("2026-01-01T00:00:{:02}.000Z", second + at);
        let line = json!({"time": time, "session": session, "project": project, "host": "api.test",
            "model": model, "input_tokens": input, "cache_read_tokens": 100, "cache_write_tokens": 0,
            "output_tokens": output, "unread": unread});
        line.to_string() + "\n"
    };
    line(0, json!("claude-x"), 3, 40, false)
        + &line(1, json!("claude-x"), 4, 2, false)
        + &line(2, json!("gpt-\u{1b}[2J"), 1, 1, true)
}

fn with_usage() -> Environment {
    let environment = Environment::new();
    let project = agent_vm_state::Project::exactly(environment.path("project").as_ref()).unwrap();
    let project = project.id().as_str();
    for (session, project, second) in [
        ("bbbb", project, 10),
        ("aaaa", project, 20),
        ("cccc", "other", 0),
    ] {
        environment.write(
            &format!("home/.local/state/agent-vm/usage/{session}.jsonl"),
            &lines(session, project, second),
        );
    }
    environment
}

#[test]
fn this_projects_sessions_are_summed_by_model_in_their_order() {
    let told = "\
SESSION  MODEL     ANSWERS  INPUT  CACHE READ  CACHE WRITE  OUTPUT
bbbb     claude-x        2      7         200            0      42
bbbb     gpt-[2J         1      1         100            0       1
aaaa     claude-x        2      7         200            0      42
aaaa     gpt-[2J         1      1         100            0       1
all      claude-x        4     14         400            0      84
all      gpt-[2J         2      2         200            0       2
total                    6     16         600            0      86
2 answers could not be read; their tokens are not counted
";
    assert_eq!(with_usage().run(&["usage"]).told(), told);
    assert_eq!(
        Environment::new().run(&["usage"]).told(),
        "no model was used\n"
    );
}

#[test]
fn json_has_sessions_models_and_the_total() {
    let environment = with_usage();
    for (arguments, sessions, output) in [
        (&["--json"][..], 4, 86),
        (&["--json", "--all"], 6, 129),
        (&["--json", "--session", "cc"], 2, 43),
        (&["--json", "--session", "x"], 0, 0),
    ] {
        let arguments = [&["usage"][..], arguments].concat();
        let told: Value = serde_json::from_str(&environment.run(&arguments).told()).unwrap();
        assert_eq!(
            told["sessions"].as_array().unwrap().len(),
            sessions,
            "{arguments:?}"
        );
        assert_eq!(told["total"]["output_tokens"], output, "{arguments:?}");
    }
}

#[test]
fn records_that_are_none_are_counted() {
    let environment = Environment::new();
    environment.write("home/.local/state/agent-vm/usage/a.jsonl", "x\n{}\n");
    let finished = environment.run(&["usage", "--all"]);
    assert_eq!(finished.code, Some(0));
    assert!(
        finished.stderr.contains("1 records cannot be understood"),
        "{finished:?}"
    );
}
