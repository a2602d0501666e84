//! What pinned content does when bits flip, writes are torn, and budgets end.

use std::io::Cursor;

use super::*;

fn content(dir: &Path) -> Content {
    Content::open(dir, 1 << 20).unwrap()
}

#[test]
fn what_was_put_is_read_back_until_it_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let content_dir = dir.path().join("content");
    let first = content(&content_dir);
    let (kept, dropped) = (first.put(b"kept").unwrap(), first.put(b"dropped").unwrap());
    drop(first);
    let again = content(&content_dir);
    assert_eq!(again.used(), 11);
    assert_eq!(again.read(&kept, 10).unwrap().unwrap(), b"kept");
    let collected = again.collect(&[kept].into()).unwrap();
    assert_eq!(collected, Collected { removed: 1, bytes: 7 });
    assert_eq!(again.read(&dropped, 10).unwrap(), None);
    assert_eq!((again.list().len(), again.used()), (1, 4));
}

#[test]
fn a_damaged_file_counts_as_absent_and_is_mended_by_the_next_put() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(dir.path());
    let digest = content.put(b"hello").unwrap();
    for damage in [&b"hellO"[..], b"hell", b"", b"hello\0"] {
        fs::write(content.path_of(&digest), damage).unwrap();
        assert_eq!(content.read(&digest, 100).unwrap(), None);
        assert!(!content.path_of(&digest).exists());
        fs::write(content.path_of(&digest), damage).unwrap();
        content.put(b"hello").unwrap();
        assert_eq!(content.read(&digest, 100).unwrap().unwrap(), b"hello");
        assert_eq!(content.used(), 5);
    }
}

/// A rename that reached the disk before the file's own sectors did: no file system that keeps its word to
/// fsync does that, some disks do.
#[test]
fn a_torn_write_is_never_read_as_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let bytes: Vec<u8> = (0..20_000u32).map(|n| (n * 7) as u8).collect();
    let digest = store.put(&bytes).unwrap();
    let path = store.path_of(&digest);
    for sector in [512, 4096] {
        for at in (0..bytes.len()).step_by(sector) {
            let end = (at + sector).min(bytes.len());
            let mut zeroed = bytes.clone();
            zeroed[at..end].fill(0);
            for torn in [&bytes[..at], &zeroed] {
                fs::write(&path, torn).unwrap();
                let again = content(dir.path());
                assert_eq!(again.read(&digest, 1 << 20).unwrap(), None);
                assert!(!again.has(&digest) && !again.verify(&digest).unwrap());
            }
        }
    }
}

#[test]
fn leftovers_of_a_crash_are_swept_and_foreign_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    drop(content(dir.path()));
    fs::write(dir.path().join("tmp/1-0"), b"half").unwrap();
    fs::write(dir.path().join("sha256/readme"), b"not ours").unwrap();
    let again = content(dir.path());
    assert_eq!(again.used(), 0);
    assert!(!dir.path().join("tmp/1-0").exists());
    again.collect(&BTreeSet::new()).unwrap();
    assert!(dir.path().join("sha256/readme").exists());
}

#[test]
fn bytes_that_are_not_what_they_are_said_to_be_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(dir.path());
    let expected = Digest::of(b"good");
    assert!(matches!(content.put_expecting(expected, b"evil"), Err(StoreError::DigestMismatch { .. })));
    let refused = content.put_reader(Cursor::new(b"evil"), Some(expected), 100);
    assert!(matches!(refused, Err(StoreError::DigestMismatch { .. })));
    assert!(!content.has(&expected));
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_source_that_never_ends_is_cut_off_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(dir.path());
    let refused = content.put_reader(io::repeat(7), None, 100_000);
    assert!(matches!(refused, Err(StoreError::ContentTooLarge { limit: 100_000, .. })));
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_source_that_fails_halfway_leaves_nothing_and_gives_its_room_back() {
    struct Fails(u32);
    impl Read for Fails {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 < 4 { Ok(into.len()) } else { Err(io::Error::other("hung up")) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let content = content(dir.path());
    assert!(matches!(content.put_reader(Fails(0), None, 1 << 20), Err(StoreError::Source(_))));
    assert_eq!(content.state().promised, 0);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn the_budget_is_kept_and_what_is_there_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::open(dir.path(), 100).unwrap();
    let digest = content.put(&[1; 60]).unwrap();
    let refused = content.put(&[2; 60]).unwrap_err();
    assert!(matches!(refused, StoreError::OverBudget { size: 60, used: 60, budget: 100, .. }), "{refused}");
    assert!(content.verify(&digest).unwrap());
    // What is there already needs no room.
    content.put(&[1; 60]).unwrap();
    content.collect(&BTreeSet::new()).unwrap();
    content.put(&[2; 60]).unwrap();
}

#[test]
fn more_than_the_reader_wants_is_an_error_and_not_a_damaged_file() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(dir.path());
    let digest = content.put(b"hello").unwrap();
    assert!(matches!(content.read(&digest, 4), Err(StoreError::ContentTooLarge { .. })));
    assert!(content.read(&digest, 5).unwrap().is_some());
}

#[test]
fn the_reserve_is_given_away_once_and_taken_back_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reserve");
    let (reserve, made) = Reserve::open(&path, 100_000);
    made.unwrap();
    assert!(reserve.is_held());
    assert!(reserve.release().unwrap());
    assert!(!reserve.release().unwrap() && !reserve.is_held());
    assert!(reserve.restore().unwrap() && reserve.is_held());
}

#[test]
fn what_is_streamed_is_written_once_and_not_at_all_if_its_source_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
    let mut opened = 0;
    let mut put = |store: &Content| {
        store.put_stream(|| {
            opened += 1;
            Ok::<_, ()>((bytes.len() as u64, Cursor::new(bytes.clone())))
        })
    };
    let digest = put(&store).unwrap().unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    let written = fs::metadata(store.path_of(&digest)).unwrap().modified().unwrap();
    assert_eq!(put(&store).unwrap(), Ok(digest));
    assert_eq!(opened, 3, "the second time it is only read");
    assert_eq!(fs::metadata(store.path_of(&digest)).unwrap().modified().unwrap(), written);
    assert_eq!(store.read(&digest, 1 << 20).unwrap().unwrap(), bytes);
    assert_eq!(store.put_stream(|| Err::<(u64, Cursor<Vec<u8>>), _>("gone")).unwrap(), Err("gone"));
    // A source that fails half way, the second time too.
    let broken = || Cursor::new(vec![1; 1000]).chain(Broken);
    let failed = store.put_stream(|| Ok::<_, ()>((2000, broken()))).unwrap_err();
    assert!(matches!(failed, StoreError::Source(_)), "{failed}");
    assert_eq!(store.list().len(), 1);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("it breaks off"))
    }
}
