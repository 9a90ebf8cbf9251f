//! Bounds of descriptions and their way through the memory file.

use std::fs::File;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;

fn null() -> OwnedFd {
    fs_err::File::open("/dev/null")
        .unwrap()
        .into_parts()
        .0
        .into()
}

fn spec() -> VmSpec {
    VmSpec {
        vcpus: 2,
        memory_mib: 512,
        kernel: null(),
        init: null(),
        disks: Vec::new(),
        shares: Vec::new(),
        owner: GuestOwner {
            uid: 1000,
            gid: 1000,
        },
        network: null(),
        control: null(),
        forward: None,
        console: null(),
    }
}

fn hooks() -> ProtectedPath {
    ProtectedPath {
        path: ".git/hooks".into(),
        when_missing: WhenMissing::DenyCreation,
    }
}

fn wire() -> WireSpec {
    WireSpec {
        vcpus: 1,
        memory_mib: 256,
        kernel: 3,
        init: 4,
        disks: vec![
            WireDisk::Joined {
                parts: vec![10, 11],
            },
            WireDisk::Raw {
                image: 5,
                access: Access::ReadWrite,
            },
        ],
        shares: vec![WireShare {
            root: 6,
            access: Access::ReadWrite,
            protected: vec![hooks()],
        }],
        owner: GuestOwner {
            uid: 1000,
            gid: 1000,
        },
        network: 7,
        control: 8,
        forward: Some(12),
        status: 9,
    }
}

#[test]
fn survives_the_memory_file() {
    let file = File::from(wire().to_memory_file().unwrap());
    assert_eq!(WireSpec::read_from(file).unwrap(), wire());
}

#[test]
fn memory_file_cannot_be_changed_afterwards() {
    let mut file = File::from(wire().to_memory_file().unwrap());
    assert_eq!(
        file.write(b"x").unwrap_err().kind(),
        io::ErrorKind::PermissionDenied
    );
}

#[test]
fn names_every_descriptor() {
    let mut numbers = wire().numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}

#[test]
fn refuses_another_version_and_trailing_bytes() {
    let mut bytes = vec![WIRE_VERSION];
    bytes.extend(postcard::to_stdvec(&wire()).unwrap());
    assert!(WireSpec::read_from(bytes.as_slice()).is_ok());
    bytes.push(0);
    assert!(WireSpec::read_from(bytes.as_slice()).is_err());
    bytes.pop();
    bytes[0] = WIRE_VERSION + 1;
    assert!(WireSpec::read_from(bytes.as_slice()).is_err());
    assert!(WireSpec::read_from(&[][..]).is_err());
}

#[test]
fn child_refuses_what_the_launcher_would_refuse() {
    let mut too_small = wire();
    too_small.memory_mib = 1;
    let mut escaping = wire();
    escaping.shares[0].protected[0].path = "../up".into();
    let mut many_parts = wire();
    many_parts.disks[0] = WireDisk::Joined {
        parts: vec![10; MAX_PARTS + 1],
    };
    for bad in [too_small, escaping, many_parts] {
        assert!(WireSpec::read_from(File::from(bad.to_memory_file().unwrap())).is_err());
    }
}

#[test]
fn bad_memory_size_has_a_readable_reason() {
    let mut bad = spec();
    bad.memory_mib = 16;
    let message = bad.check().unwrap_err().to_string();
    assert_eq!(
        message,
        "bad memory size: 16 MiB is not between 128 and 1048576 MiB"
    );
}

#[test]
fn refuses_too_many_disks() {
    let mut bad = spec();
    bad.disks = (0..6)
        .map(|_| Disk::Raw {
            image: null(),
            access: Access::ReadOnly,
        })
        .collect();
    assert!(matches!(
        bad.check(),
        Err(SpecError::TooMany {
            what: "disks",
            count: 6,
            limit: 5
        })
    ));
    bad.disks = vec![Disk::Joined {
        parts: (0..=MAX_PARTS).map(|_| null()).collect(),
    }];
    assert!(matches!(
        bad.check(),
        Err(SpecError::TooMany {
            what: "parts of a disk",
            ..
        })
    ));
}

#[test]
fn protected_paths_stay_below_their_share() {
    for good in [".git", ".git/hooks", "a/b/c", "..."] {
        assert!(is_below(good), "{good}");
    }
    for bad in ["", "/", "/etc", "a//b", "a/", "../a", "a/../b", ".", "a\0b"] {
        assert!(!is_below(bad), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = WireSpec::read_from(bytes.as_slice());
    }

    #[test]
    fn reading_damaged_descriptions_never_panics(at in 0_usize..48, byte in any::<u8>()) {
        let mut bytes = vec![WIRE_VERSION];
        bytes.extend(postcard::to_stdvec(&wire()).unwrap());
        let index = at % bytes.len();
        bytes[index] = byte;
        let _ = WireSpec::read_from(bytes.as_slice());
    }
}
