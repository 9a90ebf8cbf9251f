//! What the guest may reach: shown as it is in force, and refused when it says nothing.

use serde_json::{Value, json};

use crate::environment::Environment;

#[test]
fn the_policy_in_force_is_shown_with_every_grant() {
    let environment = Environment::new();
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[network]\nbuiltin-allowlist = false\nallow-egress = [\"10.1.0.0/16:443\"]\nallow-lan = true\n",
    );
    environment.write(
        "project/.agent-vm.toml",
        "[network]\nallow-domains = [\"a.example.org\"]\nbuiltin-allowlist = false\n",
    );
    let arguments = [
        "explain",
        "run",
        "--allow-domain",
        "*.example.org",
        "--allow-host",
        "--allow-foreign-credentials",
        "--",
        "ls",
    ];
    let text = environment.run(&arguments).told();
    let shown = text.lines().skip_while(|line| !line.starts_with("network"));
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            "network     listed hosts and those with a credential; no other name  (--allow-domain)",
            "            listed *.example.org",
            "            also 10.1.0.0/16:443  (--allow-egress)",
            "            also private networks  (--allow-lan)",
            "            also services of this host as host.agent-vm.internal  (--allow-host)",
            "            logins of the guest's own at hosts with a credential  (--allow-foreign-credentials)",
            "            narrowed to allowlist  (.agent-vm.toml)",
            "            narrowed to a.example.org",
        ]
    );
    let mut arguments = arguments.to_vec();
    arguments.insert(2, "--json");
    let plan: Value = serde_json::from_str(&environment.run(&arguments).told()).unwrap();
    let network = &plan["network"];
    assert_eq!(network["policy"], "allowlist");
    assert_eq!(network["domains"], json!(["*.example.org"]));
    assert_eq!(network["egress"], json!(["10.1.0.0/16:443"]));
    assert_eq!(
        (&network["lan"], &network["host"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(network["project"]["domains"], json!(["a.example.org"]));
    assert_eq!(
        plan["origins"]["policy"],
        json!({"from": "flag", "name": "--allow-domain"})
    );
}

#[test]
fn a_policy_of_the_users_file_says_where_it_came_from() {
    let environment = Environment::new();
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[network]\npolicy = \"offline\"\n",
    );
    let text = environment.run(&["explain", "run"]).told();
    assert!(
        text.contains("network     offline: no address, no name  (config.toml)\n"),
        "{text}"
    );
    let text = environment
        .run(&["explain", "run", "--policy", "public"])
        .told();
    assert!(text.contains("no private network  (--policy)\n"), "{text}");
}

#[test]
fn the_built_in_list_and_the_rules_are_shown_as_they_are_in_force() {
    let environment = Environment::new();
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[[egress.rule]]\nhost = \"api.example.org\"\nmethod = [\"GET\", \"HEAD\"]\npath = \"/v1/**\"\n\
         action = \"allow\"\nreason = \"reads\"\n",
    );
    environment.write(
        "project/.agent-vm.toml",
        "[[egress.rule]]\nhost = \"*.example.net\"\naction = \"deny\"\n",
    );
    let text = environment
        .run(&["explain", "run", "--policy", "ask"])
        .told();
    for line in [
        "network     listed hosts and those with a credential; you are asked about others  (--policy)\n",
        "            built-in registry.npmjs.org registry.yarnpkg.com pypi.org files.pythonhosted.org\n",
        "            deny *.example.net  (rule 1 of .agent-vm.toml)\n",
        "            allow GET, HEAD api.example.org/v1/**  (rule 1 of config.toml: reads)\n",
        "intercepted api.example.org\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(!text.contains("api.anthropic.com"), "{text}");
    let claude = environment
        .run(&["explain", "claude", "--policy", "allowlist"])
        .stdout;
    assert!(claude.contains("built-in api.anthropic.com "), "{claude}");
    let public = environment.run(&["explain", "run"]).told();
    assert!(!public.contains("built-in"), "{public}");
    environment.write(
        "project/.agent-vm.toml",
        "[[egress.rule]]\nhost = \"a.test\"\naction = \"allow\"\n",
    );
    environment.run(&["explain"]).refused(
        "error: ROOT/project/.agent-vm.toml: rule 1 of [[egress.rule]]: `action = \"allow\"` would widen what may be \
         reached, which a project's file cannot: its rules are `deny`\n\n\
         hint: put it into ~/.config/agent-vm/config.toml\n",
    );
}

#[test]
fn values_that_cannot_be_say_what_is_accepted() {
    let environment = Environment::new();
    let tip = "\n\nhint: `agent-vm --help` and `agent-vm COMMAND --help` show what there is\n";
    for (arguments, told) in [
        (
            ["--policy", "none"],
            "a policy is `public`, `allowlist`, `ask` or `offline`",
        ),
        (
            ["--allow-egress", "example.org"],
            "a host is named by --allow-domain",
        ),
        (
            ["--allow-egress", "10.1.2.3/8"],
            "the network is 10.0.0.0/8",
        ),
        (
            ["--allow-egress", "127.0.0.1:80"],
            "by --allow-host as host.agent-vm.internal",
        ),
        (
            ["--allow-egress", "169.254.169.254"],
            "metadata services hand out credentials",
        ),
        (
            ["--allow-domain", "*.org"],
            "it covers a whole top-level domain",
        ),
    ] {
        let finished = environment.run(&["explain", arguments[0], arguments[1]]);
        assert_eq!(finished.code, Some(125));
        assert!(
            finished.stderr.ends_with(&format!("{told}{tip}")),
            "{finished:?}"
        );
    }
}

#[test]
fn what_would_have_no_effect_names_the_fix() {
    let environment = Environment::new();
    environment.run(&["explain", "--offline", "--allow-domain", "a.example.org"]).refused(
        "error: --allow-domain says nothing under --offline\n\n\
         hint: hosts are listed under --policy allowlist; every public host is reached under --policy public\n",
    );
    environment.run(&["explain", "--offline", "--policy", "public"]).refused(
        "error: --offline and --policy public exclude each other\n\nhint: leave one of them out\n",
    );
}

#[test]
fn a_projects_file_that_would_widen_is_refused() {
    let environment = Environment::new();
    environment.write("project/.agent-vm.toml", "[network]\nallow-lan = true\n");
    environment.run(&["explain", "--no-setup"]).refused(
        "error: ROOT/project/.agent-vm.toml: `allow-lan` of [network] would widen what may be reached, \
         which a project's file cannot\n\n\
         hint: put it into ~/.config/agent-vm/config.toml, or give the option\n",
    );
}

#[test]
fn proxies_are_shown_without_their_logins() {
    let mut environment = Environment::new();
    environment.set(
        "https_proxy",
        "http://the-user:the-password@proxy.example.org:3128",
    );
    environment.set("HTTPS_PROXY", "http://other.example.org:1");
    environment.set("ALL_PROXY", "socks5h://the-user@127.0.0.1");
    environment.set("NO_PROXY", "localhost,.example.org");
    let text = environment.run(&["explain", "run"]).told();
    assert!(
        text.contains(
            "proxy       http://proxy.example.org:3128 for all else\n            \
             socks5h://127.0.0.1:1080 where no other is named\n            \
             not for localhost,.example.org\n"
        ),
        "{text}"
    );
    let json = environment.run(&["explain", "run", "--json"]).told();
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        plan["network"]["proxies"]["https"],
        "http://proxy.example.org:3128"
    );
    assert!(!(text + &json).contains("the-"), "a login is shown");
    environment.set("NO_PROXY", "*");
    assert!(
        !environment
            .run(&["explain", "run"])
            .told()
            .contains("proxy")
    );
}

#[test]
fn setup_boots_under_the_users_network_settings() {
    let mut environment = Environment::new();
    let reference = "localhost:1/none";
    environment.set("HTTPS_PROXY", "socks4://proxy.example.org");
    let finished = environment.run(&["setup", reference]);
    let told = "error: the proxy that $HTTPS_PROXY names cannot be used\n";
    assert!(finished.stderr.starts_with(told), "{finished:?}");
    environment.set("HTTPS_PROXY", "");
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[network]\nallow-egress = [\"everything\"]\n",
    );
    let finished = environment.run(&["setup", reference]);
    assert!(
        finished.stderr.contains("`allow-egress` of [network]"),
        "{finished:?}"
    );
}

#[test]
fn a_proxy_that_cannot_be_used_is_named_by_its_variable_alone() {
    let mut environment = Environment::new();
    environment.set(
        "HTTPS_PROXY",
        "https://the-user:the-password@proxy.example.org",
    );
    environment.run(&["explain"]).refused(
        "error: the proxy that $HTTPS_PROXY names cannot be used\n\
         caused by: a proxy cannot be reached by https, only by http, socks5 or socks5h\n\n\
         hint: set it to such a proxy; NO_PROXY='*' does without any\n",
    );
    environment.set("HTTPS_PROXY", "http://the-user:the-password@");
    let finished = environment.run(&["explain"]);
    assert_eq!(finished.code, Some(125));
    assert!(!finished.stderr.contains("the-"), "{finished:?}");
}
