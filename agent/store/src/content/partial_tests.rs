//! Downloads that break off, don't fit, or meet each other; and content that is held.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;

const NOW: Duration = Duration::ZERO;

fn content(dir: &Path) -> Content {
    Content::open(dir, 1000).unwrap()
}

fn files(dir: &Path) -> usize {
    ["partial", "sha256", "tmp"].iter().map(|name| fs::read_dir(dir.join(name)).unwrap().count()).sum()
}

#[test]
fn a_download_goes_on_after_a_restart_and_counts_all_the_while() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"hello world");
    let first = content(dir.path());
    let mut partial = first.partial(digest, 11, NOW).unwrap();
    partial.append(b"hello ").unwrap();
    assert_eq!((first.used(), first.state().promised), (6, 5));
    drop(partial);
    drop(first);
    let again = content(dir.path());
    assert_eq!((again.used(), again.downloaded(&digest), again.has(&digest)), (6, 6, false));
    let mut partial = again.partial(digest, 11, NOW).unwrap();
    assert_eq!(partial.length(), 6);
    partial.append(b"world").unwrap();
    partial.commit().unwrap();
    drop(partial);
    assert_eq!(again.read(&digest, 100).unwrap().unwrap(), b"hello world");
    assert_eq!((again.used(), again.state().promised, files(dir.path())), (11, 0, 1));
}

#[test]
fn a_download_that_has_another_digest_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let digest = Digest::of(b"good");
    let mut partial = store.partial(digest, 4, NOW).unwrap();
    partial.append(b"evil").unwrap();
    assert!(matches!(partial.commit(), Err(StoreError::DigestMismatch { .. })));
    assert_eq!(partial.length(), 0);
    partial.append(b"good").unwrap();
    partial.commit().unwrap();
    drop(partial);
    assert_eq!((store.used(), store.state().promised), (4, 0));
}

#[test]
fn what_a_torn_write_left_of_a_download_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let digest = Digest::of(b"hello world");
    fs::write(dir.path().join("partial").join(digest.to_hex()), b"hel\0\0\0").unwrap();
    let mut partial = store.partial(digest, 11, NOW).unwrap();
    partial.append(b"world").unwrap();
    assert!(matches!(partial.commit(), Err(StoreError::DigestMismatch { .. })));
    assert!(!store.has(&digest));
}

#[test]
fn more_than_was_announced_is_refused_and_a_longer_leftover_too() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"hello");
    let store = content(dir.path());
    fs::write(dir.path().join("partial").join(digest.to_hex()), b"hello hello").unwrap();
    let mut partial = store.partial(digest, 5, NOW).unwrap();
    assert_eq!(partial.length(), 0);
    assert!(matches!(partial.append(b"hello!"), Err(StoreError::ContentTooLarge { limit: 5, .. })));
}

#[test]
fn a_download_that_cannot_fit_is_not_begun_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    store.put(&[1; 600]).unwrap();
    let refused = store.partial(Digest::of(b"x"), 401, NOW).unwrap_err();
    assert!(
        matches!(refused, StoreError::OverBudget { size: 401, used: 600, budget: 1000, .. }),
        "{refused}"
    );
    assert_eq!((store.used(), store.state().promised, files(dir.path())), (600, 0, 1));
    assert!(store.partial(Digest::of(b"x"), 400, NOW).is_ok());
}

#[test]
fn downloads_that_nobody_goes_on_with_make_room_for_what_is_needed_now() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    store.partial(Digest::of(b"idle"), 500, NOW).unwrap().append(&[1; 400]).unwrap();
    let mut busy = store.partial(Digest::of(b"busy"), 100, NOW).unwrap();
    busy.append(&[1; 50]).unwrap();
    store.put(&[2; 900]).unwrap();
    assert_eq!((store.downloaded(&Digest::of(b"idle")), store.downloaded(&Digest::of(b"busy"))), (0, 50));
    assert!(matches!(store.put(&[3; 900]), Err(StoreError::OverBudget { .. })));
}

#[test]
fn room_is_made_of_what_is_not_wanted_first_and_of_everything_if_that_is_too_little() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let (other, own) = (Digest::of(b"other"), Digest::of(b"own"));
    for digest in [other, own] {
        store.partial(digest, 500, NOW).unwrap().append(&[1; 400]).unwrap();
    }
    store.make_room(200, &[own].into()).unwrap();
    assert_eq!((store.downloaded(&other), store.downloaded(&own)), (400, 400), "there is room");
    store.make_room(600, &[own].into()).unwrap();
    assert_eq!((store.downloaded(&other), store.downloaded(&own)), (0, 400));
    assert!(matches!(store.make_room(601, &[own].into()), Err(StoreError::OverBudget { size: 601, .. })));
    assert_eq!((store.used(), files(dir.path())), (0, 0));
}

#[test]
fn old_downloads_are_swept_unless_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let (old, wanted) = (Digest::of(b"old"), Digest::of(b"wanted"));
    for digest in [old, wanted] {
        store.partial(digest, 100, NOW).unwrap().append(&[1; 10]).unwrap();
    }
    assert_eq!(store.sweep_partials(&[wanted].into(), SystemTime::UNIX_EPOCH), 0);
    let later = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(store.sweep_partials(&[wanted].into(), later), 10);
    assert_eq!((store.downloaded(&old), store.downloaded(&wanted), store.used()), (0, 10, 10));
}

#[test]
fn who_wants_the_same_download_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let digest = Digest::of(b"hello");
    let mut first = store.partial(digest, 5, NOW).unwrap();
    assert!(matches!(store.partial(digest, 5, NOW), Err(StoreError::Busy { .. })));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            drop(store.partial(digest, 5, Duration::from_secs(60)).unwrap());
            store.verify(&digest).unwrap()
        });
        first.append(b"hello").unwrap();
        first.commit().unwrap();
        drop(first);
        assert!(second.join().unwrap(), "it is there once the first one is done");
    });
    assert_eq!((store.used(), files(dir.path())), (5, 1));
}

#[test]
fn what_is_held_survives_every_collection_until_it_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(content(dir.path()));
    let held = store.put(b"held").unwrap();
    store.put(b"other").unwrap();
    let (first, second) = (store.hold([held]), store.hold([held]));
    assert_eq!(store.collect(&BTreeSet::new()).unwrap(), Collected { removed: 1, bytes: 5 });
    drop(first);
    assert_eq!(store.collect(&BTreeSet::new()).unwrap(), Collected::default());
    assert!(store.verify(&held).unwrap());
    drop(second);
    assert_eq!(store.collect(&BTreeSet::new()).unwrap(), Collected { removed: 1, bytes: 4 });
    assert_eq!(store.used(), 0);
}
