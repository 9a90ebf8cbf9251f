//! `base` without a machine, and what the plan says of a setup.

use crate::environment::Environment;

#[test]
fn plan_names_what_is_set_up() {
    let environment = Environment::new();
    environment.write("home/.config/agent-vm/setup.sh", "true");
    environment.write("project/.agent-vm.setup.sh", "true");
    environment.write("project/.agent-vm.toml", "[setup]\npackages = [\"jq\"]\n");
    let plan = environment.run(&["explain", "run", "--", "ls"]).told();
    let lines: Vec<&str> = plan.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("setup"));
    let at = at.unwrap_or_else(|| panic!("{plan}"));
    assert_eq!(
        lines[at..at + 3],
        [
            "setup       setup.sh",
            "            packages: jq",
            "            .agent-vm.setup.sh"
        ]
    );
    let bare = environment
        .run(&["explain", "run", "--no-setup", "--", "ls"])
        .told();
    assert!(bare.contains("setup       none: the bare image  (--no-setup)\n"));
}

#[test]
fn mount_asked_for_by_a_project_is_refused() {
    let environment = Environment::new();
    environment.write(
        "project/.agent-vm.toml",
        "[setup]\nmounts = [\"/etc:/mnt/etc\"]\n",
    );
    environment.run(&["explain"]).refused(
        "error: ROOT/project/.agent-vm.toml asks for mounts, which only the user's own configuration may\n\n\
         hint: put them into ~/.config/agent-vm/config.toml, for the setup of your own base\n",
    );
}

#[test]
fn without_bases_there_is_nothing_to_list_keep_or_remove() {
    let environment = Environment::new();
    assert_eq!(environment.run(&["base", "ls"]).told(), "");
    assert_eq!(environment.run(&["base", "ls", "--json"]).told(), "[]\n");
    environment.run(&["base", "snapshot"]).refused(
        "error: no `base shell` left any changes here\n\n\
         hint: `agent-vm base shell` makes some; --user and --image must be as they were there\n",
    );
    environment
        .run(&["base", "apply", "--no-setup"])
        .refused("error: --no-setup leaves nothing to do for `base`\n");
    // Looking makes nothing.
    assert_eq!(
        fs_err::read_dir(environment.path("home")).unwrap().count(),
        0
    );
}

#[test]
fn every_command_of_base_has_help() {
    let environment = Environment::new();
    let all = environment.run(&["base", "--help"]).told();
    for command in ["ls", "shell", "apply", "snapshot", "reset"] {
        assert!(all.contains(&format!("\n  {command} ")), "{all}");
        let help = environment.run(&["base", command, "--help"]).told();
        assert!(help.contains("Usage: agent-vm base"), "{help}");
    }
}
