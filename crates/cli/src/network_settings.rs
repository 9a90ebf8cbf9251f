//! What the guest may reach, from the options, from `[network]` of the user's `config.toml` and from that of the
//! project's `.agent-vm.toml`:
//!
//! ```toml
//! [network]
//! policy = "allowlist"                    # public, allowlist, ask or offline
//! allow-domains = ["*.example.org"]       # what allowlist lists; a project's file: of what the user allows
//! builtin-allowlist = true                # what a session needs besides, unless false
//! allow-egress = ["10.1.2.0/24:443"]      # only the user's file, like the next three
//! allow-lan = true
//! allow-host = true
//! allow-foreign-credentials = true
//! ```
//!
//! Grants of options and of the user's file add up. The guest can write the project's file, so it only narrows: it is a
//! scope of its own, and what either scope denies is denied.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use agent_vm_launch::Origin;
use agent_vm_policy::{EgressRule, HostPattern, HostRule, Preset, Scope};
use serde::Deserialize;
use thiserror::Error;

use crate::args::NetworkOptions;
use crate::egress_rules::{self, EgressRulesError};
use crate::setup_files::{Links, PROJECT_CONFIG, SetupFileError, USER_CONFIG, read_toml};

/// Most hosts, and most addresses, that one file may list: each connection is compared with all of them.
const MAX_LISTED: usize = 4096;

/// What the guest may reach.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) scope: Scope,
    pub(crate) project: Option<Scope>,
    pub(crate) rules: Vec<HostRule>,
    pub(crate) egress: Vec<EgressRule>,
    pub(crate) lan: bool,
    pub(crate) host: bool,
    pub(crate) foreign_credentials: bool,
    /// Where the policy came from.
    pub(crate) origin: Origin,
}

/// Why it cannot be said.
#[derive(Debug, Error)]
pub(crate) enum NetworkSettingsError {
    #[error(transparent)]
    File(#[from] SetupFileError),
    #[error(transparent)]
    Rules(#[from] EgressRulesError),
    #[error("{}: [network] cannot be understood", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("{}: `{key}` of [network]: {problem}", path.display())]
    Value {
        path: PathBuf,
        key: &'static str,
        problem: String,
    },
    #[error("{}: `{key}` of [network] would widen what may be reached, which a project's file cannot", path.display())]
    ProjectWidens { path: PathBuf, key: &'static str },
    #[error("{}: `allow-domains` says nothing under `policy = \"{policy}\"`", path.display())]
    ProjectDomains { path: PathBuf, policy: Preset },
    #[error("--offline and --policy {policy} exclude each other")]
    OfflineAndPolicy { policy: Preset },
    #[error("--allow-domain says nothing under {origin}{}", shown(*policy, origin))]
    DomainsUnused { policy: Preset, origin: Origin },
}

fn shown(policy: Preset, origin: &Origin) -> String {
    match origin {
        Origin::Flag("--offline") => String::new(),
        Origin::File(_) => format!(" (policy = \"{policy}\")"),
        Origin::Flag(_) | Origin::Environment(_) | Origin::Default => format!(" {policy}"),
    }
}

/// `[network]` of a file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawNetwork {
    policy: Option<String>,
    #[serde(default)]
    allow_domains: Vec<String>,
    builtin_allowlist: Option<bool>,
    allow_egress: Option<Vec<String>>,
    allow_lan: Option<bool>,
    allow_host: Option<bool>,
    allow_foreign_credentials: Option<bool>,
}

/// The part of a file that is read here; the rest is for others.
#[derive(Default, Deserialize)]
struct Raw {
    #[serde(default)]
    network: RawNetwork,
}

impl Reach {
    /// What options and files say together.
    ///
    /// # Errors
    /// When a file cannot be used, or something that was said would have no effect.
    pub(crate) fn read(
        options: &NetworkOptions,
        (user_directory, project_root): (&Path, &Path),
        builtin: &[HostPattern],
    ) -> Result<Self, NetworkSettingsError> {
        let path = user_directory.join(USER_CONFIG);
        let user = read_file(&path, Links::Followed)?;
        let said: Option<Preset> = one(&path, "policy", user.policy.as_deref())?;
        let listed: Vec<HostPattern> = each(&path, "allow-domains", &user.allow_domains)?;
        let (preset, origin) = preset(options, said, &listed)?;
        let granted = user.allow_egress.unwrap_or_default();
        let mut egress = each(&path, "allow-egress", &granted)?;
        egress.extend(options.allow_egress.iter().copied());
        let domains = match preset {
            Preset::Allowlist | Preset::Ask => without_repeats(listed, &options.allow_domain),
            Preset::Public | Preset::Offline => Vec::new(),
        };
        let said = user.builtin_allowlist;
        let scope = Scope {
            preset,
            domains,
            builtin: with_builtin(preset, said, builtin),
        };
        Ok(Self {
            scope,
            project: project(&project_root.join(PROJECT_CONFIG), builtin)?,
            rules: egress_rules::read(user_directory, project_root)?,
            egress,
            lan: options.allow_lan || user.allow_lan == Some(true),
            host: options.allow_host || user.allow_host == Some(true),
            foreign_credentials: options.allow_foreign_credentials
                || user.allow_foreign_credentials == Some(true),
            origin,
        })
    }
}

/// The policy in force, and who said so. Listing hosts means that others are not allowed.
fn preset(
    options: &NetworkOptions,
    said: Option<Preset>,
    listed: &[HostPattern],
) -> Result<(Preset, Origin), NetworkSettingsError> {
    let flag = match (options.policy, options.offline) {
        (None | Some(Preset::Offline), true) => Some((Preset::Offline, Origin::Flag("--offline"))),
        (Some(policy), true) => return Err(NetworkSettingsError::OfflineAndPolicy { policy }),
        (policy, false) => policy.map(|policy| (policy, Origin::Flag("--policy"))),
    };
    let file = || Origin::File(USER_CONFIG);
    let listing = !options.allow_domain.is_empty();
    match (flag, said) {
        (Some((policy, origin)), _) if listing && !policy.has_list() => {
            Err(NetworkSettingsError::DomainsUnused { policy, origin })
        }
        (Some(flag), _) => Ok(flag),
        (None, Some(Preset::Offline)) if listing => Err(NetworkSettingsError::DomainsUnused {
            policy: Preset::Offline,
            origin: file(),
        }),
        (None, Some(Preset::Ask)) if listing => Ok((Preset::Ask, file())),
        (None, _) if listing => Ok((Preset::Allowlist, Origin::Flag("--allow-domain"))),
        (None, Some(policy)) => Ok((policy, file())),
        (None, None) if listed.is_empty() => Ok((Preset::Public, Origin::Default)),
        (None, None) => Ok((Preset::Allowlist, file())),
    }
}

/// What a project's file narrows the policy to; nothing when it says nothing.
fn project(path: &Path, builtin: &[HostPattern]) -> Result<Option<Scope>, NetworkSettingsError> {
    let raw = read_file(path, Links::Refused)?;
    let widening = [
        ("allow-egress", raw.allow_egress.is_some()),
        ("allow-lan", raw.allow_lan.is_some()),
        ("allow-host", raw.allow_host.is_some()),
        (
            "allow-foreign-credentials",
            raw.allow_foreign_credentials.is_some(),
        ),
    ];
    if let Some((key, _)) = widening.into_iter().find(|(_, said)| *said) {
        return Err(NetworkSettingsError::ProjectWidens {
            path: path.to_owned(),
            key,
        });
    }
    let policy: Option<Preset> = one(path, "policy", raw.policy.as_deref())?;
    let domains: Vec<HostPattern> = each(path, "allow-domains", &raw.allow_domains)?;
    let preset = match policy {
        None if domains.is_empty() => return Ok(None),
        None => Preset::Allowlist,
        Some(policy) if !policy.has_list() && !domains.is_empty() => {
            return Err(NetworkSettingsError::ProjectDomains {
                path: path.to_owned(),
                policy,
            });
        }
        Some(Preset::Public) => return Ok(None),
        Some(policy) => policy,
    };
    let builtin = with_builtin(preset, raw.builtin_allowlist, builtin);
    Ok(Some(Scope {
        preset,
        domains,
        builtin,
    }))
}

/// The built-in list, where hosts are listed and nobody said that it is not wanted.
fn with_builtin(preset: Preset, said: Option<bool>, builtin: &[HostPattern]) -> Vec<HostPattern> {
    if preset.has_list() && said != Some(false) {
        builtin.to_vec()
    } else {
        Vec::new()
    }
}

fn read_file(path: &Path, links: Links) -> Result<RawNetwork, NetworkSettingsError> {
    let raw: Raw = read_toml(path, links, |path, source| NetworkSettingsError::Syntax {
        path,
        source,
    })?;
    Ok(raw.network)
}

fn one<T>(
    path: &Path,
    key: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, NetworkSettingsError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    let wrong = |error: T::Err| NetworkSettingsError::Value {
        path: path.to_owned(),
        key,
        problem: error.to_string(),
    };
    text.map(str::parse).transpose().map_err(wrong)
}

fn each<T>(path: &Path, key: &'static str, texts: &[String]) -> Result<Vec<T>, NetworkSettingsError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    if texts.len() > MAX_LISTED {
        return Err(NetworkSettingsError::Value {
            path: path.to_owned(),
            key,
            problem: format!("at most {MAX_LISTED} can be listed"),
        });
    }
    let values = texts.iter().map(|text| one(path, key, Some(text)));
    let values: Vec<Option<T>> = values.collect::<Result<_, _>>()?;
    Ok(values.into_iter().flatten().collect())
}

fn without_repeats(mut listed: Vec<HostPattern>, more: &[HostPattern]) -> Vec<HostPattern> {
    listed.extend_from_slice(more);
    listed.sort();
    listed.dedup();
    listed
}

#[cfg(test)]
mod tests;
