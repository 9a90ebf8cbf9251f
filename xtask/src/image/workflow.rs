//! What must hold of the hosted workflow that publishes the template. Tests only: there is no other way to check it here.

use crate::workspace;

fn workflow() -> String {
    fs_err::read_to_string(workspace::root().join(".github/workflows/template.yml")).unwrap()
}

#[test]
fn every_action_is_pinned_by_commit_or_says_why_not() {
    let text = workflow();
    let uses = text.lines().filter_map(|line| line.split_once("uses: "));
    let mut count = 0;
    for (_, used) in uses {
        let (action, comment) = used.split_once(" # ").expect(used);
        let (_, version) = action.split_once('@').expect(used);
        let commit = version.len() == 40 && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(
            commit && comment.starts_with('v') || comment.starts_with("by tag: "),
            "{used}"
        );
        count += 1;
    }
    assert!(count > 5, "{count}");
}

#[test]
fn rights_are_given_to_jobs_only_and_nothing_fails_softly() {
    let text = workflow();
    assert!(text.contains("\npermissions: {}\n"));
    assert!(!text.contains("continue-on-error") && !text.contains("|| true"));
}

/// Text of a pull request or an issue must not become part of a script.
#[test]
fn scripts_hold_no_expressions() {
    let text = workflow();
    let mut script_indent = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if let Some(start) = script_indent
            && !line.trim().is_empty()
        {
            if indent > start {
                assert!(!line.contains("${{"), "{line}");
            } else {
                script_indent = None;
            }
        }
        if let Some(at) = line.find("run: ") {
            assert!(!line.contains("${{"), "{line}");
            script_indent = Some(at);
        }
    }
}
