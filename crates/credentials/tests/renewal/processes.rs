//! Many launchers and the host's own client at once.

use std::time::{Duration, SystemTime};

use agent_vm_credentials::Why;
use agent_vm_test_support::issuer::{Behaviour, Issuer};

use crate::rig::{Home, finish, provider, quick, renew_reaching, spawn, told};

const PROCESSES: usize = 20;

#[test]
fn twenty_processes_that_find_an_expired_token_make_one_request() {
    let issuer = provider(Behaviour {
        delay: Duration::from_millis(500),
        ..quick()
    });
    let home = Home::with_login(0, SystemTime::now() - Duration::from_secs(5));
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| spawn("processes::child", "ending", &home, &issuer))
        .collect();
    check(children, &Issuer::access(1));
    let seen = issuer.seen();
    println!(
        "{PROCESSES} processes: {} granted, {} refused",
        seen.granted, seen.refused
    );
    assert_eq!((seen.granted, seen.refused), (1, 0));
    assert_eq!(home.generation(), 1);
    assert!(home.strays().is_empty(), "{:?}", home.strays());
}

#[test]
fn twenty_processes_whose_token_is_rejected_make_one_request() {
    let issuer = provider(quick());
    let home = Home::with_login(0, SystemTime::now() + Duration::from_secs(7200));
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| spawn("processes::child", "rejected", &home, &issuer))
        .collect();
    check(children, &Issuer::access(1));
    let seen = issuer.seen();
    assert_eq!((seen.granted, seen.refused), (1, 0));
}

fn check(children: Vec<std::process::Child>, access: &str) {
    for child in children {
        let output = finish(child);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let erred = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}{erred}");
        assert!(said.contains(&format!("token {access}\n")), "{said}{erred}");
    }
}

/// One launcher, started by the tests above.
#[test]
#[ignore = "a process of other tests"]
fn child() {
    let (role, address, ca_pem, home) = told();
    let used = agent_vm_secret::Secret::new(Issuer::access(0)).unwrap();
    let why = match role.as_str() {
        "ending" => Why::Ending(Duration::from_secs(300)),
        _ => Why::Rejected(used),
    };
    let login = renew_reaching(&home, (address, &ca_pem), &why, &|_| {}).unwrap();
    println!("token {}", login.access.unwrap().expose());
}
