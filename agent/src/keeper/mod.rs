//! The keeper: keeps the box at its generation. It owns the apps' state, and is told of what happens; it
//! has no clock, no task and no network of its own, so that a test can play years with it.
//!
//! [`Keeper::pass`] finds out what is to be done for which app: those that aren't what they should be are brought to it,
//! and those whose turn has come are changed, each in a transaction of its own. What a runtime takes its time for is
//! [`Work`]: it is run by somebody else, and what came of it comes back by [`Keeper::done`].

mod advance;
mod counted;
mod diagnose;
mod drivers;
mod errand;
mod execute;
mod failure;
mod journal;
mod leftovers;
#[cfg(test)]
mod model;
mod patience;
mod permit;
mod prepare_and_judge;
mod releases;
mod search;
pub(crate) mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use holdfast_core::app::{App, Phase, pause};
use holdfast_core::clock::{Moment, Now};
use holdfast_core::digest::Digest;
use holdfast_core::generation::handover::{Claims, Handovers};
use holdfast_core::generation::holders::Holders;
use holdfast_core::generation::{Apps, Failed, Faulty, Inventory, advance, waits_for};
use holdfast_core::health::Health;
use holdfast_core::held::Held;
use holdfast_core::name::AppName;
use holdfast_core::observe::Observations;
use holdfast_core::plan::{Aim, Known, Plan, plan, purges};
use holdfast_core::release::Target;
use holdfast_core::resolve::Resolved;
use holdfast_core::runtime::DriverName;

use self::counted::Counted;
use self::errand::{Errand, Stance};
use self::leftovers::Leftovers;
use self::patience::Patience;
use self::releases::Releases;
use self::search::Search;

pub use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::diagnosis::LookRecord;

pub use drivers::Drivers;
pub use journal::{Journal, JournalError, Loaded, Note, Transaction};
pub use permit::Permit;
pub use prepare_and_judge::{Look, Preparation};
pub use work::{Answered, Asking, Done, Ticket, Work};

/// So often may the agent die under one change in one boot.
const DEATHS_THAT_COUNT: u32 = 3;

/// The first pause after a change was set aside.
const SET_ASIDE_FOR: Duration = Duration::from_secs(60);

/// Keeps the box in its generation.
pub struct Keeper<J> {
    journal: J,
    /// Changes under which the agent died, and that weren't dealt with yet.
    dead: Vec<Transaction>,
    /// The open changes.
    transactions: BTreeMap<AppName, Transaction>,
    drivers: Drivers,
    apps: Counted<Apps>,
    inventory: Counted<Inventory>,
    /// Which names more than one app has: kept as `inventory` and `releases` are.
    holders: Holders,
    failed: Counted<Failed>,
    releases: Counted<Releases>,
    health: BTreeMap<AppName, Health>,
    looks: BTreeMap<AppName, Moment>,
    /// What could not be told of apps that are judged.
    remarks: BTreeMap<AppName, String>,
    kept: BTreeMap<AppName, Held>,
    resolved: Counted<Option<Resolved>>,
    permit: Counted<Permit>,
    /// Of what the newest revision's part of the apps follows from, as it was when there was nothing left to bring to them.
    advanced: Option<[u64; 6]>,
    /// Some apps are only kept while changes are held.
    withheld: bool,
    /// The last looks at the apps, for the diagnosis of one that fails.
    sights: BTreeMap<AppName, VecDeque<LookRecord>>,
    /// Apps that failed and of which no diagnosis was kept yet.
    undiagnosed: BTreeSet<AppName>,
    /// What goes from app to app by the newest revision.
    handovers: Handovers,
    /// When orphans were last looked through for what is to go.
    purged: Option<Duration>,
    /// What is to be removed, and stays for now.
    leftovers: Leftovers,
    /// What is being done, one thing for each app.
    errands: BTreeMap<AppName, Errand>,
    /// Apps that are to be looked at and brought to what they should run.
    wanted: BTreeSet<AppName>,
    /// Apps that were since the agent was started.
    met: BTreeSet<AppName>,
    search: Search,
    patience: Patience,
    /// Work that was found and not handed out yet.
    outbox: Vec<Work>,
    /// Apps of which something was written down that may not be on disk yet.
    uncommitted: BTreeSet<AppName>,
    /// That the newest revision was accepted is on disk: nothing is done for it before.
    is_placed_on_disk: bool,
    /// What must stay on disk for what is written down there.
    pinned_on_disk: BTreeSet<Digest>,
    /// How many pieces of work there were.
    sent: u64,
}

/// Apps whose documents are faulty, when no revision is known.
static NOTHING_FAULTY: Faulty = Faulty::new();

/// Which apps a pass looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// These, as something happened to them.
    Apps(BTreeSet<AppName>),
}

impl Default for Scope {
    /// None of them.
    fn default() -> Self {
        Scope::Apps(BTreeSet::new())
    }
}

impl Scope {
    /// Whether an app is one of them.
    pub fn has(&self, name: &AppName) -> bool {
        match self {
            Scope::All => true,
            Scope::Apps(names) => names.contains(name),
        }
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Scope) -> Scope {
        match (self, other) {
            (Scope::Apps(mut these), Scope::Apps(those)) => {
                these.extend(those);
                Scope::Apps(these)
            }
            _ => Scope::All,
        }
    }
}

impl<J: Journal> Keeper<J> {
    /// Reads what was written down. A change under which the agent died is dealt with by the first pass: a disk that
    /// takes no write keeps no agent from starting.
    pub fn open(journal: J, drivers: Drivers) -> Result<Self, JournalError> {
        let mut keeper = Keeper::load(journal, drivers)?;
        keeper.pinned_on_disk = keeper.pinned_now();
        keeper.find_undiagnosed();
        Ok(keeper)
    }

    /// Reads what was written down, only to look at it.
    pub fn load(mut journal: J, drivers: Drivers) -> Result<Self, JournalError> {
        let Loaded { apps, inventory, failed, transactions } = journal.load()?;
        let releases = Releases::load(&apps, |id| journal.release(id));
        Ok(Keeper {
            journal,
            dead: transactions,
            transactions: BTreeMap::new(),
            search: Search::of(drivers.keys().copied()),
            drivers,
            apps: apps.into(),
            holders: Holders::of(releases.whole(), &inventory),
            inventory: inventory.into(),
            failed: failed.into(),
            releases: releases.into(),
            health: BTreeMap::new(),
            looks: BTreeMap::new(),
            remarks: BTreeMap::new(),
            kept: BTreeMap::new(),
            resolved: None.into(),
            permit: Permit::unknown().into(),
            advanced: None,
            withheld: false,
            sights: BTreeMap::new(),
            undiagnosed: BTreeSet::new(),
            handovers: Handovers::default(),
            purged: None,
            leftovers: Leftovers::default(),
            errands: BTreeMap::new(),
            wanted: BTreeSet::new(),
            met: BTreeSet::new(),
            patience: Patience::default(),
            outbox: Vec::new(),
            uncommitted: BTreeSet::new(),
            is_placed_on_disk: true,
            pinned_on_disk: BTreeSet::new(),
            sent: 0,
        })
    }

    /// Shows what `resolved` would make of the apps, and writes nothing down.
    pub fn imagine(&mut self, resolved: &Resolved, now: &Now) {
        self.take_in(resolved);
        let withheld = self.permit.apply.as_ref();
        self.handovers = Handovers::of(self.claims(&self.apps), resolved);
        let handovers = &self.handovers;
        self.kept = advance(&mut self.apps, resolved, &self.failed, withheld, false, handovers, now).kept;
        *self.resolved = Some(Resolved { releases: BTreeMap::new(), ..resolved.clone() });
    }

    /// Deals with the changes that were open when the agent ended.
    fn take_up_the_dead(&mut self, now: &Now) -> Result<(), JournalError> {
        while let Some(open) = self.dead.last() {
            self.died_under(open.clone(), now)?;
            self.dead.pop();
        }
        Ok(())
    }

    /// The agent ended while this change was open. A change that it dies of again and again in one boot is set aside; a
    /// power cut is no reason to give a change up.
    fn died_under(&mut self, mut open: Transaction, now: &Now) -> Result<(), JournalError> {
        let same_boot = open.boot == now.moment.boot;
        open.deaths = if same_boot { open.deaths + u32::from(open.under_way) } else { 0 };
        open.boot = now.moment.boot.clone();
        open.under_way = false;
        let applies = self.apps.get(&open.app).is_some_and(|app| {
            app.phase == Phase::Applying && app.target.as_ref().is_some_and(|t| t.release == open.release)
        });
        if !applies {
            return self.journal.close_transaction(&open.app, false);
        }
        if open.deaths < DEATHS_THAT_COUNT {
            return self.save_transaction(open, now);
        }
        let times = self.journal.times_set_aside(&open.app, &open.release) + 1;
        let cause =
            format!("the agent died {} times while changing this app to {}", open.deaths, open.release);
        self.journal.set_aside(&open.app, &open.release, times, now)?;
        self.journal.note(Note::of("app.setaside", &open.app, &cause), now);
        self.change(&open.app, |app| app.set_aside(&cause, times, pause(SET_ASIDE_FOR, times), now))?;
        self.journal.close_transaction(&open.app, false)
    }

    /// Takes in what a revision makes of the box. Nothing is touched before the next pass, and nothing is changed
    /// before [`Keeper::permit`] says what this revision allows.
    pub fn place(&mut self, resolved: &Resolved, now: &Now) -> Result<(), JournalError> {
        self.journal.pin(&self.releases.lacks(resolved))?;
        self.permit(Permit::unknown());
        self.is_placed_on_disk = false;
        self.search.await_first();
        self.take_in(resolved);
        let before = self.resolved.replace(Resolved { releases: BTreeMap::new(), ..resolved.clone() });
        let before = before.map(|before| before.apps).unwrap_or_default();
        let is_new =
            |name: &AppName, target: &Target| before.get(name).is_none_or(|t| t.release != target.release);
        let new: Vec<&AppName> = resolved
            .apps
            .iter()
            .filter(|(name, target)| is_new(name, target))
            .map(|(name, _)| name)
            .collect();
        for name in new {
            self.try_now(name, now);
        }
        self.advance(now)
    }

    /// What failed before is no reason to wait with something new, or when somebody asks.
    fn try_now(&mut self, name: &AppName, now: &Now) {
        if let Some(stuck) = self.apps.get_mut(name).and_then(|app| app.stuck.as_mut()) {
            stuck.retry_at = now.moment.clone();
            stuck.attempts = 0;
        }
        self.patience.hurry(name, &now.moment);
        self.leftovers.hurry(name, &now.moment);
    }

    /// Somebody asks for another try of everything, now.
    pub fn try_all_now(&mut self, now: &Now) {
        for name in self.apps.keys().cloned().collect::<Vec<_>>() {
            self.try_now(&name, now);
        }
    }

    /// A runtime is back: what it could not be asked for is tried again now, but for one that is back again and again.
    /// What failed often still has the longer pause before it if this fails too.
    pub fn try_all_of(&mut self, driver: DriverName, now: &Now) {
        let at = self.patience.back(driver, now);
        self.search.hurry(driver);
        for (name, app) in self.apps.iter_mut() {
            let targets = [&app.current, &app.target].into_iter().flatten().map(|target| target.driver);
            let owned = self.inventory.get(name).into_iter().flatten().map(|(_, owned)| owned.driver);
            if !targets.chain(owned).any(|of| of == driver) {
                continue;
            }
            self.patience.hurry(name, &at);
            if let Some(stuck) = &mut app.stuck
                && stuck.retry_at.boot == at.boot
                && stuck.retry_at.uptime > at.uptime
            {
                let sooner = stuck.retry_at.uptime.saturating_sub(at.uptime);
                stuck.retry_wall = stuck.retry_wall.checked_sub(sooner).unwrap_or(now.wall).max(now.wall);
                stuck.retry_at = at.clone();
            }
        }
    }

    /// The first moment after `handled` at which a look or another try is due.
    pub fn next_wake(&self, handled: &Moment) -> Option<Moment> {
        let judged = self.apps.iter().filter(|(_, app)| matches!(app.phase, Phase::Judging(_)));
        let looks = judged.filter_map(|(name, _)| self.looks.get(name));
        let retries = self.apps.values().filter_map(App::retry_at);
        let ahead = |at: &&Moment| handled.is_before(at);
        let search = self.search.pause.as_ref().map(|pause| &pause.until);
        let pauses = self.patience.ends().chain(self.leftovers.retries()).chain(search);
        looks.chain(retries).chain(pauses).filter(ahead).min_by_key(|at| at.uptime).cloned()
    }

    /// The apps for which another try is due.
    pub fn due(&self, now: &Now) -> BTreeSet<AppName> {
        let due = self.apps.iter().filter(|(_, app)| app.stuck.is_some() && !app.waits(&now.moment));
        let over = self.patience.over(now).chain(self.leftovers.due(now));
        due.map(|(name, _)| name).chain(over).cloned().collect()
    }

    /// The phase of every app, to see whether one moved on.
    pub fn phases(&self) -> Vec<&'static str> {
        self.apps.values().map(|app| app.phase.word()).collect()
    }

    /// Who wants what, by all that is known.
    fn claims<'a>(&'a self, apps: &'a Apps) -> Claims<'a> {
        Claims {
            apps,
            releases: self.releases.whole(),
            inventory: &self.inventory,
            newest: self.resolved.as_ref(),
            runtimes: self.drivers.runtimes(),
            holders: Some(&self.holders),
        }
    }

    fn faulty_apps(&self) -> &Faulty {
        self.resolved.as_ref().map_or(&NOTHING_FAULTY, |resolved| &resolved.held)
    }

    /// What is to be asked before [`Keeper::plan_to_target`] can answer.
    pub fn ask_for_plan(&self, now: &Now) -> Asking {
        let apps = self.apps.keys().flat_map(|name| {
            let drivers = self.drivers_of(name, Aim::Target);
            drivers.into_iter().map(|kind| self.question(name, kind, Aim::Target))
        });
        let due: BTreeSet<_> =
            self.due_purges(now).into_iter().map(|orphan| (orphan.app, orphan.driver)).collect();
        let orphans = due.iter().map(|(app, driver)| self.question(app, *driver, Aim::Current));
        Asking { apps: apps.collect(), orphans: orphans.collect() }
    }

    /// What `holdfast plan` shows: every step to where the apps are going.
    pub fn plan_to_target(&self, mut answered: Answered, now: &Now) -> Plan {
        for name in self.apps.keys() {
            answered.apps.entry(name.clone()).or_default();
        }
        // What is kept from being removed is shown as it would go.
        let mut apps = self.apps.clone();
        apps.iter_mut()
            .filter(|(name, _)| self.kept.contains_key(*name))
            .for_each(|(_, app)| app.withdraw(now));
        let mut plan = plan(self.known(&apps, &answered.apps), Aim::Target);
        plan.steps.extend(purges(&self.due_purges(now), &answered.orphans, now.seen));
        for name in self.apps.keys().chain(self.faulty().map(|(name, _)| name)) {
            if let Some(held) = self.held(name, now) {
                plan.held.entry(name.clone()).or_insert(held);
            }
        }
        plan
    }

    fn known<'a>(&'a self, apps: &'a Apps, observed: &'a Observations) -> Known<'a> {
        Known {
            apps,
            releases: self.releases.whole(),
            observed,
            inventory: &self.inventory,
            newest: self.resolved.as_ref(),
            runtimes: self.drivers.runtimes(),
            holders: Some(&self.holders),
        }
    }

    /// An app's record was changed: if it should run something else now, that is brought about.
    fn note_stance(&mut self, name: &AppName, before: Option<&App>) {
        let (Some(before), Some(app)) = (before, self.apps.get(name)) else { return };
        if Stance::of(app).is_news_after(Stance::of(before)) {
            self.patience.is_well(name);
            self.wanted.insert(name.clone());
        }
    }

    /// Changes an app's record, in the journal before in memory.
    fn change(&mut self, name: &AppName, change: impl FnOnce(&mut App)) -> Result<(), JournalError> {
        let Some(app) = self.apps.get(name) else { return Ok(()) };
        let mut changed = app.clone();
        change(&mut changed);
        if changed != *app {
            self.journal.save_apps(&[(name, Some(&changed))])?;
            self.uncommitted.insert(name.clone());
            let before = self.apps.insert(name.clone(), changed);
            self.note_stance(name, before.as_ref());
        }
        Ok(())
    }

    /// Changes the records of several apps, all of them or none.
    fn change_together(
        &mut self,
        names: &[AppName],
        change: impl Fn(&AppName, &mut App),
    ) -> Result<(), JournalError> {
        let mut changed: Vec<(AppName, App)> = Vec::new();
        for name in names {
            if let Some(mut app) = self.apps.get(name).cloned() {
                change(name, &mut app);
                changed.push((name.clone(), app));
            }
        }
        let records: Vec<_> = changed.iter().map(|(name, app)| (name, Some(app))).collect();
        self.journal.save_apps(&records)?;
        self.uncommitted.extend(names.iter().cloned());
        for (name, app) in changed {
            let before = self.apps.insert(name.clone(), app);
            self.note_stance(&name, before.as_ref());
        }
        Ok(())
    }

    /// All apps.
    pub fn apps(&self) -> &Apps {
        &self.apps
    }

    /// The runtimes of this box.
    pub fn drivers(&self) -> &Drivers {
        &self.drivers
    }

    /// What the keeper writes to.
    pub fn journal(&mut self) -> &mut J {
        &mut self.journal
    }

    /// Apps whose documents are faulty, with why; some of them may not be here at all.
    pub fn faulty(&self) -> impl Iterator<Item = (&AppName, &Held)> {
        self.resolved.iter().flat_map(|resolved| &resolved.held)
    }

    /// How an app was when it was last looked at.
    pub fn health(&self, name: &AppName) -> &Health {
        self.health.get(name).unwrap_or(&Health::Unknown)
    }

    /// Whether an app is being judged.
    pub fn is_judged(&self, name: &AppName) -> bool {
        self.apps.get(name).is_some_and(|app| matches!(app.phase, Phase::Judging(_)))
    }

    /// What the last look at an app that is judged could not tell.
    pub fn remark(&self, name: &AppName) -> Option<&String> {
        self.remarks.get(name).filter(|_| self.is_judged(name))
    }

    /// Why an app waits, if it does.
    pub fn held(&self, name: &AppName, now: &Now) -> Option<Held> {
        let faulty = self.resolved.as_ref().and_then(|resolved| resolved.held.get(name));
        if let Some(held) = faulty.or_else(|| self.kept.get(name)) {
            return Some(held.clone());
        }
        let app = self.apps.get(name)?;
        let held = app.held(name).map(|held| match self.blamed(name, app) {
            Some((group, other)) if app.stuck.is_none() => Held {
                unblock: format!(
                    "commit a change to {other}; `holdfast retry {name}` retries all apps of the group {group}"
                ),
                ..held
            },
            _ => held,
        });
        let held = held.or_else(|| match &app.phase {
            Phase::Pending if !app.waits(&now.moment) => {
                waits_for(name, app, &self.apps, self.order()).or_else(|| self.permit.apply.clone())
            }
            Phase::Preparing => self.permit.download.clone(),
            Phase::Removing => self.handovers.holds(name, &self.apps),
            Phase::Good => self.claims(&self.apps).kept_by_another(name).map(|(object, other)| {
                Held::until_changed(
                    format!(
                        "waiting to have back {object} from the app {other}, which has not been changed yet"
                    ),
                    format!("nothing to do here: see what is held for {other}"),
                )
            }),
            _ => None,
        });
        self.leftovers.added_to(held, name)
    }

    /// The other app of its group that failed, if that is why this one isn't tried.
    fn blamed<'a>(&'a self, name: &AppName, app: &'a App) -> Option<(&'a AppName, &'a AppName)> {
        let has_failed = |name: &AppName, app: &App| {
            let failed = self.failed.get(name).zip(app.target.as_ref());
            failed.is_some_and(|(failed, target)| failed.contains_key(&target.release))
        };
        let group = app.group().filter(|_| !has_failed(name, app))?;
        let other =
            self.apps.iter().find(|(other, app)| app.group() == Some(group) && has_failed(other, app))?;
        Some((group, other.0))
    }

    /// Whether every app is where the repository wants it, with nothing of before, and nothing is held.
    pub fn converged(&self) -> bool {
        let undone = !self.kept.is_empty() || !self.leftovers.is_empty() || self.search.is_awaited();
        let is_done = |(name, app): (&AppName, &App)| app.converged() && !self.has_unwanted(name, app);
        !undone && self.faulty().next().is_none() && self.apps.iter().all(is_done)
    }

    /// Whether nothing will happen without something new: every verdict is in, or was tried often enough
    /// to say that it can't be had now.
    pub fn at_rest(&self) -> bool {
        self.is_idle()
            && self.apps.iter().all(|(name, app)| match &app.phase {
                Phase::Good | Phase::RolledBack { .. } | Phase::Held { .. } => {
                    is_calm(app) && self.leftovers.is_calm(name)
                }
                Phase::Removing if self.leftovers.has_any(name) => {
                    is_calm(app) && self.leftovers.is_calm(name)
                }
                Phase::Pending => {
                    is_calm(app)
                        && (given_up(app)
                            || !self.may_change()
                            || waits_for(name, app, &self.apps, self.order()).is_some())
                }
                Phase::Preparing if self.permit.download.is_some() => is_calm(app),
                Phase::Removing if self.handovers.holds(name, &self.apps).is_some() => is_calm(app),
                _ => given_up(app),
            })
    }

    /// Whether an app may be brought to what it should run. What ran before an update is kept up while the update can't
    /// be prepared; else a failed try is a reason to wait. What is changed waits for its turn.
    fn may_converge(&self, name: &AppName, app: &App, now: &Now) -> bool {
        match &app.phase {
            Phase::Applying => false,
            _ if self.patience.spares(name, now) => false,
            Phase::Preparing | Phase::Pending => true,
            _ => !app.waits(&now.moment),
        }
    }
}

/// So many tries in a row tell that it can't be had now.
const TRIES: u32 = 3;

fn given_up(app: &App) -> bool {
    // What isn't taken yet comes to an end by itself, one way or the other.
    app.stuck.as_ref().is_some_and(|stuck| stuck.attempts >= TRIES && stuck.not_yet.is_none())
}

fn is_calm(app: &App) -> bool {
    app.stuck.is_none() || given_up(app)
}
