//! What is published, as far as it is told without a machine.

use crate::environment::Environment;

#[test]
fn plan_shows_what_is_published_by_options_and_by_the_users_configuration() {
    let environment = Environment::new();
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[publish]\nports = ['0:53/udp']\nauto = true\nexcept = [9229]\n",
    );
    let plan = environment
        .run(&["explain", "run", "--publish", "[::1]:8080:80", "--", "ls"])
        .told();
    let at = plan.find("published").unwrap_or_else(|| panic!("{plan}"));
    assert!(
        plan[at..].starts_with(
            "published   [::1]:8080 is port 80/tcp of the guest\n            \
             any free port of 127.0.0.1 is port 53/udp of the guest\n            \
             127.0.0.1 has every TCP port the guest listens at, at most 64, except 9229\n"
        ),
        "{plan}"
    );
    let bare = Environment::new().run(&["explain", "run", "--", "ls"]);
    assert!(!bare.told().contains("published"));
}

#[test]
fn a_projects_file_publishes_nothing() {
    let environment = Environment::new();
    environment.write("project/.agent-vm.toml", "[publish]\nauto = true\n");
    environment.run(&["explain"]).refused(
        "error: ROOT/project/.agent-vm.toml asks to publish ports, which only the user's own configuration may\n\n\
         hint: put it into ~/.config/agent-vm/config.toml, or give --publish\n",
    );
}

#[test]
fn a_port_of_another_form_is_told_with_the_form() {
    let environment = Environment::new();
    environment.run(&["explain", "--publish", "80"]).refused(
        "error: invalid value '80' for '--publish <[BIND:]HOST:GUEST[/tcp|/udp]>': a published port is given as \
         [BIND:]HOST:GUEST[/tcp|/udp], BIND an address of this host, an IPv6 one in brackets\n\n\
         hint: `agent-vm --help` and `agent-vm COMMAND --help` show what there is\n",
    );
    environment
        .run(&["explain", "--auto-publish-except", "9229"])
        .refused(
            "error: --auto-publish-except has no effect without --auto-publish\n\n\
             hint: add --auto-publish, or leave it out\n",
        );
}
