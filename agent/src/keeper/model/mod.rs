//! The model test: random histories of commits, faults, crashes, reboots and jumping clocks are played
//! against the keeper, a journal in memory and the simulated runtime, and the design's rules are checked
//! after every step. The failing history is kept in `proptest-regressions/`.
//!
//! `HOLDFAST_MODEL_CASES=100000 cargo test -p holdfast keeper::model` is the long form.

mod handovers;
mod memory;
mod ops;
mod pending;
mod removals;
mod rules;
mod runtime;
mod side_by_side;
mod steps;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::app::{App, Phase};
use holdfast_core::change::{ChangePolicy, Purge};
use holdfast_core::clock::{BootId, Moment, Now};
use holdfast_core::digest::{ReleaseId, Revision};
use holdfast_core::generation::Failed;
use holdfast_core::held::Held;
use holdfast_core::name::AppName;
use holdfast_core::plan::Action;
use holdfast_core::release::{Object, Release};
use holdfast_core::resolve::Resolved;
use holdfast_core::runtime::DriverName;
use holdfast_drivers::Driver;
use holdfast_drivers::simulated::script::Runtime as RuntimeIs;
use holdfast_drivers::simulated::world::{Entry, KEPT, World};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;

use self::memory::{Disk, Fuse, Memory};
use self::ops::{APPS, GRACE, GROUP, Kind, Op, ROAMS, Says, key, name, ops, release, release_with, target};
use self::pending::Pending;
use self::runtime::{Runtime, Shared};
use super::{Drivers, Journal, Keeper, Permit, Scope};

/// A box, its repository, and everything that outlives the agent's process.
struct History {
    disk: Arc<Mutex<Disk>>,
    shared: Arc<Mutex<Shared>>,
    fuse: Fuse,
    keeper: Option<Keeper<Memory>>,
    commit: [Says; 5],
    /// The app that has each of the things that roam; none by a number that no app has.
    homes: [usize; ROAMS.len()],
    revisions: u32,
    boots: u32,
    uptime: Duration,
    wall: Timestamp,
    /// Time that went by, over all boots.
    seen: Duration,
    checked: usize,
    permit: Permit,
    purge: bool,
    /// What was good when the newest commit came.
    good_before: BTreeMap<AppName, Option<ReleaseId>>,
    /// Whether the box has forgotten that since.
    has_forgotten: bool,
    /// What was being removed then.
    going_before: BTreeSet<AppName>,
    /// Whether the keeper knows of that commit.
    is_placed: bool,
    /// How many things have happened.
    played: usize,
    pending: Pending,
}

impl History {
    fn new() -> Self {
        let device = "store/till-1".parse().unwrap();
        let now = Moment { boot: BootId("0".into()), uptime: Duration::from_secs(10) };
        let mut shared = Shared::new(World::new(device), now);
        put_somebody_elses(&mut shared.world);
        History {
            disk: Arc::default(),
            shared: Arc::new(Mutex::new(shared)),
            fuse: Fuse::default(),
            keeper: None,
            commit: [Says::Nothing; 5],
            homes: [APPS.len(); ROAMS.len()],
            revisions: 0,
            boots: 0,
            uptime: Duration::from_secs(10),
            wall: Timestamp::from_second(1_700_000_000).unwrap(),
            seen: Duration::ZERO,
            checked: 0,
            permit: Permit::default(),
            purge: false,
            good_before: BTreeMap::new(),
            has_forgotten: false,
            is_placed: false,
            going_before: BTreeSet::new(),
            played: 0,
            pending: Pending::default(),
        }
    }

    fn now(&self) -> Now {
        let moment = Moment { boot: BootId(self.boots.to_string()), uptime: self.uptime };
        Now { seen: self.seen, ..Now::certain(self.wall, moment) }
    }

    fn resolved(&self) -> Resolved {
        let revision = Revision(format!("r{}", self.revisions));
        let mut resolved = Resolved {
            revision: revision.clone(),
            apps: BTreeMap::new(),
            releases: BTreeMap::new(),
            held: BTreeMap::new(),
            unread: BTreeSet::new(),
            wants: Default::default(),
            policy: self.policy(),
        };
        for (app, says) in self.commit.iter().enumerate() {
            match says {
                Says::Version(version, kind) => {
                    let release = release_with(app, *version, *kind, &self.roaming(app));
                    resolved.apps.insert(name(app), target(app, &release, &revision));
                    resolved.releases.insert(release.id(), Arc::new(release));
                }
                Says::Faulty => {
                    resolved.unread.insert(name(app));
                    resolved.held.insert(name(app), Held::until_changed("app.yaml is broken", "mend it"));
                }
                Says::Misnamed => {
                    let misnamed: AppName = "misnamed".parse().unwrap();
                    resolved.unread.insert(misnamed.clone());
                    resolved.held.insert(misnamed, Held::until_changed("this is no name", "rename it"));
                }
                Says::Nothing => {}
            }
        }
        resolved
    }

    /// What roams and is this app's by the newest commit.
    fn roaming(&self, app: usize) -> Vec<&'static str> {
        let all = ROAMS.iter().zip(self.homes);
        all.filter(|(_, home)| *home == app).map(|(key, _)| *key).collect()
    }

    fn policy(&self) -> ChangePolicy {
        let purge = |object: &str| Purge {
            name: "old-data".into(),
            reason: "moved".into(),
            app: name(0),
            object: key(object),
        };
        let purges = ["PersistentVolumeClaim/data", ROAMS[1]].map(purge);
        ChangePolicy {
            grace: Duration::from_secs(GRACE),
            purges: if self.purge { purges.into() } else { Vec::new() },
            ..ChangePolicy::default()
        }
    }

    /// Starts the agent if it is down; it renders the accepted revision from its mirror.
    fn start(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        self.fuse = Fuse::default();
        self.disk.lock().unwrap().crash(self.played);
        // What the agent before had asked for and nobody has begun is lost with it.
        self.pending.forget();
        let driver: Arc<dyn Driver> =
            Arc::new(Runtime { shared: Arc::clone(&self.shared), fuse: self.fuse.clone() });
        let journal = Memory { disk: Arc::clone(&self.disk), fuse: self.fuse.clone() };
        let drivers = Drivers::from_iter([driver]);
        self.keeper = Some(Keeper::open(journal, drivers).unwrap());
        if self.revisions > 0 {
            self.place();
        }
    }

    fn place(&mut self) {
        let (resolved, now) = (self.resolved(), self.now());
        if let Some(keeper) = &mut self.keeper {
            // The fuse is lit in `live` only, so that nothing dies here.
            let placed = keeper.place(&resolved, &now);
            self.is_placed = placed.is_ok();
            assert!(placed.is_ok() || self.disk.lock().unwrap().is_full);
            keeper.permit(self.permit.clone());
        }
    }

    /// Lets `seconds` go by, with the agent doing what its loop would.
    async fn live(&mut self, seconds: u32) {
        let end = self.uptime + Duration::from_secs(u64::from(seconds));
        while self.uptime < end {
            self.start();
            let step = self.next_step().min(end - self.uptime);
            self.uptime += step;
            self.seen += step;
            self.wall = self.wall.saturating_add(step).unwrap();
            let now = self.now();
            self.shared.lock().unwrap().now = now.moment.clone();
            let keeper = self.keeper.as_mut().unwrap();
            // What hangs is cut off by the limits of the calls, in a time that tokio skips.
            let limit = Duration::from_secs(24 * 3600);
            let (pending, shared) = (&mut self.pending, &self.shared);
            let turn = turn_of_the_loop(keeper, pending, shared, self.played, &now);
            let end = tokio::time::timeout(limit, turn).await;
            if self.fuse.is_burnt() {
                self.keeper = None;
            } else {
                let worked = end.expect("a turn of the loop ends");
                assert!(worked.is_ok() || self.disk.lock().unwrap().is_full, "the journal works: {worked:?}");
            }
        }
    }

    /// How long nothing is due; a tenth of a minute at the most, so that repairs are seen.
    fn next_step(&self) -> Duration {
        let second = Duration::from_secs(1);
        let Some(keeper) = &self.keeper else { return second };
        let busy =
            keeper.apps().values().any(|app| !matches!(app.phase, Phase::Good | Phase::RolledBack { .. }));
        let due = keeper.next_wake(&self.now().moment).map(|at| at.uptime.saturating_sub(self.uptime));
        if busy { second } else { due.unwrap_or(6 * second).clamp(second, 6 * second) }
    }

    async fn play(&mut self, op: &Op) {
        self.played += 1;
        match op {
            Op::Pace(pace) => self.pending.pace = *pace,
            Op::Commit(says) => self.push(*says),
            Op::Change(app, version, kind) => {
                let mut says = self.commit;
                says[*app] = Says::Version(*version, *kind);
                self.push(says);
            }
            Op::Move(what, app) => {
                self.homes[*what] = *app;
                self.push(self.commit);
            }
            Op::Rename(from, to) => {
                let mut says = self.commit;
                says[*to] = std::mem::replace(&mut says[*from], Says::Nothing);
                self.homes.iter_mut().filter(|home| *home == from).for_each(|home| *home = *to);
                self.push(says);
            }
            Op::Wait(seconds) => self.live(u32::from(*seconds)).await,
            Op::Die(acts) => {
                self.start();
                self.fuse.set(Some(u32::from(*acts)));
                self.live(3).await;
                self.fuse.set(None);
            }
            Op::Reboot { loses } => self.reboot(*loses),
            Op::Clock(seconds) => {
                let jump = jiff::SignedDuration::from_secs(i64::from(*seconds));
                self.wall = self.wall.saturating_add(jump).unwrap();
            }
            Op::Runtime(how) => {
                self.shared.lock().unwrap().world.script.runtime =
                    [RuntimeIs::Up, RuntimeIs::Down, RuntimeIs::Hang][usize::from(*how)].clone();
            }
            Op::RemoveByHand(app) => {
                self.shared.lock().unwrap().world.objects.remove(&key(&format!("Deployment/{}", APPS[*app])));
            }
            Op::EditByHand(app) => {
                let mut shared = self.shared.lock().unwrap();
                if let Some(Entry::Object(object)) =
                    shared.world.objects.get_mut(&key(&format!("Deployment/{}", APPS[*app])))
                {
                    object.spec["version"] = json!("changed by hand");
                }
            }
            Op::Permit { download, apply } => {
                let closed = |open: &bool| (!open).then(|| Held::until_changed("it is closed", "wait"));
                self.permit = Permit { download: closed(download), apply: closed(apply), revoked: false };
                if let Some(keeper) = &mut self.keeper {
                    keeper.permit(self.permit.clone());
                }
            }
            Op::Purge(asked) => {
                self.purge = *asked;
                self.place();
            }
            Op::Keep(all) => self.keep(*all),
            Op::DiskFull(is_full) => self.disk.lock().unwrap().is_full = *is_full,
            Op::Retry(app) => {
                let now = self.now();
                if let Some(keeper) = &mut self.keeper {
                    let asked = keeper.retry(&name(*app), "the test", &now);
                    assert!(asked.is_ok() || self.disk.lock().unwrap().is_full);
                }
            }
            Op::LoseStore => {
                self.keeper = None;
                self.disk.lock().unwrap().lose_database();
                self.has_forgotten = true;
            }
        }
        self.check();
    }

    /// Whether the runtime refuses to let go of anything.
    fn keep(&self, all: bool) {
        self.shared.lock().unwrap().world.script.keep = all.then(|| "*".to_owned()).into_iter().collect();
    }

    fn push(&mut self, says: [Says; 5]) {
        self.commit = says;
        let disk = self.disk.lock().unwrap();
        let apps = &disk.loaded.apps;
        self.has_forgotten = false;
        self.good_before = apps.iter().map(|(name, app)| (name.clone(), good_of(app))).collect();
        let goes = apps.iter().filter(|(_, app)| app.phase == Phase::Removing);
        self.going_before = goes.map(|(name, _)| name.clone()).collect();
        drop(disk);
        self.revisions += 1;
        self.start();
        self.place();
    }

    fn reboot(&mut self, loses: bool) {
        self.keeper = None;
        self.boots += 1;
        self.uptime = Duration::from_secs(5);
        if loses {
            // Workloads of some runtimes are gone after a boot; what holds data isn't.
            let mut shared = self.shared.lock().unwrap();
            shared.world.objects.retain(|key, _| key.kind != "Deployment" || key.name == "somebody");
        }
    }

    /// What each app should run now.
    fn current(&self) -> BTreeMap<AppName, ReleaseId> {
        let disk = self.disk.lock().unwrap();
        let apps = disk.loaded.apps.iter();
        apps.filter_map(|(name, app)| Some((name.clone(), app.current.as_ref()?.release))).collect()
    }

    /// Apps that are on their way to another release, and have left the last one.
    fn changing(&self) -> BTreeSet<AppName> {
        let disk = self.disk.lock().unwrap();
        let begun = |app: &App| {
            matches!(app.phase, Phase::Applying | Phase::Judging(_) | Phase::Good | Phase::RolledBack { .. })
                && app.current.as_ref().map(|t| t.release) != good_of(app)
        };
        disk.loaded.apps.iter().filter(|(_, app)| begun(app)).map(|(name, _)| name.clone()).collect()
    }
}

/// What the daemon's loop does when something is due.
async fn turn_of_the_loop(
    keeper: &mut Keeper<Memory>,
    pending: &mut Pending,
    shared: &Mutex<Shared>,
    played: usize,
    now: &Now,
) -> Result<(), super::JournalError> {
    for todo in keeper.to_prepare(now) {
        let limit = tokio::time::timeout(holdfast_drivers::CALL_LIMIT, todo.driver.prepare(&todo.release));
        let result =
            limit.await.unwrap_or_else(|_| Err(holdfast_drivers::DriverError::Runtime("no answer".into())));
        keeper.prepared(&todo.app, todo.id, result, now)?;
    }
    for look in keeper.to_look_at(now, &Scope::default()) {
        let health = look.driver.health(&look.release).await;
        keeper.seen(&look.app, look.id, health, now)?;
    }
    let mut scope = Scope::All;
    loop {
        let passed = keeper.pass(&scope, now);
        let (works, committed) = keeper.take_work();
        pending.take_on(works, played, now);
        passed.and(committed)?;
        let mut came = false;
        while let Some(done) = pending.next(shared, now).await {
            came = true;
            keeper.done(done, now)?;
        }
        if !came {
            break;
        }
        scope = Scope::default();
    }
    keeper.commit()?;
    let keep = keeper.pinned();
    keeper.journal().collect(&keep);
    Ok(())
}

fn good_of(app: &App) -> Option<ReleaseId> {
    app.good.as_ref().map(|good| good.release)
}

/// An object of another device under a name that we never use.
fn put_somebody_elses(world: &mut World) {
    let mut theirs = World::new("other/box".parse().unwrap());
    let release = Release {
        app: "somebody".parse().unwrap(),
        driver: DriverName::SIMULATED,
        objects: vec![Object { key: key("Deployment/somebody"), spec: json!({}) }],
        artifacts: BTreeSet::new(),
        secrets: BTreeMap::new(),
        account: None,
    };
    let step = holdfast_drivers::ApplyStep {
        app: &release.app,
        action: Action::Create,
        object: &release.objects[0].key,
        release: Some(&release),
        id: None,
        strategy: holdfast_core::release::Strategy::StopStart,
        from: None,
    };
    let now = Moment { boot: BootId("0".into()), uptime: Duration::ZERO };
    assert!(theirs.apply(&now, &step).result.is_ok());
    world.objects.extend(theirs.objects);
}

fn play(ops: &[Op]) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut history = History::new();
        for op in ops {
            let failed = history.disk.lock().unwrap().loaded.failed.clone();
            let from = history.shared.lock().unwrap().done.len();
            let closed = history.permit.apply.is_some();
            let held = history.current();
            let before = history.changing();
            history.play(op).await;
            // What somebody wants to be tried again may be, and so may what another check is to judge.
            if !matches!(op, Op::Retry(_)) {
                history.check_failed(&failed, &held, from);
            }
            if closed && history.permit.apply.is_some() {
                // What has begun of a group is brought to its end.
                let in_group = |name: &AppName| GROUP.contains(&name.as_str());
                let may = |name: &AppName| in_group(name) && before.iter().any(in_group);
                let mut begun: Vec<AppName> = history.changing().difference(&before).cloned().collect();
                begun.retain(|name| !may(name));
                assert!(begun.is_empty(), "{begun:?} began to change though nothing may");
            }
        }
        history.ends_well().await;
    });
}

#[test]
fn what_the_newest_commit_wants_again_is_not_purged_while_its_app_goes_back() {
    let commit = |db: u8| {
        let mut says = [Says::Version(0, Kind::Good); 5];
        says[0] = Says::Version(db, Kind::Good);
        Op::Commit(says)
    };
    // Even versions of `db` have data. 1 fails while its runtime is down, and the way back from it isn't over when the
    // commit comes with which the history ends, which has them again.
    play(&[
        commit(2),
        Op::Wait(3),
        commit(1),
        Op::Wait(3),
        Op::Runtime(1),
        Op::Purge(true),
        commit(1),
        commit(1),
        Op::Wait(95),
    ]);
}

#[test]
fn what_is_wanted_again_in_another_release_while_it_is_removed_is_not_removed() {
    let sign = 3;
    let mut without = [Says::Version(0, Kind::Good); 5];
    without[sign] = Says::Nothing;
    play(&[
        Op::Change(sign, 0, Kind::Good),
        Op::Wait(140),
        Op::Pace(10),
        Op::Commit(without),
        Op::Die(1),
        Op::Rename(0, sign),
    ]);
}

#[test]
fn two_apps_between_which_an_object_moves_do_not_both_make_it() {
    let (sign, cam) = (3, 4);
    // It is not there yet when it moves on, as the agent dies before it is made; then both change at once, as a group.
    play(&[
        Op::Change(sign, 0, Kind::NotYet),
        Op::Change(0, 0, Kind::Good),
        Op::Move(0, sign),
        Op::Die(1),
        Op::Move(0, cam),
        Op::Commit([Says::Version(0, Kind::Good); 5]),
    ]);
}

#[test]
fn what_a_commit_moves_to_another_app_is_spared_by_a_removal_that_was_planned_before() {
    let (sign, cam) = (3, 4);
    // `sign` fails with what roams in it and is to be gone; the commit with which the history ends moves that to `cam`.
    let mut says = [Says::Version(0, Kind::Good); 5];
    says[2] = Says::Faulty;
    says[sign] = Says::Version(2, Kind::Ill);
    for wait in 90..130 {
        play(&[Op::Pace(16), Op::Move(0, sign), Op::Commit(says), Op::Wait(wait), Op::Move(0, cam)]);
    }
}

#[test]
fn what_moves_on_after_the_store_was_lost_is_taken_over_though_it_does_not_stand_in_the_inventory_again_yet()
{
    let good = |version| Says::Version(version, Kind::Good);
    // The commit with which the history ends moves it from `cam`, which has been found again by half, to `db`.
    let commit = Op::Commit([good(1), good(0), good(0), Says::Version(0, Kind::Busy), good(0)]);
    play(&[Op::Move(0, 4), commit, Op::Die(7), Op::LoseStore, Op::Pace(9), Op::Die(1)]);
}

/// The short form plays the same histories each time: whoever changes something is told of what that does, and not of what
/// nobody has met before. The long form plays new ones.
fn histories() -> ProptestConfig {
    let asked = std::env::var("HOLDFAST_MODEL_CASES").ok().and_then(|text| text.parse().ok());
    match asked {
        Some(cases) => ProptestConfig { cases, ..ProptestConfig::default() },
        None => ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() },
    }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn the_rules_hold_after_every_step_and_the_box_ends_at_the_newest_good_commit(
        ops in prop::collection::vec(ops(), 1..24)
    ) {
        play(&ops);
    }
}
