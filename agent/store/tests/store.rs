//! The whole store from outside: what it tells, what it survives, and that it is quiet.

#![allow(clippy::unwrap_used)] // A test that cannot go on stops here.

use std::fs;
use std::path::Path;

use holdfast_core::clock::BootId;
use holdfast_core::digest::{Digest, ReleaseId, Revision};
use holdfast_core::event::Draft;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::DriverKind;
use holdfast_store::anchor::{Floor, Transaction, TransactionKind};
use holdfast_store::keystore::Keystore;
use holdfast_store::records::{Inventory, Owned, Revisions};
use holdfast_store::{Opened, Options, Store, StoreError};
use jiff::Timestamp;

fn options() -> Options {
    Options::new("emea/till-1".parse().unwrap(), Timestamp::UNIX_EPOCH)
}

fn open(dir: &Path) -> (Store, Vec<&'static str>) {
    let (store, opened) = Store::open(dir, &options()).unwrap();
    (store, opened.iter().map(Opened::kind).collect())
}

fn app() -> AppName {
    "pos".parse().unwrap()
}

fn inventory(text: &[u8]) -> Inventory {
    let owned = Owned { driver: DriverKind::Wasm, release: ReleaseId(Digest::of(text)) };
    Inventory { objects: [(ObjectKey::new("Wasm", "pos"), owned)].into() }
}

fn floor(text: &str) -> Floor {
    Floor { revision: Revision(text.to_owned()), committed: Timestamp::UNIX_EPOCH }
}

#[test]
fn what_was_kept_is_there_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("state");
    let (mut store, opened) = open(&dir);
    assert_eq!(opened, ["store.created"]);
    let digest = store.content().put(b"hello").unwrap();
    store.inventory().put(&app(), &inventory(b"1")).unwrap();
    let revisions = Revisions { fetched: Some(Revision("abc".into())), ..Revisions::default() };
    store.set_revisions(&revisions).unwrap();
    store.update_anchor(|anchor| anchor.floor = Some(floor("abc"))).unwrap();
    let recipient = store.keys().age_recipient();
    drop(store);

    let (store, opened) = open(&dir);
    assert_eq!(opened, [] as [&str; 0]);
    assert_eq!(store.content().read(&digest, 100).unwrap().unwrap(), b"hello");
    assert_eq!(store.inventory().all().unwrap()[&app()], inventory(b"1"));
    assert_eq!(store.revisions().unwrap(), revisions);
    assert_eq!(store.anchor().floor, Some(floor("abc")));
    assert_eq!(store.keys().age_recipient(), recipient);
    assert_eq!(store.audit().after(0, 10).unwrap()[0].kind, "store.created");
}

/// Bytes that this process has had written to disk, and bytes that it has handed to write().
fn written() -> (u64, u64) {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let field = |name: &str| {
        io.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse::<u64>().unwrap()
    };
    (field("write_bytes:"), field("wchar:"))
}

/// In a process of its own, since the harness and other tests write too.
#[test]
fn a_pass_that_changes_nothing_writes_not_one_byte() {
    if std::env::var_os("HOLDFAST_TEST_CHILD").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_pass_that_changes_nothing_writes_not_one_byte", "--nocapture"])
            .env("HOLDFAST_TEST_CHILD", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let pass = |store: &mut Store| {
        store.inventory().put(&app(), &inventory(b"1")).unwrap();
        store.inventory().replace(&[(app(), inventory(b"1"))].into()).unwrap();
        store
            .set_revisions(&Revisions { fetched: Some(Revision("a".into())), ..Revisions::default() })
            .unwrap();
        store.update_anchor(|anchor| anchor.floor = Some(floor("a"))).unwrap();
        let digest = store.content().put(b"hello").unwrap();
        store.content().collect(&[digest].into()).unwrap();
        store.orphans().all().unwrap();
        store.reserve().restore().unwrap();
        store.flush().unwrap();
        store.audit().newest(10).unwrap();
    };
    pass(&mut store);
    let before = written();
    for _ in 0..10 {
        pass(&mut store);
    }
    assert_eq!(written(), before);
}

#[test]
fn a_second_agent_is_told_who_holds_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = open(dir.path());
    let refused = Store::open(dir.path(), &options()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
}

#[test]
fn a_missing_anchor_beside_other_things_is_said_to_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::remove_file(dir.path().join("anchor")).unwrap();
    assert_eq!(open(dir.path()).1, ["store.anchor-lost"]);
    assert_eq!(open(dir.path()).1, [] as [&str; 0]);
}

#[test]
fn a_database_of_garbage_is_set_aside_and_the_audit_log_goes_on_with_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.append_event(Timestamp::UNIX_EPOCH, Draft::new("a", "b")).unwrap();
    store.update_anchor(|anchor| anchor.floor = Some(floor("a"))).unwrap();
    let head = store.anchor().audit_head.clone().unwrap();
    drop(store);
    for entry in fs::read_dir(dir.path().join("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let len = fs::metadata(&path).unwrap().len() as usize;
            fs::write(&path, vec![0xA5; len]).unwrap();
        }
    }
    let (store, opened) = open(dir.path());
    assert_eq!(opened, ["store.rebuilt", "audit.cut"]);
    let events = store.audit().after(0, 10).unwrap();
    assert_eq!((events[0].seq, events[0].prev), (head.seq + 1, head.hash));
    assert!(store.inventory().all().unwrap().is_empty());
    assert_eq!(store.anchor().floor, Some(floor("a")));
    assert!(dir.path().join("db.damaged-1").exists());
}

#[test]
fn an_open_transaction_is_found_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let transaction = Transaction {
        app: app(),
        release: Some(ReleaseId(Digest::of(b"x"))),
        kind: TransactionKind::Change,
        boot: BootId("b".into()),
        deaths_this_boot: 0,
        boots: 1,
        opened: Timestamp::UNIX_EPOCH,
    };
    store.update_anchor(|anchor| anchor.transaction = Some(transaction.clone())).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).0.anchor().transaction, Some(transaction));
}
