//! The embedded file system is judged by `e2fsck`, and by the kernel that mounts it and grows it.

#![expect(
    clippy::disallowed_methods,
    reason = "tests start the tools that judge"
)]

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use super::*;
use crate::test_mount::run;

fn disk(size: u64) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let store = Store::open(directory.path().join("store")).unwrap();
    let file = store.writable_disk(&path, size).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    (directory, path)
}

#[test]
fn a_new_disk_is_a_clean_file_system_of_less_than_a_megabyte() {
    let (_directory, path) = disk(40 << 30);
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&path)).unwrap();
    let stat = fs_err::metadata(&path).unwrap();
    assert!(
        stat.blocks() * 512 < 1 << 20,
        "{} bytes allocated",
        stat.blocks() * 512
    );
    assert_eq!(stat.mode() & 0o777, 0o600);
}

#[test]
fn sizes_out_of_range_and_existing_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let path = directory.path().join("disk");
    for size in [0, MIN_DISK_BYTES - 1, MAX_DISK_BYTES + 1, u64::MAX] {
        assert!(matches!(
            store.writable_disk(&path, size),
            Err(DiskError::Size { .. })
        ));
        assert!(!path.exists());
    }
    fs_err::write(&path, "mine").unwrap();
    assert!(matches!(
        store.writable_disk(&path, MIN_DISK_BYTES),
        Err(DiskError::Io { .. })
    ));
    assert_eq!(fs_err::read(&path).unwrap(), b"mine");
}

/// Loop device and mount; undone on drop.
struct Mounted {
    directory: tempfile::TempDir,
    device: String,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.directory.path()))
            .expect("what was mounted can be unmounted");
        run(Command::new("losetup").args(["-d", &self.device])).expect("the loop device is ours");
    }
}

impl Mounted {
    fn new(path: &Path) -> Self {
        Self::of("ext4", path)
    }

    fn of(kind: &str, path: &Path) -> Self {
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(path));
        let device = device
            .expect("root and loop devices are needed for this test")
            .trim()
            .to_owned();
        let mounted = Self {
            directory: tempfile::tempdir().unwrap(),
            device,
        };
        run(Command::new("mount")
            .args(["-t", kind, &mounted.device])
            .arg(mounted.directory.path()))
        .unwrap();
        mounted
    }

    fn size(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.directory.path()).unwrap();
        stat.f_blocks * stat.f_frsize
    }
}

/// A file system whose files can share blocks, and a clone on it: the moment it takes and the room do not depend on the data.
#[test]
fn a_clone_shares_its_blocks_where_the_file_system_can() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("xfs");
    File::create_new(&image)
        .unwrap()
        .set_len(600 << 20)
        .unwrap();
    run(Command::new("mkfs.xfs")
        .args(["-q", "-m", "reflink=1"])
        .arg(&image))
    .unwrap();
    let mounted = Mounted::of("xfs", &image);
    let free = || {
        rustix::fs::syncfs(File::open(mounted.directory.path()).unwrap()).unwrap();
        rustix::fs::statvfs(mounted.directory.path())
            .unwrap()
            .f_bfree
            * 4096
    };
    let place = |name: &str| mounted.directory.path().join(name);
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let source = options.open(place("source")).unwrap();
    source.set_len(MIN_DISK_BYTES).unwrap();
    let data = vec![7; 64 << 20];
    source.write_all_at(&data, 1 << 20).unwrap();
    let before = free();
    let (clone, method) = clone_disk(&source, &place("clone"), 2 << 30).unwrap();
    assert_eq!(method, CloneMethod::Reflink);
    let DiskFrom::Whole(soon_gone) = disk_from(&source, &place("soon gone"), 2 << 30).unwrap()
    else {
        panic!("blocks can be shared here");
    };
    assert!(
        before - free() < 8 << 20,
        "{} bytes were copied",
        before - free()
    );
    for disk in [clone, soon_gone] {
        assert_eq!(disk.metadata().unwrap().len(), 2 << 30);
        let mut read = vec![0; data.len()];
        disk.read_exact_at(&mut read, 1 << 20).unwrap();
        assert!(read == data);
        disk.write_all_at(b"changed", 1 << 20).unwrap();
        source.read_exact_at(&mut read[..7], 1 << 20).unwrap();
        assert_eq!(read[..7], [7; 7]);
    }
}

#[test]
fn a_file_system_is_clean_when_it_is_not_mounted() {
    let (_directory, path) = disk(MIN_DISK_BYTES);
    let clean = || is_clean(&File::open(&path).unwrap()).unwrap();
    assert!(clean());
    let mounted = Mounted::new(&path);
    fs_err::write(mounted.directory.path().join("file"), "x").unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.directory.path())).unwrap();
    assert!(!clean(), "a mounted one has a journal to be replayed");
    drop(mounted);
    assert!(clean());
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&[0; 4], 1024 + 0x38)
        .unwrap();
    assert!(!clean(), "it is no file system");
}

/// Growing a mounted file system needs `CAP_SYS_RESOURCE`, which containers take from root.
fn may_grow_mounted() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap()
        .trim();
    u64::from_str_radix(effective, 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

#[test]
fn the_kernel_mounts_it_and_it_grows() {
    let (_directory, path) = disk(40 << 30);
    let mounted = Mounted::new(&path);
    assert!(mounted.size() < 1 << 30);
    fs_err::create_dir(mounted.directory.path().join("upper")).unwrap();
    if may_grow_mounted() {
        run(Command::new("resize2fs").arg(&mounted.device)).unwrap();
    } else {
        // The same growth without the mount; with it is what the boot tests do in the guest.
        drop(mounted);
        run(Command::new("e2fsck").args(["-f", "-y"]).arg(&path)).unwrap();
        run(Command::new("resize2fs").arg(&path)).unwrap();
    }
    let mounted = Mounted::new(&path);
    assert!(
        mounted.size() > 38 << 30,
        "{} bytes after growing",
        mounted.size()
    );
    assert!(mounted.directory.path().join("upper").is_dir());
    drop(mounted);
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&path)).unwrap();
    let allocated = fs_err::metadata(&path).unwrap().blocks() * 512;
    assert!(
        allocated < 64 << 20,
        "{allocated} bytes allocated after growing to 40 GiB"
    );
}

#[test]
fn it_has_what_the_kernel_needs_to_grow_it_while_mounted() {
    let (_directory, path) = disk(MIN_DISK_BYTES);
    let said = run(Command::new("dumpe2fs").arg("-h").arg(&path)).unwrap();
    let line = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
    };
    let features: Vec<_> = line("Filesystem features:").split(' ').collect();
    for needed in ["has_journal", "resize_inode", "64bit", "metadata_csum"] {
        assert!(
            features.contains(&needed),
            "{needed} is missing in {features:?}"
        );
    }
    // The kernel refuses to grow these while mounted.
    assert!(
        !features.contains(&"sparse_super2") && !features.contains(&"bigalloc"),
        "{features:?}"
    );
    // One block holds 64 descriptors of groups of 128 MiB.
    let reserved: u64 = line("Reserved GDT blocks:").parse().unwrap();
    assert!(
        (reserved + 1) * 64 * (128 << 20) >= MAX_DISK_BYTES,
        "{reserved} reserved descriptor blocks"
    );
}
