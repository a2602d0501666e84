//! The mirror under kill -9 at any moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast::source::{GitConfig, GitSource, Reference, Source, SourceTree};
use holdfast_core::digest::Revision;

use crate::support::git_repo::{SignedRepo, Signer};
use crate::support::middleman::{Deed, Middleman};
use crate::trusted;

const COMMITS: usize = 24;
const DIR: &str = "HOLDFAST_TEST_MIRROR";
const URL: &str = "HOLDFAST_TEST_URL";

fn open(url: &str, mirror: &Path) -> GitSource {
    GitSource::open(GitConfig::new(url, Reference::Branch("main".to_owned())), mirror).unwrap()
}

/// The process that is killed: it fetches one commit after the other and collects, for ever. Without its
/// environment this is not a test of its own.
#[test]
fn child() {
    let (Ok(dir), Ok(url)) = (std::env::var(DIR), std::env::var(URL)) else { return };
    let ids = std::fs::read_to_string(Path::new(&dir).with_file_name("ids")).unwrap();
    let mut source = open(&url, Path::new(&dir));
    let look = |files: &dyn SourceTree| read_all(files).is_some();
    let mut newest: Vec<Revision> = Vec::new();
    for id in ids.lines().cycle() {
        let revision = Revision(id.to_owned());
        source.fetch(&revision, None).unwrap();
        let mut gathering = source.gather(&trusted(&source, &revision), true).unwrap();
        assert!(gathering.read(look).unwrap());
        gathering.finish().unwrap();
        newest.push(revision);
        let keep = newest.len().saturating_sub(2);
        source.collect(&newest[keep..], false).unwrap();
    }
}

/// The content of `a` and of every file in `dir`, if all of them are there.
fn read_all(files: &dyn SourceTree) -> Option<(String, usize)> {
    let a = files.read("a", 100).ok()??;
    let listed = files.list("dir").ok()?;
    let read = listed.iter().filter(|file| files.read(&format!("dir/{}", file.name), 100).is_ok()).count();
    (read == listed.len()).then(|| (String::from_utf8(a).unwrap(), read))
}

#[test]
fn a_kill_at_any_moment_leaves_every_revision_whole_or_absent() {
    let (repo, ids) = history();
    kill_and_look(&repo.url(), &ids);
}

#[test]
fn a_kill_while_parts_come_leaves_what_was_gathered_readable_without_a_server() {
    let (repo, ids) = history();
    let server = Middleman::start(&repo, |_, _| Deed::Pass);
    kill_and_look(&server.url(), &ids);
}

fn history() -> (SignedRepo, Vec<String>) {
    let repo = SignedRepo::new();
    let commit = |n: usize| {
        repo.commit(&[("a", &n.to_string()), (&format!("dir/{n}"), &n.to_string())], Signer::Nobody)
    };
    let ids = (0..COMMITS).map(commit).collect();
    (repo, ids)
}

fn kill_and_look(url: &str, ids: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ids"), ids.join("\n")).unwrap();
    let mirror = dir.path().join("mirror");
    let mut whole = BTreeSet::new();
    // On a machine that has other things to do, later rounds have more time to come to something.
    for round in 0..400u64 {
        if round >= 40 && whole.len() > 3 {
            break;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact"])
            .env(DIR, &mirror)
            .env(URL, url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(10 + round * 37 % (150 + round)));
        assert!(child.try_wait().unwrap().is_none(), "the child ends when it is killed and not before");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!mirror.join("aside").exists(), "nothing was taken for damage");
        let mut source = open("file:///nowhere", &mirror);
        for (n, id) in ids.iter().enumerate() {
            let revision = Revision(id.clone());
            if source.has(&revision) {
                let found =
                    source.gather(&trusted(&source, &revision), false).unwrap().read(read_all).unwrap();
                assert_eq!(found, Some((n.to_string(), n + 1)));
                whole.insert(n);
            }
        }
    }
    assert!(whole.len() > 3, "the child came to something: {whole:?}");
}
