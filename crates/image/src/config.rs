//! The image configuration: platform, diff ids, and how the image's program is started (OCI image-spec `config.md`).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::ImageDigest;
use crate::escape::Escaped;
use crate::image::{IMAGE_API_LABEL, ImageConfig};
use crate::manifest::{Architecture, ManifestError};

/// A parsed configuration.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// What a launch needs.
    pub(crate) config: ImageConfig,
    /// Digests of the uncompressed layers, bottom first.
    pub(crate) diff_ids: Vec<ImageDigest>,
}

#[derive(Deserialize)]
struct Raw {
    os: String,
    architecture: String,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<String>,
}

/// Parses a configuration and checks that it is for linux on `architecture`.
pub(crate) fn parse(bytes: &[u8], architecture: Architecture) -> Result<Parsed, ManifestError> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { source })?;
    if raw.os != "linux" || raw.architecture != architecture.oci_name() {
        let (os, found) = (Escaped::new(&raw.os), Escaped::new(&raw.architecture));
        return Err(ManifestError::WrongPlatform {
            os,
            architecture: found,
            wanted: architecture.oci_name(),
        });
    }
    if raw.rootfs.kind != "layers" {
        return Err(ManifestError::MediaType {
            media_type: Escaped::new(&raw.rootfs.kind),
        });
    }
    let digest = |text: &String| {
        text.parse()
            .map_err(|source| ManifestError::Digest { source })
    };
    let diff_ids = raw
        .rootfs
        .diff_ids
        .iter()
        .map(digest)
        .collect::<Result<_, _>>()?;
    Ok(Parsed {
        config: start(raw.config.unwrap_or_default())?,
        diff_ids,
    })
}

fn start(raw: RawConfig) -> Result<ImageConfig, ManifestError> {
    let labels = raw.labels.unwrap_or_default();
    let image_api_version = labels.get(IMAGE_API_LABEL).and_then(|value| decimal(value));
    let named = |entry: &String| entry.find('=').is_some_and(|equals| equals > 0);
    let non_empty = |text: &String| !text.is_empty();
    Ok(ImageConfig {
        env: without_nul("Env", raw.env.unwrap_or_default())?
            .into_iter()
            .filter(named)
            .collect(),
        entrypoint: without_nul("Entrypoint", raw.entrypoint.unwrap_or_default())?,
        cmd: without_nul("Cmd", raw.cmd.unwrap_or_default())?,
        user: without_nul("User", Vec::from_iter(raw.user.filter(non_empty)))?.pop(),
        working_dir: without_nul(
            "WorkingDir",
            Vec::from_iter(raw.working_dir.filter(non_empty)),
        )?
        .pop(),
        labels,
        image_api_version,
    })
}

fn decimal(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn without_nul(field: &'static str, values: Vec<String>) -> Result<Vec<String>, ManifestError> {
    if values.iter().any(|value| value.contains('\0')) {
        Err(ManifestError::Nul { field })
    } else {
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(body: &str) -> Result<Parsed, ManifestError> {
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[]}},"config":{body}}}"#
        );
        parse(text.as_bytes(), Architecture::Amd64)
    }

    #[test]
    fn reads_how_to_start_the_program() {
        let parsed = config(
            r#"{"Env":["PATH=/bin","BROKEN","=x","E="],"Entrypoint":["/e"],"Cmd":null,"User":"u:g","WorkingDir":"/w",
                "Labels":{"dev.agent-vm.image-api":"7","a":"b"},"Unknown":{"x":[1]}}"#,
        )
        .unwrap()
        .config;
        assert_eq!(parsed.env, ["PATH=/bin", "E="]);
        assert_eq!(
            (parsed.entrypoint, parsed.cmd),
            (vec!["/e".to_owned()], vec![])
        );
        assert_eq!(
            (parsed.user.as_deref(), parsed.working_dir.as_deref()),
            (Some("u:g"), Some("/w"))
        );
        assert_eq!(parsed.image_api_version, Some(7));
    }

    #[test]
    fn a_missing_or_null_section_means_defaults() {
        assert_eq!(config("null").unwrap().config, ImageConfig::default());
        let label = config(r#"{"Labels":{"dev.agent-vm.image-api":"+7"},"User":""}"#)
            .unwrap()
            .config;
        assert_eq!((label.image_api_version, label.user), (None, None));
    }

    #[test]
    fn nul_bytes_are_refused() {
        assert!(matches!(
            config(r#"{"Env":["A=\u0000"]}"#),
            Err(ManifestError::Nul { field: "Env" })
        ));
        assert!(matches!(
            config(r#"{"User":"a\u0000"}"#),
            Err(ManifestError::Nul { field: "User" })
        ));
    }

    #[test]
    fn other_platforms_and_forms_are_refused() {
        for (os, arch, kind, id) in [
            ("windows", "amd64", "layers", ""),
            ("linux", "arm64", "layers", ""),
            ("linux", "amd64", "tarsum", ""),
            ("linux", "amd64", "layers", "\"sha256:../x\""),
        ] {
            let text = format!(
                r#"{{"os":"{os}","architecture":"{arch}","rootfs":{{"type":"{kind}","diff_ids":[{id}]}}}}"#
            );
            assert!(
                parse(text.as_bytes(), Architecture::Amd64).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn duplicate_keys_are_refused() {
        let text = r#"{"os":"windows","os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert!(parse(text.as_bytes(), Architecture::Amd64).is_err());
    }
}
