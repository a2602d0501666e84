//! Which work begins when. At most one errand is under way for each app: what there is of it is asked, that is planned
//! from, and the plan is walked, one piece of work after the other. Errands of different apps go on side by side; none
//! waits for another but where one app depends on the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_core::app::{App, Phase};
use holdfast_core::clock::Now;
use holdfast_core::digest::ReleaseId;
use holdfast_core::generation::{Order, group, order, ready};
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::plan::{Aim, Step};
use holdfast_core::runtime::DriverName;
use holdfast_drivers::DriverError;

use super::journal::{Journal, JournalError, Transaction};
use super::work::{AT_ONCE, Calls, EvidenceCall, Question, Ticket, Work};
use super::{Keeper, Scope};

/// What is being done for one app.
pub(super) struct Errand {
    pub(super) id: u64,
    pub(super) about: About,
    /// Who is asked.
    drivers: BTreeSet<DriverName>,
    /// The plan that is walked; none while it is asked what there is.
    pub(super) walk: Option<Walk>,
}

/// What an errand is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// To bring the app to what it should run, seen as it was when the errand began.
    Converge(Stance),
    /// To remove what holds data and is to go.
    Purge,
}

/// What of an app's record its plan is made from. Once it is another one, a plan is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stance {
    way: Way,
    current: Option<ReleaseId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Changes,
    /// It is there, and isn't found good yet: what it takes the place of stays beside it.
    IsProven,
    GoesBack,
    Goes,
    Held,
    Stays,
}

impl Stance {
    pub(super) fn of(app: &App) -> Self {
        let way = match &app.phase {
            Phase::Applying => Way::Changes,
            Phase::Judging(_) => Way::IsProven,
            Phase::RollingBack { .. } => Way::GoesBack,
            Phase::Removing => Way::Goes,
            Phase::Held { .. } => Way::Held,
            Phase::Preparing | Phase::Pending | Phase::Good | Phase::RolledBack { .. } => Way::Stays,
        };
        Stance { way, current: app.current.as_ref().map(|target| target.release) }
    }

    /// Whether an app that came to this from `before` is to be brought to what it should run without being asked for. A
    /// change begins when its turn has come.
    pub(super) fn is_news_after(self, before: Self) -> bool {
        let leaves = matches!(self.way, Way::GoesBack | Way::Goes) && self.way != before.way;
        let is_good = before.way == Way::IsProven && self.way == Way::Stays;
        self.way != Way::Changes && (leaves || is_good || self.current != before.current)
    }
}

/// A plan that is walked.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) under_way: Vec<Step>,
    pub(super) left: VecDeque<Step>,
    /// What the steps remove that no other app wanted when they were planned.
    pub(super) unwanted: BTreeSet<(DriverName, ObjectKey)>,
    /// Why the app gets no further step.
    pub(super) failed: Option<DriverError>,
    /// Why not all of its runtimes could be asked.
    pub(super) unseen: Option<String>,
    /// What tells its steps from others, if it had any.
    pub(super) repairs: Option<u64>,
    /// Something of it only comes into the inventory.
    pub(super) takes_in: bool,
}

impl<J: Journal> Keeper<J> {
    /// Takes in what happened to the apps in `scope`, and what the newest revision makes of all, and finds the work that
    /// can begin: [`Keeper::take_work`] has it.
    pub fn pass(&mut self, scope: &Scope, now: &Now) -> Result<(), JournalError> {
        match scope {
            Scope::All => self.wanted.extend(self.apps.keys().cloned()),
            Scope::Apps(names) => self.wanted.extend(names.iter().cloned()),
        }
        self.take_up_the_dead(now)?;
        self.advance(now)?;
        self.take_back(now)?;
        // What one app has that another one is to have, or to have back.
        self.wanted.extend(self.claims(&self.apps).takers());
        self.close_ended()?;
        self.begin_search(now);
        // What ran before an update doesn't stand in its way: where its turn has come, that is first.
        let begun = self.begin_turns(now);
        self.begin_converging(now);
        self.begin_purges(now);
        begun
    }

    /// The work that was found since this was last asked, to be run beside each other. Whatever it follows from is on disk
    /// then. Where the disk refuses that, only such work is handed out as has nothing to do with what isn't on disk, and the
    /// rest is kept for the next time.
    pub fn take_work(&mut self) -> (Vec<Work>, Result<(), JournalError>) {
        let mut committed = Ok(());
        if !self.outbox.iter().all(|work| self.is_on_disk(work)) {
            committed = self.commit();
        }
        let outbox = std::mem::take(&mut self.outbox);
        let (ready, waiting) = outbox.into_iter().partition(|work| self.is_on_disk(work));
        self.outbox = waiting;
        (ready, committed)
    }

    /// Returns once everything that was written down is on disk.
    pub fn commit(&mut self) -> Result<(), JournalError> {
        // With every turn of the loop nearly always there is no news.
        let is_news = !self.is_placed_on_disk || !self.uncommitted.is_empty();
        let committed = self.journal.commit();
        self.is_placed_on_disk |= self.journal.is_accepted_on_disk();
        committed?;
        if is_news {
            self.uncommitted.clear();
            self.pinned_on_disk = self.pinned_now();
        }
        Ok(())
    }

    /// Writes down all that it knows, into a database that was begun anew.
    pub fn write_all(&mut self) -> Result<(), JournalError> {
        let apps: Vec<_> = self.apps.iter().map(|(name, app)| (name, Some(app))).collect();
        self.journal.save_apps(&apps)?;
        for (app, owned) in self.inventory.iter() {
            self.journal.save_inventory(app, &owned.iter().collect::<Vec<_>>())?;
        }
        self.uncommitted.extend(self.apps.keys().chain(self.inventory.keys()).cloned());
        Ok(())
    }

    /// Whether nothing of an app was written down that may not be on disk yet.
    pub fn is_committed(&self) -> bool {
        self.uncommitted.is_empty()
    }

    fn is_on_disk(&self, work: &Work) -> bool {
        if matches!(work.calls, Calls::Walk(_)) && !self.is_placed_on_disk {
            return false;
        }
        let Some(name) = work.ticket.app.as_ref().filter(|_| !self.uncommitted.is_empty()) else {
            return true;
        };
        !self.uncommitted.contains(name) && !self.claims(&self.apps).shares_any(name, self.uncommitted.iter())
    }

    /// Whether the runtimes are being searched for apps that nobody knows of: a revision is only applied after that.
    pub fn is_searching(&self) -> bool {
        self.search.is_under_way()
    }

    /// Whether no work is under way or about to begin.
    pub fn is_idle(&self) -> bool {
        self.errands.is_empty()
            && self.outbox.is_empty()
            && self.wanted.is_empty()
            && !self.search.is_under_way()
    }

    /// Whether an app wasn't brought to what it should run yet since the agent was started, and is about to be.
    pub(super) fn is_unmet(&self, name: &AppName) -> bool {
        !self.met.contains(name) && (self.errands.contains_key(name) || self.wanted.contains(name))
    }

    /// What should run is brought about. When the agent starts, an app comes after those that it depends on.
    fn begin_converging(&mut self, now: &Now) {
        let names: Vec<AppName> = if self.wanted.iter().all(|name| self.met.contains(name)) {
            self.wanted.iter().cloned().collect()
        } else {
            order(&self.apps)
                .into_iter()
                .filter(|name| self.wanted.contains(name) || self.is_unmet(name))
                .collect()
        };
        self.wanted.retain(|name| self.apps.contains_key(name));
        // Those before it in the order that aren't met yet.
        let mut to_come = BTreeSet::new();
        for name in names {
            let Some(app) = self.apps.get(&name).filter(|_| self.wanted.contains(&name)) else {
                to_come.insert(name);
                continue;
            };
            if !self.may_converge(&name, app, now) {
                self.wanted.remove(&name);
                self.met.insert(name);
                continue;
            }
            let needs = app.current.iter().flat_map(|current| &current.policy.depends_on);
            let waits = !self.met.contains(&name) && needs.into_iter().any(|need| to_come.contains(need));
            if !self.met.contains(&name) {
                to_come.insert(name.clone());
            }
            let about = About::Converge(Stance::of(app));
            let drivers = self.drivers_of(&name, Aim::Current);
            // Whether there is room costs less to find out.
            if !waits && self.has_room(about, &drivers) && self.is_free(&name) {
                self.wanted.remove(&name);
                self.begin(&name, about, drivers);
            }
        }
    }

    /// The apps whose turn has come are changed, each in a transaction of its own.
    fn begin_turns(&mut self, now: &Now) -> Result<(), JournalError> {
        let resumed =
            self.apps.iter().filter(|(_, app)| app.phase == Phase::Applying && !app.waits(&now.moment));
        let resumed: Vec<AppName> = resumed.map(|(name, _)| name.clone()).collect();
        let mut ready = ready(&self.apps, self.order(), now);
        // What has begun of a group is brought to its end.
        let may = |name: &AppName| self.apps.get(name).is_some_and(|app| group::has_begun(app, &self.apps));
        ready.retain(|name| self.may_change() || (!self.permit.revoked && may(name)));
        for name in resumed.into_iter().chain(ready) {
            if self.may_take_turn(&name) {
                self.begin_turn(&name, now)?;
            }
        }
        Ok(())
    }

    fn may_take_turn(&self, name: &AppName) -> bool {
        let Some(target) = self.apps.get(name).and_then(|app| app.target.as_ref()) else { return false };
        let is_walked = |need: &AppName| self.errands.get(need).is_some_and(|errand| errand.walk.is_some());
        let mut needs = target.policy.depends_on.iter();
        if !self.is_free(name) || needs.any(|need| is_walked(need) || self.is_unmet(need)) {
            return false;
        }
        // After the agent died, the changes that were under way then go on one at a time, so that it is found out which
        // of them it dies of.
        let is_suspect = |name: &AppName| self.transactions.get(name).is_some_and(|open| open.deaths > 0);
        let mut changing = self.errands.iter().filter(|(_, errand)| errand.changes()).map(|(name, _)| name);
        let alone = if is_suspect(name) { changing.next().is_none() } else { !changing.any(is_suspect) };
        alone && self.has_room(changes(target.release), &self.drivers_for_turn(name))
    }

    /// Who is asked when an app is changed to its target.
    fn drivers_for_turn(&self, name: &AppName) -> BTreeSet<DriverName> {
        let target = self.apps.get(name).and_then(|app| app.target.as_ref()).map(|target| target.driver);
        self.drivers_that_made(name).chain(target).collect()
    }

    fn begin_turn(&mut self, name: &AppName, now: &Now) -> Result<(), JournalError> {
        let Some(app) = self.apps.get(name) else { return Ok(()) };
        let Some(release) = app.target.as_ref().map(|target| target.release) else { return Ok(()) };
        let was_pending = app.phase == Phase::Pending;
        let boot = &now.moment.boot;
        let before = self.transactions.get(name).filter(|open| open.release == release && open.boot == *boot);
        let deaths = before.map_or(0, |open| open.deaths);
        let open = Transaction { app: name.clone(), release, boot: boot.clone(), deaths, under_way: true };
        self.save_transaction(open, now)?;
        if was_pending {
            self.change(name, |app| app.apply(now))?;
            self.health.remove(name);
            self.looks.remove(name);
            self.sights.remove(name);
        }
        self.met.insert(name.clone());
        self.patience.is_well(name);
        self.begin(name, changes(release), self.drivers_for_turn(name));
        Ok(())
    }

    pub(super) fn save_transaction(&mut self, open: Transaction, now: &Now) -> Result<(), JournalError> {
        if self.transactions.get(&open.app) != Some(&open) {
            self.uncommitted.insert(open.app.clone());
            self.journal.open_transaction(&open, now)?;
            self.transactions.insert(open.app.clone(), open);
        }
        Ok(())
    }

    /// Closes the transactions of apps that aren't being changed any more.
    pub(super) fn close_ended(&mut self) -> Result<(), JournalError> {
        for (name, open) in self.transactions.clone() {
            let app = self.apps.get(&name);
            let applies = app.is_some_and(|app| {
                app.phase == Phase::Applying
                    && app.target.as_ref().is_some_and(|target| target.release == open.release)
            });
            if applies || self.errands.contains_key(&name) {
                continue;
            }
            let failed = self.failed.get(&name).is_some_and(|failed| failed.contains_key(&open.release));
            let settled =
                failed || app.is_some_and(|app| matches!(app.phase, Phase::Judging(_) | Phase::Good));
            self.journal.close_transaction(&name, settled)?;
            self.transactions.remove(&name);
        }
        Ok(())
    }

    /// The agent is told to end: what it is in the midst of is no reason to suspect a change.
    pub fn set_down(&mut self, now: &Now) -> Result<(), JournalError> {
        for open in self.transactions.values().cloned().collect::<Vec<_>>() {
            self.save_transaction(Transaction { under_way: false, ..open }, now)?;
        }
        self.commit()
    }

    /// Removes what holds data where a Purge document asks for it and its grace time is over.
    fn begin_purges(&mut self, now: &Now) {
        self.purged = Some(now.seen);
        if !self.may_change() {
            return;
        }
        let mut due: BTreeMap<AppName, BTreeSet<DriverName>> = BTreeMap::new();
        for orphan in self.due_purges(now) {
            due.entry(orphan.app).or_default().insert(orphan.driver);
        }
        for (name, drivers) in due {
            let rests = self.patience.spares_purge(&name, now);
            if !rests && self.is_free(&name) && self.has_room(About::Purge, &drivers) {
                self.begin(&name, About::Purge, drivers);
            }
        }
    }

    /// What decides whose turn it is.
    pub(super) fn order(&self) -> Order<'_> {
        Order { faulty: self.faulty_apps(), handovers: Some(&self.handovers) }
    }

    /// Whether an errand of an app may begin beside those that are under way. Apps that share an object, since it goes from
    /// one to the other, have theirs one after the other: what one sees of it the other one may be about to change.
    fn is_free(&self, name: &AppName) -> bool {
        self.errands.is_empty()
            || !self.errands.contains_key(name)
                && !self.claims(&self.apps).shares_any(name, self.errands.keys())
    }

    /// Whether another errand of this kind may ask these runtimes. What takes its time of one kind leaves room for the
    /// others: however many apps stop slowly, one that was killed is brought back.
    fn has_room(&self, about: About, drivers: &BTreeSet<DriverName>) -> bool {
        let alike = |errand: &&Errand| errand.about.is_like(about) && !errand.drivers.is_disjoint(drivers);
        self.errands.values().filter(alike).count() < AT_ONCE
    }

    /// Begins an errand: by asking what there is.
    fn begin(&mut self, name: &AppName, about: About, drivers: BTreeSet<DriverName>) {
        let questions = drivers.iter().map(|kind| self.question(name, *kind, Aim::Current)).collect();
        let evidence = match about {
            About::Converge(_) if self.undiagnosed.remove(name) => self.evidence_of(name).map(Box::new),
            _ => None,
        };
        let id = self.send(Some(name), Calls::Observe(questions, evidence));
        self.errands.insert(name.clone(), Errand { id, about, drivers, walk: None });
    }

    /// Hands out a piece of work; gives its number.
    pub(super) fn send(&mut self, app: Option<&AppName>, calls: Calls) -> u64 {
        self.sent += 1;
        self.outbox.push(Work { ticket: Ticket { id: self.sent, app: app.cloned() }, calls });
        self.sent
    }

    pub(super) fn question(&self, name: &AppName, kind: DriverName, aim: Aim) -> Question {
        let target = self.apps.get(name).and_then(|app| aim.of(app));
        Question {
            app: name.clone(),
            kind,
            driver: self.drivers.get(&kind).cloned(),
            desired: target.and_then(|target| self.releases.get(&target.release)).cloned(),
        }
    }

    /// What is to be kept of an app that failed.
    fn evidence_of(&self, name: &AppName) -> Option<EvidenceCall> {
        let app = self.apps.get(name)?;
        let failed =
            matches!(app.phase, Phase::RollingBack { .. } | Phase::RolledBack { .. } | Phase::Held { .. });
        let target = app.target.as_ref().filter(|_| failed)?;
        let release = self.releases.get(&target.release).cloned();
        Some(EvidenceCall {
            driver: self.drivers.get(&target.driver).cloned(),
            target: target.clone(),
            question: release.map(|release| Question {
                app: name.clone(),
                kind: target.driver,
                driver: self.drivers.get(&target.driver).cloned(),
                desired: Some(release),
            }),
        })
    }

    fn drivers_that_made(&self, name: &AppName) -> impl Iterator<Item = DriverName> + '_ {
        let made = self.inventory.get(name).into_iter().flatten();
        made.filter(|(_, owned)| owned.orphaned.is_none()).map(|(_, owned)| owned.driver)
    }

    pub(super) fn drivers_of(&self, name: &AppName, aim: Aim) -> BTreeSet<DriverName> {
        let wanted = self.apps.get(name).and_then(|app| aim.of(app)).map(|target| target.driver);
        self.drivers_that_made(name).chain(wanted).collect()
    }
}

fn changes(release: ReleaseId) -> About {
    About::Converge(Stance { way: Way::Changes, current: Some(release) })
}

impl Errand {
    fn changes(&self) -> bool {
        matches!(self.about, About::Converge(Stance { way: Way::Changes, .. }))
    }
}

impl About {
    fn is_like(self, other: About) -> bool {
        match (self, other) {
            (About::Converge(one), About::Converge(other)) => one.way == other.way,
            (About::Purge, About::Purge) => true,
            _ => false,
        }
    }
}
