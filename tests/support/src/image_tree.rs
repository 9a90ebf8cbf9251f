//! A small real image made from this machine's own Debian packages, without network: a shell, the usual commands,
//! curl and its libraries, certificates. Three layers in the three encodings a client must know (plain, gzip, zstd);
//! the same packages always give the same bytes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::registry::RegistryClient;

/// Media type of an OCI image manifest (OCI image-spec, "Media Types").
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// The config label and file that say which guest interface the image was built for.
const IMAGE_API_LABEL: &str = "dev.agent-vm.image-api";
const IMAGE_API_VERSION: &str = "1";

/// Every file's time: reproducible, and not 1970, which some tools take for unset.
const TIME: u64 = 1_790_000_000;

/// Programs taken from this machine with the libraries they need.
const PROGRAMS: &[&str] = &["/usr/bin/bash", "/usr/bin/curl"];
/// Libraries loaded by name at run time: name service and threads' unwinding.
const EXTRA_LIBRARIES: &[&str] = &[
    "/lib/x86_64-linux-gnu/libnss_files.so.2",
    "/lib/x86_64-linux-gnu/libnss_dns.so.2",
    "/lib/x86_64-linux-gnu/libgcc_s.so.1",
];
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const BUSYBOX: &str = "/bin/busybox";

/// How a layer is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A plain tar archive.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// One layer: its blob and the digest of its tar archive.
#[derive(Debug, Clone)]
pub struct Layer {
    /// How `blob` is encoded.
    pub encoding: Encoding,
    /// The bytes a registry serves.
    pub blob: Vec<u8>,
    /// Digest of the archive before encoding.
    pub diff_id: String,
}

/// An image ready to be pushed.
#[derive(Debug, Clone)]
pub struct ImageTree {
    /// Bottom layer first.
    pub layers: Vec<Layer>,
    /// The image configuration, JSON.
    pub config: Vec<u8>,
    /// The manifest, JSON.
    pub manifest: Vec<u8>,
}

impl ImageTree {
    /// The small image.
    ///
    /// # Errors
    /// When a program is not installed here (`cargo xtask setup` installs them).
    pub fn small() -> Result<Self> {
        let layers = vec![
            encode(Encoding::Plain, base_layer()?)?,
            encode(Encoding::Gzip, busybox_layer()?)?,
            encode(Encoding::Zstd, programs_layer()?)?,
        ];
        Ok(Self::from_layers(layers))
    }

    /// An image of these layers with the small image's configuration.
    #[must_use]
    pub fn from_layers(layers: Vec<Layer>) -> Self {
        let config = configuration(&layers).to_string().into_bytes();
        let manifest = manifest(&layers, &config).to_string().into_bytes();
        Self {
            layers,
            config,
            manifest,
        }
    }

    /// Pushes the image and gives the manifest's digest.
    ///
    /// # Errors
    /// When the registry refuses a part.
    pub fn push(&self, registry: &RegistryClient, name: &str, tag: &str) -> Result<String> {
        for layer in &self.layers {
            registry.put_blob(name, &layer.blob)?;
        }
        registry.put_blob(name, &self.config)?;
        registry.put_manifest(name, tag, MANIFEST_TYPE, &self.manifest)
    }
}

/// The digest of `bytes` as OCI writes it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// Encodes a tar archive as a layer.
///
/// # Errors
/// When an encoder fails.
pub fn encode(encoding: Encoding, archive: Vec<u8>) -> Result<Layer> {
    let diff_id = digest(&archive);
    let blob = match encoding {
        Encoding::Plain => archive,
        Encoding::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&archive)?;
            encoder.finish()?
        }
        Encoding::Zstd => zstd::encode_all(archive.as_slice(), 3)?,
    };
    Ok(Layer {
        encoding,
        blob,
        diff_id,
    })
}

/// A layer under construction: entries in the order they are added.
pub struct LayerBuilder {
    archive: tar::Builder<Vec<u8>>,
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self {
            archive: tar::Builder::new(Vec::new()),
        }
    }
}

impl LayerBuilder {
    /// Adds a directory.
    ///
    /// # Errors
    /// When the path does not fit a tar archive.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        let mut header = header(tar::EntryType::Directory, mode);
        self.archive
            .append_data(&mut header, path, std::io::empty())?;
        Ok(self)
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// As [`LayerBuilder::directory`].
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<&mut Self> {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.archive.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As [`LayerBuilder::directory`].
    pub fn link(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        self.archive.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Adds a hard link to a file of this layer or of one below.
    ///
    /// # Errors
    /// As [`LayerBuilder::directory`].
    pub fn hard_link(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = header(tar::EntryType::Link, 0o644);
        self.archive.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// The finished archive.
    ///
    /// # Errors
    /// As [`LayerBuilder::directory`].
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.archive.into_inner()?)
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(TIME);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// The skeleton of the file system, as Debian lays it out.
fn base_layer() -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::default();
    for path in [
        "dev",
        "etc",
        "etc/ssl",
        "etc/ssl/certs",
        "home",
        "mnt",
        "opt",
        "proc",
        "run",
        "sys",
    ] {
        layer.directory(path, 0o755)?;
    }
    for path in [
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/lib/x86_64-linux-gnu",
        "usr/local",
    ] {
        layer.directory(path, 0o755)?;
    }
    for path in [
        "usr/local/bin",
        "usr/local/share",
        "usr/local/share/ca-certificates",
        "usr/sbin",
        "usr/share",
    ] {
        layer.directory(path, 0o755)?;
    }
    for path in ["var", "var/lib", "var/log"] {
        layer.directory(path, 0o755)?;
    }
    layer
        .directory("root", 0o700)?
        .directory("tmp", 0o1777)?
        .directory("var/tmp", 0o1777)?;
    for name in ["bin", "lib", "lib64", "sbin"] {
        layer.link(name, &format!("usr/{name}"))?;
    }
    let release = "PRETTY_NAME=\"agent-vm small image\"\nID=agent-vm-small\nVERSION_ID=1\n";
    layer
        .file("etc/os-release", 0o644, release.as_bytes())?
        .file(
            "etc/agent-vm-image-version",
            0o644,
            format!("{IMAGE_API_VERSION}\n").as_bytes(),
        )?
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
        )?
        .file(
            "etc/group",
            0o644,
            b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
        )?
        .file(
            "etc/nsswitch.conf",
            0o644,
            b"passwd: files\ngroup: files\nhosts: files dns\n",
        )?
        .file("etc/profile", 0o644, b"PS1='$ '\n")?;
    layer.finish()
}

/// The usual commands: one static program under many names.
fn busybox_layer() -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::default();
    layer.file("usr/bin/busybox", 0o755, &fs_err::read(BUSYBOX)?)?;
    let listed = printed(Command::new(BUSYBOX).arg("--list"))?;
    let mut names: Vec<_> = listed
        .lines()
        .filter(|name| !matches!(*name, "busybox" | "bash" | "wget"))
        .collect();
    names.sort_unstable();
    for name in names {
        layer.link(&format!("usr/bin/{name}"), "busybox")?;
    }
    layer.finish()
}

/// Real programs with their libraries, and the certificates.
fn programs_layer() -> Result<Vec<u8>> {
    let mut files: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for program in PROGRAMS {
        files.insert(in_usr(Path::new(program)), fs_err::canonicalize(program)?);
        for library in libraries(program)? {
            files.insert(in_usr(&library), fs_err::canonicalize(&library)?);
        }
    }
    for library in EXTRA_LIBRARIES
        .iter()
        .filter(|library| Path::new(library).exists())
    {
        files.insert(in_usr(Path::new(library)), fs_err::canonicalize(library)?);
    }
    let mut layer = LayerBuilder::default();
    for (path, source) in files {
        let path = path.to_str().context("a library has an odd name")?;
        layer.file(path, 0o755, &fs_err::read(source)?)?;
    }
    layer.file(
        "etc/ssl/certs/ca-certificates.crt",
        0o644,
        &fs_err::read(CERTIFICATES)?,
    )?;
    layer.finish()
}

/// Where a file of this machine goes in the image: `/lib` and `/bin` are links into `/usr` there.
fn in_usr(path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.starts_with("usr") {
        return relative.to_path_buf();
    }
    Path::new("usr").join(relative)
}

/// The libraries a program is linked with, by the dynamic linker's own word.
fn libraries(program: &str) -> Result<Vec<PathBuf>> {
    let text = printed(Command::new("ldd").arg(program))?;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        if path.contains("not found") {
            bail!("{program} lacks a library: {line}");
        }
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

fn printed(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn configuration(layers: &[Layer]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-09-21T13:33:20Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["/bin/bash"],
            "WorkingDir": "/",
            "Labels": { IMAGE_API_LABEL: IMAGE_API_VERSION },
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

fn manifest(layers: &[Layer], config: &[u8]) -> Value {
    let descriptor = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() });
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            let suffix = match layer.encoding {
                Encoding::Plain => "",
                Encoding::Gzip => "+gzip",
                Encoding::Zstd => "+zstd",
            };
            descriptor(&format!("{LAYER_TYPE}{suffix}"), &layer.blob)
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, config),
        "layers": layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_reproducible_and_the_manifest_names_them() {
        let base = || encode(Encoding::Gzip, base_layer().unwrap()).unwrap();
        let (first, second) = (base(), base());
        assert_eq!(first.blob, second.blob);

        let image = ImageTree::from_layers(vec![first.clone()]);
        let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(manifest["layers"][0]["digest"], digest(&first.blob));
        assert_eq!(manifest["config"]["digest"], digest(&image.config));
        let config: Value = serde_json::from_slice(&image.config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], first.diff_id);
    }

    #[test]
    fn diff_id_is_the_digest_of_the_decoded_layer() {
        for encoding in [Encoding::Plain, Encoding::Gzip, Encoding::Zstd] {
            let layer = encode(encoding, b"archive".to_vec()).unwrap();
            assert_eq!(layer.diff_id, digest(b"archive"));
            let plain = encoding == Encoding::Plain;
            assert_eq!(plain, layer.diff_id == digest(&layer.blob), "{encoding:?}");
        }
    }

    #[test]
    fn files_of_root_directories_go_below_usr() {
        assert_eq!(
            in_usr(Path::new("/lib64/ld.so")),
            Path::new("usr/lib64/ld.so")
        );
        assert_eq!(
            in_usr(Path::new("/usr/bin/curl")),
            Path::new("usr/bin/curl")
        );
    }
}
