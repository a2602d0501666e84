//! A crash of the whole agent at every durable boundary in turn: it dies there, and the next start goes on.
//! `HOLDFAST_FAULT` takes one of the points only.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::agent_box::{AgentBox, DEVICE, Kind, app, converged_on, died_of};
use holdfast_core::event::Draft;
use holdfast_core::report::Status;
use holdfast_store::{Options, Store, fault};
use jiff::Timestamp;
use nix::sys::signal::Signal;

/// Boxes at a time. They wait more than they work.
const AT_ONCE: usize = 3;
/// The first hits of each point.
const HITS: [u64; 3] = [1, 2, 3];
/// A later one, which is in the update or in the way back.
const LATE: u64 = 7;
/// Points that a box may come by only once in its life.
const ONCE: [&str; 6] = [
    "anchor.temp-synced",
    "anchor.created",
    "db.set-aside",
    "audit.page-synced",
    "audit.page-renamed",
    "audit.page-removed",
];
/// With so many events older ones are about to move to a file, or to be sealed (agent/store/src/audit).
const NEARLY_A_PAGE: u64 = 495;
const NEARLY_ALL: u64 = 9_995;

/// What the repository goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Update,
    /// `pos` is unhealthy and goes back.
    WayBack,
    /// The next commit is good again.
    Mended,
}

const STAGES: [Stage; 4] = [Stage::First, Stage::Update, Stage::WayBack, Stage::Mended];

impl Stage {
    fn commit(self, it: &AgentBox) -> String {
        match self {
            Stage::First => write_both(it, 1),
            Stage::Update => write_both(it, 2),
            Stage::WayBack => it.write_app("pos", &["db"], 3, Kind::Ill),
            Stage::Mended => write_both(it, 4),
        }
        it.commit()
    }

    fn reached(self, it: &AgentBox, status: &Status, commit: &str) -> bool {
        match self {
            Stage::First | Stage::Update | Stage::Mended => converged_on(status, commit),
            Stage::WayBack => {
                let accepted = status.revision.accepted.as_ref().is_some_and(|r| r.0 == commit);
                let back = app(status, "pos").is_some_and(|pos| pos.phase == "RolledBack");
                accepted && back && it.versions_of("pos") == ["2", "2"]
            }
        }
    }

    fn runs(self) -> &'static str {
        match self {
            Stage::First => "1",
            Stage::Update | Stage::WayBack => "2",
            Stage::Mended => "4",
        }
    }
}

fn write_both(it: &AgentBox, version: usize) {
    it.write_app("db", &[], version, Kind::Good);
    it.write_app("pos", &["db"], version, Kind::Good);
}

/// Takes the box through the stages with the fault; gives whether the agent died of it. If so, the next start
/// brings the box where the stage leads.
fn drive(it: &mut AgentBox, name: &str, hit: u64) -> bool {
    let fault = format!("{name}:{hit}");
    let mut running = false;
    for stage in STAGES {
        let commit = stage.commit(it);
        if running {
            it.signal(Signal::SIGHUP);
        } else {
            it.start(&[("HOLDFAST_FAULT", &fault)]);
            running = true;
        }
        let what = format!("{fault}: through {stage:?}");
        let end = it.wait_or_end(&what, |it, status| stage.reached(it, status, &commit));
        if let Some(end) = end {
            assert!(died_of(end, Signal::SIGABRT), "{what}: the agent ended with {end}\n{}", it.log_tail());
            it.start(&[]);
            it.wait_until(&what, |it, status| stage.reached(it, status, &commit));
            for name in ["db", "pos"] {
                assert_eq!(it.versions_of(name), [stage.runs(); 2], "{what}: {name}");
            }
            it.stop();
            it.assert_nothing_made_twice();
            return true;
        }
    }
    it.kill();
    it.assert_nothing_made_twice();
    false
}

/// A box on which the agent can come by this point.
fn box_for(name: &str) -> AgentBox {
    let mut it = AgentBox::new();
    if name == "db.set-aside" {
        // A database that has killed the agent time and again.
        write_both(&it, 0);
        let commit = it.commit();
        it.start(&[]);
        it.wait_converged(&commit);
        it.kill();
        fs::write(it.state().join("db.opening"), "5").unwrap();
    }
    match name {
        "audit.page-synced" | "audit.page-renamed" => fill_log(&it, NEARLY_A_PAGE),
        "audit.page-removed" => fill_log(&it, NEARLY_ALL),
        _ => {}
    }
    it
}

/// As if the box had been there for long.
fn fill_log(it: &AgentBox, events: u64) {
    let (mut store, _) =
        Store::open(&it.state(), &Options::new(DEVICE.parse().unwrap(), Timestamp::now())).unwrap();
    while store.audit().head().is_none_or(|head| head.seq < events) {
        store.append_event(Timestamp::now(), Draft::new("app.drift", "something was put right")).unwrap();
    }
    store.anchor_head().unwrap();
}

#[test]
fn the_agent_goes_on_after_a_crash_at_any_durable_boundary() {
    let only = std::env::var("HOLDFAST_FAULT").ok();
    let names = fault::names().filter(|name| only.as_deref().is_none_or(|only| only == *name));
    let late = |name: &str| name.starts_with("executor.") || name.starts_with("db.") || name == "state.saved";
    let runs: Vec<(&str, u64)> = names
        .flat_map(|name| HITS.into_iter().chain(late(name).then_some(LATE)).map(move |hit| (name, hit)))
        .filter(|(name, hit)| *hit == 1 || !ONCE.contains(name))
        .collect();
    assert!(!runs.is_empty(), "HOLDFAST_FAULT={only:?} names no point");
    let (next, unreached) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(&(name, hit)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !drive(&mut box_for(name), name, hit) {
                        unreached.lock().unwrap().push((name, hit));
                    }
                }
            });
        }
    });
    let unreached = unreached.into_inner().unwrap();
    println!("{} crashes; not come by: {unreached:?}", runs.len() - unreached.len());
    let never: Vec<_> = unreached.iter().filter(|(_, hit)| *hit == 1).collect();
    assert!(never.is_empty(), "the agent never came by {never:?}");
}
