//! Kills. A child writes, says what it was promised, and is killed at a random moment; each time the store
//! must open and hold all of it. `HOLDFAST_KILLS=300` for more of them.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on stops here.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_core::digest::{Digest, Revision};
use holdfast_core::event::Draft;
use holdfast_store::db::Record;
use holdfast_store::records::Revisions;
use holdfast_store::{AuditBounds, Options, Store};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Large(String);

impl Record for Large {}

/// So few events that old ones are sealed all the time.
fn options() -> Options {
    let audit = AuditBounds { events: 20, bytes: 1 << 20 };
    let (proven, new) =
        (Timestamp::UNIX_EPOCH, Options::new("till-1".parse().unwrap(), Timestamp::UNIX_EPOCH));
    Options { reserve: 4096, audit, proven, ..new }
}

fn revisions(n: u64) -> Revisions {
    Revisions { applied: Some(Revision(n.to_string())), ..Revisions::default() }
}

fn content(n: u64) -> Vec<u8> {
    n.to_string().repeat(500).into_bytes()
}

fn applied(store: &Store) -> u64 {
    store.revisions().unwrap().applied.map_or(0, |revision| revision.0.parse().unwrap())
}

/// What the killed process does, for ever.
fn work(dir: &Path) {
    let (mut store, _) = Store::open(dir, &options()).unwrap();
    let start = applied(&store).max(store.anchor().time_floor.as_second() as u64);
    for n in start + 1.. {
        store.content().put(&content(n)).unwrap();
        store.set_revisions(&revisions(n)).unwrap();
        // So large that sled keeps it in a file of its own.
        store.table::<u64, Large>("large").put(&(n % 3), &Large(n.to_string().repeat(20_000))).unwrap();
        store.append_event(Timestamp::UNIX_EPOCH, Draft::new("n", n.to_string())).unwrap();
        store.flush().unwrap();
        let second = Timestamp::from_second(n as i64).unwrap();
        store.update_anchor(|anchor| anchor.time_floor = second).unwrap();
        store.content().collect(&[Digest::of(&content(n)), Digest::of(&content(n - 1))].into()).unwrap();
        println!("promised {n}");
    }
}

#[test]
fn what_was_promised_before_a_kill_is_there_after_it() {
    if let Some(dir) = std::env::var_os("HOLDFAST_TEST_DIR") {
        work(Path::new(&dir));
    }
    let kills = std::env::var("HOLDFAST_KILLS").map_or(25, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut promised = 0;
    for kill in 0..kills {
        promised = promised.max(killed_after_a_while(dir.path()));
        let (store, opened) = Store::open(dir.path(), &options()).unwrap();
        assert!(opened.is_empty() || (kill == 0 && promised == 0), "kill {kill}: {opened:?}");
        let (floor, applied) = (store.anchor().time_floor.as_second() as u64, applied(&store));
        assert!(floor >= promised && applied >= floor, "kill {kill}: {promised} {floor} {applied}");
        if promised > 0 {
            let newest = Digest::of(&content(applied));
            assert!(store.content().verify(&newest).unwrap(), "kill {kill}: content of {applied} is gone");
            let large = store.table::<u64, Large>("large").get(&(floor % 3)).unwrap().unwrap().0;
            assert!([floor, floor + 3].iter().any(|n| n.to_string().repeat(20_000) == large), "kill {kill}");
        }
        let head = store.audit().verify(store.anchor().audit_head.as_ref()).unwrap().unwrap();
        assert_eq!(head.as_ref(), store.audit().head());
        promised = floor;
    }
    assert!(promised > 0, "no child ever came to a promise");
}

/// Runs the child, kills it after some milliseconds, and gives the last promise that it made.
fn killed_after_a_while(dir: &Path) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_was_promised_before_a_kill_is_there_after_it", "--nocapture"])
        .env("HOLDFAST_TEST_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = out.lines().map_while(Result::ok);
        let promises = lines.filter_map(|line| line.strip_prefix("promised ")?.parse::<u64>().ok());
        promises.last().unwrap_or(0)
    });
    std::thread::sleep(Duration::from_millis(20 + RandomState::new().build_hasher().finish() % 250));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}
