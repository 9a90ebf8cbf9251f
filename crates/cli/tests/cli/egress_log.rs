//! The audit log as it is told: of this project unless more is asked for, and never with a guest's control characters.

use crate::environment::Environment;

/// Two projects' decisions; `PROJECT` is replaced by the id of the test's project.
const LOG: &str = r#"{"time":"T1","session":"aaaa","project":"PROJECT","kind":"dns","host":"a.test","verdict":"allow","bytes_up":0,"bytes_down":0,"ms":0}
{"time":"T2","session":"aaaa","project":"PROJECT","kind":"connect","host":"a.test","address":"8.8.8.8","port":443,"verdict":"tunnel","rule":"public","bytes_up":10,"bytes_down":20,"ms":30}
{"time":"T3","session":"aaab","project":"PROJECT","kind":"request","host":"b.test","port":443,"method":"GET","path":"/\u001b[2J\u009b","verdict":"deny","reason":"rule","status":403,"bytes_up":0,"bytes_down":0,"ms":1}
{"time":"T4","session":"bbbb","project":"0123456789abcdef","kind":"dns","host":"c.test","verdict":"deny","reason":"offline","bytes_up":0,"bytes_down":0,"ms":0}
"#;

fn with_log() -> Environment {
    let environment = Environment::new();
    let id = agent_vm_state::Project::exactly(environment.path("project").as_ref()).unwrap();
    let log = LOG.replace("PROJECT", id.id().as_str());
    environment.write("home/.local/state/agent-vm/audit.jsonl", &log);
    environment
}

#[test]
fn this_projects_decisions_are_one_readable_line_each() {
    let environment = with_log();
    let told = "\
T1 allow  name a.test
T2 tunnel a.test:443 at 8.8.8.8 (rule public) 10 B up, 20 B down, 30 ms
T3 deny   GET b.test/\\u{1b}[2J\\u{9b} 403 rule 0 B up, 0 B down, 1 ms
";
    assert_eq!(environment.run(&["egress", "log"]).told(), told);
    assert_eq!(Environment::new().run(&["egress", "log"]).told(), "");
}

#[test]
fn sessions_hosts_denials_and_the_last_lines_are_chosen() {
    let environment = with_log();
    for (arguments, times) in [
        (&["--all"][..], "T1 T2 T3 T4"),
        (&["--session", "bbbb"], "T4"),
        (&["--session", "aaa", "--denied"], "T3"),
        (&["--host", "a.test"], "T1 T2"),
        (&["--all", "--denied"], "T3 T4"),
        (&["-n", "2"], "T2 T3"),
        (&["--all", "--host", "*.example.org"], ""),
    ] {
        let arguments = [&["egress", "log"][..], arguments].concat();
        let told = environment.run(&arguments).told();
        let found: Vec<&str> = told.lines().map(|line| &line[..2]).collect();
        assert_eq!(found.join(" "), times, "{arguments:?}");
    }
}

#[test]
fn json_is_the_lines_as_recorded() {
    let environment = with_log();
    let told = environment
        .run(&["egress", "log", "--json", "--all"])
        .told();
    let recorded = LOG.lines().last().unwrap();
    assert_eq!(told.lines().last(), Some(recorded));
    assert_eq!(told.lines().count(), 4);
    assert!(
        told.bytes()
            .all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte))
    );
}

#[test]
fn lines_that_are_none_are_counted() {
    let environment = Environment::new();
    environment.write("home/.local/state/agent-vm/audit.jsonl", "x\n{}\n");
    let finished = environment.run(&["egress", "log"]);
    assert_eq!(finished.code, Some(0));
    assert!(
        finished
            .stderr
            .contains("1 lines of the audit log cannot be understood"),
        "{finished:?}"
    );
}
