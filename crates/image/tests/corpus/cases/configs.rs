//! Configurations.

use serde_json::{Value, json};

use crate::build::{Hostile, native, plain_layer};
use crate::case::Case;

#[test]
fn configs() {
    crate::judge::judge(CASES);
}

const TREE: &[&str] = &["f 644 \"x\""];
const JSON: &str =
    "its configuration is refused: the document is not valid JSON of the documented form";

fn plain() -> Hostile {
    Hostile::new(vec![plain_layer()])
}

fn config(change: impl FnOnce(&mut Value)) -> Hostile {
    plain().with_config(change)
}

fn deep() -> String {
    format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))
}

/// The configuration's text with one part replaced.
fn text(from: &str, to: &str) -> Hostile {
    let config = String::from_utf8(plain().config).unwrap();
    assert!(config.contains(from), "{config}");
    plain().with_raw_config(config.replacen(from, to, 1).into_bytes())
}

pub(super) const CASES: &[Case] = &[
    Case::refused(
        "config-64m",
        "64 MiB of labels",
        || config(|config| config["config"]["Labels"] = json!({ "a": "x".repeat(64 << 20) })),
        "bytes, more than the 8388608 that are accepted",
    ),
    Case::accepted(
        "config-7m",
        "7 MiB of labels",
        || config(|config| config["config"]["Labels"] = json!({ "a": "x".repeat(7 << 20) })),
        "up to 8 MiB",
        TREE,
    ),
    Case::refused(
        "config-not-json",
        "no JSON",
        || plain().with_raw_config(b"\x7fELF".to_vec()),
        JSON,
    ),
    Case::refused(
        "config-deep",
        "lists in lists, 100 000 deep, in a field that counts",
        || text("[\"PATH=/bin\"]", &deep()),
        JSON,
    ),
    Case::accepted(
        "config-deep-unknown",
        "lists in lists, 100 000 deep, in a field nobody knows",
        || text("\"config\":", &format!("\"x\":{},\"config\":", deep())),
        "it is passed over",
        TREE,
    ),
    Case::refused(
        "config-null",
        "`null`",
        || plain().with_raw_config(b"null".to_vec()),
        JSON,
    ),
    Case::accepted(
        "config-null-section",
        "`config` and all it may have is null",
        || {
            config(|config| {
                config["config"] = json!({ "Env": null, "Cmd": null, "Entrypoint": null, "User": null, "WorkingDir": null, "Labels": null });
            })
        },
        "nothing is set",
        TREE,
    ),
    Case::refused(
        "config-duplicate-key",
        "`os` twice, of which readers take the first or the last",
        || text("\"os\":", "\"os\":\"windows\",\"os\":"),
        JSON,
    ),
    Case::refused(
        "config-duplicate-env",
        "`Env` twice",
        || text("\"Env\":", "\"Env\":[],\"Env\":"),
        JSON,
    ),
    Case::refused(
        "config-windows",
        "for another system",
        || config(|config| config["os"] = "windows".into()),
        "its configuration is refused: the image is built for windows/",
    ),
    Case::refused(
        "config-machine",
        "for another machine",
        || config(|config| config["architecture"] = "s390x".into()),
        "its configuration is refused: the image is built for linux/s390x, not for linux/",
    ),
    Case::refused(
        "config-hostile-machine",
        "a machine with escape sequences",
        || config(|config| config["architecture"] = "\u{1b}]0;x\u{7}".into()),
        "the image is built for linux/\\x1b]0;x\\x07, not for linux/",
    ),
    Case::refused(
        "config-rootfs-type",
        "layers of another kind",
        || config(|config| config["rootfs"]["type"] = "tarsum".into()),
        "its configuration is refused: media type `tarsum` is not",
    ),
    Case::refused(
        "config-no-rootfs",
        "no list of layers",
        || {
            config(|config| {
                config.as_object_mut().unwrap().remove("rootfs");
            })
        },
        JSON,
    ),
    Case::refused(
        "config-diff-id-path",
        "a diff id that is a path",
        || {
            config(|config| {
                config["rootfs"]["diff_ids"][0] = "sha256:../../../canary".into();
            })
        },
        "its configuration is refused: a descriptor has an unusable digest: `sha256:../../../canary` is not",
    ),
    Case::refused(
        "config-diff-ids-few",
        "fewer diff ids than layers",
        || config(|config| config["rootfs"]["diff_ids"] = json!([])),
        "its configuration is refused: the configuration names 0 layers, the manifest 1",
    ),
    Case::refused(
        "config-env-number",
        "a variable that is a number",
        || config(|config| config["config"]["Env"] = json!([1])),
        JSON,
    ),
    Case::refused(
        "config-env-nul",
        "a variable with a NUL byte",
        || config(|config| config["config"]["Env"] = json!(["A=\0"])),
        "its configuration is refused: the configuration field Env holds a NUL byte",
    ),
    Case::refused(
        "config-user-nul",
        "a user with a NUL byte",
        || config(|config| config["config"]["User"] = "root\0".into()),
        "its configuration is refused: the configuration field User holds a NUL byte",
    ),
    Case::accepted(
        "config-env-odd",
        "variables without a name or a value, `LD_PRELOAD`, line breaks, escape sequences",
        || {
            config(|config| {
                config["config"]["Env"] =
                    json!(["=x", "BROKEN", "LD_PRELOAD=/evil.so", "A=\n\u{1b}[2J"]);
            })
        },
        "what has a name is set, in the guest only",
        TREE,
    ),
    Case::accepted(
        "config-hostile-strings",
        "a user, a directory and labels no program would make",
        || {
            config(|config| {
                config["config"]["User"] = "../../root:\u{1b}".into();
                config["config"]["WorkingDir"] = "/../../../tmp/agent-vm-corpus-escape".into();
                config["config"]["Labels"] =
                    json!({ "\u{1b}": "\n", "dev.agent-vm.image-api": "99999999999999999999" });
            })
        },
        "they are looked up in the guest only",
        TREE,
    ),
    Case::accepted(
        "config-unknown-fields",
        "fields nobody knows, volumes, ports, history without end",
        || {
            config(|config| {
                config["config"]["Volumes"] = json!({ "/etc": {} });
                config["config"]["ExposedPorts"] = json!({ "0/tcp": {} });
                config["history"] = json!(vec![json!({ "created_by": "x" }); 1000]);
                config["created"] = "never".into();
                config["architecture"] = native().into();
            })
        },
        "they say nothing about the image's content",
        TREE,
    ),
];
