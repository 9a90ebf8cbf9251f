use super::*;
use crate::manifest::Architecture;
use crate::store::Resolved;

const DAY: Duration = CHECK_INTERVAL;

struct Fixture {
    store: Store,
    here: ImageDigest,
    _directory: tempfile::TempDir,
}

fn reference() -> Reference {
    "localhost:1/app:1".parse().unwrap()
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let here = ImageDigest::of(b"manifest");
    let resolved = Resolved {
        digest: here,
        manifest: here,
        architecture: Architecture::native(),
        policy: None,
    };
    store
        .record(&reference(), resolved, b"manifest", b"{}")
        .unwrap();
    Fixture {
        store,
        here,
        _directory: directory,
    }
}

impl Fixture {
    fn answered(&self, asked: SystemTime, digest: Option<ImageDigest>) {
        let record = UpdateRecord {
            reference: reference().to_string(),
            asked: unix_seconds(asked).unwrap(),
            digest,
        };
        self.store.keep_answer(&reference(), &record).unwrap();
    }

    fn state(&self, now: SystemTime) -> UpdateState {
        self.store.update_state(&reference(), now).unwrap()
    }
}

#[test]
fn a_pinned_or_unknown_image_is_never_asked_for() {
    let fixture = fixture();
    let state = |name: &Reference| fixture.store.update_state(name, SystemTime::now()).unwrap();
    assert_eq!(state(&reference().pinned(fixture.here)), UpdateState::Fixed);
    assert_eq!(
        state(&"localhost:1/other:1".parse().unwrap()),
        UpdateState::Fixed
    );
}

#[test]
fn an_answer_is_good_for_a_day() {
    let fixture = fixture();
    let later = SystemTime::now() + DAY;
    assert_eq!(fixture.state(later), UpdateState::Unknown);
    fixture.answered(later, Some(fixture.here));
    assert_eq!(fixture.state(later + DAY / 2), UpdateState::Current);
    assert_eq!(fixture.state(later + DAY), UpdateState::Unknown);
    assert_eq!(
        fixture.state(later - DAY),
        UpdateState::Unknown,
        "asked in the future"
    );
}

#[test]
fn a_failed_question_is_not_repeated_for_a_day() {
    let fixture = fixture();
    let later = SystemTime::now() + DAY;
    fixture.answered(later, None);
    assert_eq!(fixture.state(later + DAY / 2), UpdateState::Current);
}

#[test]
fn another_digest_is_newer_until_the_image_is_pulled() {
    let fixture = fixture();
    let newer = ImageDigest::of(b"newer");
    let later = SystemTime::now() + DAY;
    fixture.answered(later, Some(newer));
    assert_eq!(fixture.state(later + 9 * DAY), UpdateState::Newer(newer));
    fixture.answered(SystemTime::now() - DAY, Some(newer));
    assert_ne!(
        fixture.state(later),
        UpdateState::Newer(newer),
        "pulled since"
    );
}

#[test]
fn a_damaged_answer_counts_as_none() {
    let fixture = fixture();
    fs_err::write(fixture.store.update_path(&reference()), "{").unwrap();
    assert_eq!(fixture.state(SystemTime::now()), UpdateState::Unknown);
}

#[test]
fn an_unreachable_registry_is_asked_once() {
    let fixture = fixture();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (now, reference, options) = (SystemTime::now(), reference(), PullOptions::default());
    let asked = fixture.store.ask_for_update(&reference, &options, now);
    assert!(matches!(
        runtime.block_on(asked),
        Err(UpdateError::Registry { .. })
    ));
    assert_eq!(fixture.state(now), UpdateState::Current);
}
