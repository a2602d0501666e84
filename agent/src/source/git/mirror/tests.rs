//! Packs as no git writes them, taken in.

use std::io::Write as _;

use proptest::prelude::*;

use super::bounds::{
    Bounds, Failure, MAX_COMMIT, MAX_DEPTH, MAX_HELD, MAX_TREE, check_effort, check_reading,
};
use super::objects::Objects;
use super::pack::index;
use super::{CopyError, Limits, Mirror};
use crate::source::error::Limit;
use crate::source::error::SourceError;

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

const COMMIT: u8 = 1;
const TREE: u8 = 2;
const BLOB: u8 = 3;
const TAG: u8 = 4;
const BACK: u8 = 6;
const BY_ID: u8 = 7;

/// An object that says it has so many bytes.
fn says(kind: u8, says: u64, base: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut byte, mut rest) = ((kind << 4) | (says & 15) as u8, says >> 4);
    while rest > 0 {
        out.push(byte | 0x80);
        (byte, rest) = ((rest & 0x7f) as u8, rest >> 7);
    }
    out.push(byte);
    out.extend(base);
    let mut zlib = gix::zlib::stream::deflate::Write::new(out, gix::zlib::Compression::BEST_SPEED);
    zlib.write_all(content).unwrap();
    zlib.flush().unwrap();
    zlib.into_inner()
}

fn whole(kind: u8, size: u64) -> Vec<u8> {
    says(kind, size, &[], &vec![0; size as usize])
}

fn number(mut rest: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// A difference that copies the beginning of its base again and again.
fn repeats(from: u64, size: u64) -> Vec<u8> {
    let (mut content, mut left) = ([number(from), number(size)].concat(), size);
    while left > 0 {
        let piece = left.min(from).min(0xff_ffff);
        let [a, b, c, ..] = (piece as u32).to_le_bytes();
        content.extend([0xf0, a, b, c]);
        left -= piece;
    }
    content
}

fn back(distance: usize, content: &[u8]) -> Vec<u8> {
    let mut rest = distance;
    let mut bytes = vec![(rest & 0x7f) as u8];
    while rest >= 0x80 {
        rest = (rest >> 7) - 1;
        bytes.insert(0, 0x80 | (rest & 0x7f) as u8);
    }
    says(BACK, content.len() as u64, &bytes, content)
}

fn pack(objects: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(objects.len()).unwrap().to_be_bytes();
    finished([b"PACK\0\0\0\x02", &count[..], &objects.concat()].concat())
}

fn finished(mut pack: Vec<u8>) -> Vec<u8> {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(&pack);
    pack.extend(hasher.try_finalize().unwrap().as_slice());
    pack
}

/// What becomes of a pack, whether its bytes come one by one or at once.
fn take(objects: &[Vec<u8>], bounds: Bounds) -> Result<(), Failure> {
    let pack = pack(objects);
    let at_once = take_bytes(&pack, bounds, 1 << 20);
    if pack.len() < 10_000 {
        let one_by_one = take_bytes(&pack, bounds, 1);
        assert_eq!(format!("{at_once:?}"), format!("{one_by_one:?}"));
    }
    at_once
}

fn take_bytes(pack: &[u8], bounds: Bounds, piece: usize) -> Result<(), Failure> {
    let dir = tempfile::tempdir().unwrap();
    let mut pack = std::io::BufReader::with_capacity(piece, pack);
    index(&mut pack, dir.path(), None, bounds, u64::MAX, HOUR).map(drop)
}

fn files() -> Bounds {
    Bounds::up_to(512 << 20)
}

/// One of the things that are too much to put together, or to read.
fn is_much(done: &Result<(), Failure>, what: &str) -> bool {
    matches!(done, Err(failure @ Failure::TooMuch { .. }) if failure.to_string().contains(what))
}

fn is_large(done: Result<(), Failure>, limit: u64) -> bool {
    matches!(&done, Err(Failure::TooLarge { limit: found, .. } | Failure::TooMuch { limit: found, .. }) if found.to_string().starts_with(&format!("{limit} ")))
}

#[test]
fn commits_and_tags_are_small_folders_larger_and_files_as_large_as_is_said() {
    for kind in [COMMIT, TAG] {
        take(&[whole(BLOB, 10), whole(kind, MAX_COMMIT), whole(kind, 5)], files()).unwrap();
        assert!(is_large(take(&[whole(BLOB, 10), whole(kind, MAX_COMMIT + 1)], files()), MAX_COMMIT));
    }
    take(&[whole(TREE, MAX_TREE), whole(BLOB, 2 * MAX_TREE)], files()).unwrap();
    assert!(is_large(take(&[whole(TREE, MAX_TREE + 1)], files()), MAX_TREE));
    assert!(is_large(take(&[whole(BLOB, 3000)], Bounds::up_to(2999)), 2999));
    // Where commits alone were asked for, nothing else is larger than they may be.
    for kind in [COMMIT, TREE, BLOB, TAG] {
        take(&[whole(kind, MAX_COMMIT)], Bounds::COMMITS).unwrap();
        assert!(is_large(take(&[whole(kind, MAX_COMMIT + 1)], Bounds::COMMITS), MAX_COMMIT));
    }
}

#[test]
fn a_size_counts_before_there_is_anything_of_it() {
    // No byte of content, nor of the rest of the pack.
    let mut head = b"PACK\0\0\0\x02\0\0\0\x01".to_vec();
    head.extend(&says(BLOB, 1 << 40, &[], b"")[..7]);
    assert!(is_large(take_bytes(&head, files(), 1), 512 << 20));
    let mut many = b"PACK\0\0\0\x02".to_vec();
    many.extend(u32::MAX.to_be_bytes());
    assert!(is_large(take_bytes(&many, files(), 1), 1 << 19));
}

#[test]
fn what_is_made_of_a_commit_by_a_difference_is_a_commit_too() {
    for (kind, is_small) in [(COMMIT, true), (TAG, true), (BLOB, false)] {
        let base = whole(kind, 100_000);
        let over = back(base.len(), &repeats(100_000, MAX_COMMIT + 1));
        take(&[base.clone(), back(base.len(), &repeats(100_000, MAX_COMMIT))], files()).unwrap();
        assert_eq!(take(&[base.clone(), over.clone()], files()).is_err(), is_small);
        // And what is made of that.
        let second = back(base.len(), &repeats(100_000, 50_000));
        let third = back(second.len(), &repeats(50_000, MAX_COMMIT + 1));
        assert_eq!(take(&[base, second, third], files()).is_err(), is_small);
    }
}

#[test]
fn what_differences_make_is_refused_before_there_is_memory_for_it() {
    let base = whole(BLOB, 1 << 20);
    let much = back(base.len(), &repeats(1 << 20, MAX_HELD + 1));
    assert!(is_large(take(&[base.clone(), much], files()), MAX_HELD));
    // It would be held together with what it is made of.
    let together = back(base.len(), &repeats(1 << 20, MAX_HELD - 10));
    assert!(is_large(take(&[base, together], files()), MAX_HELD));
    // Nor is what is built on read where it is too large.
    let large = whole(BLOB, MAX_HELD + 1);
    let small = back(large.len(), &repeats(MAX_HELD + 1, 10));
    assert!(is_large(take(&[large.clone(), small], files()), MAX_HELD));
    take(&[large], files()).unwrap();
}

/// So many levels, each built on the one before; with `beside`, each has others built on it too.
fn levels(count: u64, beside: bool) -> Vec<Vec<u8>> {
    let size = 8u64 << 20;
    let mut objects = vec![whole(BLOB, size)];
    let mut distance = objects[0].len();
    for level in 0..count {
        let (from, to) = (size - level, size - level - 1);
        let next = back(distance, &repeats(from, to));
        distance = next.len();
        objects.push(next);
        if beside {
            let before = objects.len() - 2;
            let other = objects[before + 1..].iter().map(Vec::len).sum::<usize>() + objects[before].len();
            let other = back(other, &repeats(from, to / 2));
            distance += other.len();
            objects.push(other);
        }
    }
    objects
}

#[test]
fn of_what_is_built_on_each_other_no_more_is_held_than_is_needed() {
    take(&levels(20, false), files()).unwrap();
    // Two differences to each: what they build on waits for the other one.
    let mut tree = levels(1, true);
    take(&tree, files()).unwrap();
    let mut begins = tree[0].len();
    let mut size = (8u64 << 20) - 1;
    for _ in 0..10 {
        let at: usize = tree.iter().map(Vec::len).sum();
        let before = back(at - begins, &repeats(size, size / 2));
        let next = back(at + before.len() - begins, &repeats(size, size - 1));
        let after = back(at + before.len() + next.len() - begins, &repeats(size, size / 2 - 1));
        (begins, size) = (at + before.len(), size - 1);
        // Whichever is put together first, another one waits.
        tree.extend([before, next, after]);
    }
    let mut beside = tree.clone();
    beside.truncate(2 + 3 * 2);
    take(&beside, files()).unwrap();
    assert!(is_large(take(&tree, files()), MAX_HELD));
}

#[test]
fn what_would_take_hours_to_unpack_is_refused() {
    let base = whole(BLOB, 8 << 20);
    let mut objects = vec![base.clone()];
    let mut distance = base.len();
    for n in 0..100 {
        let next = back(distance, &repeats(8 << 20, (4 << 20) - n));
        distance += next.len();
        objects.push(next);
    }
    let done = take(&objects, files());
    assert!(
        matches!(&done, Err(Failure::TooLarge { limit: Limit::Bytes(limit), .. }) if *limit > 256 << 20),
        "{done:?}"
    );
}

#[test]
fn a_limit_is_told_in_its_own_unit() {
    let mut few = files();
    few.objects = 1;
    let told = take(&[whole(BLOB, 1), whole(BLOB, 2)], few).unwrap_err().to_string();
    assert!(told.contains("number of objects in the pack, 2, is larger than 1 objects"), "{told}");
    let told = take(&[says(COMMIT, 10, &[], &[b'x'; 5000])], files()).unwrap_err().to_string();
    assert!(told.ends_with("is larger than 10 bytes"), "{told}");
}

#[test]
fn what_is_not_what_it_says_is_refused() {
    assert!(matches!(take(&[says(COMMIT, 10, &[], &[b'x'; 5000])], files()), Err(Failure::TooLarge { .. })));
    assert!(matches!(take(&[says(BLOB, 10, &[], b"x")], files()), Err(Failure::Broken(_))));
    assert!(matches!(take(&[says(5, 1, &[], b"x")], files()), Err(Failure::Broken(_))));
    let mut wrong = pack(&[whole(BLOB, 10)]);
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    assert!(matches!(take_bytes(&wrong, files(), 9), Err(Failure::Broken(_))));
    assert!(matches!(take_bytes(&wrong[..last], files(), 9), Err(Failure::Read(_))));
    assert!(matches!(take_bytes(b"PACK\0\0\0\x09\0\0\0\0", files(), 9), Err(Failure::Broken(_))));
    take_bytes(&pack(&[]), files(), 9).unwrap();

    let base = whole(BLOB, 1000);
    for (what, content) in [
        ("no difference", vec![]),
        ("another base", repeats(999, 10)),
        ("more of the base than there is", [number(1000), number(10), vec![0x93, 0xff, 0xff, 10]].concat()),
        ("more", [number(1000), number(10), vec![0x90, 11]].concat()),
        ("more that is new", [number(1000), number(1), vec![2, 1, 1]].concat()),
        ("less", [number(1000), number(10), vec![0x90, 9]].concat()),
        ("cut off", [number(1000), number(10), vec![0x91]].concat()),
        ("cut off where it adds", [number(1000), number(10), vec![10, 1]].concat()),
        ("unknown", [number(1000), number(10), vec![0]].concat()),
    ] {
        let done = take(&[base.clone(), back(base.len(), &content)], files());
        assert!(matches!(done, Err(Failure::Broken(_))), "{what}: {done:?}");
    }
    for distance in [1, base.len() + 12, base.len() + 13, usize::MAX >> 2] {
        let done = take(&[base.clone(), back(distance, &repeats(1000, 10))], files());
        assert!(matches!(done, Err(Failure::Broken(_))), "{distance}: {done:?}");
    }
}

#[test]
fn what_is_built_on_another_by_its_id_is_put_together_wherever_that_is() {
    let id = |size: usize| {
        gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::objs::Kind::Blob, &vec![0; size]).unwrap()
    };
    let (first, second) = (by_id(id(1000), &repeats(1000, 900)), by_id(id(900), &repeats(900, 800)));
    for objects in [
        [whole(BLOB, 1000), first.clone(), second.clone()],
        [second.clone(), first.clone(), whole(BLOB, 1000)],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let indexed =
            index(&mut pack(&objects).as_slice(), dir.path(), None, files(), u64::MAX, HOUR).unwrap();
        assert_eq!(indexed.lacks(&[id(1000), id(900), id(800)]).unwrap(), None);
        assert_eq!(indexed.lacks(&[id(1000), id(7)]).unwrap(), Some(id(7)));
    }
    let alone = take(&[second, first], files());
    assert!(matches!(&alone, Err(Failure::Broken(why)) if why.contains(&id(1000).to_string())), "{alone:?}");
    let circle = by_id(id(10), &repeats(10, 10));
    assert!(matches!(take(&[circle], files()), Err(Failure::Broken(_))));
}

fn by_id(id: gix::ObjectId, content: &[u8]) -> Vec<u8> {
    says(BY_ID, content.len() as u64, id.as_slice(), content)
}

fn id_of(kind: gix::objs::Kind, data: &[u8]) -> gix::ObjectId {
    gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, data).unwrap()
}

/// So many differences, each built on the one before, which copy their base byte by byte where `wordy`.
fn chain(kind: u8, size: u64, count: u64, wordy: bool) -> Vec<Vec<u8>> {
    let mut objects = vec![whole(kind, size)];
    for n in 0..count {
        let content = match wordy {
            true => {
                let each = std::iter::repeat_n([0xff, 0, 0, 0, 0, 1, 0, 0], size as usize);
                [number(size), number(size), each.flatten().collect()].concat()
            }
            // What is new keeps them apart.
            false => [number(size), number(4), vec![4], (n as u32).to_be_bytes().to_vec()].concat(),
        };
        let content = if wordy || n == 0 {
            content
        } else {
            [number(4), content[number(size).len()..].to_vec()].concat()
        };
        let distance = objects.last().unwrap().len();
        objects.push(back(distance, &content));
    }
    objects
}

#[test]
fn what_is_taken_can_be_read_within_the_same_memory() {
    // Each is forgotten once it was put together; whoever reads the last has all of them.
    let small = chain(COMMIT, (128 << 10) - 10, 70, true);
    let done = take(&small, Bounds::COMMITS);
    assert!(is_much(&done, "bytes of memory to read") && is_large(done, MAX_HELD));
    take(&small[..60], Bounds::COMMITS).unwrap();
    // And twice the largest of them.
    let size = MAX_HELD / 2;
    let base = whole(BLOB, size);
    let mut next = back(base.len(), &repeats(size, 10));
    assert!(is_much(&take(&[base, next], files()), "bytes of memory to read"));
    let base = whole(BLOB, size - 100);
    next = back(base.len(), &repeats(size - 100, 10));
    take(&[base, next], files()).unwrap();
}

#[test]
fn only_so_many_are_built_on_each_other() {
    let deep = chain(TREE, 40, u64::from(MAX_DEPTH) + 1, false);
    let done = take(&deep, files());
    assert!(is_much(&done, "chain of deltas") && is_large(done, u64::from(MAX_DEPTH)));
    take(&deep[..deep.len() - 1], files()).unwrap();
}

#[test]
fn what_would_take_hours_to_read_is_refused() {
    // Little comes of each, and for each the base is read.
    let base = whole(TREE, MAX_TREE);
    let mut objects = vec![base.clone()];
    let mut distance = base.len();
    for n in 0..2200u32 {
        let small = [number(MAX_TREE), number(4), vec![4], n.to_be_bytes().to_vec()].concat();
        objects.push(back(distance, &small));
        distance += objects.last().unwrap().len();
    }
    assert!(is_much(&take(&objects, files()), "has to be read"));
    take(&objects[..1900], files()).unwrap();
    // Half a million objects of 2 KB, 25 on the way of each, may be.
    check_reading(500_000 * 25 * (3 << 10), 1 << 30, 500_000).unwrap();
    assert!(check_effort(65 << 30, u64::MAX).is_err());
}

#[test]
fn an_object_that_comes_again_does_not_hide_the_one_that_can_be_read() {
    let (a, b) = (vec![0; 1000], vec![0; 900]);
    let kind = gix::objs::Kind::Blob;
    // Each is built on the other, and one of them comes whole as well.
    let (a_again, b_on_a) =
        (by_id(id_of(kind, &b), &repeats(900, 1000)), by_id(id_of(kind, &a), &repeats(1000, 900)));
    let b_again = by_id(id_of(kind, &a), &repeats(1000, 900));
    for objects in [
        vec![a_again.clone(), b_on_a.clone(), whole(BLOB, 1000)],
        vec![whole(BLOB, 1000), b_on_a.clone(), a_again.clone(), b_again.clone()],
        vec![
            b_on_a.clone(),
            a_again.clone(),
            whole(BLOB, 1000),
            a_again.clone(),
            whole(BLOB, 1000),
            b_again.clone(),
        ],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let packs = dir.path().join("pack");
        std::fs::create_dir(&packs).unwrap();
        index(&mut pack(&objects).as_slice(), &packs, None, files(), u64::MAX, HOUR).unwrap();
        let here = Objects::at(dir.path(), 1 << 20).unwrap();
        let mut data = Vec::new();
        for content in [&a, &b] {
            here.read(&id_of(kind, content), kind, &mut data).unwrap();
            assert_eq!(&data, content);
        }
    }
    // Neither comes whole.
    assert!(matches!(take(&[a_again, b_on_a], files()), Err(Failure::Broken(_))));
}

/// A mirror's objects, which are `objects`.
fn here(dir: &std::path::Path, objects: &[Vec<u8>]) -> Objects {
    let packs = dir.join("pack");
    std::fs::create_dir_all(&packs).unwrap();
    index(&mut pack(objects).as_slice(), &packs, None, files(), u64::MAX, HOUR).unwrap();
    Objects::at(dir, 512 << 20).unwrap()
}

#[test]
fn what_a_pack_builds_on_is_added_within_the_room() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base: Vec<u8> = std::array::from_fn::<u8, 251, _>(|n| n as u8).repeat(4).into_iter().rev().collect();
    let mirror = here(old.path(), &[says(BLOB, base.len() as u64, &[], &base)]);
    let kind = gix::objs::Kind::Blob;
    let size = base.len() as u64;
    let small = by_id(id_of(kind, &base), &[number(size), number(1), vec![0x90, 1]].concat());
    let pack = pack(&[small]);
    let take = |room| {
        let dir = tempfile::tempdir_in(new.path()).unwrap();
        let done = index(&mut pack.as_slice(), dir.path(), Some(&mirror), files(), room, HOUR);
        done.map(|indexed| std::fs::metadata(indexed.iter().next().unwrap()).unwrap().len())
    };
    let length = take(u64::MAX).unwrap();
    assert_eq!(take(length).unwrap(), length);
    assert!(matches!(take(length - 1), Err(Failure::NoRoom)));
    assert!(matches!(take(0), Err(Failure::NoRoom)));
}

#[test]
fn what_a_pack_builds_on_is_not_read_where_it_is_too_large() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let size = MAX_HELD / 2 + 1;
    let mirror = here(old.path(), &[whole(BLOB, size)]);
    let id = id_of(gix::objs::Kind::Blob, &vec![0; size as usize]);
    let small = pack(&[by_id(id, &repeats(size, 1))]);
    let done = index(&mut small.as_slice(), new.path(), Some(&mirror), files(), u64::MAX, HOUR).map(drop);
    assert!(is_much(&done, "bytes of memory to read"));
}

#[test]
fn what_is_copied_goes_into_as_many_packs_as_it_takes() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = here(old.path(), &(1..=8).map(|size| whole(BLOB, size)).collect::<Vec<_>>());
    let ids: Vec<_> = (1..=8).map(|size| id_of(gix::objs::Kind::Blob, &vec![0; size])).collect();
    let mirror = Mirror::open(new.path(), Limits::default()).unwrap();
    assert_eq!(mirror.copy(&from, &ids, u64::MAX).unwrap().len(), 3);
    let there = mirror.objects().unwrap();
    assert!(ids.iter().all(|id| there.exists(id)));
    // They share the room.
    let new = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(new.path(), Limits::default()).unwrap();
    let done = mirror.copy(&from, &ids, 100);
    assert!(matches!(done, Err(CopyError::Mirror(SourceError::OverBudget { .. }))), "{done:?}");
}

#[test]
fn putting_objects_together_ends_in_time() {
    let objects = chain(BLOB, 100, 3, false);
    let dir = tempfile::tempdir().unwrap();
    let none = std::time::Duration::ZERO;
    let done = index(&mut pack(&objects).as_slice(), dir.path(), None, files(), u64::MAX, none).map(drop);
    assert!(matches!(&done, Err(Failure::Broken(why)) if why.contains("longer than")), "{done:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_it_panic(at in 12usize..400, bytes in proptest::collection::vec(any::<u8>(), 1..9), count in 0u32..6) {
        let base = says(BLOB, 100, &[], &std::array::from_fn::<u8, 100, _>(|n| n as u8 ^ 0x5a));
        let change = [number(100), number(60), vec![0x90, 50, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]].concat();
        let objects = [base.clone(), back(base.len(), &change), whole(TREE, 90), whole(COMMIT, 70)];
        let mut pack = pack(&objects);
        pack.truncate(pack.len() - 20);
        for (n, byte) in bytes.into_iter().enumerate() {
            let length = pack.len();
            pack[12 + (at + n) % (length - 12)] = byte;
        }
        pack[8..12].copy_from_slice(&count.to_be_bytes());
        let _ = take_bytes(&finished(pack), files(), 7);
    }
}
