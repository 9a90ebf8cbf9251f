use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A directory with a credential file and helpers.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new(content: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("auth.json"), content).unwrap();
        Self { directory }
    }

    /// Adds a helper that runs `script`.
    fn helper(self, name: &str, script: &str) -> Self {
        let path = self
            .directory
            .path()
            .join(format!("docker-credential-{name}"));
        fs_err::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn look(&self, image: &str) -> Result<Option<Credential>, CredentialError> {
        let path = std::env::join_paths([self.directory.path(), Path::new("/bin")]).unwrap();
        lookup(
            &self.directory.path().join("auth.json"),
            &Names::of(&image.parse().unwrap()),
            &[("PATH".into(), path)],
        )
    }

    fn login(&self, image: &str) -> Option<String> {
        match self.look(image).unwrap() {
            Some(Credential::Password { user, password }) => Some(format!("{user}:{password}")),
            Some(Credential::IdentityToken(token)) => Some(format!("token {token}")),
            None => None,
        }
    }
}

#[test]
fn finds_the_entry_of_the_registry() {
    let host = Host::new(
        r#"{"auths":{"ghcr.io":{"auth":"dTpw"},"https://index.docker.io/v1/":{"auth":"aHViOnA="},
            "https://old.example/v2/":{"username":"a","password":"b"},
            "idp.example":{"auth":"","identitytoken":"T"},"empty.example":{}}}"#,
    );
    assert_eq!(host.login("ghcr.io/a/b").as_deref(), Some("u:p"));
    assert_eq!(host.login("debian").as_deref(), Some("hub:p"));
    assert_eq!(host.login("old.example/x").as_deref(), Some("a:b"));
    assert_eq!(host.login("idp.example/x").as_deref(), Some("token T"));
    assert_eq!(host.login("empty.example/x"), None);
    assert_eq!(host.login("quay.io/a/b"), None);
}

#[test]
fn the_most_specific_podman_entry_wins() {
    let host = Host::new(r#"{"auths":{"quay.io":{"auth":"YTpw"},"quay.io/team":{"auth":"Yjpw"}}}"#);
    assert_eq!(host.login("quay.io/team/app").as_deref(), Some("b:p"));
    assert_eq!(host.login("quay.io/other/app").as_deref(), Some("a:p"));
    assert_eq!(host.login("quay.io.evil.example/team/app"), None);
}

#[test]
fn a_missing_file_means_anonymous_and_a_broken_one_is_told() {
    let names = Names::of(&"ghcr.io/a/b".parse().unwrap());
    assert!(matches!(
        lookup(Path::new("/nonexistent/auth.json"), &names, &[]),
        Ok(None)
    ));
    for broken in ["{", "[]", r#"{"auths":{"ghcr.io":{"auth":"%%"}}}"#] {
        let result = Host::new(broken).look("ghcr.io/a/b");
        assert!(
            matches!(result, Err(CredentialError::Unusable { .. })),
            "{broken}"
        );
    }
}

#[test]
fn helpers_are_asked_for_the_server_and_before_the_entries() {
    let answer = r#"read server; printf '{"ServerURL":"%s","Username":"of %s","Secret":"%s"}' "$server" "$server" "$1""#;
    let host = Host::new(
        r#"{"auths":{"ghcr.io":{"auth":"dTpw"}},"credsStore":"general","credHelpers":{"ghcr.io":"special"}}"#,
    )
    .helper("general", answer)
    .helper("special", r#"cat >/dev/null; printf '{"Username":"<token>","Secret":"T"}'"#);
    assert_eq!(host.login("ghcr.io/a/b").as_deref(), Some("token T"));
    assert_eq!(host.login("quay.io/a/b").as_deref(), Some("of quay.io:get"));
    assert_eq!(
        host.login("debian").as_deref(),
        Some("of https://index.docker.io/v1/:get")
    );
}

#[test]
fn a_helper_without_an_entry_gives_way_to_the_entries() {
    let host = Host::new(r#"{"auths":{"ghcr.io":{"auth":"dTpw"}},"credsStore":"x"}"#).helper(
        "x",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    assert_eq!(host.login("ghcr.io/a/b").as_deref(), Some("u:p"));
    assert_eq!(host.login("quay.io/a/b"), None);
}

#[test]
fn a_helper_that_fails_is_named_with_its_words() {
    let host = Host::new(r#"{"credsStore":"x"}"#);
    assert!(matches!(
        host.look("ghcr.io/a"),
        Err(CredentialError::HelperMissing { .. })
    ));
    let host = host.helper("x", r"printf 'no \033[31mD-Bus' >&2; exit 1");
    let said = host.look("ghcr.io/a").unwrap_err().to_string();
    assert!(
        said.contains("`docker-credential-x`") && said.ends_with(r"says: no \x1b[31mD-Bus"),
        "{said}"
    );
    let host = host.helper("x", "echo my-secret");
    let said = host.look("ghcr.io/a").unwrap_err().to_string();
    assert!(!said.contains("my-secret"), "{said}");
}

#[test]
fn a_login_is_never_shown() {
    let shown = format!(
        "{:?}",
        Credential::Password {
            user: "u".into(),
            password: "p".into()
        }
    );
    assert_eq!(shown, "Credential(***)");
}
