use super::*;
use crate::credential::HeaderSpec;
use crate::host_environment::test_environment;

fn secrets(specs: &[&str], environment: &HostEnvironment) -> Result<Collected, CollectError> {
    let specs: Vec<SecretSpec> = specs.iter().map(|spec| spec.parse().unwrap()).collect();
    collect_secrets(&specs, environment)
}

fn expose(credential: &Credential) -> &str {
    credential.exposed().unwrap()
}

#[test]
fn secret_comes_from_variable_file_or_command() {
    let home = tempfile::tempdir().unwrap();
    fs_err::write(home.path().join("token"), "from-file\n").unwrap();
    let environment = test_environment(
        home.path(),
        &[
            ("TOK", "ghp_from-env"),
            ("PATH", "/usr/bin:/bin"),
            ("V", "from-cmd"),
        ],
    );
    let specs = [
        "TOK@a.b",
        "F=file:~/token@a.b",
        "C=cmd:printenv V@a.b:X-Key",
        "E=env:TOK@*.c.d",
    ];
    let found = secrets(&specs, &environment).unwrap();
    let values: Vec<_> = found.credentials.iter().map(expose).collect();
    assert_eq!(
        values,
        ["ghp_from-env", "from-file", "from-cmd", "ghp_from-env"]
    );
    assert!(
        found.credentials[0]
            .placeholder
            .as_str()
            .starts_with("ghp_")
    );
    assert_eq!(found.credentials[2].header, HeaderSpec::raw("x-key"));
    assert_eq!(found.credentials[2].source, "output of `printenv`");
    assert_eq!(found.guest_env.len(), 4);
    assert_eq!(
        found.guest_env[0].1,
        found.credentials[0].placeholder.as_str()
    );
}

#[test]
fn missing_sources_are_named() {
    let home = tempfile::tempdir().unwrap();
    let environment = test_environment(home.path(), &[("PATH", "/usr/bin:/bin"), ("EMPTY", "")]);
    for (spec, expected) in [
        ("TOK@a.b", "the variable TOK for the secret TOK is not set"),
        (
            "EMPTY@a.b",
            "the variable EMPTY for the secret EMPTY is not set",
        ),
        (
            "A=file:/none/x@a.b",
            "the file /none/x for the secret A does not exist",
        ),
        (
            "A=cmd:no-such-program@a.b",
            "the program no-such-program for the secret A is not in PATH",
        ),
        (
            "A=cmd:false@a.b",
            "the command for the secret A ended with exit status: 1: ",
        ),
        ("A=cmd:true@a.b", "the value of A cannot be used as a token"),
    ] {
        assert_eq!(
            secrets(&[spec], &environment).unwrap_err().to_string(),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn value_of_several_lines_is_refused_without_showing_it() {
    let home = tempfile::tempdir().unwrap();
    fs_err::write(home.path().join("token"), "first\nsecond\n").unwrap();
    let error = secrets(&["A=file:~/token@a.b"], &test_environment(home.path(), &[])).unwrap_err();
    let text = format!("{error:?}");
    assert!(matches!(error, CollectError::NotASecret { .. }));
    assert!(
        !text.contains("first") && !text.contains("second"),
        "{text}"
    );
}

#[test]
fn same_name_twice_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let environment = test_environment(home.path(), &[("A", "x")]);
    let error = secrets(&["A@a.b", "A@c.d"], &environment).unwrap_err();
    assert_eq!(error.to_string(), "the secret A is given twice");
}
