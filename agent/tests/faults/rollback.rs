//! A crash of the agent at every durable boundary of a rollback, and of the agents that continue it.
//!
//! Which boundaries those are is found out by a run that writes them down. From each course a share is taken, the
//! same one each time; `HOLDFAST_LONG=1` takes all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use holdfast_core::report::Status;
use holdfast_drivers::simulated::log::parse;
use holdfast_store::{Options, Store, fault};
use nix::sys::signal::Signal;

use crate::support::agent_box::{AgentBox, DEVICE, Kind, app, converged_on, died_of};

/// Each depends on the ones before it. `pos` is the one that fails.
const CHAIN: [&str; 3] = ["db", "pos", "menu"];
const TIMES: &str = "startup: 100ms, deadline: 10s, soak: 100ms";
/// Boxes at a time. They wait more than they work.
const AT_ONCE: usize = 4;
/// So many crashes of each course beside the first hit of each point, unless all are asked for.
const SAMPLED: usize = 6;
/// What every way back passes, whatever else it does.
const PASSED: [&str; 8] = [
    "anchor.slot-written",
    "anchor.slot-synced",
    "audit.event-written",
    "db.record-written",
    "db.flushed",
    "executor.intent-written",
    "executor.step-done",
    "state.saved",
];
/// Where the first agent dies when a second death is what is looked at: the way back is decided; the verdict is on
/// the disk and nothing else; the way back is begun; it is half done.
const FIRST_DEATHS: [&str; 4] =
    ["state.saved:1", "anchor.slot-synced:1", "executor.intent-written:1", "executor.step-done:2"];

/// What happens to the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Version 3 is bad, and the agent dies on the way back to 2.
    Back,
    /// The next agent dies too, while it goes on with that.
    BackAgain,
    /// While the first agent is dead, version 4 comes, which is bad too; the next agent dies on the way back from 3,
    /// while it tries 4, or on the way back from 4.
    BackFromTheNext,
}

/// A point, and which of its hits.
type Hit = (&'static str, u64);
/// Where the first agent dies, and then the one that is looked at.
type Deaths = (&'static str, Hit);

impl Course {
    /// The newest version that is committed before the box is mended.
    fn last(self) -> usize {
        match self {
            Course::Back | Course::BackAgain => 3,
            Course::BackFromTheNext => 4,
        }
    }

    /// What must be passed, that a test which looks at nothing doesn't pass.
    fn must_pass(self) -> &'static [&'static str] {
        match self {
            // The verdict is on the disk already.
            Course::BackAgain => &PASSED[2..],
            Course::Back | Course::BackFromTheNext => &PASSED,
        }
    }

    /// Where the first agent is to die. One course needs none: there the first one is looked at.
    fn first_deaths(self) -> &'static [&'static str] {
        match self {
            Course::Back => &FIRST_DEATHS[..1],
            Course::BackFromTheNext if !is_long() => &FIRST_DEATHS[..1],
            Course::BackAgain | Course::BackFromTheNext => &FIRST_DEATHS,
        }
    }

    /// Takes a box through the course. `looked_at` is the environment of the agent that is looked at; gives whether
    /// that one died.
    fn play(self, first: &str, looked_at: &[(&str, &str)]) -> bool {
        let mut it = AgentBox::new();
        let before = write(&it, 2, Kind::Good);
        let fault = format!("{first}@verdict.bad");
        match self {
            Course::Back => it.start(looked_at),
            Course::BackAgain | Course::BackFromTheNext => it.start(&[("HOLDFAST_FAULT", &fault)]),
        }
        it.wait_converged(&before);
        let mut commit = write(&it, 3, Kind::Ill);
        it.signal(Signal::SIGHUP);
        if self != Course::Back {
            assert!(self.goes_back(&mut it, &commit, 3), "the first agent never came by {first}");
            if self == Course::BackFromTheNext {
                commit = write(&it, 4, Kind::Ill);
            }
            it.start(looked_at);
        }
        let mut died = self.goes_back(&mut it, &commit, self.last());
        if died {
            it.start(&[]);
            assert!(!self.goes_back(&mut it, &commit, self.last()), "it died without a fault");
        }
        if died || looked_at.iter().all(|(name, _)| *name != "HOLDFAST_FAULT") {
            it.stop();
        } else {
            // It may come by the point after it was seen to be back, and until it is gone.
            died = died_of(it.kill(), Signal::SIGABRT);
        }
        self.rests_and_is_mended(&mut it);
        died
    }

    /// Waits until `pos` is back where it was; gives whether the agent died before.
    fn goes_back(self, it: &mut AgentBox, commit: &str, version: usize) -> bool {
        let what = format!("{self:?}: back from {version}");
        let end = it.wait_or_end(&what, |it, status| is_back(it, status, commit, version));
        if let Some(end) = end {
            assert!(died_of(end, Signal::SIGABRT), "{what}: the agent ended with {end}\n{}", it.log_tail());
        }
        end.is_some()
    }

    /// What failed is remembered and not tried again, whatever else is committed; the next good commit is applied.
    fn rests_and_is_mended(self, it: &mut AgentBox) {
        let bad = self.last() - 2;
        assert_eq!(
            failed(it),
            bad,
            "{self:?}: releases of pos that are remembered as failed\n{}",
            it.log_tail()
        );
        it.repo.write(&[("README.md", "Nothing of this is an app's.\n")]);
        let beside = it.commit();
        it.start(&[]);
        it.wait_until("at the commit beside", |it, status| is_back(it, status, &beside, self.last()));
        let good = self.last() + 1;
        let commit = write(it, good, Kind::Good);
        it.signal(Signal::SIGHUP);
        it.wait_converged(&commit);
        for name in CHAIN {
            assert_eq!(it.versions_of(name), vec![good.to_string(); 2], "{self:?}: {name}");
        }
        it.stop();
        it.assert_nothing_made_twice();
        let created = created(it);
        for version in 3..=self.last() {
            let times = created.get(&format!("ConfigMap/pos/pos-{version}")).copied();
            assert_eq!(
                times,
                Some(1),
                "{self:?}: version {version} of pos was tried so often\n{}",
                it.log_tail()
            );
            let of_menu = created.get(&format!("ConfigMap/menu/menu-{version}"));
            assert_eq!(of_menu, None, "{self:?}: menu went on although pos was bad");
        }
    }

    /// What the agent that is looked at comes by, and how often.
    fn passes(self, first: &str) -> BTreeMap<&'static str, u64> {
        let dir = tempfile::tempdir().unwrap();
        let trace = dir.path().join("trace");
        let died = self.play(first, &[("HOLDFAST_FAULT_TRACE", trace.to_str().unwrap())]);
        assert!(!died, "{self:?}: the agent died without a fault");
        let text = fs::read_to_string(trace).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        if self == Course::Back {
            let begins = lines.iter().position(|line| *line == "verdict.bad").expect("a bad verdict");
            lines.drain(..=begins);
        }
        let known = |line: &str| fault::names().find(|name| *name == line);
        let mut passed = BTreeMap::new();
        for name in lines.into_iter().filter_map(known) {
            *passed.entry(name).or_default() += 1;
        }
        passed
    }

    /// The crash at that boundary; gives whether there was one.
    fn crash_at(self, (first, (name, hit)): Deaths) -> bool {
        let fault = match self {
            Course::Back => format!("{name}:{hit}@verdict.bad"),
            Course::BackAgain | Course::BackFromTheNext => format!("{name}:{hit}"),
        };
        self.play(first, &[("HOLDFAST_FAULT", &fault)])
    }
}

/// Writes a version of every app, of which `pos` is as it says, and commits it.
fn write(it: &AgentBox, version: usize, pos: Kind) -> String {
    for (index, name) in CHAIN.iter().enumerate() {
        let kind = if *name == "pos" { pos } else { Kind::Good };
        it.write_app_judged(name, &CHAIN[..index], version, kind, TIMES);
    }
    it.commit()
}

/// Whether `version` of the commit was tried and taken back: `pos` and what depends on it are what they were, and
/// what doesn't depend on it went on.
fn is_back(it: &AgentBox, status: &Status, commit: &str, version: usize) -> bool {
    let accepted = status.revision.accepted.as_ref().is_some_and(|revision| revision.0 == commit);
    let in_phase = |name: &str, phase: &str| app(status, name).is_some_and(|app| app.phase == phase);
    accepted
        && in_phase("db", "Good")
        && in_phase("pos", "RolledBack")
        && it.versions_of("db") == vec![version.to_string(); 2]
        && it.versions_of("pos") == ["2", "2"]
        && it.versions_of("menu") == ["2", "2"]
        && created(it).contains_key(&format!("ConfigMap/pos/pos-{version}"))
        && !converged_on(status, commit)
}

/// How often each object was made.
fn created(it: &AgentBox) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    let text = fs::read_to_string(it.dir().join("sim/log.jsonl")).unwrap_or_default();
    // The runtime may be writing its last line.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    for line in parse(whole).unwrap().iter().filter(|line| line.op == "create") {
        *times.entry(line.object.as_deref().unwrap().to_string()).or_default() += 1;
    }
    times
}

/// How many releases of `pos` are remembered as failed.
fn failed(it: &AgentBox) -> usize {
    let options = Options::new(DEVICE.parse().unwrap(), jiff::Timestamp::now());
    let (store, opened) = Store::open(&it.state(), &options).unwrap();
    assert_eq!(opened, [], "a crash of the agent damages nothing");
    store
        .anchor()
        .failed
        .iter()
        .find(|(name, _)| name.as_str() == "pos")
        .map_or(0, |(_, failed)| failed.len())
}

fn is_long() -> bool {
    std::env::var_os("HOLDFAST_LONG").is_some()
}

/// The first hit of each point, where `firsts` asks for them, and a share of the others.
fn sampled(passes: &BTreeMap<&'static str, u64>, firsts: bool) -> Vec<Hit> {
    let hits = |from: u64| passes.iter().flat_map(move |(name, hits)| (from..=*hits).map(|hit| (*name, hit)));
    if is_long() {
        return hits(1).collect();
    }
    let from = if firsts { 2 } else { 1 };
    let others: Vec<Hit> = hits(from).collect();
    let stride = others.len().div_ceil(SAMPLED).max(1);
    let firsts = passes.keys().filter(|_| firsts).map(|name| (*name, 1));
    firsts.chain(others.into_iter().step_by(stride)).collect()
}

/// Plays the course with a crash at the boundaries that it passes.
fn crash_everywhere(course: Course) {
    let mut crashes: Vec<Deaths> = Vec::new();
    for (index, first) in course.first_deaths().iter().enumerate() {
        let passes = course.passes(first);
        println!("{course:?} after {first} passes {passes:?}");
        if index == 0 {
            let never: BTreeSet<_> = fault::names().filter(|name| !passes.contains_key(name)).collect();
            println!("{course:?} never passes {never:?}");
            let lacking: Vec<_> =
                course.must_pass().iter().filter(|name| !passes.contains_key(*name)).collect();
            assert!(lacking.is_empty(), "{course:?} doesn't come by {lacking:?}");
        }
        crashes.extend(sampled(&passes, index == 0).into_iter().map(|hit| (*first, hit)));
    }
    let (next, unreached) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(&deaths) = crashes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !course.crash_at(deaths) {
                        unreached.lock().unwrap().push(deaths);
                    }
                }
            });
        }
    });
    let unreached = unreached.into_inner().unwrap();
    println!("{course:?}: {} crashes; not come by this time: {unreached:?}", crashes.len() - unreached.len());
    let sure = |first: &str, (name, hit): Hit| {
        first == FIRST_DEATHS[0] && hit == 1 && course.must_pass().contains(&name)
    };
    let missed: Vec<_> = unreached.iter().filter(|(first, hit)| sure(first, *hit)).collect();
    assert!(missed.is_empty(), "{course:?} was to come by {missed:?}");
}

#[test]
fn a_crash_anywhere_on_the_way_back_ends_at_the_last_known_good() {
    crash_everywhere(Course::Back);
}

#[test]
fn a_crash_anywhere_in_going_on_with_a_way_back_ends_at_the_last_known_good() {
    crash_everywhere(Course::BackAgain);
}

#[test]
fn a_crash_anywhere_on_two_ways_back_one_after_the_other_ends_at_the_last_known_good() {
    crash_everywhere(Course::BackFromTheNext);
}
