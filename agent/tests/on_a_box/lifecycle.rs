//! The daemon as a process: signals, a second one, and how little it does when nothing happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use holdfast_core::report::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::boxes::{Agent, TestBox, app, cause, of, pos};
use crate::support::agent_box::{self, AgentBox, Kind};
use crate::support::git_repo::Signer;

#[test]
fn sighup_polls_at_once_and_sigterm_ends_with_0_and_leaves_everything_running() {
    let test_box = TestBox::converged();
    let agent = test_box.start();
    agent.wait("the first poll", |status| status["source"]["lastPoll"].is_string());
    let commit = test_box.commit(&pos("2", ""));
    agent.signal("HUP");
    agent.wait_for(&commit);
    assert_eq!(test_box.runs("pos").unwrap(), "2");
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(test_box.runs("pos").unwrap(), "2");
    assert!(!test_box.path("api.sock").exists(), "the socket is left behind");
}

#[test]
fn a_killed_agent_finds_what_it_made() {
    let test_box = TestBox::converged();
    let agent = test_box.start();
    agent.wait("the app", |status| of(status, "pos")["health"] == "Healthy");
    let changes = test_box.changes();
    agent.signal("KILL");
    drop(agent);
    fs::remove_file(test_box.path("api.sock")).unwrap();
    let agent = test_box.start();
    agent.wait("the app", |status| {
        of(status, "pos")["health"] == "Healthy" && status["source"]["lastPoll"].is_string()
    });
    assert_eq!(test_box.changes(), changes);
}

#[test]
fn a_second_daemon_is_refused_and_told_who_the_first_is() {
    let test_box = TestBox::converged();
    let agent = test_box.start();
    for arguments in [&["run"][..], &["run", "--once"]] {
        let output = test_box.holdfast(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&agent.pid().to_string()), "{said}");
    }
    agent.wait("the first goes on", |status| status["converged"] == true);
}

#[test]
fn what_no_release_needs_any_more_goes_though_one_poll_follows_the_other_without_a_pause() {
    let mut it = AgentBox::new();
    let files =
        |it: &AgentBox, folder: &str| fs::read_dir(it.state().join(folder)).map_or(0, Iterator::count);
    let packs = |it: &AgentBox| {
        let files = fs::read_dir(it.state().join("mirror/objects/pack")).into_iter().flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|extension| extension == "pack")).count()
    };
    it.write_app("pos", &[], 1, Kind::Good);
    let first = it.commit();
    it.start(&[]);
    it.wait_converged(&first);
    let agent = Pid::from_raw(it.processes()[0]);
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(&stopped);
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                kill(agent, Signal::SIGHUP).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        for version in 2..=12 {
            it.write_app("pos", &[], version, Kind::Good);
            let commit = it.commit();
            it.wait_converged(&commit);
        }
        // The present release and the one before it, and what the newest revision has beside.
        it.wait_until("tidied up", |it, _| files(it, "content/sha256") <= 5 && packs(it) <= 4);
    });
    it.stop();
}

/// Sets it when it is dropped, however that comes.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes that a process had written to a disk, as the kernel counts them.
fn written(agent: &Agent<'_>) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", agent.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().trim().parse().unwrap()
}

/// Everything below a folder, with the time when it was last changed.
fn times(dir: &Path, found: &mut BTreeMap<PathBuf, SystemTime>) {
    found.insert(dir.to_owned(), fs::metadata(dir).unwrap().modified().unwrap());
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            times(&entry.path(), found);
        } else {
            found.insert(entry.path(), entry.metadata().unwrap().modified().unwrap());
        }
    }
}

/// Wants ten passes without a change to write nothing.
fn ten_passes_write_nothing(test_box: &TestBox) {
    let agent = test_box.start();
    let polled = |status: &Value| status["source"]["lastPoll"].clone();
    let pass = || {
        let before = polled(&test_box.status());
        agent.signal("HUP");
        agent.wait("a poll", |status| polled(status) != before);
    };
    agent.wait("the first poll", |status| status["source"]["lastPoll"].is_string());
    // What the start still had to write is written.
    pass();
    let look = || {
        let mut found = BTreeMap::new();
        times(&test_box.path("state"), &mut found);
        times(&test_box.path("runtime"), &mut found);
        (written(&agent), found)
    };
    let before = look();
    for _ in 0..10 {
        pass();
    }
    assert_eq!(look(), before);
}

#[test]
fn ten_passes_without_a_change_write_nothing() {
    let test_box = TestBox::converged();
    ten_passes_write_nothing(&test_box);
    assert_eq!(test_box.status()["converged"], true);
}

#[test]
fn ten_passes_on_a_box_where_everything_is_held_write_nothing() {
    let test_box = TestBox::converged();
    let mut files = pos("2", "simulated.holdfast.dev/health: unhealthy");
    files.extend(app("broken", "1", ""));
    files[2].1.push_str("  dependsOn: db\n");
    test_box.commit(&files);
    assert_eq!(test_box.once().0, 2);
    test_box.commit_by(&pos("3", ""), Signer::Nobody);
    ten_passes_write_nothing(&test_box);
    let status = test_box.status();
    assert_eq!(of(&status, "pos")["phase"], "RolledBack", "{status:#}");
    assert_eq!(of(&status, "broken")["phase"], "Held", "{status:#}");
    assert!(cause(&status).contains(&test_box.repo.head()), "{status:#}");
}

#[test]
fn a_signal_that_comes_while_the_agent_starts_is_kept_for_it() {
    let test_box = TestBox::converged();
    // The first pass asks the runtime, before anybody may ask the agent; here that takes its time.
    fs::write(test_box.path("runtime/script.json"), r#"{"delay":"1s"}"#).unwrap();
    let mut agent = test_box.command(&["run", "--log", "error"]).spawn().unwrap();
    let caught = || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap() & (1 << 14) != 0
    };
    while !caught() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let pid = agent.id().to_string();
    let log = fs::read_to_string(test_box.path("runtime/log.jsonl")).unwrap();
    assert!(!log.contains(&format!("\"pid\":{pid},")), "it asked its runtime before:\n{log}");
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    assert_eq!(agent.wait().unwrap().code(), Some(0));
}

#[test]
fn a_box_with_an_app_that_stays_held_keeps_no_more_than_it_needs_of_the_others() {
    let mut it = AgentBox::new();
    it.write_app("menu", &[], 1, Kind::Broken);
    it.write_app("pos", &[], 1, Kind::Good);
    it.commit();
    it.start(&[]);
    let runs = |it: &AgentBox, status: &Status, version: usize| {
        agent_box::app(status, "pos").is_some_and(|pos| pos.phase == "Good")
            && it.versions_of("pos") == vec![version.to_string(); 2]
    };
    it.wait_until("at the first version", |it, status| runs(it, status, 1));
    for version in 2..=8 {
        it.write_app("pos", &[], version, Kind::Good);
        it.commit();
        it.signal(Signal::SIGHUP);
        it.wait_until("at the next version", |it, status| runs(it, status, version));
    }
    // What it runs and what ran before, and what came last with all that was there until then.
    let kept = || fs::read_dir(it.state().join("content/sha256")).unwrap().count();
    assert!(kept() <= 4, "{} releases are kept", kept());
}

#[cfg(feature = "wasm")]
#[test]
fn without_the_user_of_webassembly_a_box_starts_and_says_who_is_missing_and_runs_everything_else() {
    let mut it = AgentBox::new();
    let config = it.dir().join("agent.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("user = \"\"", "user = \"nobody-is-called-so\"")).unwrap();
    it.write_app("pos", &[], 1, Kind::Good);
    it.write_wasm_app("hello", crate::support::ports::free_port());
    it.commit();
    it.start(&[]);
    let missing = "there is no user nobody-is-called-so";
    it.wait_until("pos good and hello held", |_, status| {
        let held = agent_box::app(status, "hello").and_then(|hello| hello.held.as_ref());
        held.is_some_and(|held| held.cause.contains(missing))
            && agent_box::app(status, "pos").is_some_and(|pos| pos.phase == "Good")
    });
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    let said = doctor.args(["doctor", "--config"]).arg(&config).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains(missing), "{said:?}");
}
