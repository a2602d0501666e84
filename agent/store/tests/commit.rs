//! What a commit writes to the disk, and what is left after a crash.

#![allow(clippy::unwrap_used)] // A test that cannot go on stops here.

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast_core::digest::{Digest, Revision};
use holdfast_core::event::Draft;
use holdfast_core::generation::{Owned, OwnedObjects};
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::runtime::DriverName;
use holdfast_store::anchor::Floor;
use holdfast_store::records::Revisions;
use holdfast_store::{Opened, Options, Store};
use jiff::Timestamp;

fn open(dir: &Path) -> (Store, Vec<&'static str>) {
    let options = Options::new("emea/till-1".parse().unwrap(), Timestamp::UNIX_EPOCH);
    let (store, opened) = Store::open(dir, &options).unwrap();
    (store, opened.iter().map(Opened::kind).collect())
}

fn app() -> AppName {
    "pos".parse().unwrap()
}

fn inventory(text: &[u8]) -> OwnedObjects {
    let owned = Owned::by(DriverName::WASM);
    OwnedObjects([(ObjectKey::new("Wasm", Digest::of(text).to_hex()), owned)].into())
}

fn revisions(accepted: &str) -> Revisions {
    let revision = Some(Revision(accepted.to_owned()));
    Revisions { fetched: revision.clone(), accepted: revision.clone(), applied: revision }
}

/// A state folder as a crash would leave it now: what is only in memory is lost.
fn crashed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(dir.join(".")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    copy
}

fn database(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("db/db")).unwrap()
}

#[test]
fn a_few_events_and_how_far_the_source_was_followed_are_on_disk_without_a_write_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.inventory().put(&app(), &inventory(b"1")).unwrap();
    store.commit().unwrap();
    let before = database(dir.path());
    let revisions = Revisions { fetched: Some(Revision("abc".into())), ..Revisions::default() };
    for n in 0..5 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("few", n.to_string())).unwrap();
        store.set_revisions(&revisions).unwrap();
        assert!(store.commit().unwrap());
        assert!(!store.commit().unwrap(), "there is nothing more to do");
    }
    assert_eq!(database(dir.path()), before);

    let copy = crashed(dir.path());
    let (mut after, opened) = open(copy.path());
    assert_eq!(opened, [] as [&str; 0]);
    assert_eq!(after.revisions().unwrap(), revisions);
    let messages: Vec<_> = after.audit().newest(5).unwrap().into_iter().map(|event| event.message).collect();
    assert_eq!(messages, ["0", "1", "2", "3", "4"]);
    assert_eq!(after.audit().head(), store.audit().head());
    // And once more, before the database was written and after.
    after.append_event(Timestamp::UNIX_EPOCH, Draft::new("few", "5")).unwrap();
    after.commit().unwrap();
    let again = crashed(copy.path());
    assert_eq!(open(again.path()).0.audit().newest(1).unwrap()[0].message, "5");
    after.inventory().put(&app(), &inventory(b"2")).unwrap();
    after.commit().unwrap();
    assert_ne!(database(copy.path()), before);
    let (last, opened) = open(crashed(copy.path()).path());
    assert_eq!(opened, [] as [&str; 0]);
    assert_eq!(
        last.audit().verify(last.seal().anchored.as_ref()).unwrap().unwrap().as_ref(),
        after.audit().head()
    );
}

#[test]
fn events_that_are_many_or_large_are_in_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for (count, message) in [(40, "x".to_owned()), (3, "y".repeat(8000))] {
        for _ in 0..count {
            store.append_event(Timestamp::UNIX_EPOCH, Draft::new("many", message.clone())).unwrap();
        }
        store.commit().unwrap();
        let (after, opened) = open(crashed(dir.path()).path());
        assert_eq!(opened, [] as [&str; 0]);
        assert_eq!(after.audit().head(), store.audit().head());
        assert_eq!(after.audit().newest(1).unwrap(), store.audit().newest(1).unwrap());
    }
}

#[test]
fn a_floor_that_was_lost_with_the_anchor_is_known_by_the_database_at_every_start_until_it_is_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.set_revisions(&revisions("five")).unwrap();
    let revision = Revision("five".into());
    store
        .update_anchor(|anchor| {
            anchor.floor = Some(Floor { revision, committed: Timestamp::UNIX_EPOCH, sequence: None });
        })
        .unwrap();
    store.flush().unwrap();
    drop(store);
    fs::remove_file(dir.path().join("anchor")).unwrap();
    for start in 0..3 {
        let (mut store, opened) = open(dir.path());
        assert_eq!(opened.contains(&"store.anchor-lost"), start == 0, "{opened:?}");
        assert_eq!(store.revisions().unwrap(), revisions("five"), "start {start}");
        // The agent writes down what it knows, before it has seen the source again.
        store.set_revisions(&revisions("five")).unwrap();
        store.commit().unwrap();
    }
}

#[test]
fn the_first_commit_after_a_start_brings_to_the_disk_what_a_killed_process_may_have_left_unsynced() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.commit().unwrap();
    drop(store);
    let (mut store, _) = open(dir.path());
    let mut before = database(dir.path());
    for (n, is_written) in [true, false, false].into_iter().enumerate() {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("few", n.to_string())).unwrap();
        store.commit().unwrap();
        let after = database(dir.path());
        assert_eq!(after != before, is_written, "commit {n}");
        before = after;
    }
}
