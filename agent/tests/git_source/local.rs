//! `file://`: repositories on the box's own disk.

use std::io::Read as _;

use holdfast::clock::Clock;
use holdfast::source::{EntryKind, ReadError, SourceTree};
use holdfast::source::{GitConfig, GitSource, Reference, Source, SourceError};
use holdfast_core::digest::Revision;
use holdfast_core::verify::{AllowedSigners, Ancestry, Refused, TrustPolicy, verify};
use tempfile::TempDir;

use crate::ancestry;
use crate::support::git_repo::{SignedRepo, Signer};

const LIMIT: u64 = 1 << 20;

fn main_branch() -> Reference {
    Reference::Branch("main".to_owned())
}

fn open(repo: &SignedRepo, mirror: &TempDir) -> GitSource {
    GitSource::open(GitConfig::new(repo.url(), main_branch()), mirror.path()).unwrap()
}

fn policy(repo: &SignedRepo) -> TrustPolicy {
    let text = std::fs::read_to_string(repo.allowed_signers()).unwrap();
    TrustPolicy::Signed(AllowedSigners::parse(&text).unwrap())
}

#[test]
fn a_signed_commit_is_fetched_verified_and_read() {
    let repo = SignedRepo::new();
    let id = repo.commit(&[("holdfast.yaml", "kind: Fleet\n"), ("apps/pos/app.yaml", "x")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let revision = source.poll().unwrap();
    assert_eq!(revision, Revision(id));
    assert!(!source.has(&revision));
    let fetched = source.fetch(&revision, None).unwrap();
    assert_eq!(ancestry(&fetched), Ancestry::First);
    let verified = verify(&fetched, &policy(&repo), None, &Clock::new().now()).unwrap();
    assert_eq!(verified.signer().unwrap().principal, "ops@example");
    assert_eq!(verified.signer().unwrap().fingerprint, repo.ops().fingerprint());
    let files = source.snapshot(&revision).unwrap();
    assert_eq!(files.read("holdfast.yaml", LIMIT).unwrap().unwrap(), b"kind: Fleet\n");
    assert_eq!(files.read("apps/pos/nothing", LIMIT).unwrap(), None);
    assert_eq!(files.read("holdfast.yaml/nothing", LIMIT).unwrap(), None);
    let apps = files.list("apps").unwrap();
    assert_eq!((apps[0].name.as_str(), apps[0].kind, apps[0].size), ("pos", EntryKind::Folder, None));
    assert_eq!(files.list("apps/pos").unwrap()[0].size, Some(1));
}

#[test]
fn an_unsigned_commit_is_fetched_and_held() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Nobody);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let revision = source.poll().unwrap();
    let fetched = source.fetch(&revision, None).unwrap();
    assert!(matches!(
        verify(&fetched, &policy(&repo), None, &Clock::new().now()),
        Err(Refused::Unsigned { .. })
    ));
    assert!(verify(&fetched, &TrustPolicy::None, None, &Clock::new().now()).is_ok());
}

#[test]
fn descent_is_told_from_a_force_push() {
    let repo = SignedRepo::new();
    let first = Revision(repo.commit(&[("a", "1")], Signer::Ops));
    for n in 0..20 {
        repo.commit(&[("a", &format!("{n}"))], Signer::Ops);
    }
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let tip = source.poll().unwrap();
    assert_eq!(ancestry(&source.fetch(&tip, Some(&first)).unwrap()), Ancestry::Descends);
    assert_eq!(ancestry(&source.fetch(&tip, Some(&tip)).unwrap()), Ancestry::Same);
    repo.git(&["checkout", "-q", "--orphan", "other"]);
    repo.commit(&[("a", "other")], Signer::Ops);
    repo.git(&["branch", "-f", "main", "other"]);
    let forced = source.poll().unwrap();
    assert_eq!(ancestry(&source.fetch(&forced, Some(&tip)).unwrap()), Ancestry::Foreign);
    let older = Revision(repo.git(&["rev-parse", &format!("{tip}~3")]));
    assert_eq!(ancestry(&source.fetch(&older, Some(&tip)).unwrap()), Ancestry::Foreign, "going back");
}

#[test]
fn a_merge_of_an_old_branch_descends() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    repo.git(&["checkout", "-q", "-b", "feature"]);
    repo.commit(&[("b", "1")], Signer::Ops);
    repo.git(&["checkout", "-q", "main"]);
    let accepted = Revision(repo.commit(&[("c", "1")], Signer::Ops));
    repo.git(&["merge", "-q", "--no-edit", "feature"]);
    repo.commit(&[("d", "1")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let tip = source.poll().unwrap();
    assert_eq!(ancestry(&source.fetch(&tip, Some(&accepted)).unwrap()), Ancestry::Descends);
}

#[test]
fn tags_and_revisions_can_be_followed() {
    let repo = SignedRepo::new();
    let id = repo.commit(&[("a", "1")], Signer::Ops);
    repo.git(&["tag", "-a", "-m", "x", "v1"]);
    repo.commit(&[("a", "2")], Signer::Ops);
    for reference in [Reference::Tag("v1".to_owned()), Reference::Revision(id.clone())] {
        let mirror = tempfile::tempdir().unwrap();
        let mut source = GitSource::open(GitConfig::new(repo.url(), reference), mirror.path()).unwrap();
        let revision = source.poll().unwrap();
        assert_eq!(revision.0, id);
        source.fetch(&revision, None).unwrap();
        assert_eq!(source.snapshot(&revision).unwrap().read("a", LIMIT).unwrap().unwrap(), b"1");
    }
}

#[test]
fn what_is_missing_or_misspelt_is_said() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let try_open = |url: &str, reference| {
        GitSource::open(GitConfig::new(url, reference), mirror.path()).and_then(|mut source| source.poll())
    };
    let branch = |name: &str| Reference::Branch(name.to_owned());
    let none = try_open(&repo.url(), branch("nope")).unwrap_err();
    assert!(matches!(&none, SourceError::NotFound { what } if what.contains("branch \"nope\"")), "{none}");
    assert!(matches!(try_open("file:///does/not/exist", branch("main")), Err(SourceError::NotFound { .. })));
    for url in
        ["file://relative", "git://x/y", "ssh://git@example/x.git", "https://u:p@example/x.git", "https://"]
    {
        let error = try_open(url, branch("main")).unwrap_err();
        assert!(matches!(error, SourceError::Config(_)), "{url}: {error}");
        assert!(!error.to_string().contains("u:p"), "{error}");
    }
    for reference in [branch("a..b"), branch(""), Reference::Revision("abc".to_owned())] {
        assert!(matches!(try_open(&repo.url(), reference), Err(SourceError::Config(_))));
    }
}

#[test]
fn links_are_followed_inside_of_the_repository_only() {
    use std::os::unix::fs::symlink;
    let repo = SignedRepo::new();
    repo.write(&[("real/file", "here"), ("deep/er/x", "")]);
    let link = |target: &str, name: &str| symlink(target, repo.path().join(name)).unwrap();
    link("real", "folder");
    link("../../real/file", "deep/er/up");
    link("/etc/passwd", "absolute");
    link("../outside", "out");
    link("real/../../outside", "sly");
    link("loop", "loop");
    link("nowhere", "dangling");
    repo.commit(&[], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
    let files = source.snapshot(&revision).unwrap();
    assert_eq!(files.read("folder/file", LIMIT).unwrap().unwrap(), b"here");
    assert_eq!(files.read("deep/er/up", LIMIT).unwrap().unwrap(), b"here");
    assert_eq!(files.list("folder").unwrap().len(), 1);
    assert_eq!(files.read("dangling", LIMIT).unwrap(), None);
    for path in ["absolute", "out", "sly"] {
        assert!(matches!(files.read(path, LIMIT), Err(ReadError::LinkLeaves { .. })), "{path}");
    }
    assert!(matches!(files.read("loop", LIMIT), Err(ReadError::LinkLoop { .. })));
    for path in ["../x", "/real/file", "real/../real/file"] {
        assert!(matches!(files.read(path, LIMIT), Err(ReadError::BadPath { .. })), "{path}");
    }
}

#[test]
fn submodules_lfs_pointers_and_large_files_are_errors_on_their_path_only() {
    let repo = SignedRepo::new();
    let id = repo.commit(&[("a", "1")], Signer::Ops);
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},sub")]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    repo.write(&[("big.bin", pointer), ("large", &"x".repeat(5000))]);
    repo.git(&["add", "big.bin", "large"]);
    repo.git(&["-c", "commit.gpgsign=false", "commit", "-q", "-m", "x"]);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
    let files = source.snapshot(&revision).unwrap();
    assert!(matches!(files.read("sub/file", LIMIT), Err(ReadError::Submodule { .. })));
    assert!(matches!(files.read("big.bin", LIMIT), Err(ReadError::LfsPointer { .. })));
    assert!(matches!(files.read("large", 4999), Err(ReadError::TooLarge { size: 5000, .. })));
    assert!(matches!(files.read("", LIMIT), Err(ReadError::WrongKind { .. })));
    assert_eq!(files.read("a", LIMIT).unwrap().unwrap(), b"1");
    let kinds: Vec<_> = files.list("").unwrap().into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == EntryKind::Submodule).count(), 1);
}

#[test]
fn a_sub_path_is_the_sources_top() {
    let repo = SignedRepo::new();
    repo.commit(&[("edge/fleet/holdfast.yaml", "x"), ("other", "y")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let mut config = GitConfig::new(repo.url(), main_branch());
    config.path = "edge/fleet/".to_owned();
    let mut source = GitSource::open(config.clone(), mirror.path()).unwrap();
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
    let files = source.snapshot(&revision).unwrap();
    assert_eq!(files.read("holdfast.yaml", LIMIT).unwrap().unwrap(), b"x");
    assert_eq!(files.read("other", LIMIT).unwrap(), None);
    config.path = "../x".to_owned();
    assert!(matches!(GitSource::open(config, mirror.path()), Err(SourceError::Config(_))));
}

#[test]
fn the_mirror_needs_no_source_and_survives_a_restart() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let revision = {
        let mut source = open(&repo, &mirror);
        let revision = source.poll().unwrap();
        source.fetch(&revision, None).unwrap();
        revision
    };
    // What a crash may have left.
    std::fs::create_dir_all(mirror.path().join("incoming")).unwrap();
    std::fs::write(mirror.path().join("incoming/half.pack"), "PACK").unwrap();
    std::fs::remove_dir_all(repo.path()).unwrap();
    let mut source = open(&repo, &mirror);
    assert!(!mirror.path().join("incoming").exists());
    assert!(source.has(&revision));
    assert_eq!(source.snapshot(&revision).unwrap().read("a", LIMIT).unwrap().unwrap(), b"1");
    source.fetch(&revision, None).unwrap();
    assert!(source.poll().is_err());
}

#[test]
fn a_change_copies_only_what_is_new_and_old_revisions_are_collected() {
    let repo = SignedRepo::new();
    let mut state = 1u64;
    let noise: String = (0..40_000)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            char::from(b'!' + (state >> 33) as u8 % 89)
        })
        .collect();
    repo.commit(&[("large", &noise), ("a", "0")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let mut kept = Vec::new();
    for n in 1..=12 {
        repo.commit(&[("a", &format!("{n}"))], Signer::Ops);
        let revision = source.poll().unwrap();
        source.fetch(&revision, None).unwrap();
        kept.push(revision);
    }
    let packs = || {
        let files = std::fs::read_dir(mirror.path().join("objects/pack")).unwrap();
        files
            .filter_map(|file| file.ok())
            .filter(|f| f.path().extension().unwrap() == "pack")
            .collect::<Vec<_>>()
    };
    assert_eq!(packs().len(), 12);
    let small = packs().iter().filter(|pack| pack.metadata().unwrap().len() < 2000).count();
    assert_eq!(small, 11, "only the first pack has the large file");
    let keep = kept.split_off(10);
    source.collect(&keep, false).unwrap();
    assert_eq!(packs().len(), 1);
    assert!(!source.has(&kept[0]));
    for (revision, content) in keep.iter().zip(["11", "12"]) {
        assert!(source.has(revision));
        let files = source.snapshot(revision).unwrap();
        assert_eq!(files.read("a", LIMIT).unwrap().unwrap(), content.as_bytes());
        assert_eq!(files.read("large", LIMIT).unwrap().unwrap(), noise.as_bytes());
    }
    source.collect(&keep, false).unwrap();
    assert_eq!(packs().len(), 1);
}

#[test]
fn a_damaged_mirror_is_noticed_and_rebuilt() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", &"content ".repeat(500)), ("b", "2")], Signer::Ops);
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("truncated", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("zeroed", |bytes| vec![0; bytes.len()]),
        ("empty", |_| Vec::new()),
        ("one byte changed", |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            bytes
        }),
    ];
    for extension in ["pack", "idx"] {
        for (what, damage) in damages {
            let mirror = tempfile::tempdir().unwrap();
            let mut source = open(&repo, &mirror);
            let revision = source.poll().unwrap();
            source.fetch(&revision, None).unwrap();
            drop(source);
            for file in std::fs::read_dir(mirror.path().join("objects/pack")).unwrap() {
                let path = file.unwrap().path();
                if path.extension().unwrap() == extension {
                    let bytes = std::fs::read(&path).unwrap();
                    // A new file: the old one may be mapped.
                    std::fs::remove_file(&path).unwrap();
                    std::fs::write(&path, damage(bytes)).unwrap();
                }
            }
            let mut source = open(&repo, &mirror);
            let read_all = |source: &GitSource| -> bool {
                source.snapshot(&revision).is_ok_and(|files| {
                    ["a", "b"].iter().all(|name| matches!(files.read(name, LIMIT), Ok(Some(_))))
                })
            };
            // Either the damage lies where nobody looks, or it is noticed; then the next fetch mends it.
            let noticed = !read_all(&source);
            source.fetch(&revision, None).unwrap();
            assert!(read_all(&source), "{extension} {what} (noticed: {noticed})");
        }
    }
}

#[test]
fn an_object_that_is_not_what_its_id_says_is_noticed() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "allow"), ("b", "block")], Signer::Ops);
    let (a, b) = (repo.git(&["rev-parse", "HEAD:a"]), repo.git(&["rev-parse", "HEAD:b"]));
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
    drop(source);
    // Swap the two in the index (git's Documentation/gitformat-pack, version 2).
    let packs = std::fs::read_dir(mirror.path().join("objects/pack")).unwrap();
    let index = packs.map(|f| f.unwrap().path()).find(|path| path.extension().unwrap() == "idx").unwrap();
    let mut bytes = std::fs::read(&index).unwrap();
    let count = u32::from_be_bytes(bytes[8 + 255 * 4..8 + 256 * 4].try_into().unwrap()) as usize;
    let ids = 8 + 256 * 4;
    let offset_of = |hex: &str, bytes: &[u8]| {
        let at = |n: usize| &bytes[ids + 20 * n..ids + 20 * (n + 1)];
        let n =
            (0..count).find(|n| at(*n).iter().map(|byte| format!("{byte:02x}")).collect::<String>() == hex);
        ids + 24 * count + 4 * n.unwrap()
    };
    let (a, b) = (offset_of(&a, &bytes), offset_of(&b, &bytes));
    for byte in 0..4 {
        bytes.swap(a + byte, b + byte);
    }
    std::fs::remove_file(&index).unwrap();
    std::fs::write(&index, bytes).unwrap();
    let mut source = open(&repo, &mirror);
    let read = |source: &GitSource| source.snapshot(&revision).unwrap().read("a", LIMIT);
    assert!(matches!(read(&source), Err(ReadError::Damaged { .. })));
    assert!(!source.has(&revision));
    source.fetch(&revision, None).unwrap();
    assert_eq!(read(&source).unwrap().unwrap(), b"allow");
}

#[test]
fn a_commit_that_the_room_for_it_does_not_hold_leaves_nothing_and_scarce_room_is_made_at_once() {
    let repo = SignedRepo::new();
    let mut state = 1u64;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'!' + (state >> 33) as u8 % 94)
    })
    .take(200_000)
    .collect();
    repo.commit(&[("large", &noise), ("a", "0")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let large = source.poll().unwrap();
    let packs = || {
        let files = std::fs::read_dir(mirror.path().join("objects/pack")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    source.set_room(1000);
    let error = source.fetch(&large, None).unwrap_err();
    assert!(matches!(error, SourceError::OverBudget { room: 1000 }), "{error:?}");
    assert!(
        packs() == 0 && !mirror.path().join("copying").exists() && !mirror.path().join("incoming").exists()
    );
    source.set_room(1 << 20);
    source.fetch(&large, None).unwrap();
    repo.commit(&[("large", "no more")], Signer::Ops);
    let small = source.poll().unwrap();
    source.fetch(&small, None).unwrap();
    let before = packs();
    source.collect(std::slice::from_ref(&small), false).unwrap();
    assert_eq!(packs(), before, "two packs aren't worth being rewritten");
    source.fetch(&large, None).unwrap();
    source.collect(std::slice::from_ref(&small), true).unwrap();
    assert!(packs() < 4000, "{}", packs());
    assert!(source.has(&small) && !source.has(&large));
}

/// Text that can't be compressed away.
fn noise(count: usize) -> String {
    let mut state = 7u64;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'!' + (state >> 33) as u8 % 94)
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn a_large_file_is_read_piece_by_piece_and_one_that_is_damaged_is_an_error_at_its_end() {
    let repo = SignedRepo::new();
    let large = noise(700_000);
    repo.commit(&[("large", &large), ("small", "s")], Signer::Ops);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&repo, &mirror);
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
    let files = source.snapshot(&revision).unwrap();
    let read = |path: &str, limit: u64| -> std::io::Result<(u64, Vec<u8>)> {
        let mut stream = files.open(path, limit).unwrap().unwrap();
        let mut bytes = Vec::new();
        stream.bytes.read_to_end(&mut bytes).map(|_| (stream.size, bytes))
    };
    assert_eq!(read("large", LIMIT).unwrap(), (700_000, large.into_bytes()));
    assert_eq!(read("small", LIMIT).unwrap(), (1, b"s".to_vec()));
    assert!(matches!(files.open("large", 699_999), Err(ReadError::TooLarge { size: 700_000, .. })));
    assert!(files.open("nothing", LIMIT).unwrap().is_none());
    let packs = std::fs::read_dir(mirror.path().join("objects/pack")).unwrap();
    let pack = packs.map(|f| f.unwrap().path()).find(|path| path.extension().unwrap() == "pack").unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    // Deep in the only thing there that is large.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let error = read("large", LIMIT).unwrap_err();
    assert!(error.to_string().contains("the mirror is damaged"), "{error}");
    assert!(!source.has(&revision), "it is fetched again");
}
