//! The mirror under kill -9 at any moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast::source::{GitSource, Reference, SourceConfig};
use holdfast_core::digest::Revision;

use crate::support::git_repo::{SignedRepo, Signer};

const COMMITS: usize = 24;
const DIR: &str = "HOLDFAST_TEST_MIRROR";
const URL: &str = "HOLDFAST_TEST_URL";

fn open(url: &str, mirror: &Path) -> GitSource {
    GitSource::open(SourceConfig::new(url, Reference::Branch("main".to_owned())), mirror).unwrap()
}

/// The process that is killed: it fetches one commit after the other and collects, for ever. Without its
/// environment this is not a test of its own.
#[test]
fn child() {
    let (Ok(dir), Ok(url)) = (std::env::var(DIR), std::env::var(URL)) else { return };
    let ids = std::fs::read_to_string(Path::new(&dir).join("../ids")).unwrap();
    let mut source = open(&url, Path::new(&dir));
    let mut newest: Vec<Revision> = Vec::new();
    for id in ids.lines().cycle() {
        let revision = Revision(id.to_owned());
        source.fetch(&revision, None).unwrap();
        newest.push(revision);
        let keep = newest.len().saturating_sub(2);
        source.collect(&newest[keep..]).unwrap();
    }
}

#[test]
fn a_kill_at_any_moment_leaves_every_revision_whole_or_absent() {
    let repo = SignedRepo::new();
    let ids: Vec<String> = (0..COMMITS)
        .map(|n| repo.commit(&[("a", &n.to_string()), (&format!("dir/{n}"), "x")], Signer::Nobody))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ids"), ids.join("\n")).unwrap();
    let mirror = dir.path().join("mirror");
    let mut whole = BTreeSet::new();
    for round in 0..40u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact"])
            .env(DIR, &mirror)
            .env(URL, repo.url())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(10 + round * 37 % 150));
        assert!(child.try_wait().unwrap().is_none(), "the child ends when it is killed and not before");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!mirror.join("aside").exists(), "nothing was taken for damage");
        let source = open(&repo.url(), &mirror);
        for (n, id) in ids.iter().enumerate() {
            let revision = Revision(id.clone());
            if source.has(&revision) {
                let files = source.snapshot(&revision).unwrap();
                assert_eq!(files.read("a", 100).unwrap().unwrap(), n.to_string().as_bytes());
                assert_eq!(files.list("dir").unwrap().len(), n + 1);
                assert!(files.read(&format!("dir/{n}"), 100).unwrap().is_some());
                whole.insert(n);
            }
        }
    }
    assert!(whole.len() > 3, "the child came to something: {whole:?}");
}
