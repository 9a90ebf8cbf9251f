//! A13: the plan that is printed is the plan that is enforced.

use agent_vm_boot_tests::Machine;
use anyhow::Result;
use serde_json::Value;

#[test]
fn explains_the_launch_without_starting_it_and_without_a_token() -> Result<()> {
    let machine = Machine::new()?;
    let arguments = [
        "explain",
        "claude",
        "--json",
        "--image",
        machine.image(),
        "--secret",
        "TOK@api.example.test",
    ];
    let finished = machine
        .agent_vm(&arguments)
        .env("TOK", "a-real-token-value-1234")
        .run()?
        .expect_code(0)?;
    let plan: Value = serde_json::from_str(&finished.stdout)?;
    let text = plan.to_string();
    assert!(
        text.contains("api.example.test")
            && text.contains(&machine.project().display().to_string()),
        "{text}"
    );
    assert!(!text.contains("a-real-token-value-1234"), "{text}");
    Ok(())
}
