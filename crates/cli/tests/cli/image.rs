//! `image`: what a person sees of the store.

use agent_vm_image::{PullOptions, Reference, Store, pull};
use agent_vm_test_support::registry::Registry;

use crate::environment::Environment;

const IMAGES: &str = "home/.local/share/agent-vm/images";

/// A store with `app:1` and `app:2`, which share all their layers (none).
fn pulled(environment: &Environment) -> (Registry, [String; 2]) {
    let registry = Registry::start().unwrap();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let names = ["1", "2"].map(|tag| registry.reference("app", tag));
    for (tag, name) in ["1", "2"].iter().zip(&names) {
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":[]}},"config":{{"User":"u{tag}","Labels":{{"a":"\u001b[2Jb"}}}}}}"#
        );
        let digest = registry.put_blob("app", config.as_bytes()).unwrap();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[]}}"#,
            config.len()
        );
        registry
            .put_manifest("app", tag, media_type, manifest.as_bytes())
            .unwrap();
        let reference: Reference = name.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let store = Store::open(environment.path(IMAGES)).unwrap();
        runtime
            .block_on(pull(&store, &reference, &PullOptions::default(), &()))
            .unwrap();
    }
    (registry, names)
}

#[test]
fn without_a_store_nothing_is_listed_pruned_or_made() {
    let environment = Environment::new();
    let listed = environment.run(&["image", "ls"]).told();
    assert_eq!(
        listed,
        "IMAGE  DIGEST  PULLED  SIZE  OWN  STATE\n0 images, 0 B on disk\n"
    );
    let pruned = environment.run(&["image", "prune", "--all"]);
    assert_eq!(
        (pruned.code, pruned.stdout.as_str(), pruned.stderr.as_str()),
        (Some(0), "", "0 B freed\n")
    );
    for command in ["rm", "inspect"] {
        environment.run(&["image", command, "a.test/b"]).refused(
            "error: image a.test/b:latest is not on this machine\n\n\
             hint: `agent-vm image ls` shows what there is\n",
        );
    }
    assert_eq!(
        fs_err::read_dir(environment.path("home")).unwrap().count(),
        0
    );
}

#[test]
fn images_are_listed_told_about_and_removed() {
    let environment = Environment::new();
    let (_registry, [first, second]) = pulled(&environment);
    let listed = environment.run(&["image", "ls"]).told();
    let lines: Vec<_> = listed.lines().collect();
    assert!(
        lines[1].starts_with(&first) && lines[2].starts_with(&second),
        "{listed}"
    );
    assert!(lines[3].starts_with("2 images, "), "{listed}");
    let json = environment.run(&["image", "ls", "--json"]).told();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["images"][1]["references"][0], second.as_str());
    let told = environment.run(&["image", "inspect", &first]).told();
    assert!(told.contains("u1") && !told.contains('\u{1b}'), "{told}");
    let json = environment
        .run(&["image", "inspect", "--json", &second])
        .told();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["config"]["user"], &json["whole"]),
        (&"u2".into(), &true.into())
    );
    let removed = environment.run(&["image", "rm", &first]);
    assert_eq!(
        (removed.code, removed.stdout),
        (Some(0), format!("{first}\n"))
    );
    assert!(removed.stderr.ends_with(" freed\n"), "{}", removed.stderr);
    let would = environment.run(&["image", "prune", "--all", "--dry-run"]);
    assert_eq!(would.stdout, format!("{second}\n"));
    assert!(
        would.stderr.ends_with(" would be freed\n"),
        "{}",
        would.stderr
    );
    let done = environment.run(&["image", "prune", "--all"]);
    assert_eq!(done.stdout, would.stdout);
    let listed = environment.run(&["image", "ls"]).told();
    assert!(listed.ends_with("0 images, 0 B on disk\n"), "{listed}");
}

#[test]
fn what_a_machine_uses_is_not_removed_and_the_fix_is_told() {
    let environment = Environment::new();
    let (_registry, [first, second]) = pulled(&environment);
    let store = Store::open(environment.path(IMAGES)).unwrap();
    let image = store.image(&first.parse().unwrap()).unwrap().unwrap();
    let _lease = store.lease(&image).unwrap();
    let pid = std::process::id();
    environment
        .run(&["image", "rm", &second, &first])
        .refused(&format!(
            "error: image {first} is in use: a virtual machine runs from it (process {pid})\n\n\
         hint: `agent-vm image ls` shows what is in use; nothing was removed\n",
        ));
    assert!(
        environment
            .run(&["image", "ls"])
            .told()
            .contains("in use by 1")
    );
    let pruned = environment.run(&["image", "prune", "--all"]);
    assert_eq!(pruned.stdout, format!("{second}\n"));
}

#[test]
fn a_signature_policy_that_cannot_be_used_stops_pulls_and_launches() {
    let environment = Environment::new();
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[image.signature]\nkeys = [\"missing.pub\"]\n",
    );
    for arguments in [
        &["pull", "127.0.0.1:1/a"][..],
        &["explain"],
        &["run", "--dry-run", "--", "true"],
    ] {
        let finished = environment.run(arguments);
        assert_eq!(
            (finished.code, finished.stdout.as_str()),
            (Some(125), ""),
            "{finished:?}"
        );
        let first = finished.stderr.lines().next().unwrap();
        assert_eq!(
            first,
            "error: cannot read ROOT/home/.config/agent-vm/missing.pub"
        );
    }
}

#[test]
fn an_image_pulled_without_the_policy_is_not_launched() {
    let environment = Environment::new();
    let (_registry, [first, _]) = pulled(&environment);
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    environment.write("home/.config/agent-vm/key.pub", key);
    environment.write(
        "home/.config/agent-vm/config.toml",
        "[image.signature]\nkeys = [\"key.pub\"]\n",
    );
    environment
        .run(&["explain", "--image", &first])
        .refused(&format!(
            "error: image {first} was pulled without the signature policy that is in force now\n\n\
         hint: `agent-vm pull {first}` verifies it\n",
        ));
    let pulled = environment.run(&["pull", &first]);
    assert_eq!(pulled.code, Some(125));
    assert!(
        pulled.stderr.contains(&format!(
            "error: image {first} is refused\ncaused by: sha256:"
        )),
        "{pulled:?}"
    );
    assert!(
        pulled
            .stderr
            .contains(" is not signed, and the signature policy wants it to be\n"),
        "{pulled:?}"
    );
}

#[test]
fn a_projects_configuration_says_nothing_about_images() {
    let environment = Environment::new();
    environment.write("project/.agent-vm.toml", "[image]\nupdate-check = false\n");
    let finished = environment.run(&["explain"]);
    assert_eq!(finished.code, Some(125));
    assert!(
        finished
            .stderr
            .contains(".agent-vm.toml: `image` is not known here"),
        "{finished:?}"
    );
}
