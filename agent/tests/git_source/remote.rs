//! `https://`: a real server (nginx and git-http-backend).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use holdfast::config::Credentials;
use holdfast::source::{GitConfig, GitSource, Reference, Source, SourceError, SourceTree};
use holdfast_core::digest::Revision;
use holdfast_core::verify::Ancestry;
use tempfile::TempDir;

use crate::support::git_repo::{SignedRepo, Signer, git_in};
use crate::support::git_server::{GitServer, Options};
use crate::support::tools::{printed, run};
use crate::{ancestry, shown, trusted};

const LIMIT: u64 = 1 << 20;

fn config(server: &GitServer) -> GitConfig {
    let mut config = GitConfig::new(server.url(), Reference::Branch("main".to_owned()));
    config.ca_file = Some(server.ca_file());
    config
}

/// A server that leaves nothing out: it sends whole commits. `parts` has the other kind.
fn start(repo: &SignedRepo) -> GitServer {
    GitServer::with(repo, &Options { filter: false, ..Options::default() })
}

fn open(server: &GitServer, mirror: &TempDir) -> GitSource {
    GitSource::open(config(server), mirror.path()).unwrap()
}

fn read(source: &GitSource, revision: &Revision, path: &str) -> String {
    let files = source.snapshot(revision).unwrap();
    String::from_utf8(files.read(path, LIMIT).unwrap().unwrap()).unwrap()
}

/// Every file below a folder, with its size and the time of its last change.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let data = dir.metadata().unwrap();
        found.insert(dir.clone(), (0, data.modified().unwrap()));
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let data = path.metadata().unwrap();
            match data.is_dir() {
                true => open.push(path),
                false => drop(found.insert(path, (data.len(), data.modified().unwrap()))),
            }
        }
    }
    found
}

#[test]
fn a_commit_is_polled_fetched_and_read() {
    let repo = SignedRepo::new();
    let id = repo.commit(&[("holdfast.yaml", "kind: Fleet\n"), ("a/b/c", "deep")], Signer::Ops);
    let server = start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    let revision = source.poll().unwrap();
    assert_eq!(revision.0, id);
    let fetched = source.fetch(&revision, None).unwrap();
    assert!(shown(&fetched).signature.as_ref().unwrap().is_some());
    assert_eq!(read(&source, &revision, "a/b/c"), "deep");
}

#[test]
fn a_poll_without_a_change_is_one_small_request_and_writes_nothing() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    let server = start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    let revision = source.poll().unwrap();
    let requests = server.requests(2);
    assert_eq!(requests.len(), 2, "{requests:?}");
    source.fetch(&revision, None).unwrap();
    server.forget_requests();
    let before = files(mirror.path());
    for _ in 0..3 {
        assert_eq!(source.poll().unwrap(), revision);
    }
    assert_eq!(files(mirror.path()), before);
    let requests = server.requests(3);
    assert_eq!(requests.len(), 3, "{requests:?}");
    for request in requests {
        assert!(request.starts_with("POST /edge.git/git-upload-pack 200"), "{request}");
        let bytes: u64 = request.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(bytes < 1000, "{request}");
    }
}

#[test]
fn a_change_brings_only_what_is_new() {
    let repo = SignedRepo::new();
    let mut state = 1u64;
    let noise: String = (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            char::from(b'!' + (state >> 33) as u8 % 89)
        })
        .collect();
    repo.commit(&[("large", &noise), ("a", "1")], Signer::Ops);
    let server = start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    let first = source.poll().unwrap();
    source.fetch(&first, None).unwrap();
    repo.commit(&[("a", "2")], Signer::Ops);
    repo.push(&server.bare());
    server.forget_requests();
    let second = source.poll().unwrap();
    let fetched = source.fetch(&second, Some(&first)).unwrap();
    assert_eq!(ancestry(&fetched), Ancestry::Descends);
    assert_eq!(read(&source, &second, "a"), "2");
    assert_eq!(read(&source, &second, "large"), noise);
    assert_eq!(read(&source, &first, "a"), "1");
    let requests = server.requests(2);
    assert_eq!(requests.len(), 2, "one poll, one fetch; the parent is the accepted commit: {requests:?}");
    let bytes: u64 = requests[1].rsplit(' ').next().unwrap().parse().unwrap();
    assert!(bytes < 5000, "{requests:?}");
}

fn descent_case(filter: bool) {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "0")], Signer::Ops);
    repo.git(&["checkout", "-q", "-b", "feature"]);
    repo.commit(&[("f", "1")], Signer::Ops);
    repo.git(&["checkout", "-q", "main"]);
    let accepted = Revision(repo.commit(&[("a", "1")], Signer::Ops));
    repo.git(&["merge", "-q", "--no-edit", "feature"]);
    for n in 2..30 {
        repo.commit(&[("a", &n.to_string())], Signer::Ops);
    }
    let server = GitServer::with(&repo, &Options { filter, ..Options::default() });
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    let tip = source.poll().unwrap();
    assert_eq!(ancestry(&source.fetch(&tip, Some(&accepted)).unwrap()), Ancestry::Descends);
    let stray: Vec<_> = files(mirror.path()).into_keys().filter(|p| p.ends_with("incoming")).collect();
    assert!(stray.is_empty(), "the proof leaves nothing behind: {stray:?}");

    // History is rewritten behind the accepted commit.
    repo.git(&["reset", "-q", "--hard", &format!("{accepted}~1")]);
    repo.commit(&[("a", "rewritten")], Signer::Ops);
    repo.commit(&[("a", "rewritten again")], Signer::Ops);
    repo.push(&server.bare());
    let forced = source.poll().unwrap();
    assert_eq!(ancestry(&source.fetch(&forced, Some(&tip)).unwrap()), Ancestry::Foreign);
    let found = source.gather(&trusted(&source, &forced), true).unwrap().read(|files| files.read("a", LIMIT));
    assert_eq!(found.unwrap().unwrap().unwrap(), b"rewritten again");
    // The server has forgotten the accepted commit.
    run(git_in(&server.bare()).args(["-c", "gc.pruneExpire=now", "gc", "-q", "--prune=now"]));
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    assert_eq!(ancestry(&source.fetch(&forced, Some(&tip)).unwrap()), Ancestry::Foreign);
    // Going back to an ancestor.
    let older = Revision(repo.git(&["rev-parse", &format!("{forced}~1")]));
    assert_eq!(ancestry(&source.fetch(&older, Some(&forced)).unwrap()), Ancestry::Foreign);
}

#[test]
fn descent_is_proved_by_commits_without_trees() {
    descent_case(true);
}

#[test]
fn descent_is_proved_by_a_server_that_cannot_filter() {
    descent_case(false);
}

/// Text that can't be compressed away.
fn noise(seed: u64, count: usize) -> String {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'!' + (state >> 33) as u8 % 94)
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn packs_are_indexed_as_git_does_it() {
    let repo = SignedRepo::new();
    let large = noise(1, 40_000);
    for n in 0..30 {
        // Like each other, so that they come as differences.
        repo.write(&[(&format!("apps/{n}"), &format!("{n} {large} {n}"))]);
    }
    repo.commit(&[], Signer::Ops);
    repo.git(&["gc", "-q"]);
    let server = start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    let mut accepted = None;
    for n in 0..3 {
        // On top of what is in the mirror and not in the pack.
        let id = repo.commit(&[("apps/3", &format!("changed {n} {large}"))], Signer::Ops);
        repo.push(&server.bare());
        let revision = source.poll().unwrap();
        assert_eq!(revision.0, id);
        source.fetch(&revision, accepted.as_ref()).unwrap();
        assert_eq!(read(&source, &revision, "apps/3"), format!("changed {n} {large}"));
        accepted = Some(revision);
    }
    let mut differences = 0;
    let packs = std::fs::read_dir(mirror.path().join("objects/pack")).unwrap();
    let packs: Vec<PathBuf> = packs.map(|entry| entry.unwrap().path()).collect();
    let packs = packs.iter().filter(|path| path.extension().is_some_and(|extension| extension == "pack"));
    for (n, pack) in packs.enumerate() {
        let (index, log) = (pack.with_extension("idx"), mirror.path().join(format!("{n}.idx")));
        run(git_in(mirror.path()).arg("index-pack").arg("-o").arg(&log).arg(pack));
        assert!(std::fs::read(&index).unwrap() == std::fs::read(&log).unwrap(), "{}", index.display());
        let listed = printed(git_in(mirror.path()).args(["verify-pack", "-v"]).arg(&index));
        // An object that is a difference has seven fields.
        differences += listed.lines().filter(|line| line.split_whitespace().count() == 7).count();
        assert!(pack.file_stem().unwrap().to_str().unwrap().len() == 45, "{}", pack.display());
    }
    assert!(differences > 25, "{differences}");
}

#[test]
fn large_files_that_come_as_differences_come_whole_where_these_take_too_much_memory() {
    // Little on the wire, and still less as a difference.
    let large = "x".repeat(34 << 20);
    let read = |files: &dyn SourceTree, path: &str| {
        let stream = files.open(path, 1 << 30).ok().flatten();
        stream.map(|mut stream| {
            let mut text = String::new();
            stream.bytes.read_to_string(&mut text).unwrap();
            text
        })
    };
    for filter in [true, false] {
        let repo = SignedRepo::new();
        let mut first = repo.commit(&[("a", &large)], Signer::Ops);
        if filter {
            // Both at once: one of them is a difference to the other.
            first = repo.commit(&[("b", &format!("{large} b"))], Signer::Ops);
        }
        let server = GitServer::with(&repo, &Options { filter, ..Options::default() });
        run(git_in(&server.bare()).args(["repack", "-adfq", "--depth=5"]));
        let mirror = tempfile::tempdir().unwrap();
        let mut source = open(&server, &mirror);
        let mut bring = |id: &str| {
            let revision = source.poll().unwrap();
            assert_eq!(revision.0, id);
            source.fetch(&revision, None).unwrap();
            let mut gathering = source.gather(&trusted(&source, &revision), true).unwrap();
            let found = gathering.read(|files| (read(files, "a"), read(files, "b"))).unwrap();
            gathering.finish().unwrap();
            found
        };
        let b = filter.then(|| format!("{large} b"));
        server.forget_requests();
        assert!(bring(&first) == (Some(large.clone()), b.clone()), "filter {filter}");
        if filter {
            let fetched = server.requests(6).iter().filter(|line| line.starts_with("POST")).count();
            assert_eq!(fetched, 6, "the poll, the commit, its folder, both files at once, and each of them");
        }
        if !filter {
            // On top of what is in the mirror: a difference to that.
            let second = repo.commit(&[("a", &format!("{large} changed"))], Signer::Ops);
            repo.push(&server.bare());
            server.forget_requests();
            assert!(bring(&second) == (Some(format!("{large} changed")), None));
            let fetched = server.requests(4).iter().filter(|line| line.starts_with("POST")).count();
            assert_eq!(fetched, 3, "the poll, the difference, and the file");
        }
    }
}

#[test]
fn a_history_beyond_the_limits_is_unproven_and_not_an_error() {
    let repo = SignedRepo::new();
    let accepted = Revision(repo.commit(&[("a", "0")], Signer::Ops));
    for n in 0..20 {
        repo.commit(&[("a", &n.to_string())], Signer::Nobody);
    }
    let server = start(&repo);
    for small in [true, false] {
        let mut config = config(&server);
        match small {
            true => config.limits.talk = 1500,
            false => config.limits.commits = 5,
        }
        let mirror = tempfile::tempdir().unwrap();
        let mut source = GitSource::open(config, mirror.path()).unwrap();
        let tip = source.poll().unwrap();
        let ancestry = ancestry(&source.fetch(&tip, Some(&accepted)).unwrap());
        assert!(matches!(ancestry, Ancestry::Unproven { .. }), "{small}: {ancestry:?}");
    }
}

#[test]
fn a_tag_is_peeled_and_a_missing_branch_is_said() {
    let repo = SignedRepo::new();
    let id = repo.commit(&[("a", "1")], Signer::Ops);
    repo.git(&["tag", "-a", "-m", "x", "v1"]);
    let server = start(&repo);
    repo.git(&["push", "-q", &format!("file://{}", server.bare().display()), "v1"]);
    let mirror = tempfile::tempdir().unwrap();
    let mut tagged = config(&server);
    tagged.reference = Reference::Tag("v1".to_owned());
    assert_eq!(GitSource::open(tagged, mirror.path()).unwrap().poll().unwrap().0, id);
    let mut missing = config(&server);
    missing.reference = Reference::Branch("nope".to_owned());
    let error = GitSource::open(missing, mirror.path()).unwrap().poll().unwrap_err();
    assert!(matches!(&error, SourceError::NotFound { what } if what.contains("nope")), "{error}");
    let mut source = open(&server, &mirror);
    let error = source.fetch(&Revision("1".repeat(40)), None).unwrap_err();
    assert!(matches!(&error, SourceError::NotFound { .. }), "{error}");
}

#[test]
fn a_password_is_read_anew_each_time_and_a_wrong_one_is_said_without_showing_it() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    let auth = Some(("edge".to_owned(), "s3cret".to_owned()));
    let server = GitServer::with(&repo, &Options { auth, ..Options::default() });
    let mirror = tempfile::tempdir().unwrap();
    let error = open(&server, &mirror).poll().unwrap_err();
    assert!(matches!(&error, SourceError::Unauthorized { why, .. } if why.contains("401")), "{error}");
    let password = repo.beside("password");
    let mut config = config(&server);
    config.credentials =
        Some(Credentials::Password { username: "edge".to_owned(), password_file: password.clone() });
    let mut source = GitSource::open(config, mirror.path()).unwrap();
    let error = source.poll().unwrap_err();
    assert!(matches!(&error, SourceError::Local { cause, .. } if cause.contains("password")), "{error}");
    std::fs::write(&password, "wr0ng\n").unwrap();
    let error = source.poll().unwrap_err();
    assert!(matches!(error, SourceError::Unauthorized { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wr0ng"));
    std::fs::write(&password, "s3cret\n").unwrap();
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
}

#[test]
fn a_repository_that_is_not_there_and_a_server_that_is_no_git_server_are_said() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    let extra = "location /site { add_header Content-Type text/html; return 200 hello; }
                 location /broken { add_header Retry-After 1200 always; return 503; }"
        .to_owned();
    let server = GitServer::with(&repo, &Options { extra, ..Options::default() });
    let mirror = tempfile::tempdir().unwrap();
    let poll = |path: &str| {
        let mut config = config(&server);
        config.url = format!("https://localhost:{}{path}", server.port());
        GitSource::open(config, mirror.path()).unwrap().poll().unwrap_err()
    };
    let error = poll("/nothing.git");
    assert!(matches!(&error, SourceError::NotFound { .. }), "{error}");
    let error = poll("/site");
    assert!(matches!(&error, SourceError::Protocol { .. }), "{error}");
    let error = poll("/broken");
    assert!(matches!(&error, SourceError::Busy { why, .. } if why.contains("503")), "{error}");
    assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(1200)), "{error}");
    assert!(error.was_asked());
}

#[test]
fn a_server_with_a_private_ca_is_not_trusted_without_it() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    let server = start(&repo);
    let other = tempfile::tempdir().unwrap();
    crate::support::git_server::make_certificates(other.path());
    let mirror = tempfile::tempdir().unwrap();
    let mut wrong = config(&server);
    wrong.ca_file = Some(other.path().join("ca.pem"));
    let mut source = GitSource::open(wrong, mirror.path()).unwrap();
    let error = source.poll().unwrap_err();
    assert!(matches!(&error, SourceError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("ca_file"), "{error}");
    // The file is put right while the agent runs.
    std::fs::copy(server.ca_file(), other.path().join("ca.pem")).unwrap();
    source.poll().unwrap();
    // The certificate is for another name.
    let mut renamed = config(&server);
    renamed.url = renamed.url.replace("localhost", "127.0.0.2");
    let error = GitSource::open(renamed, mirror.path()).unwrap().poll().unwrap_err();
    assert!(matches!(&error, SourceError::Untrusted { .. } | SourceError::Unreachable { .. }), "{error}");
    for (content, expected) in [("", "no certificate"), ("-----BEGIN CERTIFICATE-----\n!\n", "")] {
        std::fs::write(other.path().join("bad.pem"), content).unwrap();
        let mut bad = config(&server);
        bad.ca_file = Some(other.path().join("bad.pem"));
        let error = GitSource::open(bad, mirror.path()).unwrap().poll().unwrap_err();
        assert!(matches!(&error, SourceError::Local { cause, .. } if cause.contains(expected)), "{error}");
    }
}

#[test]
fn a_damaged_mirror_is_rebuilt_from_the_server() {
    let repo = SignedRepo::new();
    let accepted = Revision(repo.commit(&[("a", &"content ".repeat(500))], Signer::Ops));
    repo.commit(&[("b", "2")], Signer::Ops);
    let server = start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
    for path in files(&mirror.path().join("objects/pack")).into_keys() {
        if path.extension().is_some_and(|extension| extension == "pack") {
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
        }
    }
    let mut source = open(&server, &mirror);
    let fetched = source.fetch(&revision, Some(&accepted)).unwrap();
    assert_eq!(ancestry(&fetched), Ancestry::Descends);
    assert_eq!(read(&source, &revision, "b"), "2");
    assert_eq!(read(&source, &revision, "a").len(), 4000);
}

#[test]
fn a_damaged_mirror_without_a_network_keeps_what_is_whole() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "1")], Signer::Ops);
    let server = start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    let first = source.poll().unwrap();
    source.fetch(&first, None).unwrap();
    let first_packs = files(&mirror.path().join("objects/pack"));
    repo.commit(&[("a", "2")], Signer::Ops);
    repo.push(&server.bare());
    let second = source.poll().unwrap();
    source.fetch(&second, None).unwrap();
    for path in files(&mirror.path().join("objects/pack")).into_keys() {
        if !first_packs.contains_key(&path) {
            std::fs::remove_file(&path).unwrap();
        }
    }
    let mut config = config(&server);
    config.ca_file = Some(repo.beside("ca.pem"));
    std::fs::copy(server.ca_file(), repo.beside("ca.pem")).unwrap();
    drop(server);
    let mut source = GitSource::open(config, mirror.path()).unwrap();
    assert!(source.snapshot(&second).is_err());
    assert!(matches!(source.fetch(&second, None), Err(SourceError::Unreachable { .. })));
    drop(source);
    let source =
        GitSource::open(GitConfig::new("file:///none", Reference::Tag("x".to_owned())), mirror.path());
    assert_eq!(read(&source.unwrap(), &first, "a"), "1");
}

#[test]
fn a_revert_brings_back_what_only_the_history_had() {
    let repo = SignedRepo::new();
    repo.commit(&[("a", "as it was")], Signer::Ops);
    let accepted = Revision(repo.commit(&[("a", "as it should not be")], Signer::Ops));
    let server = start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let mut source = open(&server, &mirror);
    source.fetch(&accepted, None).unwrap();
    repo.commit(&[("a", "as it was")], Signer::Ops);
    repo.push(&server.bare());
    let reverted = source.poll().unwrap();
    source.fetch(&reverted, Some(&accepted)).unwrap();
    assert_eq!(read(&source, &reverted, "a"), "as it was");
    assert!(source.has(&accepted), "it came on top, and nothing was built anew");
}
