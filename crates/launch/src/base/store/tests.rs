//! The store against the file system: publication, crashes, drafts, isolation.

use super::super::chain::tests::{project, recipe};
use super::*;

fn store() -> (tempfile::TempDir, BaseStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = BaseStore::at(directory.path().join("bases"));
    (directory, store)
}

fn scope(level: Level, name: &str) -> Scope {
    Scope {
        level,
        project: project(name),
        image: "i:1".to_owned(),
    }
}

fn record(id: &BaseId, scope: &Scope, made: u64) -> BaseRecord {
    BaseRecord {
        format: RECORD_FORMAT,
        id: id.clone(),
        level: scope.level,
        kind: BaseKind::Setup,
        image_manifest: ImageDigest::of(b"i").to_string(),
        image: scope.image.clone(),
        parent: None,
        project: (scope.level == Level::Project).then(|| scope.project.clone()),
        steps: vec!["setup.sh".to_owned()],
        disk_bytes: 8,
        made,
    }
}

fn begin(store: &BaseStore, id: &BaseId, content: &str) -> NewBase {
    let lock = store.try_lock(id).unwrap().unwrap();
    let new = store.begin(id, lock).unwrap();
    fs_err::write(new.disk(), content).unwrap();
    new
}

fn publish(store: &BaseStore, name: &str, scope: &Scope, made: u64) -> BaseId {
    let id = BaseId::of(name.as_bytes());
    let new = begin(store, &id, name);
    store.publish(new, &record(&id, scope, made)).unwrap();
    id
}

fn content(store: &BaseStore, id: &BaseId) -> Option<String> {
    let mut text = String::new();
    let mut disk = store.open_disk(id)?;
    io::Read::read_to_string(&mut disk, &mut text).unwrap();
    Some(text)
}

fn names(store: &BaseStore) -> Vec<String> {
    let mut names: Vec<String> = fs_err::read_dir(&store.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "locks" && name != "hand")
        .collect();
    names.sort();
    names
}

#[test]
fn a_base_is_there_when_published_and_not_before() {
    let (_directory, store) = store();
    let id = BaseId::of(b"one");
    let new = begin(&store, &id, "made");
    assert!(store.open_disk(&id).is_none());
    assert!(store.try_lock(&id).unwrap().is_none(), "two may make it");
    store
        .publish(new, &record(&id, &scope(Level::User, "p"), 1))
        .unwrap();
    assert_eq!(content(&store, &id).as_deref(), Some("made"));
    assert_eq!(names(&store), [id.to_string()]);
    let disk = store.root.join(id.as_str()).join(DISK);
    assert!(fs_err::metadata(disk).unwrap().permissions().readonly());
    assert!(store.try_lock(&id).unwrap().is_some());
}

#[test]
fn one_that_is_given_up_leaves_nothing() {
    let (_directory, store) = store();
    drop(begin(&store, &BaseId::of(b"one"), "half"));
    assert_eq!(names(&store), Vec::<String>::new());
}

#[test]
fn locks_leave_no_files() {
    let (_directory, store) = store();
    let scope = scope(Level::User, "p");
    publish(&store, "one", &scope, 1);
    drop(begin(&store, &BaseId::of(b"given up"), "half"));
    drop(store.try_lock(&BaseId::of(b"not needed")).unwrap());
    // Of one that was killed, the lock goes with what it made.
    let dead = BaseId::of(b"dead");
    fs_err::write(store.root.join("locks").join(dead.as_str()), "").unwrap();
    fs_err::create_dir(store.root.join(format!("new-{dead}"))).unwrap();
    publish(&store, "two", &scope, 2);
    let locks = fs_err::read_dir(store.root.join("locks")).unwrap();
    assert_eq!(locks.count(), 0);
}

/// As after `kill -9` between the exchange of two directories and the removal of the old one.
#[test]
fn a_crash_while_a_base_is_replaced_hinders_nothing() {
    let (_directory, store) = store();
    let scope = scope(Level::User, "p");
    let id = publish(&store, "one", &scope, 1);
    let old = begin(&store, &id, "old");
    complete(&old.directory, &record(&id, &scope, 0)).unwrap();
    let left = old.directory.clone();
    std::mem::forget(old);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(content(&store, &id).as_deref(), Some("one"));
    // Its lock is still held by this process, as by a maker that lives: it stays, though the other takes its place.
    publish(&store, "two", &scope, 2);
    publish(&store, "three", &scope, 3);
    assert!(left.exists());
}

/// As after `kill -9` at each step: the files are there, no process holds a lock.
#[test]
fn what_crashed_makers_left_is_swept_and_never_used() {
    let (_directory, store) = store();
    let scope = scope(Level::User, "p");
    let dead = BaseId::of(b"dead");
    for step in 0..3 {
        let left = store.root.join(format!("new-{dead}"));
        fs_err::create_dir_all(&left).unwrap();
        if step > 0 {
            fs_err::write(left.join(DISK), "half").unwrap();
        }
        if step > 1 {
            let text = serde_json::to_vec(&record(&dead, &scope, 1)).unwrap();
            fs_err::write(left.join(RECORD), text).unwrap();
        }
        assert!(store.find(&dead).is_none());
        let listed = store.list().unwrap();
        assert!(
            listed.iter().all(|base| base.record.id != dead),
            "step {step}"
        );
        let id = publish(&store, &format!("next {step}"), &scope, step);
        assert!(!left.exists(), "step {step}");
        assert!(store.find(&id).is_some());
    }
    // Nor is one whose own maker begins again hindered by what it left.
    fs_err::create_dir_all(store.root.join(format!("new-{dead}/deep"))).unwrap();
    let new = begin(&store, &dead, "whole");
    store.publish(new, &record(&dead, &scope, 9)).unwrap();
    assert_eq!(content(&store, &dead).as_deref(), Some("whole"));
}

#[test]
fn a_living_maker_is_left_alone() {
    let (_directory, store) = store();
    let other = begin(&store, &BaseId::of(b"other"), "in work");
    publish(&store, "mine", &scope(Level::User, "p"), 1);
    assert!(other.disk().exists());
}

#[test]
fn a_record_that_cannot_be_read_is_no_base() {
    let (_directory, store) = store();
    let id = publish(&store, "one", &scope(Level::User, "p"), 1);
    let path = store.root.join(id.as_str()).join(RECORD);
    for text in ["", "{}", "\0\0\0"] {
        fs_err::write(&path, text).unwrap();
        assert!(store.open_disk(&id).is_none());
        assert_eq!(store.list().unwrap(), []);
    }
    // It is made again in its place.
    let again = publish(&store, "one", &scope(Level::User, "p"), 2);
    assert_eq!(content(&store, &again).as_deref(), Some("one"));
}

#[test]
fn a_base_made_again_replaces_the_old_one_while_that_is_in_use() {
    let (_directory, store) = store();
    let scope = scope(Level::User, "p");
    let id = BaseId::of(b"one");
    let new = begin(&store, &id, "old");
    store.publish(new, &record(&id, &scope, 1)).unwrap();
    let mut open = store.open_disk(&id).unwrap();
    let new = begin(&store, &id, "new");
    store.publish(new, &record(&id, &scope, 2)).unwrap();
    let mut text = String::new();
    io::Read::read_to_string(&mut open, &mut text).unwrap();
    assert_eq!(
        (text.as_str(), content(&store, &id).as_deref()),
        ("old", Some("new"))
    );
    assert_eq!(names(&store), [id.to_string()]);
}

#[test]
fn only_the_newest_of_one_place_stay_and_other_places_are_not_touched() {
    let (_directory, store) = store();
    let (mine, other) = (
        scope(Level::Project, "mine"),
        scope(Level::Project, "other"),
    );
    let user = publish(&store, "user", &scope(Level::User, "mine"), 0);
    let others = publish(&store, "other", &other, 0);
    let ids: Vec<_> = (1..=4)
        .map(|made| publish(&store, &format!("mine {made}"), &mine, made))
        .collect();
    let there = |id: &BaseId| store.find(id).is_some();
    assert!(there(&user) && there(&others));
    let kept: Vec<_> = ids.iter().map(there).collect();
    assert_eq!(kept, [false, false, true, true]);
}

#[test]
fn a_draft_is_used_only_after_it_is_kept_and_only_where_it_was_made() {
    let (_directory, store) = store();
    let mine = scope(Level::Project, "mine");
    assert_eq!(store.keep_draft(&mine).unwrap(), None);
    let id = BaseId::of(b"by hand");
    let by_hand = BaseRecord {
        kind: BaseKind::Snapshot,
        ..record(&id, &mine, 5)
    };
    let new = begin(&store, &id, "changed");
    store.put_draft(&mine, new, &by_hand).unwrap();
    assert!(store.list().unwrap()[0].draft);
    assert_eq!(store.hand(&mine), None);
    assert_eq!(
        store.keep_draft(&scope(Level::Project, "other")).unwrap(),
        None
    );
    assert_eq!(store.keep_draft(&mine).unwrap(), Some(by_hand.clone()));
    assert_eq!(store.hand(&mine), Some(by_hand));
    assert_eq!(store.hand(&scope(Level::Project, "other")), None);
    assert_eq!(content(&store, &id).as_deref(), Some("changed"));
    assert!(!store.list().unwrap()[0].draft);
}

#[test]
fn a_pointer_to_another_projects_changes_is_not_followed() {
    let (_directory, store) = store();
    let (mine, other) = (
        scope(Level::Project, "mine"),
        scope(Level::Project, "other"),
    );
    let id = BaseId::of(b"theirs");
    let theirs = BaseRecord {
        kind: BaseKind::Snapshot,
        ..record(&id, &other, 5)
    };
    let new = begin(&store, &id, "x");
    store.publish(new, &theirs).unwrap();
    for text in [id.to_string(), "../../x".to_owned(), String::new()] {
        fs_err::write(store.root.join("hand").join(mine.name()), text).unwrap();
        assert_eq!(store.hand(&mine), None);
    }
}

#[test]
fn reset_removes_what_it_names_and_says_what_it_freed() {
    let (_directory, store) = store();
    assert_eq!(store.remove(|_| true).unwrap(), []);
    let mine = scope(Level::Project, "mine");
    let gone = publish(&store, "mine", &mine, 1);
    let stays = publish(&store, "user", &scope(Level::User, "mine"), 1);
    let removed = store.remove(|record| mine.holds(record)).unwrap();
    assert_eq!(removed.len(), 1);
    assert!(removed[0].record.id == gone && removed[0].allocated_bytes >= 512);
    assert!(store.find(&gone).is_none() && store.find(&stays).is_some());
}

#[test]
fn the_chain_of_a_launch_has_what_was_kept_by_hand() {
    let (_directory, store) = store();
    let mine = scope(Level::Project, "mine");
    let setup = SetupRequest {
        project: recipe("p"),
        ..SetupRequest::default()
    };
    let manifest = ImageDigest::of(b"i");
    let before = expected_bases(&store, manifest, &mine, &setup);
    assert_eq!(before.len(), 1);
    let id = BaseId::of(b"by hand");
    let by_hand = BaseRecord {
        kind: BaseKind::Snapshot,
        parent: Some(before[0].clone()),
        ..record(&id, &mine, 5)
    };
    let new = begin(&store, &id, "x");
    store.put_draft(&mine, new, &by_hand).unwrap();
    store.keep_draft(&mine).unwrap();
    let with = expected_bases(&store, manifest, &mine, &setup);
    assert_eq!(with, [before[0].clone(), id]);
    assert!(!store.root.join("x").exists());
}
