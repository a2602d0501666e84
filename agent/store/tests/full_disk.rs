//! A full disk and a read-only one, on real mounts. Needs root; without it these tests fail, loudly.
#![allow(clippy::unwrap_used)] // A test that cannot go on stops here.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use holdfast_core::digest::{Digest, Revision};
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::event::Draft;
use holdfast_store::db::DbOptions;
use holdfast_store::records::Revisions;
use holdfast_store::{Options, Store, StoreError};
use jiff::Timestamp;

/// A small file system of its own, gone when it is dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("{options},mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "holdfast-test"]).arg(dir.path()));
        Tmpfs(dir)
    }

    /// A process that another test just starts has our files open until it has become another program.
    fn remount(&self, options: &str) {
        let attempt = || {
            let mut mount = Command::new("mount");
            mount.args(["-o", &format!("remount,{options}")]).arg(self.path()).status().unwrap().success()
        };
        let done = (0..100).any(|_| {
            attempt() || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                false
            }
        });
        assert!(done, "it can't be mounted again as {options}");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves not one free block.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.path().join("filler")).unwrap();
        for size in [65536, 4096, 1] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
    }

    /// Leaves not one free inode; gives the files that hold them.
    fn take_inodes(&self) -> Vec<std::path::PathBuf> {
        let paths = (0..).map(|n| self.path().join(format!("inode-{n}")));
        paths.take_while(|path| File::create(path).is_ok()).collect()
    }

    /// Gives all of it back. By its length first: a process that another test just starts may have the file open.
    fn empty(&self) {
        let filler = self.path().join("filler");
        File::options().write(true).open(&filler).unwrap().set_len(0).unwrap();
        fs::remove_file(filler).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test mounts a tmpfs, for which it must be root: {command:?}: {said}"
    );
}

fn options() -> Options {
    Options { reserve: 1 << 20, ..Options::new("till-1".parse().unwrap(), Timestamp::UNIX_EPOCH) }
}

fn revisions(text: String) -> Revisions {
    Revisions { fetched: Some(Revision(text)), ..Revisions::default() }
}

fn is_full<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(error) if error.is_full())
}

#[test]
fn a_full_disk_is_an_error_and_leaves_room_for_the_anchor_and_the_log() {
    let disk = Tmpfs::new("size=8m");
    let dir = disk.path().join("state");
    let (mut store, _) = Store::open(&dir, &options()).unwrap();
    let kept = store.content().put(b"kept").unwrap();
    store.set_revisions(&revisions("before".into())).unwrap();
    store.flush().unwrap();
    disk.fill();

    assert!(is_full(store.content().put(&[1; 10_000])), "content gets nothing of the reserve");
    assert_eq!(store.content().read(&kept, 10).unwrap().unwrap(), b"kept");
    store.update_anchor(|anchor| anchor.time_floor = Timestamp::MAX).unwrap();
    store.append_event(Timestamp::UNIX_EPOCH, Draft::new("disk.full", "x".repeat(2000))).unwrap();
    store.set_revisions(&revisions("during".into())).unwrap();
    store.commit().unwrap();
    drop(store);

    // A start on a disk that is full to the brim is one too, and loses nothing.
    disk.fill();
    let (store, opened) = Store::open(&dir, &options()).unwrap();
    assert_eq!(opened, []);
    assert_eq!(store.anchor().time_floor, Timestamp::MAX);
    assert_eq!(store.revisions().unwrap(), revisions("during".into()));
    assert_eq!(store.audit().newest(1).unwrap()[0].kind, "disk.full");
    assert_eq!(store.content().read(&kept, 10).unwrap().unwrap(), b"kept");
    assert!(!store.reserve().restore().unwrap());
    disk.empty();
    assert!(store.reserve().restore().unwrap(), "with room again, the reserve is made again");
}

#[test]
fn a_download_that_the_disk_cannot_hold_is_not_begun_and_one_that_fills_it_gives_its_room_back() {
    let disk = Tmpfs::new("size=8m");
    let (store, _) = Store::open(&disk.path().join("state"), &options()).unwrap();
    let content = store.content();
    let (wanted, patience) = (Digest::of(b"large"), std::time::Duration::ZERO);
    assert!(is_full(content.partial(wanted, 64 << 20, patience)), "the budget would allow it");

    let mut partial = content.partial(wanted, 4 << 20, patience).unwrap();
    partial.append(&vec![1; 2 << 20]).unwrap();
    disk.fill();
    assert!(is_full(partial.append(&vec![1; 1 << 20])));
    drop(partial);
    assert_eq!((content.downloaded(&wanted), content.used()), (0, 0));
    // What it held is free: that much can be written again.
    content.put(&vec![2; 1 << 20]).unwrap();
}

#[test]
fn a_disk_that_is_full_beyond_the_reserve_gives_errors_until_there_is_room_again() {
    let disk = Tmpfs::new("size=8m");
    let dir = disk.path().join("state");
    let (mut store, _) = Store::open(&dir, &options()).unwrap();
    store.set_revisions(&revisions("before".into())).unwrap();
    store.update_anchor(|anchor| anchor.time_floor = Timestamp::MAX).unwrap();
    disk.fill();
    let mut failed = false;
    for n in 0..3000 {
        let put = store.set_revisions(&revisions(format!("{n}{}", "x".repeat(2000))));
        let put = put.and_then(|_| store.append_event(Timestamp::UNIX_EPOCH, Draft::new("n", n.to_string())));
        let flushed = put.and_then(|_| store.flush());
        if is_full(flushed) {
            failed = true;
            break;
        }
        disk.fill();
    }
    assert!(failed, "3,000 records fit on a full disk");
    let readable = store.revisions();
    assert!(readable.is_ok() || is_full(readable));
    // A head that isn't on disk must never come into the anchor.
    store.update_anchor(|anchor| anchor.time_floor = Timestamp::MIN).unwrap();
    disk.empty();
    let after_failure = Timestamp::from_second(1).unwrap();
    store.update_anchor(|anchor| anchor.time_floor = after_failure).unwrap();
    let head = store.anchor().audit_head.clone().unwrap();
    let kept = store.audit().after(head.seq - 1, 1).unwrap();
    assert_eq!(kept[0].hash, head.hash);
    let after = revisions("after".into());
    store.set_revisions(&after).unwrap();
    store.flush().unwrap();
    store.append_event(Timestamp::UNIX_EPOCH, Draft::new("disk.room", "")).unwrap();
    store.update_anchor(|anchor| anchor.time_floor = Timestamp::UNIX_EPOCH).unwrap();
    drop(store);
    let (store, opened) = Store::open(&dir, &options()).unwrap();
    assert_eq!(opened, []);
    assert_eq!(store.revisions().unwrap(), after);
    assert!(store.audit().verify(store.anchor().audit_head.as_ref()).unwrap().is_ok());
}

#[test]
fn what_was_put_while_the_disk_refused_it_is_on_disk_once_there_is_room() {
    let disk = Tmpfs::new("size=8m");
    let dir = disk.path().join("state");
    // As if somebody else took the room at the last moment: it is sled that finds the disk full.
    let db = DbOptions { room: 0, ..DbOptions::default() };
    let (mut store, _) = Store::open(&dir, &Options { db, ..options() }).unwrap();
    store.flush().unwrap();
    store.reserve().release().unwrap();
    let mut put = Revisions::default();
    for n in 0..3000 {
        assert!(n < 2999, "3,000 records fit on a full disk");
        disk.fill();
        let next = revisions(format!("{n}{}", "x".repeat(2000)));
        if is_full(store.set_revisions(&next)) {
            break;
        }
        put = next;
        let event = store.append_event(Timestamp::UNIX_EPOCH, Draft::new("n", n.to_string()));
        if is_full(event.and_then(|_| store.flush())) {
            break;
        }
    }
    let head = store.audit().head().cloned();
    // Again and again, and nothing is lost of it, in memory either.
    for _ in 0..3 {
        assert!(is_full(store.flush()));
    }
    disk.empty();
    store.flush().unwrap();
    assert_eq!((store.revisions().unwrap(), store.audit().head()), (put.clone(), head.as_ref()));
    drop(store);
    let (store, opened) = Store::open(&dir, &options()).unwrap();
    assert_eq!(opened, []);
    assert_eq!(store.revisions().unwrap(), put);
    assert_eq!(store.audit().newest(1).unwrap()[0].head(), head.unwrap());
    assert!(store.audit().verify(None).unwrap().is_ok());
}

#[test]
fn an_error_of_a_write_in_the_background_fails_nothing_that_comes_when_there_is_room_again() {
    let disk = Tmpfs::new("size=8m");
    let dir = disk.path().join("state");
    // It is sled that finds the disk full, whenever it writes what it has gathered.
    let db = DbOptions { room: 0, ..DbOptions::default() };
    let (mut store, _) = Store::open(&dir, &Options { db, ..options() }).unwrap();
    store.flush().unwrap();
    store.reserve().release().unwrap();
    // After so many records it has gathered enough, wherever it was in its segment before.
    for count in 0..100 {
        disk.fill();
        for n in 0..count {
            let put = store.set_revisions(&revisions(format!("{count} {n} {}", "x".repeat(2000))));
            if is_full(put) {
                break;
            }
        }
        disk.empty();
        let last = revisions(format!("{count}"));
        store.set_revisions(&last).unwrap_or_else(|error| panic!("after {count} records: {error}"));
        store.flush().unwrap_or_else(|error| panic!("after {count} records: {error}"));
        assert_eq!(store.revisions().unwrap(), last);
    }
}

#[test]
fn the_first_write_that_finds_the_disk_full_is_done_by_the_reserve() {
    let disk = Tmpfs::new("size=8m");
    let dir = disk.path().join("state");
    let (mut store, _) = Store::open(&dir, &options()).unwrap();
    store.flush().unwrap();
    let mut last = None;
    for n in 0..3000 {
        disk.fill();
        let put = revisions(format!("{n}{}", "x".repeat(2000)));
        store.set_revisions(&put).unwrap();
        store.flush().unwrap();
        if !store.reserve().is_held() {
            last = Some(put);
            break;
        }
    }
    let put = last.expect("3,000 records fit without the reserve");
    drop(store);
    let (store, opened) = Store::open(&dir, &options()).unwrap();
    assert_eq!(opened, []);
    assert_eq!(store.revisions().unwrap(), put);
}

#[test]
fn events_that_the_disk_refuses_are_in_the_log_in_their_order_once_it_takes_them() {
    let disk = Tmpfs::new("size=8m");
    let dir = disk.path().join("state");
    let (mut store, _) = Store::open(&dir, &options()).unwrap();
    store.flush().unwrap();
    store.reserve().release().unwrap();
    disk.fill();
    let at = |second| Timestamp::from_second(second).unwrap();
    for second in 1..=3 {
        let refused = store.append_event(at(second), Draft::new("disk.full", second.to_string()));
        assert!(is_full(refused));
    }
    disk.empty();
    let event = store.append_event(at(9), Draft::new("disk.room", "again")).unwrap();
    assert_eq!(event.kind, "disk.room");
    let newest = store.audit().newest(4).unwrap();
    let told: Vec<(i64, &str)> =
        newest.iter().map(|event| (event.time.as_second(), event.message.as_str())).collect();
    assert_eq!(told, [(1, "1"), (2, "2"), (3, "3"), (9, "again")]);
    assert!(store.audit().verify(None).unwrap().is_ok());
}

#[test]
fn older_events_stay_in_the_database_where_a_page_would_take_the_room_that_this_needs() {
    let disk = Tmpfs::new("size=16m");
    let dir = disk.path().join("state");
    let small = Options { reserve: 4096, ..options() };
    let (mut store, _) = Store::open(&dir, &small).unwrap();
    let event = || Draft::new("x", "y".repeat(600));
    while store.audit().head().is_none_or(|head| head.seq < 485) {
        store.append_event(Timestamp::UNIX_EPOCH, event()).unwrap();
    }
    store.flush().unwrap();
    // The next page is due at 500 events, and would be of some 200 KB.
    let room = store.room().unwrap().bytes - 700_000;
    fs::write(disk.path().join("other"), vec![7; room as usize]).unwrap();
    for _ in 0..60 {
        store.append_event(Timestamp::UNIX_EPOCH, event()).unwrap();
        store.flush().unwrap();
    }
    assert!(!dir.join("events").exists());
    fs::remove_file(disk.path().join("other")).unwrap();
    for _ in 0..60 {
        store.append_event(Timestamp::UNIX_EPOCH, event()).unwrap();
    }
    assert_eq!(fs::read_dir(dir.join("events")).unwrap().count(), 1);
    assert!(store.audit().verify(None).unwrap().is_ok());
}

#[test]
fn where_inodes_run_out_the_reserve_has_some_and_content_is_refused() {
    let disk = Tmpfs::new("size=8m,nr_inodes=200");
    let dir = disk.path().join("state");
    let (mut store, _) = Store::open(&dir, &options()).unwrap();
    store.flush().unwrap();
    let taken = disk.take_inodes();
    let refused = store.content().put(b"new").unwrap_err();
    assert!(refused.is_full(), "{refused}");
    // A record of this size is a file of its own in the database.
    let large = revisions("x".repeat(300_000));
    store.set_revisions(&large).unwrap();
    store.append_event(Timestamp::UNIX_EPOCH, Draft::new("disk.full", "")).unwrap();
    store.flush().unwrap();
    drop(store);
    let (store, opened) = Store::open(&dir, &options()).unwrap();
    assert_eq!(opened, []);
    assert_eq!(store.revisions().unwrap(), large);
    assert!(!store.reserve().restore().unwrap());
    taken.iter().for_each(|path| fs::remove_file(path).unwrap());
    assert!(store.reserve().restore().unwrap());
}

#[test]
fn a_first_start_on_a_full_disk_is_an_error_and_the_next_one_with_room_is_not() {
    let disk = Tmpfs::new("size=4m");
    let dir = disk.path().join("state");
    disk.fill();
    let refused = Store::open(&dir, &options()).unwrap_err();
    assert!(refused.is_full(), "{refused}");
    disk.empty();
    Store::open(&dir, &options()).unwrap();
}

#[test]
fn a_read_only_disk_is_an_error_that_says_so() {
    let disk = Tmpfs::new("size=8m");
    let dir = disk.path().join("state");
    let (mut store, _) = Store::open(&dir, &options()).unwrap();
    store.update_anchor(|anchor| anchor.time_floor = Timestamp::MAX).unwrap();
    let digest = store.content().put(b"kept").unwrap();
    assert_eq!(digest, Digest::of(b"kept"));
    drop(store);
    disk.remount("ro");
    let refused = Store::open(&dir, &options()).unwrap_err();
    let StoreError::Disk(error) = &refused else { panic!("{refused}") };
    assert_eq!(error.trouble(), Trouble::ReadOnly);
    assert!(refused.to_string().contains("remount"), "{refused}");
    disk.remount("rw");
    let (store, opened) = Store::open(&dir, &options()).unwrap();
    assert_eq!(opened, []);
    assert_eq!(store.anchor().time_floor, Timestamp::MAX);
}
