//! Servers with partial fetch: only what the box reads comes over the wire, level by level.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast::source::{GitConfig, GitSource, Limit, Reference, Source, SourceError, SourceTree};
use holdfast_core::digest::Revision;
use holdfast_core::verify::Ancestry;
use tempfile::TempDir;

use crate::support::git_repo::{SignedRepo, Signer, git_in, objects};
use crate::support::git_server::GitServer;
use crate::support::middleman::{Deed, Middleman, refusal};
use crate::support::tools::printed;
use crate::{ancestry, shown, trusted};

const LIMIT: u64 = 1 << 20;
const DEVICE: &str = "devices/emea/de/store-7/till-1.yaml";

/// A fleet in which the box of [`DEVICE`] runs `app-3`.
fn fleet() -> SignedRepo {
    let repo = SignedRepo::new();
    repo.write(&[("holdfast.yaml", "fleet"), ("README.md", "not for boxes"), ("docs/plan", "neither")]);
    for n in 0..20 {
        repo.write(&[(&format!("apps/app-{n}/app.yaml"), &format!("app {n}"))]);
        for file in 0..5 {
            let path = format!("apps/app-{n}/manifests/{file}.yaml");
            repo.write(&[(&path, &format!("manifest {n} {file} {}", noise(n * 7 + file)))]);
        }
        for till in 0..4 {
            let path = format!("devices/emea/de/store-{n}/till-{till}.yaml");
            repo.write(&[(&path, &format!("device {n} {till}"))]);
        }
    }
    repo.commit(&[], Signer::Ops);
    repo
}

/// Text that can't be compressed away.
fn noise(seed: u64) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'0' + (state >> 33) as u8 % 70)
    };
    (0..400).map(|_| next()).collect()
}

/// What the box of [`DEVICE`] reads; each part as far as it is here.
fn look(files: &dyn SourceTree) -> String {
    let read = |path: &str| match files.read(path, LIMIT) {
        Ok(Some(bytes)) => String::from_utf8(bytes).unwrap(),
        _ => "-".to_owned(),
    };
    let mut found = vec![read("holdfast.yaml"), read(DEVICE)];
    for app in files.list("apps").unwrap_or_default() {
        found.push(read(&format!("apps/{}/app.yaml", app.name)));
    }
    for file in files.list("apps/app-3/manifests").unwrap_or_default() {
        found.push(read(&format!("apps/app-3/manifests/{}", file.name)));
    }
    found.join("\n")
}

fn expected(repo: &SignedRepo) -> String {
    let read = |path: &str| std::fs::read_to_string(repo.path().join(path)).unwrap();
    let names = |path: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(repo.path().join(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let mut found = vec![read("holdfast.yaml"), read(DEVICE)];
    found.extend(names("apps").iter().map(|app| read(&format!("apps/{app}/app.yaml"))));
    let manifests = names("apps/app-3/manifests");
    found.extend(manifests.iter().map(|file| read(&format!("apps/app-3/manifests/{file}"))));
    found.join("\n")
}

/// The ids of what [`look`] needs of the commit that is checked out.
fn needed(repo: &SignedRepo) -> BTreeSet<String> {
    let mut paths = vec!["".to_owned(), "holdfast.yaml".to_owned(), "apps".to_owned()];
    let mut way = String::new();
    for name in DEVICE.split('/') {
        way = if way.is_empty() { name.to_owned() } else { format!("{way}/{name}") };
        paths.push(way.clone());
    }
    for n in 0..20 {
        paths.extend([format!("apps/app-{n}"), format!("apps/app-{n}/app.yaml")]);
    }
    paths.push("apps/app-3/manifests".to_owned());
    paths.extend((0..5).map(|n| format!("apps/app-3/manifests/{n}.yaml")));
    let ids = paths.iter().map(|path| repo.git(&["rev-parse", &format!("HEAD:{path}")]));
    ids.chain([repo.head()]).collect()
}

fn config(url: String) -> GitConfig {
    GitConfig::new(url, Reference::Branch("main".to_owned()))
}

fn of(server: &GitServer) -> GitConfig {
    let mut config = config(server.url());
    config.ca_file = Some(server.ca_file());
    config
}

fn open(config: GitConfig, mirror: &TempDir) -> GitSource {
    GitSource::open(config, mirror.path()).unwrap()
}

/// Polls, fetches, and reads what the box needs.
fn sync(source: &mut GitSource, accepted: Option<&Revision>) -> Result<(Revision, String), SourceError> {
    let revision = source.poll()?;
    source.fetch(&revision, accepted)?;
    let mut gathering = source.gather(&trusted(source, &revision), true)?;
    let found = gathering.read(look)?;
    gathering.finish()?;
    Ok((revision, found))
}

fn bytes(requests: &[String]) -> u64 {
    requests.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// How many files of packs there are, two for each.
fn pack_files(mirror: &tempfile::TempDir) -> usize {
    let files = std::fs::read_dir(mirror.path().join("objects/pack")).unwrap();
    files.filter(|file| file.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b"pack-")).count()
}

#[test]
fn only_what_the_box_reads_comes_over_the_wire() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(of(&server), &mirror);
    let (revision, found) = sync(&mut source, None).unwrap();
    assert_eq!(found, expected(&repo));
    assert!(source.has(&revision));
    assert_eq!(objects(mirror.path()), needed(&repo));
    // What the server can do, its tip, the commit; then the folders down to the deepest file.
    let requests = server.requests(11);
    assert!(requests.len() <= 11, "{requests:#?}");
    let ours = bytes(&requests);
    server.forget_requests();
    let clone = tempfile::tempdir().unwrap();
    let mut git = git_in(clone.path());
    git.env("GIT_SSL_CAINFO", server.ca_file());
    git.args(["clone", "-q", "--depth", "1", "--filter=blob:none", "--no-checkout", &server.url(), "c"]);
    printed(&mut git);
    let blobless = bytes(&server.requests(3));
    assert!(ours < blobless + 10_000, "{ours} bytes, and git's clone without any file {blobless}");
}

#[test]
fn a_change_of_one_file_brings_the_folders_on_its_way_and_the_file() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(of(&server), &mirror);
    let (first, _) = sync(&mut source, None).unwrap();
    let before = objects(mirror.path());
    repo.commit(
        &[("apps/app-3/manifests/2.yaml", "changed"), ("apps/app-4/manifests/2.yaml", "too")],
        Signer::Ops,
    );
    repo.push(&server.bare());
    server.forget_requests();
    let (second, found) = sync(&mut source, Some(&first)).unwrap();
    assert_eq!(found, expected(&repo));
    let new: BTreeSet<String> = objects(mirror.path()).difference(&before).cloned().collect();
    let ways =
        ["", "apps", "apps/app-3", "apps/app-4", "apps/app-3/manifests", "apps/app-3/manifests/2.yaml"];
    let mut wanted: BTreeSet<String> =
        ways.iter().map(|path| repo.git(&["rev-parse", &format!("HEAD:{path}")])).collect();
    wanted.insert(second.0.clone());
    assert_eq!(new, wanted);
    let requests = server.requests(5);
    assert!(
        requests.len() <= 5,
        "the poll, the commit, two levels at once, all that changed in app-3, and app-4 alone: {requests:#?}"
    );
    assert!(bytes(&requests) < 5_000, "{requests:#?}");
    // Nothing is left to ask for, by this process or by the next.
    server.forget_requests();
    for mut source in [source, open(of(&server), &mirror)] {
        assert_eq!(source.gather(&trusted(&source, &second), true).unwrap().read(look).unwrap(), found);
    }
    assert_eq!(server.requests(0), Vec::<String>::new());
}

#[test]
fn a_change_in_a_folder_that_is_read_costs_no_more_than_what_git_s_own_partial_clone_needs() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(of(&server), &mirror);
    let (first, _) = sync(&mut source, None).unwrap();
    let clone = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let mut git = git_in(clone.path());
        git.env("GIT_SSL_CAINFO", server.ca_file());
        printed(git.args(arguments));
    };
    git(&["clone", "-q", "--depth", "1", "--filter=blob:none", "--no-checkout", &server.url(), "."]);
    git(&["sparse-checkout", "set", "--no-cone", "/apps/app-3/"]);
    git(&["checkout", "-q", "main"]);
    repo.commit(&[("apps/app-3/manifests/2.yaml", "changed")], Signer::Ops);
    repo.push(&server.bare());
    server.forget_requests();
    let (_, found) = sync(&mut source, Some(&first)).unwrap();
    assert_eq!(found, expected(&repo));
    let ours = server.requests(4);
    assert_eq!(ours.len(), 4, "{ours:#?}");
    server.forget_requests();
    git(&["fetch", "-q", "--depth", "1", "origin", "main"]);
    git(&["reset", "-q", "--hard", "FETCH_HEAD"]);
    let theirs = server.requests(5);
    assert!(ours.len() < theirs.len() && bytes(&ours) <= bytes(&theirs), "{ours:#?} {theirs:#?}");
}

#[test]
fn what_is_large_or_was_not_there_before_in_a_folder_that_changed_comes_once_it_is_read() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(of(&server), &mirror);
    let (first, _) = sync(&mut source, None).unwrap();
    let before = objects(mirror.path());
    let large = noise(1).repeat(20);
    repo.commit(
        &[
            ("apps/app-3/manifests/2.yaml", &large),
            ("apps/app-3/files/large", &noise(2).repeat(20)),
            ("apps/app-20/app.yaml", "new"),
            ("apps/app-20/manifests/0.yaml", "nobody reads it"),
        ],
        Signer::Ops,
    );
    repo.push(&server.bare());
    let (second, found) = sync(&mut source, Some(&first)).unwrap();
    assert_eq!(found, expected(&repo));
    let new: BTreeSet<String> = objects(mirror.path()).difference(&before).cloned().collect();
    let ways = [
        "",
        "apps",
        "apps/app-3",
        "apps/app-3/manifests",
        "apps/app-3/manifests/2.yaml",
        "apps/app-3/files",
        "apps/app-20",
        "apps/app-20/app.yaml",
    ];
    let mut wanted: BTreeSet<String> =
        ways.iter().map(|path| repo.git(&["rev-parse", &format!("HEAD:{path}")])).collect();
    wanted.insert(second.0);
    assert_eq!(new, wanted);
}

#[test]
fn a_server_that_refuses_a_folder_with_what_changed_below_it_is_asked_level_by_level_from_then_on() {
    let repo = fleet();
    let refuses = Arc::new(AtomicBool::new(false));
    let does = refuses.clone();
    // After the commit and its topmost folders.
    let way =
        Middleman::start(&repo, move |wanted, before| match does.load(Ordering::SeqCst) && before == 2 {
            true => refusal(&wanted[0]),
            false => Deed::Pass,
        });
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(config(way.url()), &mirror);
    let (mut last, _) = sync(&mut source, None).unwrap();
    refuses.store(true, Ordering::SeqCst);
    for (text, requests) in [("changed", 6), ("again", 5)] {
        way.forget();
        repo.commit(&[("apps/app-3/manifests/2.yaml", text)], Signer::Ops);
        repo.push(&way.server.bare());
        let (revision, found) = sync(&mut source, Some(&last)).unwrap();
        assert_eq!(found, expected(&repo));
        assert_eq!(way.asked().len(), requests, "{:#?}", way.asked());
        refuses.store(false, Ordering::SeqCst);
        last = revision;
    }
}

#[test]
fn nothing_of_a_commit_comes_but_itself_until_it_is_read() {
    let repo = fleet();
    let accepted = Revision(repo.head());
    for n in 0..5 {
        repo.commit(&[("holdfast.yaml", &n.to_string())], Signer::Nobody);
    }
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(of(&server), &mirror);
    let tip = source.poll().unwrap();
    let fetched = source.fetch(&tip, Some(&accepted)).unwrap();
    assert_eq!((ancestry(&fetched), shown(&fetched).signature.clone()), (Ancestry::Descends, Ok(None)));
    assert_eq!(objects(mirror.path()), BTreeSet::from([tip.0.clone()]));
    assert!(!source.has(&tip));
    // Offline it can't be read, and that is said.
    let found = source.gather(&trusted(&source, &tip), false).unwrap().read(look);
    assert!(matches!(&found, Err(SourceError::Incomplete { count: 1, .. })), "{found:?}");
}

#[test]
fn a_network_that_is_lost_between_the_levels_is_an_error_and_what_came_is_not_asked_for_again() {
    let repo = fleet();
    let lost = Arc::new(AtomicBool::new(true));
    let is_lost = lost.clone();
    let way = Middleman::start(&repo, move |_, before| match before >= 4 && is_lost.load(Ordering::SeqCst) {
        true => Deed::Cut,
        false => Deed::Pass,
    });
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(config(way.url()), &mirror);
    let error = sync(&mut source, None).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let tip = Revision(repo.head());
    assert!(!source.has(&tip));
    assert!(source.gather(&trusted(&source, &tip), false).unwrap().read(look).is_err());
    let came: BTreeSet<String> = way.asked()[..4].concat().into_iter().collect();
    assert_eq!(objects(mirror.path()), came);
    // The agent was started anew, and the network is back.
    lost.store(false, Ordering::SeqCst);
    way.forget();
    let mut source = open(config(way.url()), &mirror);
    let (revision, found) = sync(&mut source, None).unwrap();
    assert_eq!((revision, found), (tip, expected(&repo)));
    let asked: BTreeSet<String> = way.asked().concat().into_iter().collect();
    assert!(asked.is_disjoint(&came), "{asked:?}");
    assert_eq!(objects(mirror.path()), needed(&repo));
}

#[test]
fn a_server_that_sends_nothing_by_its_id_is_asked_for_whole_commits_from_then_on() {
    let repo = fleet();
    let tip = repo.head();
    let commit = tip.clone();
    let way = Middleman::start(&repo, move |wanted, before| match wanted[0] == commit || before > 1 {
        true => Deed::Pass,
        false => refusal(&wanted[0]),
    });
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(config(way.url()), &mirror);
    let (first, found) = sync(&mut source, None).unwrap();
    assert_eq!(found, expected(&repo));
    assert_eq!(way.asked().len(), 3, "the commit, its folder, and all of it");
    assert_eq!(read_unneeded(&source, &first), "neither");
    repo.commit(&[("docs/plan", "changed")], Signer::Ops);
    repo.push(&way.server.bare());
    let (second, _) = sync(&mut source, Some(&first)).unwrap();
    assert_eq!(way.asked()[3..], [[second.0.clone()]]);
    assert_eq!(read_unneeded(&source, &second), "changed");
}

#[test]
fn a_server_that_filters_only_in_words_is_asked_for_the_whole() {
    let repo = fleet();
    let way = Middleman::start(&repo, |_, _| Deed::Widen);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(config(way.url()), &mirror);
    let tip = source.poll().unwrap();
    source.fetch(&tip, None).unwrap();
    assert_eq!(way.asked().len(), 2, "the commit, which came with more, and the whole");
    assert_eq!(read_unneeded(&source, &tip), "neither");
    assert_eq!(pack_files(&mirror), 2, "nothing was kept of what wasn't asked for");
}

fn read_unneeded(source: &GitSource, revision: &Revision) -> String {
    let files = source.snapshot(revision).unwrap();
    String::from_utf8(files.read("docs/plan", LIMIT).unwrap().unwrap()).unwrap()
}

#[test]
fn a_server_that_sends_something_else_is_asked_for_the_whole_and_nothing_else_is_kept() {
    let repo = fleet();
    let (tip, other) = (repo.head(), repo.git(&["rev-parse", "HEAD:docs"]));
    let way = Middleman::start(&repo, {
        let tip = tip.clone();
        move |wanted, _| if wanted[0] == tip { Deed::Pass } else { Deed::Ask(other.clone()) }
    });
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(config(way.url()), &mirror);
    source.poll().unwrap();
    source.fetch(&Revision(tip.clone()), None).unwrap();
    assert_eq!(objects(mirror.path()).len(), 1);
    let (_, found) = sync(&mut source, None).unwrap();
    assert_eq!(found, expected(&repo));
    // One that lies about the commit too.
    let older = repo.git(&["rev-parse", "HEAD"]);
    repo.commit(&[("holdfast.yaml", "newer")], Signer::Ops);
    let lies = Middleman::start(&repo, move |_, _| Deed::Ask(older.clone()));
    let empty = tempfile::tempdir().unwrap();
    let mut source = open(config(lies.url()), &empty);
    let error = sync(&mut source, None).unwrap_err();
    assert!(matches!(&error, SourceError::NotWhole { .. }), "{error:?}");
    // It has nothing else to send, and isn't asked at each poll.
    let asked = lies.asked().len();
    assert_eq!(sync(&mut source, None).unwrap_err(), error);
    assert_eq!(lies.asked().len(), asked);
    assert!(source.snapshot(&Revision(repo.head())).is_err());
}

#[test]
fn a_server_that_sends_nonsense_for_an_object_is_an_error_and_no_reason_to_fetch_everything() {
    let repo = fleet();
    let tip = repo.head();
    let short = |count: u8| {
        let mut pack = b"\x01PACK\0\0\0\x02\0\0\0".to_vec();
        pack.push(count);
        pack.extend([0x33, 0x78, 0x9c, 1, 2, 3]);
        let mut answer = b"000dpackfile\n".to_vec();
        answer.extend(format!("{:04x}", pack.len() + 4).bytes());
        answer.extend(pack);
        answer.extend(b"0000");
        answer
    };
    for answer in [short(1), b"000dpackfile\n".to_vec(), b"00ffpack".to_vec(), Vec::new()] {
        let commit = tip.clone();
        let way = Middleman::start(&repo, move |wanted, _| match wanted[0] == commit {
            true => Deed::Pass,
            false => Deed::Say(answer.clone()),
        });
        let mirror = tempfile::tempdir().unwrap();
        let mut source = open(config(way.url()), &mirror);
        let error = sync(&mut source, None).unwrap_err();
        assert!(
            matches!(&error, SourceError::Protocol { .. } | SourceError::Unreachable { .. }),
            "{error:?}"
        );
        assert_eq!(objects(mirror.path()), BTreeSet::from([tip.clone()]));
        assert_eq!(way.asked().len(), 2, "the commit, and its folder");
    }
}

#[test]
fn all_levels_together_stay_within_the_limit_of_bytes() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut limited = of(&server);
    // More than any request takes, and less than all of them.
    limited.limits.pack = 4_000;
    let error = sync(&mut open(limited, &mirror), None).unwrap_err();
    assert!(matches!(&error, SourceError::TooLarge { limit: Limit::Bytes(4_000), .. }), "{error:?}");
    assert!(sync(&mut open(of(&server), &mirror), None).is_ok(), "it goes on from there");
}

#[test]
fn collection_keeps_what_the_kept_revisions_need_and_lets_the_rest_go() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(of(&server), &mirror);
    let (mut last, _) = sync(&mut source, None).unwrap();
    let mut previous = last.clone();
    for n in 0..14 {
        repo.commit(&[("apps/app-3/manifests/0.yaml", &n.to_string())], Signer::Ops);
        repo.push(&server.bare());
        previous = last.clone();
        last = sync(&mut source, Some(&last)).unwrap().0;
    }
    let first = repo.git(&["rev-parse", "HEAD~14"]);
    assert!(objects(mirror.path()).contains(&first));
    source.collect(&[previous.clone(), last.clone()], false).unwrap();
    let left = objects(mirror.path());
    assert!(left.is_superset(&needed(&repo)));
    assert!(!left.contains(&first), "the packs were many");
    assert_eq!(pack_files(&mirror), 2);
    server.forget_requests();
    for revision in [&previous, &last] {
        assert!(source.has(revision));
        source.gather(&trusted(&source, revision), true).unwrap().read(look).unwrap();
    }
    assert_eq!(server.requests(0), Vec::<String>::new());
    // Collected again, nothing is written.
    let packs = || std::fs::metadata(mirror.path().join("objects/pack")).unwrap().modified().unwrap();
    let before = packs();
    source.collect(&[previous, last], false).unwrap();
    assert_eq!(packs(), before);
}

#[test]
fn a_source_that_changes_to_whole_commits_finds_what_came_in_parts() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let (first, _) = sync(&mut open(of(&server), &mirror), None).unwrap();
    // A stick with the same repository, without a network: the folders that are here are not whole.
    repo.commit(&[("apps/app-3/manifests/0.yaml", "from the stick")], Signer::Ops);
    let mut source = open(config(repo.url()), &mirror);
    let (second, found) = sync(&mut source, Some(&first)).unwrap();
    assert_eq!(found, expected(&repo));
    assert_eq!(read_unneeded(&source, &second), "neither");
    assert!(source.has(&first) && source.has(&second));
    source.collect(std::slice::from_ref(&second), false).unwrap();
    assert!(!mirror.path().join("parts").exists(), "only whole folders are left");
    assert_eq!(read_unneeded(&source, &second), "neither");
    // And back to the server: what is here as a whole needs nothing of it.
    let mut source = open(of(&server), &mirror);
    source.fetch(&second, Some(&first)).unwrap();
    assert_eq!(source.gather(&trusted(&source, &second), true).unwrap().read(look).unwrap(), found);
}

#[test]
fn a_damaged_mirror_of_parts_waits_aside_until_the_new_one_has_what_is_needed() {
    let repo = fleet();
    let lost = Arc::new(AtomicBool::new(false));
    let is_lost = lost.clone();
    let way = Middleman::start(&repo, move |_, before| match before >= 2 && is_lost.load(Ordering::SeqCst) {
        true => Deed::Cut,
        false => Deed::Pass,
    });
    let mirror = tempfile::tempdir().unwrap();
    let (tip, found) = sync(&mut open(config(way.url()), &mirror), None).unwrap();
    let packs: Vec<_> = std::fs::read_dir(mirror.path().join("objects/pack")).unwrap().collect();
    for pack in packs.into_iter().map(|entry| entry.unwrap().path()) {
        let bytes = std::fs::read(&pack).unwrap();
        // The deepest level: one pack with files that can't be compressed.
        if pack.extension().unwrap() == "pack" && bytes.len() > 1500 {
            std::fs::remove_file(&pack).unwrap();
            std::fs::write(&pack, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
    let mut source = open(config(way.url()), &mirror);
    let read = source.gather(&trusted(&source, &tip), true).unwrap().read(look).unwrap();
    assert_ne!(read, found, "the damage is seen");
    assert!(!source.has(&tip));
    way.forget();
    lost.store(true, Ordering::SeqCst);
    sync(&mut source, None).unwrap_err();
    assert!(mirror.path().join("aside/objects").exists());
    // Started anew: what is undamaged in the old one is still there.
    drop(source);
    let mut source = open(config(way.url()), &mirror);
    assert!(!mirror.path().join("aside").exists());
    assert_eq!(source.gather(&trusted(&source, &tip), false).unwrap().read(look).unwrap(), read);
    lost.store(false, Ordering::SeqCst);
    assert_eq!(sync(&mut source, None).unwrap(), (tip, found));
    assert!(!mirror.path().join("aside").exists());
}

#[test]
fn a_revision_that_the_room_for_it_does_not_hold_leaves_nothing_and_is_not_asked_for_again() {
    let repo = fleet();
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(of(&server), &mirror);
    let tip = source.poll().unwrap();
    source.fetch(&tip, None).unwrap();
    source.set_room(100);
    let before = objects(mirror.path());
    let read = |source: &mut GitSource| {
        source.gather(&trusted(source, &tip), true).and_then(|mut g| g.read(look).map(drop))
    };
    for _ in 0..2 {
        let error = read(&mut source).unwrap_err();
        assert!(matches!(&error, SourceError::OverBudget { room: 100 }), "{error:?}");
        assert_eq!(objects(mirror.path()), before);
        assert!(!mirror.path().join("incoming").exists());
    }
    let refused = source.fetch(&tip, None).unwrap_err();
    assert!(refused.to_string().contains("raise state.disk_budget"), "{refused}");
    source.set_room(1 << 20);
    read(&mut source).unwrap();
}
