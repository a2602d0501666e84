//! What a server can do to a box before anything that it sends is verified.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::boxes::{TestBox, pos};
use crate::support::git_repo::git_in;
use crate::support::git_server::{GitServer, Options};
use crate::support::middleman::{Deed, Middleman, sends};
use crate::support::pack::{BLOB, Pack, TREE};

/// The largest signature header that the box must not hold, in bytes. It comes as some hundred KiB.
const HEADER: usize = 160 << 20;
/// What the agent may hold at its highest, in bytes: it needs much less, and held five times the header.
const HELD: u64 = 100 << 20;

/// And while it puts differences together, in bytes.
const HELD_WITH_DIFFERENCES: u64 = HELD + (64 << 20);

/// Makes a commit on top of the branch with this more in its headers; gives its id.
fn push_commit(server: &GitServer, committer: &str, more: &[u8]) -> String {
    let bare = server.bare();
    let read = |args: &[&str]| {
        let output = git_in(&bare).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (tree, parent) = (read(&["rev-parse", "main^{tree}"]), read(&["rev-parse", "main"]));
    let who =
        format!("tree {tree}\nparent {parent}\nauthor x <x@x> 0 +0000\ncommitter x <x@x> {committer}\n");
    let file = bare.join("commit");
    fs::write(&file, [who.as_bytes(), more, b"\nx\n"].concat()).unwrap();
    let mut command: Command = git_in(&bare);
    command.args(["hash-object", "--literally", "-t", "commit", "-w", "--stdin"]);
    let output = command.stdin(fs::File::open(&file).unwrap()).stderr(Stdio::inherit()).output().unwrap();
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    // Where the branch points is written as a server might that is no git.
    fs::write(bare.join("refs/heads/main"), format!("{id}\n")).unwrap();
    let _ = fs::remove_file(bare.join("packed-refs"));
    id
}

/// A box that follows a server every second, and ran what was there.
fn following(filter: bool) -> (TestBox, GitServer) {
    let test_box = TestBox::new();
    test_box.commit(&pos("1", ""));
    let server = GitServer::with(&test_box.repo, &Options { filter, ..Options::default() });
    let url = format!("url = \"{}\"\nca_file = \"{}\"", server.url(), server.ca_file().display());
    every_second(&test_box, &url);
    assert_eq!(test_box.once().0, 0);
    server.forget_requests();
    (test_box, server)
}

fn every_second(test_box: &TestBox, source: &str) {
    test_box.follow(source);
    let file = test_box.path("agent.toml");
    let every_second = fs::read_to_string(&file).unwrap().replace("\"1h\"", "\"1s\"");
    fs::write(&file, every_second).unwrap();
}

/// The most memory that a process ever held.
fn most_held(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Bytes that the server sent in answers to fetches and polls, the largest last.
fn answers(server: &GitServer, expected: usize) -> Vec<u64> {
    let requests = server.requests(expected);
    let posts = requests.iter().filter(|line| line.starts_with("POST"));
    let mut sizes: Vec<u64> = posts.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    sizes.sort_unstable();
    sizes
}

fn error(status: &Value) -> &str {
    status["source"]["error"].as_str().unwrap_or_default()
}

#[test]
fn a_commit_with_an_endless_signature_is_neither_held_in_memory_nor_fetched_at_each_poll() {
    for filter in [true, false] {
        let (test_box, server) = following(filter);
        let lines = " AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let header = format!("gpgsig -----BEGIN SSH SIGNATURE-----\n{}", lines.repeat(HEADER / lines.len()));
        push_commit(&server, "0 +0000", header.as_bytes());
        let agent = test_box.start();
        let status = agent.wait("the commit to be refused", |status| error(status).contains("limit"));
        assert!(error(&status).contains("a commit or tag in the pack"), "{status:#}");
        // Two more polls.
        let sent = answers(&server, 7);
        // A poll is of some hundred bytes. The box hangs up as soon as it sees what comes.
        let large = sent.iter().filter(|size| **size > 10_000).count();
        assert_eq!(large, 1, "it was fetched once: {sent:?}");
        let held = most_held(agent.pid());
        assert!(held < HELD, "the agent held {} MiB, filter {filter}", held >> 20);
        assert_eq!(test_box.runs("pos").as_deref(), Some("1"));

        // The next commit is nothing special.
        let next = test_box.commit(&pos("2", ""));
        test_box.repo.push(&server.bare());
        agent.wait_for(&next);
        agent.stop();
    }
}

#[test]
fn a_commit_that_makes_no_sense_is_told_and_leaves_the_mirror_as_it_is() {
    let (test_box, server) = following(true);
    let id = push_commit(&server, "99999999999999 +0000", b"");
    let agent = test_box.start();
    let status = agent.wait("the commit to be refused", |status| error(status).contains("cannot be used"));
    assert!(error(&status).contains(&id), "{status:#}");
    agent.stop();
    assert!(!test_box.path("state/mirror/aside").exists());
    let (code, status) = test_box.json(&["status"]);
    assert_eq!((code, &status["converged"]), (0, &json!(true)), "what runs can still be read: {status:#}");
}

/// Packs that are small on the wire, and what is in them.
fn bombs() -> [(&'static str, Vec<u8>); 5] {
    let blob = |size: usize| {
        let mut pack = Pack::new();
        pack.zeros(BLOB, size);
        pack.finish()
    };
    let mut folder = Pack::new();
    folder.zeros(TREE, 400 << 20);
    let (mut large, size) = (Pack::new(), 8 << 20);
    let base = large.zeros(BLOB, size);
    large.repeats(base, size, 500 << 20);
    // Whoever puts them together one after the other holds, for each that is built on, what others build on too.
    let mut many = Pack::new();
    let mut base = many.zeros(BLOB, size);
    for level in 0..60 {
        let (from, to) = (size - level, size - level - 1);
        many.repeats(base, from, to / 2);
        let next = many.repeats(base, from, to);
        many.repeats(base, from, to / 2);
        base = next;
    }
    [
        ("a file", blob(500 << 20)),
        ("a larger file", blob(700 << 20)),
        ("a folder", folder.finish()),
        ("a difference", large.finish()),
        ("many differences", many.finish()),
    ]
}

/// What is sent for a commit, from which request for it on.
type Armed = Arc<Mutex<Option<(String, usize, Vec<u8>)>>>;

/// A box that follows a server every second, and ran what was there; between the two stands somebody who may send something
/// else for a commit.
fn behind(filter: bool) -> (TestBox, Middleman, Armed) {
    let test_box = TestBox::new();
    test_box.commit(&pos("1", ""));
    let armed = Armed::default();
    let options = Options { filter, ..Options::default() };
    let way = Middleman::with(&test_box.repo, &options, {
        let armed = Arc::clone(&armed);
        move |wanted, _| match &mut *armed.lock().unwrap() {
            Some((id, 0, answer)) if wanted[0] == *id => Deed::Say(answer.clone()),
            Some((id, before, _)) if wanted[0] == *id => {
                *before -= 1;
                Deed::Pass
            }
            _ => Deed::Pass,
        }
    });
    every_second(&test_box, &format!("url = \"{}\"", way.url()));
    assert_eq!(test_box.once().0, 0);
    (test_box, way, armed)
}

#[test]
fn what_is_small_on_the_wire_and_large_in_memory_is_neither_held_nor_fetched_at_each_poll() {
    let bombs = bombs();
    for filter in [true, false] {
        let (test_box, way, armed) = behind(filter);
        for (what, bomb) in &bombs {
            let ran = test_box.runs("pos");
            let next = test_box.commit(&pos(what, ""));
            test_box.repo.push(&way.server.bare());
            *armed.lock().unwrap() = Some((next, 0, sends(bomb)));
            way.forget();
            let agent = test_box.start();
            let status = agent.wait("the pack to be refused", |status| !error(status).is_empty());
            let why = error(&status);
            assert!(why.contains("limit of") || why.contains("incomplete commit"), "{what}: {why}");
            let asked = way.asked().len();
            way.server.forget_requests();
            // Two more polls.
            way.server.requests(2);
            let held = most_held(agent.pid());
            let most = if *what == "many differences" { HELD_WITH_DIFFERENCES } else { HELD };
            assert!(held < most, "{what}: the agent held {} MiB, filter {filter}: {why}", held >> 20);
            assert_eq!(way.asked().len(), asked, "{what}: it was fetched once: {why}");
            assert_eq!(test_box.runs("pos"), ran, "{what}: the box keeps what it has");

            // Where the server then sends what was asked for, the box goes on.
            *armed.lock().unwrap() = None;
            let next = test_box.commit(&pos(&format!("after {what}"), ""));
            test_box.repo.push(&way.server.bare());
            agent.wait_for(&next);
            agent.stop();
        }
    }
}

#[test]
fn the_history_before_a_commit_is_no_way_around_the_limits() {
    for filter in [true, false] {
        let bombs = bombs();
        for (what, bomb) in [&bombs[1], &bombs[4]] {
            let (test_box, way, armed) = behind(filter);
            test_box.commit(&pos("2", ""));
            // Not on top of what the box has: it is asked what lies between.
            let tip = test_box.commit(&pos("3", ""));
            test_box.repo.push(&way.server.bare());
            *armed.lock().unwrap() = Some((tip, 1, sends(bomb)));
            way.forget();
            let agent = test_box.start();
            let status = agent.wait("the commit to be refused", |status| status["held"][0].is_object());
            way.server.forget_requests();
            let asked = way.asked().len();
            way.server.requests(2);
            let held = most_held(agent.pid());
            let most = if *what == "many differences" { HELD_WITH_DIFFERENCES } else { HELD };
            assert!(held < most, "{what}: the agent held {} MiB, filter {filter}: {status:#}", held >> 20);
            assert_eq!(way.asked().len(), asked, "{what}: it was fetched once: {status:#}");
            assert_eq!(test_box.runs("pos").as_deref(), Some("1"), "{what}");
            agent.stop();
        }
    }
}

#[test]
fn a_large_file_costs_no_memory_on_its_way_into_the_mirror() {
    for server in [false, true] {
        let test_box = TestBox::new();
        let path = test_box.repo.path().join("disk.img");
        fs::File::create(path).unwrap().set_len(300 << 20).unwrap();
        let first = test_box.commit(&pos("1", ""));
        let server = server.then(|| {
            // It sends whole commits.
            let options = Options { filter: false, ..Options::default() };
            let server = GitServer::with(&test_box.repo, &options);
            let url = format!("url = \"{}\"\nca_file = \"{}\"", server.url(), server.ca_file().display());
            test_box.follow(&url);
            server
        });
        let agent = test_box.start();
        agent.wait_for(&first);
        let held = most_held(agent.pid());
        assert!(held < HELD, "the agent held {} MiB, server {}", held >> 20, server.is_some());
        agent.stop();
    }
}
