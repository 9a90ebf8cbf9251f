//! The server inside the confinement the VMM process has: Landlock with the shares only.

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};

use super::*;
use crate::reply::SetAttr;

/// Confines the calling thread for ever; false where the kernel has no Landlock.
fn confine(root: OwnedFd) -> bool {
    let all = AccessFs::from_all(ABI::V3);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(root, all)))
        .and_then(|ruleset| ruleset.restrict_self())
        .unwrap();
    status.ruleset != RulesetStatus::NotEnforced
}

#[test]
fn everything_works_with_access_to_nothing_but_the_share() {
    let host = Host::new();
    host.write("dir/file", "content");
    let server = host.serve(Access::ReadWrite);
    let root = path_fd(&host.path(""));
    let secret = host.outside("secret");
    // Landlock binds the thread, so it gets one of its own.
    let confined = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                if !confine(root) {
                    return false;
                }
                assert!(fs_err::read(&secret).is_err(), "confined");
                exercise(&server);
                true
            })
            .join()
            .unwrap()
    });
    if confined {
        assert_eq!(host.read("dir/moved"), "another content");
    } else {
        println!("skipped: this kernel has no Landlock");
    }
}

fn exercise(server: &FileServer) {
    let root = server.share_root();
    let dir = server.walk("shares/0/dir").unwrap().inode;
    let file = server.walk("shares/0/dir/file").unwrap().inode;
    let handle = server.open(file, false, O_RDWR | O_TRUNC).unwrap().handle;
    server
        .write_handle(file, handle, "another content")
        .unwrap();
    let again = server.open(file, false, O_RDONLY).unwrap().handle;
    assert_eq!(server.read_handle(file, again).unwrap(), "another content");
    let change = SetAttr {
        uid: Some(5),
        mode: Some(0o4600),
        ..SetAttr::default()
    };
    let (attr, _) = server.setattr(file, None, &change).unwrap();
    assert_eq!((attr.uid, attr.mode), (5, 0o104_600));
    server.setxattr(file, c"user.a", b"b", 0).unwrap();
    server.link(file, root, c"alias").unwrap();
    server.rename((root, c"alias"), (dir, c"moved"), 0).unwrap();
    server.unlink(dir, c"file").unwrap();
    assert_eq!(server.read_all(file).unwrap(), "another content");
    server.symlink(ROOT_CALLER, c"x", dir, c"link").unwrap();
    let mode = file_mode(0o010_600);
    server.mknod(ROOT_CALLER, dir, c"fifo", mode).unwrap();
    server
        .mkdir(ROOT_CALLER, dir, c"sub", file_mode(0o755))
        .unwrap();
    server.rmdir(dir, c"sub").unwrap();
    let listing = server.opendir(dir).unwrap().handle;
    let mut names = 0;
    server
        .readdirplus(dir, listing, 0, &mut |_, _| {
            names += 1;
            Ok(1)
        })
        .unwrap();
    assert_eq!(names, 5);
}
