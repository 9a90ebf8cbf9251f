//! `images/versions.toml`: what the template is made of.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Versions {
    pub(crate) image: ImagePins,
    pub(crate) debian: DebianPins,
    /// By name, as `images/scripts/fetch` knows them.
    pub(crate) npm: BTreeMap<String, NpmPin>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImagePins {
    /// The image-API version.
    pub(crate) api: u32,
    /// The time stamp of all files, in seconds since 1970.
    pub(crate) epoch: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DebianPins {
    pub(crate) suite: String,
    pub(crate) mirror: String,
    pub(crate) security: String,
}

/// One archive of the npm registry.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NpmPin {
    pub(crate) package: String,
    pub(crate) version: String,
    /// SHA-512 of the archive, as npm writes it.
    pub(crate) integrity: String,
    /// The tag or range the newest version is taken of.
    pub(crate) follow: String,
    /// What the versions for this platform end with.
    #[serde(default)]
    pub(crate) suffix: String,
}

/// The agents, as `--agents` names them.
pub(crate) const AGENTS: &[&str] = &["claude", "codex", "opencode", "copilot", "gemini"];

impl Versions {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or a value could not be an argument of the build.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Self::parse(&fs_err::read_to_string(path)?)
            .with_context(|| format!("{} is not as it should be", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let versions: Self = toml::from_str(text)?;
        for (name, pin) in &versions.npm {
            let words = [&pin.package, &pin.version, &pin.integrity];
            ensure!(
                words
                    .iter()
                    .all(|word| !word.is_empty() && !word.contains(char::is_whitespace)),
                "[npm.{name}] has a value that is empty or several words"
            );
            ensure!(
                pin.integrity.starts_with("sha512-"),
                "[npm.{name}] needs a sha512 integrity"
            );
        }
        Ok(versions)
    }

    /// The pins as arguments of the Dockerfile: `claude` is `CLAUDE=PACKAGE@VERSION INTEGRITY`.
    pub(crate) fn build_arguments(&self) -> Vec<(String, String)> {
        let variable = |name: &str| name.to_ascii_uppercase().replace('-', "_");
        let pins = self
            .npm
            .iter()
            .map(|(name, pin)| (variable(name), pin.argument()));
        let mut arguments: Vec<_> = pins.collect();
        arguments.push(("IMAGE_API".to_owned(), self.image.api.to_string()));
        arguments.push(("SUITE".to_owned(), self.debian.suite.clone()));
        arguments.push(("SOURCE_DATE_EPOCH".to_owned(), self.image.epoch.to_string()));
        arguments
    }
}

impl NpmPin {
    fn argument(&self) -> String {
        format!("{}@{} {}", self.package, self.version, self.integrity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    fn ours() -> Versions {
        Versions::read(&workspace::root().join("images/versions.toml")).unwrap()
    }

    #[test]
    fn the_pinned_image_api_is_the_one_launcher_and_guest_want() {
        let source = workspace::root().join("crates/protocol/src/lib.rs");
        let wanted = format!("const IMAGE_API_VERSION: u32 = {};", ours().image.api);
        assert!(
            fs_err::read_to_string(source).unwrap().contains(&wanted),
            "{wanted}"
        );
    }

    #[test]
    fn every_pin_is_an_argument_of_the_dockerfile_and_the_other_way_round() {
        let dockerfile =
            fs_err::read_to_string(workspace::root().join("images/Dockerfile")).unwrap();
        let declared: std::collections::BTreeSet<&str> = dockerfile
            .lines()
            .filter_map(|line| line.strip_prefix("ARG "))
            .flat_map(str::split_whitespace)
            .map(|word| word.split('=').next().unwrap())
            .collect();
        let mut given: std::collections::BTreeSet<String> = ours()
            .build_arguments()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        given.extend(super::super::build::OTHER_ARGUMENTS.map(str::to_owned));
        given.extend(super::super::build::SCRIPT_ARGUMENTS.map(|(name, _)| name.to_owned()));
        assert_eq!(declared, given.iter().map(String::as_str).collect());
    }

    #[test]
    fn every_agent_has_a_pin() {
        for agent in AGENTS {
            assert!(ours().npm.contains_key(*agent), "{agent}");
        }
    }

    #[test]
    fn pins_without_integrity_or_of_several_words_are_refused() {
        let file = |version: &str, integrity: &str| {
            format!(
                "[image]\napi = 1\nepoch = 1\n[debian]\nsuite = 's'\nmirror = 'm'\nsecurity = 'x'\n\
                 [npm.a]\npackage = 'a'\nversion = '{version}'\nintegrity = '{integrity}'\nfollow = 'latest'\n"
            )
        };
        assert_eq!(
            Versions::parse(&file("1", "sha512-x")).unwrap().npm["a"].argument(),
            "a@1 sha512-x"
        );
        for (version, integrity) in [("1 2", "sha512-x"), ("", "sha512-x"), ("1", "sha1-x")] {
            assert!(
                Versions::parse(&file(version, integrity)).is_err(),
                "{version:?} {integrity}"
            );
        }
    }
}
