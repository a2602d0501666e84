//! A source behind a metered link.

use holdfast::http::allowance::Allowance;
use holdfast::source::{GitConfig, GitSource, Reference, Source, SourceError};
use tempfile::TempDir;

use crate::support::git_repo::{SignedRepo, Signer};
use crate::support::git_server::{GitServer, Options};
use crate::support::moved_clock::{MovedClock, limits};
use crate::{shown, trusted};
use jiff::tz::TimeZone;

const LIMIT: u64 = 4 << 20;

fn open(server: &GitServer, mirror: &TempDir, allowance: &Allowance) -> GitSource {
    let mut config = GitConfig::new(server.url(), Reference::Branch("main".to_owned()));
    config.ca_file = Some(server.ca_file());
    GitSource::open_within(config, mirror.path(), allowance).unwrap()
}

/// Text that can't be compressed to less than half a megabyte.
fn large(seed: u64) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'0' + (state >> 33) as u8 % 70)
    };
    (0..1_000_000).map(|_| next()).collect()
}

#[test]
fn a_new_revision_is_seen_when_nothing_is_left_of_the_budget() {
    let repo = SignedRepo::new();
    let first = repo.commit(&[("holdfast.yaml", "one")], Signer::Ops);
    let server = GitServer::start(&repo);
    let mirror = tempfile::tempdir().unwrap();
    let allowance = MovedClock::new().allowance(None, Some(1));
    let mut source = open(&server, &mirror, &allowance);
    assert_eq!(source.poll().unwrap().0, first);
    assert_eq!(allowance.left(), Some(0));
    let second = repo.commit(&[("holdfast.yaml", "two"), ("app.wasm", &large(1))], Signer::Ops);
    repo.push(&server.bare());
    for _ in 0..20 {
        assert_eq!(source.poll().unwrap().0, second);
    }
    let revision = source.poll().unwrap();
    let fetched = source.fetch(&revision, None).unwrap();
    assert!(shown(&fetched).signature.as_ref().unwrap().is_some());
    let mut gathering = source.gather(&trusted(&source, &revision), true).unwrap();
    let text = gathering.read(|files| files.read("holdfast.yaml", LIMIT)).unwrap().unwrap();
    assert_eq!(text.unwrap(), b"two");
    // What is large waits.
    let stopped = gathering.read(|files| files.read("app.wasm", LIMIT).map(|_| ()).is_ok()).unwrap_err();
    assert!(matches!(stopped, SourceError::UsedUp { .. }), "{stopped}");
    assert!(stopped.to_string().contains("the byte budget of this link is used up"), "{stopped}");
    drop(gathering);
    allowance.set(limits(None, Some(1)), true, TimeZone::UTC);
    let mut gathering = source.gather(&trusted(&source, &revision), true).unwrap();
    assert!(gathering.read(|files| files.read("app.wasm", LIMIT).is_ok()).unwrap(), "an urgent one doesn't");
}

#[test]
fn a_whole_commit_that_is_too_large_for_the_budget_is_not_tried_again_and_again() {
    let repo = SignedRepo::new();
    repo.commit(&[("app.wasm", &large(2))], Signer::Ops);
    let server = GitServer::with(&repo, &Options { filter: false, ..Options::default() });
    let mirror = tempfile::tempdir().unwrap();
    let clock = MovedClock::new();
    let allowance = clock.allowance(None, Some(100 << 10));
    let mut source = open(&server, &mirror, &allowance);
    let revision = source.poll().unwrap();
    let stopped = source.fetch(&revision, None).unwrap_err();
    let said = stopped.to_string();
    assert!(matches!(stopped, SourceError::UsedUp { .. }) && said.contains("2026-02-11T00:00:00Z"), "{said}");
    let used = allowance.used();
    for _ in 0..5 {
        assert!(matches!(source.fetch(&revision, None), Err(SourceError::UsedUp { .. })));
    }
    assert_eq!(allowance.used(), used, "nothing is used by trying");
    assert_eq!(source.poll().unwrap(), revision);
    allowance.set(limits(None, Some(10 << 20)), false, TimeZone::UTC);
    source.fetch(&revision, None).unwrap();
}

#[test]
fn a_rate_holds_up_a_fetch_and_ends_it_by_no_timeout() {
    let repo = SignedRepo::new();
    repo.commit(&[("app.wasm", &large(3))], Signer::Ops);
    let server = GitServer::with(&repo, &Options { filter: false, ..Options::default() });
    let mirror = tempfile::tempdir().unwrap();
    let clock = MovedClock::new();
    let allowance = clock.allowance(Some(1 << 10), Some(1 << 30));
    let mut source = open(&server, &mirror, &allowance);
    let revision = source.poll().unwrap();
    source.fetch(&revision, None).unwrap();
    let (used, took) = (allowance.used().unwrap(), holdfast::http::allowance::Time::uptime(&clock));
    assert!(used > 500_000, "{used}");
    // All but what came last is paid for.
    assert!(took.as_secs() - 1000 + 1 + 64 >= used / 1024, "{used} bytes in {took:?}");
}
