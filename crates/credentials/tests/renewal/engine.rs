//! When the provider is asked, and what becomes of the file when it does not answer as hoped.

use std::time::{Duration, SystemTime};

use agent_vm_credentials::{RenewError, Step, Why};
use agent_vm_secret::Secret;
use agent_vm_test_support::issuer::{Behaviour, Issuer};

use crate::rig::{Home, Steps, provider, quick, renew, renew_reaching};

const ENDING: Why = Why::Ending(Duration::from_secs(300));

fn in_seconds(seconds: i64) -> SystemTime {
    let now = SystemTime::now();
    let length = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        now - length
    } else {
        now + length
    }
}

fn rejected(generation: usize) -> Why {
    Why::Rejected(Secret::new(Issuer::access(generation)).unwrap())
}

#[test]
fn only_a_token_that_ends_soon_is_renewed() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(400));
    renew(&home, &issuer, &ENDING).unwrap();
    assert_eq!(issuer.seen().granted, 0);
    let home = Home::with_login(0, in_seconds(200));
    let steps = Steps::default();
    let at = (issuer.address(), issuer.ca_pem());
    let login = renew_reaching(&home, at, &ENDING, &|step| steps.note(step)).unwrap();
    assert_eq!(login.access.unwrap().expose(), Issuer::access(1));
    let left = login
        .expires
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(left > Duration::from_secs(28_700) && left <= Duration::from_secs(28_800));
    let all = [
        Step::BeforeAsking,
        Step::Answered,
        Step::Journalled,
        Step::Written,
    ];
    assert_eq!(steps.all(), all);
    assert_eq!(home.document()["claudeAiOauth"]["unknown"], "kept");
    assert!(issuer.seen().bodies[0].contains(r#""scope":"user:profile user:inference""#));
}

#[test]
fn a_rejected_token_is_renewed_once_and_not_again_at_once() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(7200));
    let login = renew(&home, &issuer, &rejected(0)).unwrap();
    assert_eq!(login.access.unwrap().expose(), Issuer::access(1));
    let again = renew(&home, &issuer, &rejected(1));
    assert!(matches!(again, Err(RenewError::Settled)), "{again:?}");
    assert_eq!(issuer.seen().granted, 1);
}

#[test]
fn what_the_hosts_own_client_renewed_is_used_without_asking() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(7200));
    let login = home.open();
    assert_eq!(
        login.current().unwrap().access.unwrap().expose(),
        Issuer::access(0)
    );
    home.log_in(issuer.rotate(), in_seconds(7200));
    assert_eq!(
        login.current().unwrap().access.unwrap().expose(),
        Issuer::access(1)
    );
    let newer = renew(&home, &issuer, &rejected(0)).unwrap();
    assert_eq!(newer.access.unwrap().expose(), Issuer::access(1));
    assert_eq!(issuer.seen().bodies.len(), 0);
}

#[test]
fn a_failure_leaves_the_file_and_the_provider_alone() {
    let issuer = provider(Behaviour {
        failing: Some(500),
        ..quick()
    });
    let home = Home::with_login(0, in_seconds(-5));
    let before = fs_err::read(home.file()).unwrap();
    for _ in 0..5 {
        let failed = renew(&home, &issuer, &ENDING);
        assert!(
            matches!(failed, Err(RenewError::Refused { over: false, .. })),
            "{failed:?}"
        );
    }
    assert_eq!(issuer.seen().bodies.len(), 1, "the others waited");
    assert_eq!(fs_err::read(home.file()).unwrap(), before);
    assert!(home.strays().is_empty(), "{:?}", home.strays());
    // A login on the host ends the wait.
    issuer.behave(quick());
    home.log_in(issuer.rotate(), in_seconds(-5));
    renew(&home, &issuer, &ENDING).unwrap();
    assert_eq!(home.generation(), 2);
}

#[test]
fn a_login_that_is_over_is_said_to_be_over() {
    let issuer = provider(quick());
    issuer.rotate();
    let home = Home::with_login(0, in_seconds(-5));
    let error = renew(&home, &issuer, &ENDING).unwrap_err();
    assert!(matches!(error, RenewError::Refused { over: true, .. }));
    assert_eq!(error.to_string(), "it answered 400 invalid_grant");
    assert_eq!(home.generation(), 0, "the file stays");
}

#[test]
fn a_provider_that_cannot_be_reached_costs_nothing() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(-5));
    let stranger = provider(quick());
    let at = (stranger.address(), issuer.ca_pem());
    let failed = renew_reaching(&home, at, &ENDING, &|_| {});
    assert!(
        matches!(failed, Err(RenewError::Refused { .. })),
        "an authority nobody trusts"
    );
    assert!(stranger.seen().bodies.is_empty());
    assert_eq!(home.generation(), 0);
}

#[test]
fn a_login_made_while_the_provider_was_asked_stays() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(-5));
    let at = (issuer.address(), issuer.ca_pem());
    let login = renew_reaching(&home, at, &ENDING, &|step| {
        if step == Step::Answered {
            home.log_in(issuer.rotate(), in_seconds(7200));
        }
    });
    assert_eq!(login.unwrap().access.unwrap().expose(), Issuer::access(2));
    assert_eq!(home.generation(), 2);
    assert!(home.strays().is_empty(), "{:?}", home.strays());
}

#[test]
fn a_link_is_followed_to_the_file_and_stays_a_link() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(-5));
    let real = home.path.join("dotfiles.json");
    fs_err::rename(home.file(), &real).unwrap();
    fs_err::os::unix::fs::symlink(&real, home.file()).unwrap();
    renew(&home, &issuer, &ENDING).unwrap();
    assert_eq!(home.generation(), 1);
    assert!(fs_err::symlink_metadata(home.file()).unwrap().is_symlink());
}

#[test]
fn nothing_is_asked_when_the_file_could_not_be_written() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(-5));
    let beside = home.path.join(".claude/..credentials.json.agent-vm");
    // A directory in the place of the new file cannot be removed as a file.
    fs_err::create_dir(beside).unwrap();
    let failed = renew(&home, &issuer, &ENDING);
    assert!(
        matches!(failed, Err(RenewError::Write { .. })),
        "{failed:?}"
    );
    assert!(
        issuer.seen().bodies.is_empty(),
        "the refresh token is not spent"
    );
}

#[test]
fn a_login_without_a_refresh_token_is_left_alone() {
    let issuer = provider(quick());
    let home = Home::with_login(0, in_seconds(-5));
    let text = fs_err::read_to_string(home.file()).unwrap();
    fs_err::write(home.file(), text.replace("real-refresh-0", "")).unwrap();
    let failed = renew(&home, &issuer, &ENDING);
    assert!(
        matches!(failed, Err(RenewError::NoRefreshToken)),
        "{failed:?}"
    );
    fs_err::remove_file(home.file()).unwrap();
    assert!(home.path.join(".claude").exists());
}
