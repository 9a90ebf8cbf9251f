//! A launcher that is killed while it renews a login.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, SystemTime};

use agent_vm_credentials::{Step, Why};

use crate::rig::{Home, finish, provider, quick, renew, renew_reaching, spawn, told};

const WHY: Why = Why::Ending(Duration::from_secs(300));

fn expired() -> Home {
    Home::with_login(0, SystemTime::now() - Duration::from_secs(5))
}

/// The host's own client renews with what the file holds.
fn the_hosts_client_can_renew(home: &Home, issuer: &agent_vm_test_support::issuer::Issuer) {
    let generation = home.generation();
    home.log_in(generation, SystemTime::now() - Duration::from_secs(5));
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::open(home.file())
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    renew(home, issuer, &WHY).unwrap();
    assert_eq!(home.generation(), generation + 1);
    assert_eq!(issuer.seen().refused, 0);
}

#[test]
fn the_login_survives_a_kill_at_every_step_from_the_answer_on() {
    for role in ["journalled", "written"] {
        let (issuer, home) = (provider(quick()), expired());
        let before = home.document();
        let output = finish(spawn("crash::child", role, &home, &issuer));
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(
            issuer.seen().granted,
            1,
            "the provider has replaced the refresh token"
        );
        if role == "journalled" {
            assert_eq!(
                home.document(),
                before,
                "killed before the file was written"
            );
        }
        home.open().recover().unwrap();
        assert_eq!(home.generation(), 1, "{role}");
        assert_eq!(home.document()["zUnknown"], before["zUnknown"]);
        assert!(home.strays().is_empty(), "{:?}", home.strays());
        println!(
            "killed at {role}: the file holds generation {}",
            home.generation()
        );
        the_hosts_client_can_renew(&home, &issuer);
    }
}

#[test]
fn the_next_renewal_makes_good_without_asking_again() {
    let (issuer, home) = (provider(quick()), expired());
    finish(spawn("crash::child", "journalled", &home, &issuer));
    let login = renew(&home, &issuer, &WHY).unwrap();
    assert_eq!(login.access.unwrap().expose(), "real-access-1");
    assert_eq!((issuer.seen().granted, issuer.seen().refused), (1, 0));
}

#[test]
fn a_launcher_killed_before_it_asked_has_changed_nothing() {
    let (issuer, home) = (provider(quick()), expired());
    finish(spawn("crash::child", "before-asking", &home, &issuer));
    assert_eq!(home.generation(), 0);
    renew(&home, &issuer, &WHY).unwrap();
    assert_eq!(home.generation(), 1);
    assert_eq!((issuer.seen().granted, issuer.seen().refused), (1, 0));
    assert!(home.strays().is_empty(), "{:?}", home.strays());
}

#[test]
fn what_is_left_behind_never_overwrites_a_login_made_since() {
    let (issuer, home) = (provider(quick()), expired());
    finish(spawn("crash::child", "journalled", &home, &issuer));
    home.log_in(
        issuer.rotate(),
        SystemTime::now() + Duration::from_secs(7200),
    );
    let before = home.document();
    home.open().recover().unwrap();
    assert_eq!(home.document(), before);
    assert!(home.strays().is_empty(), "{:?}", home.strays());
}

#[test]
fn the_clients_locks_of_a_killed_launcher_do_not_last() {
    let (issuer, home) = (provider(quick()), expired());
    finish(spawn("crash::child", "journalled", &home, &issuer));
    let locks = [
        home.path.join(".claude/.oauth_refresh.lock"),
        home.path.join(".claude.lock"),
    ];
    assert!(locks.iter().all(|lock| lock.exists()), "it held them");
    home.open().recover().unwrap();
    assert!(locks.iter().all(|lock| !lock.exists()));
}

#[test]
fn a_reader_never_sees_a_part_of_a_document() {
    let (issuer, home) = (provider(quick()), expired());
    let stop = std::sync::atomic::AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                home.generation();
                reads += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            reads
        });
        for generation in 1..=8 {
            let used = agent_vm_test_support::issuer::Issuer::access(generation - 1);
            let why = Why::Rejected(agent_vm_secret::Secret::new(used).unwrap());
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            std::fs::File::open(home.file())
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
            renew(&home, &issuer, &why).unwrap();
            assert_eq!(home.generation(), generation);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 8, "{reads} reads");
}

/// A launcher that kills itself at a step.
#[test]
#[ignore = "a process of other tests"]
fn child() {
    let (role, address, ca_pem, home) = told();
    let fatal = match role.as_str() {
        "before-asking" => Step::BeforeAsking,
        "journalled" => Step::Journalled,
        _ => Step::Written,
    };
    let reached = |step| {
        if step == fatal {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
    };
    let _never = renew_reaching(&home, (address, &ca_pem), &WHY, &reached);
    unreachable!("the process was killed");
}
