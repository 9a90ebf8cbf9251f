//! What the launch that makes a base is: nothing of the host it must not have.

use agent_vm_credentials::{Credential, GuestFile, HeaderSpec};
use agent_vm_image::{Image, ImageConfig, ImageDigest, Store};
use agent_vm_secret::{Placeholder, Secret};

use super::super::chain::tests::recipe;
use super::*;
use crate::plan::tests::request;
use crate::request::{Mount, ShareKind};

fn mount(guest: &str) -> Mount {
    Mount {
        host: "/host".into(),
        guest: guest.into(),
        access: ShareAccess::ReadOnly,
        kind: ShareKind::Directory,
    }
}

fn resolved(directory: &std::path::Path) -> Resolved {
    let mut request = request(directory);
    request.mounts = vec![mount("/given-to-the-launch")];
    request.credentials = Collected {
        credentials: vec![Credential {
            name: "TOK".to_owned(),
            secret: Some(Secret::new("the-real-token").unwrap()),
            placeholder: Placeholder::mint("").unwrap(),
            hosts: Vec::new(),
            header: HeaderSpec::bearer(),
            source: "$TOK".to_owned(),
            refresh: None,
        }],
        guest_files: vec![GuestFile {
            path: ".login".to_owned(),
            mode: 0o600,
            content: Vec::new(),
        }],
        ..Collected::default()
    };
    request.setup.user = recipe("user");
    request.setup.user.mounts = vec![mount("/given-to-the-setup")];
    request.setup.project = recipe("project");
    let digest = ImageDigest::of(b"i");
    Resolved {
        plan: Plan::new(&request, None),
        store: Store::open(directory.join("store")).unwrap(),
        image: Image {
            digest,
            manifest_digest: digest,
            config: ImageConfig::default(),
            extents: Vec::new(),
        },
        disk: DiskPlan::default(),
        ports: None,
        watch: None,
        request,
    }
}

fn guests(resolved: &Resolved) -> Vec<String> {
    let mounts = resolved.plan.mounts.iter();
    mounts
        .map(|mount| mount.guest.display().to_string())
        .collect()
}

#[test]
fn the_users_base_sees_nothing_of_the_project() {
    let directory = tempfile::tempdir().unwrap();
    let resolved = resolved(directory.path());
    let launch = setup_launch(&resolved, SetupCredentials::Withheld, Level::User);
    assert_eq!(guests(&launch), ["/given-to-the-setup"]);
    assert_eq!(
        launch.plan.program.working_directory,
        PathBuf::from("/root")
    );
}

#[test]
fn a_projects_base_sees_the_project_read_only_and_no_mount_of_the_user() {
    let directory = tempfile::tempdir().unwrap();
    let resolved = resolved(directory.path());
    let launch = setup_launch(&resolved, SetupCredentials::Withheld, Level::Project);
    let root = resolved.request.project.root();
    assert_eq!(guests(&launch), [root.display().to_string()]);
    assert_eq!(launch.plan.mounts[0].access, ShareAccess::ReadOnly);
    assert_eq!(launch.plan.program.working_directory, root);
}

#[test]
fn setup_has_credentials_only_when_they_are_given() {
    let directory = tempfile::tempdir().unwrap();
    let resolved = resolved(directory.path());
    let of = |credentials| setup_launch(&resolved, credentials, Level::Project).request;
    let without = of(SetupCredentials::Withheld);
    assert_eq!(without.credentials.credentials.len(), 0);
    assert_eq!(without.credentials.guest_files.len(), 0);
    assert_eq!(of(SetupCredentials::Given).credentials.credentials.len(), 1);
    // What makes a base never makes another one first.
    assert_eq!(without.setup.bases, Bases::Ignore);
}
