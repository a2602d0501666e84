//! kill -9 of the agent at random moments, under a stream of good and bad commits.
//!
//! `HOLDFAST_KILLS` says how often (300), `HOLDFAST_SEED` repeats a run's random steps.

#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]
#![allow(clippy::print_stdout, reason = "a test's figures")]

mod support;

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use support::agent_box::{AgentBox, Kind, converged_on, died_of};
use support::customer::Customer;
use support::git_repo::Signer;
use support::ports::free_port;
use support::random::{Random, number};
use support::tools::printed;

/// Each depends on the ones before it.
const APPS: [&str; 3] = ["db", "pos", "menu"];

/// `holdfast status`, beside whatever else goes on.
fn look(it: &AgentBox) -> Child {
    let mut holdfast = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    holdfast.args(["status", "--json", "--config"]).arg(it.dir().join("agent.toml"));
    holdfast.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Commits something: most often a good change of one app.
fn commit(it: &AgentBox, random: &mut Random, version: usize) {
    let index = random.below(APPS.len() as u64) as usize;
    let (kind, signer) = match random.below(8) {
        0 | 1 => (Kind::Ill, Signer::Ops),
        2 => (Kind::Broken, Signer::Ops),
        3 => (Kind::Good, Signer::Nobody),
        _ => (Kind::Good, Signer::Ops),
    };
    it.write_app(APPS[index], &APPS[..index], version, kind);
    it.repo.commit(&[], signer);
}

/// A good change of every app: what was set aside or failed before is no reason to stay behind.
fn commit_all(it: &AgentBox, version: usize) -> String {
    for (index, name) in APPS.iter().enumerate() {
        it.write_app(name, &APPS[..index], version, Kind::Good);
    }
    it.commit()
}

#[test]
fn kill_minus_nine_at_random_moments_loses_no_answer_makes_nothing_twice_and_the_newest_good_commit_wins() {
    let kills = number("HOLDFAST_KILLS", 300);
    let time = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let seed = number("HOLDFAST_SEED", time.into()).max(1);
    println!("{kills} kills; HOLDFAST_SEED={seed} repeats the steps");
    let mut random = Random(seed);
    let mut it = AgentBox::new();
    let port = free_port();
    it.write_wasm_app("hello", port);
    let first = commit_all(&it, 0);
    it.start(&[]);
    it.wait_converged(&first);
    it.stop();
    let workload = it.processes();
    assert_eq!(workload.len(), 1, "the agent left its workload and nothing else");

    let customer = Customer::of(port);
    let began = Instant::now();
    let mut version = 0;
    for round in 0..kills {
        if random.below(4) == 0 {
            version += 1;
            commit(&it, &mut random, version);
        }
        // Somebody looks, maybe before the agent is up: then the state folder is theirs for a moment.
        let somebody = (random.below(5) == 0).then(|| look(&it));
        thread::sleep(random.millis(if somebody.is_some() { 120 } else { 1 }));
        it.start(&[]);
        if round % 20 == 19 {
            // However it was killed before, it comes up.
            it.wait_until("up", |_, _| true);
        }
        thread::sleep(random.millis(400));
        if random.below(3) == 0 {
            version += 1;
            commit(&it, &mut random, version);
            it.signal(Signal::SIGHUP);
            thread::sleep(random.millis(60));
        }
        let status = it.kill();
        if let Some(mut somebody) = somebody {
            somebody.wait().unwrap();
        }
        // A SIGHUP that comes before the agent's first line of code ends it too.
        let expected = died_of(status, Signal::SIGKILL) || died_of(status, Signal::SIGHUP);
        assert!(expected, "round {round}: the agent ended by itself with {status}\n{}", it.log_tail());
    }
    let took = began.elapsed();
    version += 1;
    let last = commit_all(&it, version);
    it.start(&[]);
    it.wait_converged(&last);

    let config = it.dir().join("agent.toml");
    let mut holdfast = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    // It fails unless the box is converged.
    let text = printed(holdfast.args(["status", "--json", "--config"]).arg(config));
    assert!(converged_on(&serde_json::from_str(&text).unwrap(), &last), "{text}");
    for name in APPS {
        assert_eq!(it.versions_of(name), vec![version.to_string(); 2], "{name}");
    }
    let (asked, lost) = customer.leave();
    assert!(lost.is_empty(), "{} of {asked} answers were lost: {lost:#?}\n{}", lost.len(), it.log_tail());
    assert!(it.processes().contains(&workload[0]), "the WASM app is another process than before");
    let created = it.assert_nothing_made_twice();
    nothing_was_taken_for_damaged(&it);
    println!("{kills} kills in {took:?}, {version} commits, {created} creates, {asked} answers");
    for kind in ["app.applied", "app.good", "app.rolledback", "app.setaside", "revision.held"] {
        println!("{kind}: {}", it.log().matches(kind).count());
    }

    // Everything goes as it came: by a commit.
    it.repo.git(&["rm", "-q", "-r", "apps"]);
    it.commit();
    it.signal(Signal::SIGHUP);
    it.wait_until("empty", |_, status| status.apps.is_empty());
    it.stop();
    assert_eq!(it.processes(), [0; 0], "a process is left over");
}

/// A kill damages nothing: only a power cut or a failing disk does. What died again and again while it opened
/// the database may be taken for that, which is how a database that kills the agent is got rid of.
fn nothing_was_taken_for_damaged(it: &AgentBox) {
    let log = it.log();
    for line in log.lines().filter(|line| line.contains("damaged")) {
        assert!(line.contains("times while opening it"), "{line}");
    }
}
