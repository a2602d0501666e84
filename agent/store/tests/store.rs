//! The whole store from outside: what it reports, what it survives, and that it writes nothing at rest.

#![allow(clippy::unwrap_used)] // A test that cannot go on stops here.

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast_core::clock::BootId;
use holdfast_core::digest::{Digest, ReleaseId, Revision};
use holdfast_core::event::segment::MAX_SEGMENTS;
use holdfast_core::event::{ChainHead, Draft};
use holdfast_core::generation::{Failure, Owned, OwnedObjects};
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::runtime::DriverName;
use holdfast_store::anchor::{
    Anchor, AnchorFile, AnchorState, Floor, SetAside, Transaction, TransactionKind,
};
use holdfast_store::db::Record;
use holdfast_store::keystore::Keystore;
use holdfast_store::records::Revisions;
use holdfast_store::{AuditBounds, Opened, Options, Store, StoreError};
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

fn inventory(text: &[u8]) -> OwnedObjects {
    let owned = Owned::by(DriverName::WASM);
    let name = Digest::of(text).to_hex();
    OwnedObjects([(ObjectKey::new("Wasm", name), owned)].into())
}

fn floor(text: &str) -> Floor {
    Floor { revision: Revision(text.to_owned()), committed: Timestamp::UNIX_EPOCH, sequence: None }
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
    assert_eq!(store.revisions().unwrap(), Revisions { accepted: Some(Revision("abc".into())), ..revisions });
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
        store.apps().all().unwrap();
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
fn open_transactions_are_found_after_a_kill() {
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
        under_way: true,
    };
    let of_another = Transaction { app: "menu".parse().unwrap(), under_way: false, ..transaction.clone() };
    for open in [&transaction, &of_another] {
        store.update_anchor(|anchor| anchor.open_transaction(open.clone())).unwrap();
    }
    drop(store);
    let (mut store, _) = open(dir.path());
    assert_eq!(store.anchor().transactions, [transaction, of_another.clone()]);
    store.update_anchor(|anchor| anchor.close_transaction(&app())).unwrap();
    assert_eq!(store.anchor().transactions, [of_another]);
}

/// sled ends its log silently at the first page that it can't read.
#[test]
fn a_database_that_silently_went_back_in_time_is_rebuilt_and_keeps_its_older_events() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.inventory().put(&app(), &inventory(b"1")).unwrap();
    store.update_anchor(|anchor| anchor.floor = Some(floor("a"))).unwrap();
    let log = dir.path().join("db/db");
    let flushed = fs::metadata(&log).unwrap().len() as usize;
    for n in 0..20 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", n.to_string())).unwrap();
        store.inventory().put(&app(), &inventory(&[n])).unwrap();
    }
    store.update_anchor(|anchor| anchor.floor = Some(floor("b"))).unwrap();
    drop(store);
    let mut bytes = fs::read(&log).unwrap();
    bytes[flushed + 200] ^= 1;
    fs::write(&log, bytes).unwrap();
    for entry in fs::read_dir(dir.path().join("db")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }

    let (store, opened) = open(dir.path());
    assert_eq!(opened, ["store.rebuilt", "audit.cut"]);
    assert!(store.inventory().all().unwrap().is_empty());
    assert_eq!(store.audit().after(0, 1).unwrap()[0].kind, "store.created");
    assert_eq!(store.audit().newest(1).unwrap()[0].kind, "audit.cut");
    assert!(store.audit().verify(None).unwrap().is_err(), "the gap must stay visible");
    assert_eq!(store.anchor().floor, Some(floor("b")));
    drop(store);
    assert_eq!(open(dir.path()).1, [] as [&str; 0]);
}

#[test]
fn old_events_are_sealed_and_all_of_the_log_is_still_one_chain_from_event_1() {
    let dir = tempfile::tempdir().unwrap();
    let few = Options { audit: AuditBounds { events: 10, bytes: 1 << 20 }, ..options() };
    let (mut store, _) = Store::open(dir.path(), &few).unwrap();
    for n in 0..400 {
        let event = store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", n.to_string())).unwrap();
        assert_eq!(event.message, n.to_string());
        let events = store.audit().after(0, 100).unwrap();
        assert!(events.len() <= 10, "{events:?}");
        let sealed = store.audit().segments().last().map_or(0, |newest| newest.last);
        assert_eq!(events[0].seq, sealed + 1);
        assert_eq!(store.audit().verify(None).unwrap().unwrap().as_ref(), store.audit().head());
    }
    assert!(store.audit().segments().iter().count() <= MAX_SEGMENTS);
    store.update_anchor(|anchor| anchor.floor = Some(floor("a"))).unwrap();
    let head = store.audit().head().cloned();
    drop(store);
    let (mut store, opened) = Store::open(dir.path(), &few).unwrap();
    assert_eq!(opened, []);
    assert_eq!(store.audit().head(), head.as_ref());
    for n in 0..20 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", n.to_string())).unwrap();
    }
    assert!(store.audit().after(0, 100).unwrap().len() <= 10);
    let sealed = store.audit().segments().last().unwrap().last;
    let anchored = store.anchor().audit_head.clone().unwrap();
    assert!(anchored.seq > sealed, "the anchor's head can be looked up");
    assert_eq!(store.audit().verify(Some(&anchored)).unwrap().unwrap().as_ref(), store.audit().head());
}

#[test]
fn the_audit_log_is_bounded_in_bytes_too_after_a_restart_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { audit: AuditBounds { events: 10_000, bytes: 20_000 }, ..options() };
    for _ in 0..5 {
        let (mut store, _) = Store::open(dir.path(), &small).unwrap();
        for _ in 0..40 {
            store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", "y".repeat(1000))).unwrap();
            let events = store.audit().after(0, 1000).unwrap();
            let bytes: usize = events.iter().map(|event| serde_json::to_vec(event).unwrap().len()).sum();
            assert!(bytes <= 20_000, "{bytes} bytes of {} events", events.len());
        }
        assert!(store.audit().after(0, 1000).unwrap().len() >= 10);
        assert_eq!(store.audit().verify(None).unwrap().unwrap().as_ref(), store.audit().head());
    }
}

/// A log of 100 events in pages of 5, of which the newest are in the database.
fn paged(dir: &Path) -> (Store, Options) {
    let options = Options { audit: AuditBounds { events: 200, bytes: 1 << 20 }, ..options() };
    let (mut store, _) = Store::open(dir, &options).unwrap();
    while store.audit().head().is_none_or(|head| head.seq < 100) {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", "of many")).unwrap();
    }
    store.anchor_head().unwrap();
    (store, options)
}

fn seqs(store: &Store, after: u64, limit: usize) -> Vec<u64> {
    store.audit().after(after, limit).unwrap().iter().map(|event| event.seq).collect()
}

fn pages(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir.join("events")).unwrap().flatten();
    let mut names: Vec<String> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn older_events_are_in_files_of_some_each_and_are_read_as_if_they_were_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, options) = paged(dir.path());
    let names = pages(dir.path());
    assert_eq!((names.len(), names[0].as_str()), (19, "00000000000000000001-00000000000000000005"));
    for _ in 0..2 {
        for (after, limit) in [(0, 1000), (3, 4), (89, 3), (94, 2), (95, 100), (100, 5)] {
            let wanted: Vec<u64> = (after + 1..=100).take(limit).collect();
            assert_eq!(seqs(&store, after, limit), wanted);
        }
        assert_eq!(store.audit().newest(7).unwrap()[0].seq, 94);
        assert_eq!(store.audit().verify(None).unwrap().unwrap().as_ref(), store.audit().head());
        drop(store);
        store = Store::open(dir.path(), &options).unwrap().0;
    }
}

/// What another version of the agent may have written.
#[derive(serde::Serialize, serde::Deserialize)]
struct Newer(u8);

impl Record for Newer {
    const FORMAT: u8 = 9;
}

#[test]
fn a_record_that_cannot_be_read_has_the_database_rebuilt_and_its_events_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, options) = paged(dir.path());
    store.table::<AppName, Newer>("apps").put(&app(), &Newer(1)).unwrap();
    store.flush().unwrap();
    drop(store);
    let (store, opened) = Store::open(dir.path(), &options).unwrap();
    assert_eq!(opened.iter().map(Opened::kind).collect::<Vec<_>>(), ["store.rebuilt"]);
    assert!(opened[0].to_string().contains("apps"), "{}", opened[0]);
    assert_eq!(store.apps().all().unwrap().len(), 0);
    assert_eq!(seqs(&store, 0, 1000), (1..=101).collect::<Vec<_>>());
    assert_eq!(store.audit().verify(None).unwrap().unwrap().as_ref(), store.audit().head());
}

#[test]
fn what_turns_out_damaged_while_it_is_used_is_known_until_the_database_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = paged(dir.path());
    assert_eq!(store.damage(), None);
    // Events are only read when somebody asks for them.
    store.table::<u64, Newer>("events").put(&97, &Newer(1)).unwrap();
    assert!(store.audit().after(90, 100).unwrap_err().is_damage());
    let damage = store.damage().unwrap();
    assert!(damage.contains("events") && damage.contains("format 9"), "{damage}");
    store.rebuild_database(Timestamp::UNIX_EPOCH, &damage).unwrap();
    assert_eq!(store.damage(), None);
    assert_eq!(seqs(&store, 90, 100), [91, 92, 93, 94, 95, 96, 98, 99, 100, 101]);
    assert_eq!(store.audit().verify(None).unwrap().unwrap_err().seq, 98, "the gap must stay visible");
}

#[test]
fn a_lost_database_takes_only_the_newest_events_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, options) = paged(dir.path());
    drop(store);
    fs::write(dir.path().join("db/db"), "garbage").unwrap();
    let (mut store, opened) = Store::open(dir.path(), &options).unwrap();
    let kinds: Vec<&str> = opened.iter().map(Opened::kind).collect();
    assert_eq!(kinds, ["store.rebuilt", "audit.cut"]);
    assert_eq!(seqs(&store, 0, 1000), (1..=95).chain(101..=102).collect::<Vec<_>>());
    assert_eq!(store.audit().verify(None).unwrap().unwrap_err().seq, 101, "the gap must stay visible");

    // As if it were found while the agent runs; what was sealed until then is known.
    for _ in 0..150 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", "after")).unwrap();
    }
    let segments = store.audit().segments().clone();
    assert!(!segments.is_empty());
    store.rebuild_database(Timestamp::UNIX_EPOCH, "a test").unwrap();
    assert_eq!(store.audit().segments(), &segments);
    assert!(store.audit().after(0, 1000).unwrap().len() > 100);
}

#[test]
fn a_database_and_an_anchor_that_are_older_than_the_pages_go_on_after_these() {
    let dir = tempfile::tempdir().unwrap();
    let (store, options) = paged(&dir.path().join("state"));
    let older = dir.path().join("older");
    let copied = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-rT").args([from, to]).status().unwrap().success());
    };
    drop(store);
    copied(&dir.path().join("state"), &older);
    let (mut store, _) = Store::open(&dir.path().join("state"), &options).unwrap();
    for _ in 0..48 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", "newer")).unwrap();
    }
    drop(store);
    // Its database has events 96 to 100; the last page of the newer one ends with 140.
    copied(&dir.path().join("state/events"), &older.join("events"));
    let (mut store, opened) = Store::open(&older, &options).unwrap();
    assert_eq!((opened, seqs(&store, 138, 9)), (vec![], vec![139, 140]));
    store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", "the first")).unwrap();
    drop(store);
    (store, _) = Store::open(&older, &options).unwrap();
    assert_eq!(seqs(&store, 0, 1000), (1..=141).collect::<Vec<_>>());
    for _ in 0..29 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", "newest")).unwrap();
        assert_eq!(store.audit().verify(None).unwrap().unwrap().as_ref(), store.audit().head());
    }
    assert_eq!(seqs(&store, 0, 1000), (1..=170).collect::<Vec<_>>());
    drop(store);
    let (store, _) = Store::open(&older, &options).unwrap();
    assert_eq!(seqs(&store, 0, 1000), (1..=170).collect::<Vec<_>>());
}

#[test]
fn what_is_no_folder_where_older_events_should_be_is_set_aside_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let (store, options) = paged(dir.path());
    drop(store);
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    fs::write(dir.path().join("events"), "what a repair of the file system left").unwrap();
    let (store, opened) = Store::open(dir.path(), &options).unwrap();
    assert_eq!(opened.iter().map(Opened::kind).collect::<Vec<_>>(), ["audit.pages-set-aside"]);
    assert_eq!(seqs(&store, 0, 1000), (96..=101).collect::<Vec<_>>());
    assert!(dir.path().join("events.damaged-1").is_file());
    assert!(store.audit().verify(None).unwrap().is_err(), "the gap must stay visible");
}

#[test]
fn a_page_that_cannot_be_read_costs_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, options) = paged(dir.path());
    store
        .set_revisions(&Revisions { applied: Some(Revision("kept".into())), ..Revisions::default() })
        .unwrap();
    store.flush().unwrap();
    let anchored = store.anchor().audit_head.clone();
    drop(store);
    // The page with the anchor's head on it, as a power cut before the anchor was written leaves it.
    let newest = pages(dir.path()).pop().unwrap();
    fs::write(dir.path().join("events").join(newest), "garbage").unwrap();
    (store, _) = Store::open(dir.path(), &options).unwrap();
    assert_eq!(store.anchor().audit_head, anchored);
    assert_eq!(store.revisions().unwrap().applied, Some(Revision("kept".into())));
    assert_eq!(seqs(&store, 88, 1000), [89, 90, 96, 97, 98, 99, 100]);
    // And an error each time instead of an answer is no reason to stop.
    let oldest = dir.path().join("events").join(&pages(dir.path())[0]);
    fs::remove_file(&oldest).unwrap();
    fs::create_dir(&oldest).unwrap();
    for n in 0..250 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", n.to_string())).unwrap();
    }
    assert!(seqs(&store, 0, 1000).len() <= 200);
}

#[test]
fn a_stray_file_with_the_name_of_the_highest_page_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (store, options) = paged(dir.path());
    drop(store);
    fs::write(dir.path().join("events/00000000000000000200-18446744073709551615"), "x").unwrap();
    let (mut store, opened) = Store::open(dir.path(), &options).unwrap();
    assert_eq!(opened, []);
    store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", "y")).unwrap();
    assert_eq!(store.audit().verify(None).unwrap().unwrap().as_ref(), store.audit().head());
}

#[test]
fn a_folder_that_takes_no_page_keeps_no_event_out_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { audit: AuditBounds { events: 200, bytes: 1 << 20 }, ..options() };
    let (mut store, _) = Store::open(dir.path(), &options).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("events")).unwrap();
    for n in 0..300 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", n.to_string())).unwrap();
        assert!(seqs(&store, 0, 1000).len() <= 200);
        assert!(store.audit().verify(None).unwrap().is_ok());
    }
    assert!(!store.audit().segments().is_empty(), "the bounds hold without pages too");
    fs::remove_file(dir.path().join("events")).unwrap();
    for n in 0..20 {
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("x", n.to_string())).unwrap();
    }
    assert!(pages(dir.path()).len() > 2);
    assert!(store.audit().verify(None).unwrap().is_ok());
}

/// Anchors that were written once must open for ever.
#[test]
fn an_anchor_of_format_1_opens() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/anchor-v1.bin");
    if std::env::var_os("HOLDFAST_WRITE_FIXTURES").is_some() {
        fs::create_dir_all(fixture.parent().unwrap()).unwrap();
        fs::write(&fixture, holdfast_store::anchor::encode_slot(7, &full_anchor()).unwrap()).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("anchor");
    fs::copy(&fixture, &path).unwrap();
    let fresh = Anchor::new("other".parse().unwrap(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    let (mut anchor, _) = AnchorFile::open(&path, fresh.clone()).unwrap();
    assert_eq!(*anchor.get(), full_anchor());
    anchor.update(|anchor| anchor.floor = None).unwrap();
    let (again, state) = AnchorFile::open(&path, fresh).unwrap();
    assert_eq!((again.get(), state), (anchor.get(), AnchorState::Intact));
}

/// An anchor with every field filled.
fn full_anchor() -> Anchor {
    let at: Timestamp = "2026-11-21T09:00:00.5Z".parse().unwrap();
    let release = ReleaseId(Digest::of(b"release"));
    let mut anchor = Anchor::new("emea/till-1".parse().unwrap(), at, at);
    anchor.floor = Some(Floor { revision: Revision("c0ffee".into()), committed: at, sequence: None });
    anchor.remember_failed(
        &app(),
        release,
        &Failure { reason: "it never answered".into(), judged_by: None },
        at,
    );
    anchor.audit_head = Some(ChainHead { seq: 41, hash: Digest::of(b"event") });
    anchor.open_transaction(Transaction {
        app: app(),
        release: Some(release),
        kind: TransactionKind::Rollback,
        boot: BootId("b007".into()),
        deaths_this_boot: 2,
        boots: 3,
        opened: at,
        under_way: true,
    });
    anchor.set_aside.insert(app(), SetAside { release: None, attempts: 3, next: at });
    anchor
}
