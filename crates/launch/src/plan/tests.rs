use std::path::Path;
use std::time::Instant;

use agent_vm_credentials::{Collected, GuestFile, HeaderSpec};
use agent_vm_secret::{Placeholder, Secret};
use agent_vm_state::{BaseDirectories, HostDirectories, Project};

use super::*;
use crate::request::{Diagnostics, ImageSource, NetworkSettings, Program, ShareAccess};

fn credential(name: &str, hosts: &[&str]) -> Credential {
    Credential {
        name: name.to_owned(),
        secret: Some(Secret::new("the-real-token").unwrap()),
        placeholder: Placeholder::mint("").unwrap(),
        hosts: hosts
            .iter()
            .map(|host| HostPattern::parse(host).unwrap())
            .collect(),
        header: HeaderSpec::bearer(),
        source: "$TOKEN".to_owned(),
        refresh: None,
    }
}

fn mount(guest: &Path) -> Mount {
    Mount {
        host: "/host".into(),
        guest: guest.to_owned(),
        access: ShareAccess::ReadOnly,
        kind: ShareKind::Directory,
    }
}

/// A launch of `ls` with nothing special about it.
pub(crate) fn request(project: &Path) -> LaunchRequest {
    let base = BaseDirectories {
        home: "/h".into(),
        ..BaseDirectories::default()
    };
    LaunchRequest {
        project: Project::exactly(project).unwrap(),
        project_access: ShareAccess::ReadWrite,
        mounts: Vec::new(),
        integrity: crate::integrity::IntegritySettings::default(),
        program: Program {
            agent: "run".to_owned(),
            argv: vec!["ls".into()],
            env: vec![("GIVEN".to_owned(), "private-value".to_owned())],
            files: Vec::new(),
        },
        image: ImageSource {
            reference: "a:b".to_owned(),
            store: "/store".into(),
        },
        setup: crate::base::SetupRequest::default(),
        machine: Machine {
            vcpus: 1,
            memory_mib: 256,
            disk_bytes: 1 << 30,
            kernel: "/k".into(),
        },
        credentials: Collected::default(),
        key_agents: crate::keys::KeyAgents::default(),
        network: NetworkSettings::default(),
        directories: HostDirectories::from_base(&base),
        streams: Streams::Pipes,
        terminal_type: String::new(),
        diagnostics: Diagnostics {
            verbose: false,
            profile: false,
            timeout_scale: 1.0,
            started: Instant::now(),
        },
        origins: BTreeMap::new(),
    }
}

#[test]
fn a_parent_is_mounted_before_what_lies_below_it() {
    let project = tempfile::tempdir().unwrap();
    let mut request = request(project.path());
    let root = request.project.root().to_owned();
    let above = root.parent().unwrap().to_owned();
    request.mounts = vec![
        mount(&root.join("deep/below")),
        mount(&above),
        mount(&root.join("x")),
    ];
    let plan = Plan::new(&request, None);
    let order: Vec<&Path> = plan
        .mounts
        .iter()
        .map(|mount| mount.guest.as_path())
        .collect();
    assert_eq!(
        order,
        [
            above.as_path(),
            &root,
            &root.join("x"),
            &root.join("deep/below")
        ]
    );
    assert_eq!(plan.mounts[1].access, ShareAccess::ReadWrite);
}

#[test]
fn hosts_of_all_credentials_are_intercepted_once() {
    let project = tempfile::tempdir().unwrap();
    let mut request = request(project.path());
    request.credentials.credentials = vec![
        credential("a", &["b.c", "a.c"]),
        credential("b", &["b.c"]),
        credential("c", &[]),
    ];
    let plan = Plan::new(&request, None);
    let text = |hosts: &[HostPattern]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&plan.network.intercepted), ["a.c", "b.c"]);
    assert_eq!(plan.credentials.len(), 3);
}

#[test]
fn shown_plan_holds_neither_tokens_nor_values_of_variables() {
    let project = tempfile::tempdir().unwrap();
    let mut request = request(project.path());
    request.credentials.credentials = vec![credential("tok", &["a.c"])];
    request.credentials.guest_env = vec![("TOK".to_owned(), "placeholder".to_owned())];
    request.credentials.guest_files = vec![GuestFile {
        path: ".login".to_owned(),
        mode: 0o600,
        content: b"content".to_vec(),
    }];
    let plan = Plan::new(&request, Some("sha256:0".to_owned()));
    let text = serde_json::to_string(&plan).unwrap();
    for private in [
        "the-real-token",
        "private-value",
        "\"content\"",
        "placeholder",
    ] {
        assert!(!text.contains(private), "{private}: {text}");
    }
    assert_eq!(plan.program.env, ["TOK", "GIVEN"]);
    assert_eq!(plan.program.files, [".login"]);
    assert_eq!(plan.image.digest.as_deref(), Some("sha256:0"));
}
