//! What a power cut does and a kill can't: the last write is there in part, or not at all.

#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]
#![allow(clippy::print_stdout, reason = "a test's figures")]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use holdfast_core::app::App;
use holdfast_core::name::AppName;
use holdfast_store::db::{Database, DbOptions, Key, Record};
use nix::sys::signal::Signal;
use support::agent_box::{AgentBox, Kind};

/// The anchor's slots: two of this size, each beginning with a header (agent/store/src/anchor/format.rs).
const SLOT: usize = 512 * 1024;
/// Where in the header the length of the payload is, and the sequence number; the payload's place.
const LENGTH: usize = 12;
const SEQUENCE: usize = 16;
const PAYLOAD: usize = 56;
/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// How the end of a file was lost.
#[derive(Clone, Copy, Debug)]
enum Tear {
    Truncated,
    Zeroed,
}

const TEARS: [Tear; 2] = [Tear::Truncated, Tear::Zeroed];

/// A box on which two apps are good, and its agent was killed.
fn killed_box() -> AgentBox {
    let mut it = AgentBox::new();
    for version in 1..=2 {
        let commit = commit(&it, version);
        if version == 1 {
            it.start(&[]);
        } else {
            it.signal(Signal::SIGHUP);
        }
        it.wait_converged(&commit);
    }
    it.kill();
    it
}

fn commit(it: &AgentBox, version: usize) -> String {
    it.write_app("db", &[], version, Kind::Good);
    it.write_app("pos", &["db"], version, Kind::Good);
    it.commit()
}

/// Loses the bytes of `path` from `at` to `end`.
fn tear(path: &Path, at: usize, end: usize, how: Tear) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    match how {
        Tear::Truncated => file.set_len(at as u64).unwrap(),
        Tear::Zeroed => file.write_all_at(&vec![0; end - at], at as u64).unwrap(),
    }
}

fn tear_anchor(it: &AgentBox, how: Tear) {
    let path = it.state().join("anchor");
    let bytes = fs::read(&path).unwrap();
    let number = |at: usize, length: usize| {
        let mut number = [0; 8];
        number[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(number)
    };
    let newest = [0, SLOT].into_iter().max_by_key(|slot| number(slot + SEQUENCE, 8)).unwrap();
    let length = number(newest + LENGTH, 4) as usize;
    assert!(length > 1, "the newest slot has a payload");
    tear(&path, newest + PAYLOAD + length / 2, newest + PAYLOAD + length, how);
}

/// Loses the last `sectors` of sled's log that hold something.
fn tear_log(it: &AgentBox, sectors: usize, how: Tear) {
    let path = it.state().join("db/db");
    let bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    tear(&path, end.saturating_sub(sectors * SECTOR), end, how);
}

/// The agent starts on what is left, finds what it made, and the next commit is as any other.
fn comes_back(mut it: AgentBox, what: &str) {
    println!("{what}");
    it.start(&[]);
    it.wait_until(&format!("converged on what it had, {what}"), |_, status| status.converged);
    assert_eq!(it.versions_of("pos"), ["2", "2"], "{what}");
    let last = commit(&it, 3);
    it.signal(Signal::SIGHUP);
    it.wait_converged(&last);
    for name in ["db", "pos"] {
        assert_eq!(it.versions_of(name), ["3", "3"], "{what}: {name}");
    }
    it.stop();
    // Two apps, each with one object for good and one for each version.
    assert_eq!(it.assert_nothing_made_twice(), 8, "{what}: what ran was made again");
}

#[test]
fn an_anchor_whose_newest_slot_was_half_written_does_not_keep_the_box_from_converging() {
    for how in TEARS {
        let it = killed_box();
        tear_anchor(&it, how);
        comes_back(it, &format!("the anchor {how:?}"));
    }
}

#[test]
fn a_database_that_lost_its_newest_sectors_does_not_keep_the_box_from_converging() {
    for (sectors, how) in [(1, TEARS[0]), (1, TEARS[1]), (16, TEARS[0]), (200, TEARS[1])] {
        let it = killed_box();
        tear_log(&it, sectors, how);
        comes_back(it, &format!("{sectors} sectors of the database {how:?}"));
    }
}

#[test]
fn an_anchor_and_a_database_that_were_torn_together_do_not_keep_the_box_from_converging() {
    let it = killed_box();
    tear_anchor(&it, Tear::Zeroed);
    tear_log(&it, 8, Tear::Zeroed);
    comes_back(it, "both zeroed");
}

#[test]
fn a_database_that_is_gone_altogether_does_not_keep_the_box_from_converging() {
    let it = killed_box();
    fs::remove_dir_all(it.state().join("db")).unwrap();
    comes_back(it, "no database");
}

/// What a newer agent may have written, before the box was put back to this one.
#[derive(serde::Serialize, serde::Deserialize)]
struct Newer(u8);

impl Record for Newer {
    const FORMAT: u8 = 9;
}

/// Puts a record that this version can't read into the killed agent's database.
fn put_unreadable<K: Key>(it: &AgentBox, table: &'static str, key: &K) {
    let (db, rebuilt) = Database::open(&it.state().join("db"), DbOptions::default()).unwrap();
    assert_eq!(rebuilt, None);
    assert!(!db.table::<K, Newer>(table).keys().unwrap().is_empty(), "there is such a table");
    db.table::<K, Newer>(table).put(key, &Newer(1)).unwrap();
    db.flush().unwrap();
}

#[test]
fn a_record_that_this_version_cannot_read_does_not_keep_the_box_from_converging() {
    for (table, key) in [("apps", "pos"), ("inventory", "db"), ("revisions", "followed")] {
        let it = killed_box();
        put_unreadable(&it, table, &key.to_owned());
        comes_back(it, &format!("{key} in {table}"));
    }
}

#[test]
fn what_turns_out_damaged_while_the_agent_runs_is_begun_anew_with_what_the_agent_knows() {
    let mut it = killed_box();
    // Nobody reads it before somebody asks for it.
    put_unreadable(&it, "events", &3_u64);
    it.start(&[]);
    it.wait_until("converged", |_, status| status.converged);
    let rebuilt = |it: &AgentBox| {
        it.try_events().is_ok_and(|told| told.iter().any(|event| event.kind == "store.rebuilt"))
    };
    it.wait_until("begun anew, and converged", |it, status| rebuilt(it) && status.converged);
    it.kill();
    let apps =
        Database::open(&it.state().join("db"), DbOptions::default()).unwrap().0.table::<AppName, App>("apps");
    assert_eq!(
        apps.all().unwrap().values().filter(|app| app.converged()).count(),
        2,
        "what it knew is written down"
    );
    drop(apps);
    comes_back(it, "an event");
}
