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
        "no `@HOST` names where the token may be sent",
    );
    refused(
        "TOK=sk-real@a.b",
        "the source after `=` is not `env:VARIABLE`, `file:PATH` or `cmd:PROGRAM ARG…`",
    );
    refused(
        "TOK@a.b:443",
        "\"443\" after `:` is not the name of a header that can carry a token",
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
