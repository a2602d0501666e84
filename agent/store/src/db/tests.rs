//! What the database does when its files are torn, and that it stays quiet.

use std::collections::BTreeMap;
use std::fs;

use super::*;

impl Record for Vec<u8> {}

fn open(dir: &Path) -> (Database, Option<Rebuilt>) {
    Database::open(dir, DbOptions::default()).unwrap()
}

fn table(db: &Database) -> Table<u64, Vec<u8>> {
    db.table("test")
}

/// Copies what `from` holds to `to`, which is emptied.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("blobs")).unwrap();
    for folder in ["", "blobs"] {
        for entry in fs::read_dir(from.join(folder)).unwrap().flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
}

#[test]
fn records_are_kept_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (db, rebuilt) = open(&dir.path().join("db"));
    assert_eq!(rebuilt, None);
    let records = table(&db);
    assert!(records.put(&1, &vec![1]).unwrap());
    assert!(!records.put(&1, &vec![1]).unwrap());
    assert!(records.put(&2, &vec![2]).unwrap());
    assert_eq!(records.get(&1).unwrap(), Some(vec![1]));
    assert!(records.replace(&BTreeMap::from([(2, vec![2]), (3, vec![3])])).unwrap());
    assert_eq!(records.keys().unwrap(), [2, 3]);
    assert_eq!((records.first().unwrap().unwrap().0, records.last().unwrap().unwrap().0), (2, 3));
    assert!(records.remove(&2).unwrap() && !records.remove(&2).unwrap());
    drop(records);
    drop(db);
    let (db, rebuilt) = open(&dir.path().join("db"));
    assert_eq!(rebuilt, None);
    assert_eq!(table(&db).all().unwrap(), BTreeMap::from([(3, vec![3])]));
}

#[test]
fn a_flush_with_nothing_to_do_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (db, _) = open(&dir.path().join("db"));
    table(&db).put(&1, &vec![1]).unwrap();
    assert!(db.flush().unwrap());
    assert!(!db.flush().unwrap());
    table(&db).put(&1, &vec![1]).unwrap();
    assert!(!db.flush().unwrap());
}

#[test]
fn a_record_of_another_format_or_of_garbage_is_damage_and_a_rebuild_helps() {
    let dir = tempfile::tempdir().unwrap();
    let (db, _) = open(&dir.path().join("db"));
    for bad in [&b"\x01{"[..], b"\x09[]", b""] {
        db.state().dirty = true;
        db.with("test", |sled| sled.open_tree("test")?.insert(7u64.to_be_bytes(), bad)).unwrap();
        assert!(table(&db).get(&7).unwrap_err().is_damage());
    }
    let records = table(&db);
    let rebuilt = db.rebuild("a test").unwrap();
    assert!(rebuilt.set_aside.unwrap().exists());
    // A table that was made before is good after.
    assert_eq!(records.all().unwrap(), BTreeMap::new());
    records.put(&1, &vec![1]).unwrap();
}

#[test]
fn a_record_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (db, _) = open(&dir.path().join("db"));
    let refused = table(&db).put(&1, &vec![255; RECORD_LIMIT]).unwrap_err();
    assert!(matches!(refused, StoreError::RecordTooLarge { .. }));
    let large = vec![1; RECORD_LIMIT / 4];
    table(&db).put(&1, &large).unwrap();
    assert_eq!(table(&db).get(&1).unwrap(), Some(large));
}

#[test]
fn a_snapshot_that_a_crash_left_half_written_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (db, _) = open(&path);
    table(&db).put(&1, &vec![1]).unwrap();
    drop(db);
    fs::write(path.join("snap.FFFFFFFFFFFFFFFF.generating"), b"half").unwrap();
    let (db, rebuilt) = open(&path);
    assert_eq!(rebuilt, None);
    assert_eq!(table(&db).get(&1).unwrap(), Some(vec![1]));
}

#[test]
fn a_database_under_which_every_start_dies_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(open(&path));
    fs::write(dir.path().join("db.opening"), "4").unwrap();
    assert_eq!(open(&path).1, None);
    assert!(!dir.path().join("db.opening").exists());
    fs::write(dir.path().join("db.opening"), "5").unwrap();
    assert!(open(&path).1.unwrap().reason.contains("died 5 times"));
    assert_eq!(open(&path).1, None);
}

#[test]
fn what_is_no_folder_in_its_place_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    fs::write(&path, "what a repair of the file system left").unwrap();
    let (db, rebuilt) = open(&path);
    assert!(rebuilt.unwrap().set_aside.unwrap().is_file());
    table(&db).put(&1, &vec![1]).unwrap();
}

#[test]
fn what_a_damaged_file_system_answers_is_damage_and_what_a_full_one_answers_is_not() {
    use nix::errno::Errno;
    for errno in [Errno::EIO, Errno::EBADMSG, Errno::EUCLEAN] {
        let error = io::Error::from_raw_os_error(errno as i32);
        // As sled hands it on.
        let copy = io::Error::other(format!("{error:?}"));
        assert!(open::means_damage(&error) && open::means_damage(&copy), "{copy}");
    }
    assert!(!open::means_damage(&io::Error::from_raw_os_error(Errno::ENOSPC as i32)));
}

#[test]
fn a_database_that_another_process_holds_is_waited_for_and_not_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (db, _) = open(&path);
    table(&db).put(&1, &vec![1]).unwrap();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(db);
    });
    let (db, rebuilt) = open(&path);
    closing.join().unwrap();
    assert_eq!(rebuilt, None);
    assert_eq!(table(&db).get(&1).unwrap(), Some(vec![1]));
}

/// What a power cut can leave of everything after the last flush but one. The records of that flush must be
/// there, or the database must say that it was rebuilt; later ones may be there or not, each as it was put.
#[test]
fn a_torn_tail_of_the_log_gives_the_old_or_the_new_records_or_says_that_it_was_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (db, _) = open(&path);
    let records = table(&db);
    for n in 0..50 {
        records.put(&n, &vec![1; 300]).unwrap();
    }
    db.flush().unwrap();
    let before = fs::read(path.join("db")).unwrap();
    for n in 0..50 {
        records.put(&n, &vec![2; 300]).unwrap();
    }
    db.flush().unwrap();
    // As a power cut sees it: sled has not closed.
    let cut = dir.path().join("cut");
    copy(&path, &cut);
    drop((records, db));
    let after = fs::read(cut.join("db")).unwrap();
    let first = before.iter().zip(&after).position(|(a, b)| a != b).unwrap_or(before.len());
    let last = after.iter().rposition(|&b| b != 0).unwrap() + 1;

    let torn = dir.path().join("torn");
    let (mut whole, mut rebuilt_count) = (0, 0);
    let mut check = |bytes: &[u8], what: String| {
        let _ = fs::remove_dir_all(dir.path().join("torn.damaged-1"));
        copy(&cut, &torn);
        fs::write(torn.join("db"), bytes).unwrap();
        let (db, rebuilt) = open(&torn);
        let found = table(&db).all().unwrap();
        if rebuilt.is_some() {
            rebuilt_count += 1;
            assert!(found.is_empty(), "{what}");
        } else {
            whole += 1;
            assert_eq!(found.len(), 50, "{what}: records that were flushed are gone, and nobody said so");
            assert!(found.values().all(|v| *v == [1; 300] || *v == [2; 300]), "{what}");
        }
        table(&db).put(&99, &vec![9]).unwrap();
        db.flush().unwrap();
    };
    for sector in [512, 4096] {
        let step = ((last - first) / 12).max(sector).next_multiple_of(sector);
        for at in ((first / sector * sector)..last).step_by(step) {
            let at = at.max(first);
            let end = (at + sector).min(last);
            check(&after[..at], format!("truncated at {at}"));
            let mut zeroed = after.clone();
            zeroed[at..].fill(0);
            check(&zeroed, format!("zeroed from {at}"));
            let mut hole = after.clone();
            hole[at..end].fill(0);
            check(&hole, format!("a hole at {at}"));
            let mut old = after.clone();
            for (index, byte) in old.iter_mut().enumerate().skip(at) {
                *byte = before.get(index).copied().unwrap_or(0);
            }
            check(&old, format!("old from {at}"));
        }
    }
    assert!(whole > rebuilt_count, "a torn tail should be cut off: {whole} whole, {rebuilt_count} rebuilt");
}

/// Damage anywhere, which no crash leaves but a failing disk does: never a panic, never a lie.
#[test]
fn damage_anywhere_gives_right_records_or_says_that_it_was_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (db, _) = open(&path);
    for n in 0..200 {
        table(&db).put(&n, &vec![n as u8; 200]).unwrap();
    }
    drop(db);
    let files = ["db", "conf"].map(|name| (name, fs::read(path.join(name)).unwrap()));
    let torn = dir.path().join("torn");
    for (name, bytes) in &files {
        let used = bytes.iter().rposition(|&b| b != 0).unwrap() + 1;
        for at in (0..used).step_by((used / 40).max(3)) {
            let _ = fs::remove_dir_all(dir.path().join("torn.damaged-1"));
            copy(&path, &torn);
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(torn.join(name), &damaged).unwrap();
            let (db, rebuilt) = open(&torn);
            match table(&db).all() {
                Ok(found) if rebuilt.is_none() => {
                    assert!(found.iter().all(|(n, v)| *v == [*n as u8; 200]), "{name} at {at}");
                }
                Ok(found) => assert!(found.is_empty()),
                Err(error) => assert!(error.is_damage(), "{name} at {at}: {error}"),
            }
        }
    }
}
