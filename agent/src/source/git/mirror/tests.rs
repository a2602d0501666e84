//! Packs as no git writes them, taken in.

use std::io::Write as _;

use proptest::prelude::*;

use super::bounds::{Bounds, Failure, MAX_COMMIT, MAX_HELD, MAX_TREE};
use super::pack::index;

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
    index(&mut pack, dir.path(), None, bounds).map(drop)
}

fn files() -> Bounds {
    Bounds::up_to(512 << 20)
}

fn is_large(done: Result<(), Failure>, limit: u64) -> bool {
    matches!(&done, Err(Failure::TooLarge { limit: found, .. }) if *found == limit)
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
    assert!(matches!(&done, Err(Failure::TooLarge { limit, .. }) if *limit > 256 << 20), "{done:?}");
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
    let by_id = |id: gix::ObjectId, content: &[u8]| says(BY_ID, content.len() as u64, id.as_slice(), content);
    let id = |size: usize| {
        gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::objs::Kind::Blob, &vec![0; size]).unwrap()
    };
    let (first, second) = (by_id(id(1000), &repeats(1000, 900)), by_id(id(900), &repeats(900, 800)));
    for objects in [
        [whole(BLOB, 1000), first.clone(), second.clone()],
        [second.clone(), first.clone(), whole(BLOB, 1000)],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let indexed = index(&mut pack(&objects).as_slice(), dir.path(), None, files()).unwrap();
        assert_eq!(indexed.lacks(&[id(1000), id(900), id(800)]).unwrap(), None);
        assert_eq!(indexed.lacks(&[id(1000), id(7)]).unwrap(), Some(id(7)));
    }
    let alone = take(&[second, first], files());
    assert!(matches!(&alone, Err(Failure::Broken(why)) if why.contains(&id(1000).to_string())), "{alone:?}");
    let circle = by_id(id(10), &repeats(10, 10));
    assert!(matches!(take(&[circle], files()), Err(Failure::Broken(_))));
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
