//! Secrets and logins: what is wrong with them, and that no message shows one.

use crate::environment::Environment;

const LOGIN: &str =
    r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-real","refreshToken":"sk-ant-ort01-real"}}"#;
const FORM: &str = "hint: a secret is given as NAME[=SOURCE]@HOST[,HOST…][:HEADER], SOURCE one of env:VARIABLE, file:PATH, cmd:PROGRAM ARG…\n";

#[test]
fn missing_variable_names_the_flag_and_the_fix() {
    Environment::new().run(&["explain", "--secret", "TOK@api.example.org"]).refused(
        "error: the variable TOK for the secret TOK is not set\n\n\
         hint: set TOK, or name another source: --secret TOK=env:VARIABLE@HOST, TOK=file:PATH@HOST, TOK=cmd:PROGRAM@HOST\n",
    );
}

#[test]
fn bad_secret_is_explained_without_showing_it() {
    let environment = Environment::new();
    let refused = |spec: &str, cause: &str| {
        let expected = format!("error: invalid value for '--secret'\ncaused by: {cause}\n\n{FORM}");
        environment
            .run(&["explain", "--secret", spec])
            .refused(&expected);
    };
    refused(
        "TOK=sk-real",
        "no host is named to which the token may be sent",
    );
    refused(
        "TOK=sk-real@a.b",
        "the source is no variable, file or command",
    );
    refused(
        "TOK@a.b:443",
        "\"443\" is not the name of a header that can carry a token",
    );
}

#[test]
fn source_that_gives_nothing_is_named() {
    let environment = Environment::new();
    let refused = |spec: &str, error: &str| {
        let expected = format!("error: {error}\n\n{FORM}");
        environment
            .run(&["explain", "--secret", spec])
            .refused(&expected);
    };
    refused(
        "T=file:~/token@a.b",
        "the file ROOT/home/token for the secret T does not exist",
    );
    refused(
        "T=cmd:no-such-program@a.b",
        "the program no-such-program for the secret T is not in PATH",
    );
    refused(
        "T=cmd:false@a.b",
        "the command for the secret T ended with exit status: 1: ",
    );
}

#[test]
fn same_secret_twice_is_refused() {
    let mut environment = Environment::new();
    environment.set("T", "x");
    environment.run(&["explain", "--secret", "T@a.b", "--secret", "T@c.d"]).refused(
        "error: the secret T is given twice\n\nhint: name several hosts in one --secret: NAME@HOST,HOST\n",
    );
}

#[test]
fn secret_of_several_lines_is_refused() {
    let environment = Environment::new();
    environment.write("home/token", "first\nsecond");
    environment
        .run(&["explain", "--secret", "T=file:~/token@a.b"])
        .refused(
            "error: the value of T cannot be used as a token\n\
         caused by: the secret holds a control character at position 5\n\n\
         hint: a token is one line of text\n",
        );
}

#[test]
fn token_does_not_enter_by_another_way() {
    let mut environment = Environment::new();
    environment.set("T", "the-real-token");
    environment
        .run(&["explain", "--secret", "T@a.b", "--env", "T=x"])
        .refused(
            "error: the variable T is given by --env and by --secret\n\n\
         hint: leave out --env T: the guest gets a placeholder in it\n",
        );
    environment.run(&["explain", "--secret", "T@a.b", "--env", "U=Bearer the-real-token"]).refused(
        "error: the value of --env U holds the real token of T, which must not enter the guest\n\n\
         hint: let the guest use the placeholder it gets in a variable or file\n",
    );
    environment.run(&["explain", "run", "--secret", "T@a.b", "--", "curl", "-Hx: the-real-token"]).refused(
        "error: an argument of the program holds the real token of T, which must not enter the guest\n\n\
         hint: let the guest use the placeholder it gets in a variable or file\n",
    );
}

#[test]
fn broken_login_is_named_and_not_shown() {
    let environment = Environment::new();
    environment.write(
        "home/.claude/.credentials.json",
        "{\"claudeAiOauth\": sk-real",
    );
    environment.run(&["explain", "claude"]).refused(
        "error: ROOT/home/.claude/.credentials.json is not valid JSON\n\
         caused by: expected value at line 1 column 19\n\n\
         hint: log in again on the host\n",
    );
}

#[test]
fn share_that_shows_real_tokens_is_refused() {
    let environment = Environment::new();
    environment.write("home/.claude/.credentials.json", LOGIN);
    let expected = "error: ROOT/home would show the guest the real tokens in ROOT/home/.claude/.credentials.json\n\n\
         hint: start in a project directory, and mount only the directories the agent needs\n";
    environment
        .run(&["explain", "--mount", "~:/h:ro"])
        .refused(expected);
    environment.run_in("home", &["explain"]).refused(expected);
}

#[test]
fn plan_of_a_login_shows_hosts_and_no_token() {
    let mut environment = Environment::new();
    environment.write("home/.claude/.credentials.json", LOGIN);
    environment.set("ANTHROPIC_API_KEY", "sk-ant-api03-real");
    for arguments in [&["explain", "claude"][..], &["explain", "claude", "--json"]] {
        let text = environment.run(arguments).told();
        assert!(
            text.contains("api.anthropic.com") && text.contains("platform.claude.com"),
            "{text}"
        );
        assert!(!text.contains("-real"), "{text}");
    }
}

#[test]
fn plan_names_each_credential_with_its_source_and_hosts() {
    let mut environment = Environment::new();
    environment.write(
        "home/.codex/auth.json",
        r#"{"OPENAI_API_KEY":null,"tokens":{"id_token":"x","access_token":"canary-a","refresh_token":"canary-r"}}"#,
    );
    environment.set("GH_TOKEN", "canary-g");
    let text = environment.run(&["explain", "codex", "--github"]).told();
    let shown: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("credentials"))
        .take(3)
        .map(|line| line["credentials ".len()..].trim())
        .collect();
    let file = environment
        .path("home/.codex/auth.json")
        .replace(&environment.path(""), "ROOT/");
    assert_eq!(
        shown,
        [
            format!(
                "codex-login from {file}: sent to chatgpt.com, *.chatgpt.com in the header authorization"
            ),
            format!("codex-login-refresh from {file}: never sent anywhere"),
            "github-gh-token from $GH_TOKEN: sent to github.com, api.github.com, uploads.github.com, \
             codeload.github.com, raw.githubusercontent.com in the header authorization"
                .to_owned(),
        ]
    );
    assert!(
        text.contains("~/.codex/config.toml") && text.contains("~/.config/gh/hosts.yml"),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
    let without = environment.run(&["explain", "codex"]).told();
    assert!(!without.contains("github"), "{without}");
}

#[test]
fn secret_of_the_configuration_is_in_the_plan_and_an_option_takes_its_place() {
    let mut environment = Environment::new();
    environment.set("TOK", "canary-t");
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[[secret]]\nname = \"TOK\"\nhosts = [\"a.example.org\"]\n",
    );
    let text = environment.run(&["explain", "run", "--", "true"]).told();
    assert!(
        text.contains("TOK from $TOK: sent to a.example.org in the header authorization"),
        "{text}"
    );
    let text = environment
        .run(&[
            "explain",
            "run",
            "--secret",
            "TOK@b.example.org",
            "--",
            "true",
        ])
        .told();
    assert!(
        text.contains("sent to b.example.org") && !text.contains("a.example.org"),
        "{text}"
    );
    environment
        .run(&["explain", "run", "--env", "TOK=x", "--", "true"])
        .refused(
            "error: the variable TOK is given by --env and by --secret\n\n\
         hint: leave out --env TOK: the guest gets a placeholder in it\n",
        );
}

#[test]
fn bad_secret_of_the_configuration_is_explained_without_showing_it() {
    let environment = Environment::new();
    let form = "hint: a [[secret]] has `name = \"TOKEN\"`, `hosts = [\"api.example.org\"]`, and if need be `header` and \
         `source = { env = \"VARIABLE\" }`, `{ file = \"PATH\" }` or `{ command = [\"PROGRAM\", \"ARG\"] }`\n";
    let refused = |lines: &str, error: &str| {
        let text = format!("[[secret]]\nname = \"TOK\"\n{lines}\n");
        environment.write("home/.config/agent-vm/config.toml", &text);
        let expected = format!("error: ROOT/home/.config/agent-vm/config.toml: {error}\n\n{form}");
        environment.run(&["explain"]).refused(&expected);
    };
    refused(
        "hosts = [\"a.b\"]\nsource = \"sk-real\"",
        "a [[secret]] cannot be understood (line 4)",
    );
    refused(
        "hosts = []",
        "the [[secret]] number 1 cannot be used\n\
         caused by: no host is named to which the token may be sent",
    );
}

#[test]
fn project_cannot_name_secrets() {
    let environment = Environment::new();
    environment.write(
        "project/.agent-vm.toml",
        "[[secret]]\nname = \"TOK\"\nhosts = [\"a.b\"]\nsource = { file = \"~/.ssh/id_ed25519\" }\n",
    );
    environment.run(&["explain"]).refused(
        "error: ROOT/project/.agent-vm.toml names secrets, which only the user's own configuration may\n\n\
         hint: put it into ~/.config/agent-vm/config.toml, or give --secret\n",
    );
}

#[test]
fn secret_of_the_configuration_is_not_given_to_what_makes_a_base() {
    let environment = Environment::new();
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[[secret]]\nname = \"TOK\"\nhosts = [\"a.b\"]\n",
    );
    // Its source gives nothing, which would end a command that reads it.
    environment.run(&["explain"]).refused(
        "error: the variable TOK for the secret TOK is not set\n\n\
         hint: set TOK, or name another source: --secret TOK=env:VARIABLE@HOST, TOK=file:PATH@HOST, TOK=cmd:PROGRAM@HOST\n",
    );
    environment.run(&["base", "ls"]).told();
}

#[test]
fn logins_of_kinds_that_are_not_supported_are_one_line_each() {
    let mut environment = Environment::new();
    environment.set("GH_TOKEN", "gho_real");
    environment.set("GH_ENTERPRISE_TOKEN", "real");
    environment.set("OPENCODE_API_KEY", "sk-real");
    environment.write(
        "home/.config/gh/hosts.yml",
        "ghe.example.org:\n    oauth_token: gho_real\n",
    );
    let finished = environment.run(&["explain", "opencode", "--github"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines: Vec<_> = finished.stderr.lines().collect();
    for source in [
        "$OPENCODE_API_KEY",
        "$GH_ENTERPRISE_TOKEN",
        "ghe.example.org of ROOT/home/.config/gh/hosts.yml",
    ] {
        let told = format!("{source} is not used: ");
        let of_it = lines.iter().filter(|line| line.contains(&told));
        assert_eq!(of_it.count(), 1, "{finished:?}");
    }
    assert!(!finished.stderr.contains("real"), "{finished:?}");
}
