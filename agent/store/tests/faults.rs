//! A crash at every durable boundary in turn: `cargo test -p holdfast-store --features faults`.
#![cfg(feature = "faults")]
#![allow(clippy::unwrap_used)] // A test that cannot go on stops here.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use holdfast_core::digest::{Digest, Revision};
use holdfast_core::event::Draft;
use holdfast_store::content::Content;
use holdfast_store::records::Revisions;
use holdfast_store::{AuditBounds, Options, Store, fault};
use jiff::Timestamp;

/// So few events that old ones are sealed all the time.
fn options() -> Options {
    let audit = AuditBounds { events: 2, bytes: 1 << 20 };
    let (proven, new) =
        (Timestamp::UNIX_EPOCH, Options::new("till-1".parse().unwrap(), Timestamp::UNIX_EPOCH));
    Options { reserve: 4096, audit, proven, ..new }
}

/// Every kind of write once; the second round changes what the first one wrote.
fn work(dir: &Path) {
    for round in 1..=2 {
        let (mut store, _) = Store::open(dir, &options()).unwrap();
        let digest = store.content().put(&[round; 100]).unwrap();
        download(store.content(), &[round + 10; 100]);
        let applied = Some(Revision(round.to_string()));
        store.set_revisions(&Revisions { applied, ..Revisions::default() }).unwrap();
        for _ in 0..5 {
            store.append_event(Timestamp::UNIX_EPOCH, Draft::new("round", round.to_string())).unwrap();
        }
        let second = Timestamp::from_second(round.into()).unwrap();
        store.update_anchor(|anchor| anchor.time_floor = second).unwrap();
        store.content().collect(&[digest].into()).unwrap();
        // Last, as what is broken by it stays so.
        if round == 2 {
            store.rebuild_database(Timestamp::UNIX_EPOCH, "a test").unwrap();
            store
                .set_revisions(&Revisions { applied: Some(Revision("2".into())), ..Revisions::default() })
                .unwrap();
        }
    }
}

/// A download that goes on with what a crash left of it.
fn download(content: &Content, bytes: &[u8]) {
    let mut partial =
        content.partial(Digest::of(bytes), bytes.len() as u64, std::time::Duration::ZERO).unwrap();
    let missing = &bytes[partial.length() as usize..];
    partial.append(missing).unwrap();
    partial.commit().unwrap();
}

#[test]
fn a_crash_at_any_durable_boundary_leaves_the_old_or_the_new_and_the_work_can_be_done_again() {
    if let Some(dir) = std::env::var_os("HOLDFAST_TEST_DIR") {
        return work(Path::new(&dir));
    }
    for name in fault::STORE_NAMES {
        let mut crashes = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().join("state");
            let crashed = run(&state, &format!("{name}:{}", crashes + 1));
            check(&state, &format!("{name}, hit {}", crashes + 1));
            if !crashed {
                break;
            }
            crashes += 1;
            work(&state);
            let (store, opened) = Store::open(&state, &options()).unwrap();
            assert_eq!(opened, [], "{name}");
            assert_eq!(store.anchor().time_floor.as_second(), 2);
            assert_eq!(store.revisions().unwrap().applied, Some(Revision("2".into())));
            assert!(store.content().verify(&Digest::of(&[2; 100])).unwrap());
            assert_eq!(store.content().list().len(), 1);
        }
        assert!(crashes > 0, "the work never came by {name}");
    }
}

#[test]
fn a_fault_that_does_not_exist_ends_the_process_with_a_word() {
    let output = child(Path::new("/nonexistent"), "anchor.slot-writen").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("names no fault point"));
}

/// After the crash the store opens, and what it holds is whole.
fn check(state: &Path, what: &str) {
    let (store, opened) = Store::open(state, &options()).unwrap();
    let floor = store.anchor().time_floor.as_second();
    assert!((0..=2).contains(&floor), "{what}");
    for digest in store.content().list().keys() {
        assert!(store.content().verify(digest).unwrap(), "{what}");
    }
    let lost = opened.iter().any(|report| report.kind() == "store.anchor-lost");
    assert!(!lost, "{what}: {opened:?}");
    // However few events are left of it, the log is whole from its first one, unless the work damaged the database.
    let verified = store.audit().verify(store.anchor().audit_head.as_ref()).unwrap();
    let damaged = std::fs::read_dir(state).unwrap().flatten();
    let damaged =
        damaged.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("db.damaged"));
    assert!(verified.is_ok() || damaged, "{what}: {verified:?}");
}

/// Runs the work in a child; gives whether it crashed.
fn run(state: &Path, fault: &str) -> bool {
    let output = child(state, fault).output().unwrap();
    let crashed = output.status.signal() == Some(6);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(crashed || output.status.success(), "{fault}: the work failed by itself: {said}");
    crashed
}

fn child(state: &Path, fault: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "a_crash_at_any_durable_boundary_leaves_the_old_or_the_new_and_the_work_can_be_done_again",
        ])
        .env("HOLDFAST_TEST_DIR", state)
        .env("HOLDFAST_FAULT", fault);
    command
}
