//! Options, environment and defaults become one set of values, each with where it came from.

use std::collections::BTreeMap;
use std::str::FromStr;

use agent_vm_launch::Origin;
use agent_vm_vmm::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
use thiserror::Error;

use crate::args::{ByteSize, LaunchOptions};
use crate::env_vars::{self, EnvVars};
use crate::host_facts::HostFacts;

/// The image that runs unless another is named.
pub(crate) const DEFAULT_IMAGE: &str = "ghcr.io/agent-vm/template:latest";
/// Memory of the machine, in MiB, where the host has enough: an agent and a build.
const DEFAULT_MEMORY_MIB: u64 = 2048;
/// Memory below which no default goes, in MiB: one agent runs in it.
const LEAST_DEFAULT_MEMORY_MIB: u64 = 512;
/// Processors where the host has as many.
const DEFAULT_VCPUS: usize = 2;
/// Size of the writable disk; it is sparse.
const DEFAULT_DISK: ByteSize = ByteSize::from_mib(40 * 1024);
/// Least and largest writable disk, as the image store makes them.
const MIN_DISK: ByteSize = ByteSize::from_mib(1024);
const MAX_DISK: ByteSize = ByteSize::from_mib(1024 * 1024);
/// Bounds of the factor of all timeouts.
const TIMEOUT_SCALES: std::ops::RangeInclusive<f64> = 0.1..=1000.0;

/// The values of a launch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) memory_mib: u32,
    pub(crate) vcpus: u8,
    pub(crate) disk_bytes: u64,
    pub(crate) image: String,
    pub(crate) timeout_scale: f64,
    pub(crate) origins: BTreeMap<&'static str, Origin>,
}

/// A value that cannot be used; names the option or variable and the accepted form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum SettingsError {
    #[error("invalid value '{value}' for {origin}: {form}")]
    Form {
        value: String,
        origin: Origin,
        form: String,
    },
    #[error("invalid value '{value}' for {origin}: it must be from {least} to {most}")]
    Range {
        value: String,
        origin: Origin,
        least: String,
        most: String,
    },
}

/// A value and where it came from.
struct Sourced<T> {
    value: T,
    origin: Origin,
}

impl Settings {
    /// Option, else variable, else default.
    ///
    /// # Errors
    /// [`SettingsError`] for a value that has another form or is out of bounds.
    pub(crate) fn resolve(
        options: &LaunchOptions,
        env: &EnvVars,
        host: &HostFacts,
    ) -> Result<Self, SettingsError> {
        let mut origins = BTreeMap::new();
        let memory = pick(options.memory, ("--memory", env_vars::MEMORY), env)?
            .unwrap_or_else(|| default(default_memory(host)));
        let vcpus = pick(options.cpus, ("--cpus", env_vars::CPUS), env)?
            .unwrap_or_else(|| default(default_vcpus(host)));
        let disk = pick(options.disk, ("--disk", env_vars::DISK), env)?
            .unwrap_or_else(|| default(DEFAULT_DISK));
        let image = pick(options.image.clone(), ("--image", env_vars::IMAGE), env)?
            .unwrap_or_else(|| default(DEFAULT_IMAGE.to_owned()));
        let memory_bounds = (u64::from(MIN_MEMORY_MIB), u64::from(MAX_MEMORY_MIB));
        let memory_mib = memory.value.mib();
        check(&memory, memory_mib, memory_bounds, |mib| {
            ByteSize::from_mib(mib).to_string()
        })?;
        check(
            &vcpus,
            u64::from(vcpus.value),
            (1, u64::from(MAX_VCPUS)),
            |n| n.to_string(),
        )?;
        let disk_bounds = (MIN_DISK.mib(), MAX_DISK.mib());
        check(&disk, disk.value.mib(), disk_bounds, |mib| {
            ByteSize::from_mib(mib).to_string()
        })?;
        origins.insert("memory", memory.origin);
        origins.insert("cpus", vcpus.origin);
        origins.insert("disk", disk.origin);
        origins.insert("image", image.origin);
        Ok(Self {
            memory_mib: u32::try_from(memory_mib).expect("the bounds are those of u32"),
            vcpus: vcpus.value,
            disk_bytes: disk.value.bytes(),
            image: image.value,
            timeout_scale: timeout_scale(env)?,
            origins,
        })
    }
}

/// The option, else the variable.
fn pick<T>(
    option: Option<T>,
    (flag, variable): (&'static str, &'static str),
    env: &EnvVars,
) -> Result<Option<Sourced<T>>, SettingsError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    if let Some(value) = option {
        return Ok(Some(Sourced {
            value,
            origin: Origin::Flag(flag),
        }));
    }
    let origin = Origin::Environment(variable);
    let Some(raw) = env.value(variable) else {
        return Ok(None);
    };
    let form = |form: String| SettingsError::Form {
        value: raw.to_string_lossy().into_owned(),
        origin: origin.clone(),
        form,
    };
    let text = raw
        .to_str()
        .ok_or_else(|| form("it is not valid UTF-8".to_owned()))?;
    let value = text
        .parse()
        .map_err(|error: T::Err| form(error.to_string()))?;
    Ok(Some(Sourced { value, origin }))
}

fn default<T>(value: T) -> Sourced<T> {
    Sourced {
        value,
        origin: Origin::Default,
    }
}

fn check<T: std::fmt::Display>(
    sourced: &Sourced<T>,
    number: u64,
    (least, most): (u64, u64),
    show: fn(u64) -> String,
) -> Result<(), SettingsError> {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(SettingsError::Range {
        value: sourced.value.to_string(),
        origin: sourced.origin.clone(),
        least: show(least),
        most: show(most),
    })
}

fn default_memory(host: &HostFacts) -> ByteSize {
    let most = host
        .available_mib
        .map_or(DEFAULT_MEMORY_MIB, |available| available / 4 * 3);
    ByteSize::from_mib(DEFAULT_MEMORY_MIB.min(most).max(LEAST_DEFAULT_MEMORY_MIB))
}

fn default_vcpus(host: &HostFacts) -> u8 {
    u8::try_from(host.processors.min(DEFAULT_VCPUS))
        .expect("the default is small")
        .max(1)
}

/// What every timeout is multiplied by.
///
/// # Errors
/// [`SettingsError`] for a value that is no number or out of bounds.
pub(crate) fn timeout_scale(env: &EnvVars) -> Result<f64, SettingsError> {
    let Some(raw) = env.value(env_vars::TIMEOUT_SCALE) else {
        return Ok(1.0);
    };
    let scale = raw.to_str().and_then(|text| text.parse().ok());
    scale
        .filter(|scale| TIMEOUT_SCALES.contains(scale))
        .ok_or_else(|| SettingsError::Form {
            value: raw.to_string_lossy().into_owned(),
            origin: Origin::Environment(env_vars::TIMEOUT_SCALE),
            form: "it must be a number from 0.1 to 1000".to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostFacts = HostFacts {
        available_mib: Some(16_000),
        processors: 8,
    };

    fn settings(options: LaunchOptions, env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::resolve(&options, &EnvVars::of(env), &HOST)
    }

    fn sizes(memory: &str, disk: &str, cpus: u8) -> LaunchOptions {
        LaunchOptions {
            memory: Some(memory.parse().unwrap()),
            disk: Some(disk.parse().unwrap()),
            cpus: Some(cpus),
            ..LaunchOptions::default()
        }
    }

    #[test]
    fn option_wins_over_variable_and_variable_over_default() {
        let env = [
            ("AGENT_VM_MEMORY", "1GiB"),
            ("AGENT_VM_CPUS", "3"),
            ("AGENT_VM_IMAGE", "e:1"),
        ];
        let options = LaunchOptions {
            cpus: Some(5),
            ..LaunchOptions::default()
        };
        let settings = settings(options, &env).unwrap();
        assert_eq!((settings.memory_mib, settings.vcpus), (1024, 5));
        assert_eq!(
            (settings.image.as_str(), settings.disk_bytes),
            ("e:1", 40 << 30)
        );
        assert_eq!(
            settings.origins["memory"],
            Origin::Environment("AGENT_VM_MEMORY")
        );
        assert_eq!(settings.origins["cpus"], Origin::Flag("--cpus"));
        assert_eq!(settings.origins["disk"], Origin::Default);
    }

    #[test]
    fn defaults_fit_a_small_host() {
        let of = |available_mib, processors| {
            let host = HostFacts {
                available_mib,
                processors,
            };
            let settings =
                Settings::resolve(&LaunchOptions::default(), &EnvVars::of(&[]), &host).unwrap();
            (settings.memory_mib, settings.vcpus)
        };
        assert_eq!(of(Some(16_000), 8), (2048, 2));
        assert_eq!(of(Some(1600), 1), (1200, 1));
        assert_eq!(of(Some(300), 1), (512, 1));
        assert_eq!(of(None, 4), (2048, 2));
    }

    #[test]
    fn value_out_of_bounds_names_the_option_and_the_bounds() {
        for (options, expected) in [
            (
                sizes("1MiB", "4GiB", 1),
                "invalid value '1MiB' for --memory: it must be from 128MiB to 1TiB",
            ),
            (
                sizes("2TiB", "4GiB", 1),
                "invalid value '2TiB' for --memory: it must be from 128MiB to 1TiB",
            ),
            (
                sizes("1GiB", "1MiB", 1),
                "invalid value '1MiB' for --disk: it must be from 1GiB to 1TiB",
            ),
            (
                sizes("1GiB", "4GiB", 0),
                "invalid value '0' for --cpus: it must be from 1 to 64",
            ),
            (
                sizes("1GiB", "4GiB", 65),
                "invalid value '65' for --cpus: it must be from 1 to 64",
            ),
        ] {
            assert_eq!(settings(options, &[]).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn bad_variable_is_named_with_the_accepted_form() {
        for (name, value, form) in [
            ("AGENT_VM_MEMORY", "2", "a size is a number and a unit"),
            ("AGENT_VM_CPUS", "two", "invalid digit"),
            ("AGENT_VM_TIMEOUT_SCALE", "0", "from 0.1 to 1000"),
            ("AGENT_VM_TIMEOUT_SCALE", "NaN", "from 0.1 to 1000"),
        ] {
            let error = settings(LaunchOptions::default(), &[(name, value)])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("${name}")) && error.contains(form),
                "{error}"
            );
        }
    }
}
