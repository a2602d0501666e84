//! What goes so that something else can come, and what never does.

use std::sync::Arc;
use std::time::Duration;

use super::*;

fn content(dir: &Path) -> Content {
    Content::open(dir, 1000).unwrap()
}

fn there(content: &Content, digests: &[Digest]) -> Vec<bool> {
    digests.iter().map(|digest| content.has(digest)).collect()
}

#[test]
fn what_nobody_needs_goes_least_recently_used_first_and_no_more_of_it_than_must() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    let all: Vec<Digest> = (0..4).map(|n| store.put(&[n; 200]).unwrap()).collect();
    store.set_pins([all[3]].into());
    assert!(store.verify(&all[0]).unwrap(), "it is used");
    let evicted = store.make_room(300, &BTreeSet::new()).unwrap();
    assert_eq!(evicted, Collected { removed: 1, bytes: 200 });
    assert_eq!(there(&store, &all), [true, false, true, true]);
    // A put makes room as well.
    store.put(&[9; 600]).unwrap();
    assert_eq!(there(&store, &all), [true, false, false, true]);
}

#[test]
fn what_is_pinned_held_wanted_or_new_is_never_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(content(dir.path()));
    let [pinned, held, wanted] = [1, 2, 3].map(|n| store.put(&[n; 200]).unwrap());
    let hold = store.hold([held]);
    store.set_pins([pinned].into());
    let young = store.put(&[4; 200]).unwrap();
    let refused = store.make_room(300, &[wanted].into()).unwrap_err();
    assert!(matches!(refused, StoreError::OverBudget { size: 300, used: 800, .. }), "{refused}");
    assert!(store.put(&[5; 500]).is_err(), "not even all that may go is enough");
    assert_eq!(there(&store, &[pinned, held, wanted, young]), [true; 4]);
    // Once somebody had the chance to say that they are needed, and didn't, they may go.
    drop(hold);
    store.set_pins([pinned].into());
    store.make_room(300, &[wanted].into()).unwrap();
    assert_eq!(there(&store, &[pinned, held, wanted, young]), [true, false, true, true]);
}

#[test]
fn before_anybody_has_said_what_is_needed_nothing_but_downloads_goes() {
    let dir = tempfile::tempdir().unwrap();
    let digest = content(dir.path()).put(&[1; 600]).unwrap();
    let again = content(dir.path());
    again.partial(Digest::of(b"idle"), 300, Duration::ZERO).unwrap().append(&[2; 200]).unwrap();
    assert!(again.make_room(500, &BTreeSet::new()).is_err());
    assert_eq!((again.used(), again.has(&digest)), (600, true));
}

#[test]
fn after_a_restart_the_oldest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = content(dir.path());
    let all: Vec<Digest> = (0..3).map(|n| first.put(&[n; 300]).unwrap()).collect();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let file = File::options().write(true).open(first.path_of(&all[2])).unwrap();
    file.set_modified(old).unwrap();
    drop(first);
    let again = content(dir.path());
    again.set_pins(BTreeSet::new());
    again.make_room(300, &BTreeSet::new()).unwrap();
    assert_eq!(there(&again, &all), [true, true, false]);
}

#[test]
fn what_lies_beside_counts_to_the_budget_and_the_error_says_what_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let beside = dir.path().join("mirror");
    fs::create_dir_all(beside.join("objects")).unwrap();
    fs::write(beside.join("objects/pack"), [0; 500]).unwrap();
    let (reserve, made) = Reserve::open(&dir.path().join("reserve"), 1000);
    made.unwrap();
    let store = content(&dir.path().join("content")).within(vec![Beside::all_in(beside)], Arc::new(reserve));
    store.put(&[1; 400]).unwrap();
    let refused = store.make_room(200, &BTreeSet::new()).unwrap_err().to_string();
    assert!(refused.contains("900 of 1000 are in use, and nothing could be garbage-collected"), "{refused}");
    store.set_pins(BTreeSet::new());
    store.make_room(200, &BTreeSet::new()).unwrap();
    let refused = store.make_room(600, &BTreeSet::new()).unwrap_err().to_string();
    assert!(refused.contains("raise state.disk_budget"), "{refused}");
}

#[test]
fn a_put_that_cannot_fit_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = content(dir.path());
    store.put(&[1; 600]).unwrap();
    assert!(matches!(store.put(&[2; 600]), Err(StoreError::OverBudget { size: 600, used: 600, .. })));
    assert_eq!(store.state().promised, 0);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn only_the_files_that_are_said_to_count_do() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("images");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("ours.tar"), [0; 500]).unwrap();
    fs::write(folder.join("theirs.tar"), [0; 5000]).unwrap();
    let beside = Beside { folder: folder.clone(), counts: Some(|name| name == "ours.tar") };
    let (reserve, made) = Reserve::open(&dir.path().join("reserve"), 1000);
    made.unwrap();
    let store = content(&dir.path().join("content")).within(vec![beside], Arc::new(reserve));
    store.make_room(500, &BTreeSet::new()).unwrap();
    let refused = store.make_room(501, &BTreeSet::new()).unwrap_err().to_string();
    assert!(refused.contains("500 of 1000 are in use"), "{refused}");
}

#[test]
fn room_for_what_comes_beside_is_taken_once_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(content(&dir.path().join("content")));
    let mut taken = store.allocate_beside(dir.path(), 700).unwrap();
    assert!(matches!(store.put(&[1; 400]), Err(StoreError::OverBudget { used: 700, .. })));
    taken.written(500);
    store.put(&[1; 400]).unwrap();
    drop(taken);
    assert_eq!(store.state().promised, 0);
    store.allocate_beside(dir.path(), 601).unwrap_err();
    assert_eq!(store.state().promised, 0);
}

#[test]
fn what_nobody_needs_goes_for_what_comes_beside() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(content(&dir.path().join("content")));
    let (needed, not) = (store.put(&[1; 400]).unwrap(), store.put(&[2; 400]).unwrap());
    store.set_pins([needed].into());
    drop(store.allocate_beside(dir.path(), 600).unwrap());
    assert!(store.has(&needed) && !store.has(&not));
}

#[test]
fn room_on_another_disk_is_measured_there_and_counts_to_the_budget() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let store = Arc::new(Content::open(&dir.path().join("content"), u64::MAX).unwrap());
    let refused = store.allocate_beside(other.path(), 1 << 60).unwrap_err();
    assert!(matches!(&refused, StoreError::NoSpace { path, .. } if path == other.path()), "{refused}");
    let store = Arc::new(content(&dir.path().join("content")));
    let _taken = store.allocate_beside(other.path(), 900).unwrap();
    let refused = store.allocate_beside(other.path(), 200).unwrap_err();
    assert!(matches!(refused, StoreError::OverBudget { used: 900, .. }), "{refused}");
}

#[test]
fn something_small_is_kept_although_what_lies_beside_is_beyond_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let beside = dir.path().join("mirror");
    fs::create_dir_all(&beside).unwrap();
    fs::write(beside.join("pack"), [0; 5000]).unwrap();
    let (reserve, made) = Reserve::open(&dir.path().join("reserve"), 1000);
    made.unwrap();
    let store = content(&dir.path().join("content")).within(vec![Beside::all_in(beside)], Arc::new(reserve));
    assert_eq!(store.left(), 0);
    assert!(matches!(store.put(&[1; 400]), Err(StoreError::OverBudget { .. })));
    let kept = store.put_small(&[1; 400]).unwrap();
    assert!(store.has(&kept));
    let large = vec![2; usize::try_from(SMALL).unwrap() + 1];
    assert!(matches!(store.put_small(&large), Err(StoreError::OverBudget { .. })));
    // Not without end: content alone keeps to the budget and what is small.
    store.put_small(&large[2000..]).unwrap();
    assert!(matches!(store.put_small(&[3; 4000]), Err(StoreError::OverBudget { .. })));
}
