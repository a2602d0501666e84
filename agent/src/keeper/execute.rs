//! Taking in the results of work: an app is planned from what was observed, the plan is carried out step by step, and
//! then the app moves on. The executor has no choices to make; it writes each step's intent down before and its end
//! after.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_core::app::{App, Phase};
use holdfast_core::clock::Now;
use holdfast_core::digest::ReleaseId;
use holdfast_core::generation::Owned;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::Observations;
use holdfast_core::plan::{Action, Aim, Plan, Step, plan_one, purges};
use holdfast_core::release::Strategy;
use holdfast_core::runtime::DriverName;
use holdfast_drivers::DriverError;

use super::Keeper;
use super::errand::{About, Errand, Stance, Walk};
use super::journal::{Journal, JournalError, Note};
use super::patience::mark_of;
use super::work::{Answers, Calls, Came, Done, StepCall};

impl<J: Journal> Keeper<J> {
    /// Takes in what came of a piece of work. The next of its errand, if there is one, is found at once.
    pub fn done(&mut self, done: Done, now: &Now) -> Result<(), JournalError> {
        let Some(name) = done.ticket.app else {
            let finds = if let Came::Found(finds) = done.came { Some(finds) } else { None };
            return self.found(done.ticket.id, finds, now);
        };
        let Some(errand) = self.errands.remove(&name) else { return Ok(()) };
        if errand.id != done.ticket.id {
            self.errands.insert(name, errand);
            return Ok(());
        }
        let result = match errand.about {
            About::Converge(stance) => self.converge(&name, errand, stance, done.came, now),
            About::Purge => self.purge(&name, errand, done.came, now),
        };
        if self.errands.contains_key(&name) {
            return result;
        }
        self.met.insert(name.clone());
        if result.is_err() {
            // What came of it couldn't be written down: once that works, it is looked at again.
            self.wanted.insert(name);
            return result;
        }
        self.close_ended()
    }

    /// Goes on with bringing an app to what it should run.
    fn converge(
        &mut self,
        name: &AppName,
        mut errand: Errand,
        stance: Stance,
        came: Came,
        now: &Now,
    ) -> Result<(), JournalError> {
        let mut held = None;
        match (errand.walk.take(), came) {
            (None, Came::Seen(answers, evidence)) => {
                let observed = in_form(name, &answers);
                if let Some(evidence) = evidence {
                    self.keep_diagnosis(name, *evidence, &observed, now);
                }
                if !self.still_stands(name, stance) {
                    return Ok(());
                }
                let unseen = self.unseen(name, &answers, now)?;
                let known = self.known(&self.apps, &observed);
                let mut plan = plan_one(known, Aim::Current, name);
                self.withhold(name, &observed, &mut plan, now);
                self.log_plan(name, &plan);
                self.write_intents(&plan)?;
                held = plan.held.remove(name);
                // Another try of what can't be removed yet is no repair, and has pauses of its own.
                let mut new =
                    plan.steps.iter().filter(|step| !self.leftovers.has(name, &step.object)).peekable();
                let repairs = new.peek().is_some().then(|| mark_of(new));
                let takes_in = plan.steps.iter().any(|step| step.action == Action::Adopt);
                let unwanted = self.unwanted(&plan);
                let left = plan.steps.into();
                errand.walk = Some(Walk { left, unwanted, unseen, repairs, takes_in, ..Walk::default() });
            }
            (walk, came) => {
                let mut walk = walk.unwrap_or_default();
                self.take_steps(&mut walk, came, now)?;
                self.spare(name, &mut walk);
                errand.walk = Some(walk);
            }
        }
        let stands = self.still_stands(name, stance);
        if stands && self.walk_on(name, &mut errand) {
            self.errands.insert(name.clone(), errand);
            return Ok(());
        }
        if !stands {
            return Ok(());
        }
        let Walk { failed, unseen, repairs, takes_in, .. } = errand.walk.unwrap_or_default();
        match repairs {
            _ if failed.is_some() || unseen.is_some() || held.is_some() => {}
            Some(what) if self.is_at_rest(name) => self.patience.repaired(name, what, now),
            _ => self.patience.is_well(name),
        }
        let goes = self.apps.get(name).is_some_and(|app| app.phase == Phase::Removing);
        if (takes_in || (goes && repairs.is_some())) && failed.is_none() {
            // What was only taken in goes with the next plan.
            self.wanted.insert(name.clone());
        }
        if let Some(cause) = unseen {
            self.stick(name, |app| app.stick(&cause, now), now)
        } else if let Some(held) = held {
            self.stick(name, |app| app.stick_until(&held.cause, &held.unblock, now), now)
        } else {
            self.settle(name, failed.as_ref(), now)
        }
    }

    /// What a plan removes and no other app wants.
    fn unwanted(&self, plan: &Plan) -> BTreeSet<(DriverName, ObjectKey)> {
        let claims = self.claims(&self.apps);
        let removals = plan.steps.iter().filter(|step| step.action == Action::Remove);
        let unwanted =
            removals.filter(|step| !claims.is_wanted_elsewhere(&step.app, step.driver, &step.object));
        unwanted.map(|step| (step.driver, step.object.clone())).collect()
    }

    /// Takes the steps out that would remove what a newer revision than that of the plan wants for another app.
    fn spare(&mut self, name: &AppName, walk: &mut Walk) {
        let claims = self.claims(&self.apps);
        let planned = walk.left.len();
        walk.left.retain(|step| {
            let removes = walk.unwanted.contains(&(step.driver, step.object.clone()));
            !removes || !claims.is_wanted_elsewhere(&step.app, step.driver, &step.object)
        });
        if walk.left.len() < planned {
            self.wanted.insert(name.clone());
        }
    }

    /// Whether a plan of an app is still what it needs. If not, it is looked at anew.
    fn still_stands(&mut self, name: &AppName, stance: Stance) -> bool {
        let stands = self.apps.get(name).is_some_and(|app| Stance::of(app) == stance);
        if !stands {
            self.wanted.insert(name.clone());
        }
        stands
    }

    /// Goes on with removing what holds data. What a release came to want meanwhile stays.
    fn purge(
        &mut self,
        name: &AppName,
        mut errand: Errand,
        came: Came,
        now: &Now,
    ) -> Result<(), JournalError> {
        let due: Vec<_> = self.due_purges(now).into_iter().filter(|orphan| orphan.app == *name).collect();
        let mut walk = match (errand.walk.take(), came) {
            (None, Came::Seen(answers, _)) => {
                let steps = purges(&due, &in_form(name, &answers), now.seen);
                let plan = Plan { steps, ..Plan::default() };
                self.log_plan(name, &plan);
                Walk { left: plan.steps.into(), ..Walk::default() }
            }
            (walk, came) => {
                let mut walk = walk.unwrap_or_default();
                self.take_steps(&mut walk, came, now)?;
                walk
            }
        };
        let may = self.may_change();
        walk.left.retain(|step| may && due.iter().any(|orphan| orphan.object == step.object));
        errand.walk = Some(walk);
        if self.walk_on(name, &mut errand) {
            self.errands.insert(name.clone(), errand);
        } else {
            // Whatever the reason is that something stays: it isn't tried again at once.
            let stays = self.due_purges(now).iter().any(|orphan| orphan.app == *name);
            self.patience.purged(name, stays, now);
        }
        Ok(())
    }

    /// Takes in how the steps ended that were under way.
    fn take_steps(&mut self, walk: &mut Walk, came: Came, now: &Now) -> Result<(), JournalError> {
        let mut results = match came {
            Came::Walked(results) => results.into_iter(),
            Came::Lost(why) => {
                walk.failed = Some(DriverError::Runtime(why));
                Vec::new().into_iter()
            }
            Came::Seen(..) | Came::Found(_) => Vec::new().into_iter(),
        };
        for step in std::mem::take(&mut walk.under_way) {
            match results.next() {
                Some(Ok(())) => self.step_done(&step, now)?,
                Some(Err(DriverError::Stays(why))) => self.step_left(&step, &why, now),
                Some(Err(error)) => {
                    self.log_failure(&step, &error);
                    note_failure(&mut walk.failed, error);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Hands out the next steps: as many at once as the driver takes where they don't depend on each other. Gives whether
    /// there were any. After a step that failed, its app gets no further one: there is no replacement for what could not
    /// be stopped.
    fn walk_on(&mut self, name: &AppName, errand: &mut Errand) -> bool {
        let Some(walk) = errand.walk.as_mut().filter(|walk| walk.failed.is_none()) else { return false };
        let together = self.abreast(&walk.left);
        if together == 0 {
            return false;
        }
        walk.under_way = walk.left.drain(..together).collect();
        let calls = walk.under_way.iter().map(|step| self.step_call(step)).collect();
        errand.id = self.send(Some(name), Calls::Walk(calls));
        true
    }

    /// How many of the steps are walked at once: those that make or change objects of one kind don't depend on each
    /// other.
    fn abreast(&self, steps: &VecDeque<Step>) -> usize {
        let Some(first) = steps.front() else { return 0 };
        let makes = |step: &Step| matches!(step.action, Action::Create | Action::Update);
        let with_first = |step: &&Step| {
            makes(step) && (step.driver, &step.object.kind) == (first.driver, &first.object.kind)
        };
        let width = self.drivers.get(&first.driver).map_or(1, |driver| driver.width());
        steps.iter().take(width).take_while(with_first).count().max(1)
    }

    fn step_call(&self, step: &Step) -> StepCall {
        StepCall {
            app: step.app.clone(),
            kind: step.driver,
            driver: self.drivers.get(&step.driver).cloned(),
            action: step.action,
            object: step.object.clone(),
            release: step.release.and_then(|id| self.releases.get(&id)).cloned(),
            id: step.release,
            strategy: self.strategy_of(&step.app),
            from: step.from.clone(),
        }
    }

    /// Why not all runtimes of an app could be asked. One that is away or hangs is not asked again at once for each app
    /// that waits for it: for them it is the same.
    fn unseen(
        &mut self,
        name: &AppName,
        answers: &Answers,
        now: &Now,
    ) -> Result<Option<String>, JournalError> {
        let mut unseen = None;
        for (kind, answer) in answers {
            let Err(error) = answer else { continue };
            unseen = Some(not_asked(*kind, name, error));
            // With the others it answers, and can't tell of this app alone.
            if !matches!(error, DriverError::Runtime(_) | DriverError::Disk { .. }) {
                continue;
            }
            let waiting: Vec<AppName> =
                self.wanted.iter().filter(|name| !self.errands.contains_key(*name)).cloned().collect();
            for other in waiting {
                if self.apps.get(&other).is_some_and(|app| self.may_converge(&other, app, now))
                    && self.drivers_of(&other, Aim::Current).contains(kind)
                {
                    self.wanted.remove(&other);
                    self.met.insert(other.clone());
                    let cause = not_asked(*kind, &other, error);
                    self.stick(&other, |app| app.stick(&cause, now), now)?;
                }
            }
        }
        Ok(unseen)
    }

    /// The inventory lists an object before it is made, so that a crash can't leave one that nobody knows.
    fn write_intents(&mut self, plan: &Plan) -> Result<(), JournalError> {
        let mut intents: BTreeMap<AppName, BTreeMap<ObjectKey, Owned>> = BTreeMap::new();
        let making =
            |action| matches!(action, Action::Create | Action::Update | Action::Recreate | Action::Adopt);
        for step in plan.steps.iter().filter(|step| making(step.action)) {
            let known = || self.inventory.get(&step.app).cloned().unwrap_or_default();
            let entry = intents.entry(step.app.clone()).or_insert_with(known);
            entry.insert(step.object.clone(), Owned::by(step.driver));
        }
        for (name, owned) in intents {
            self.save_inventory(&name, owned)?;
        }
        if !plan.steps.is_empty() {
            self.journal.passed("executor.intent-written");
        }
        Ok(())
    }

    /// How what an app should run takes the place of what it has.
    fn strategy_of(&self, name: &AppName) -> Strategy {
        let current = self.apps.get(name).and_then(|app| app.current.as_ref());
        current.map(|target| target.policy.strategy).unwrap_or_default()
    }

    fn step_done(&mut self, step: &Step, now: &Now) -> Result<(), JournalError> {
        self.journal.passed("executor.step-done");
        let mut known = self.inventory.get(&step.app).cloned().unwrap_or_default();
        match step.action {
            Action::Remove | Action::Forget => {
                known.remove(&step.object);
                self.leftovers.gone(&step.app, &step.object);
            }
            Action::Purge => {
                known.remove(&step.object);
                let message = format!("{}: {}", step.object, step.reason);
                self.journal.note(Note::of("app.purged", &step.app, message), now);
            }
            Action::Orphan => {
                let owned = Owned { orphaned: Some(now.wall), seen: now.seen, ..Owned::by(step.driver) };
                known.insert(step.object.clone(), owned);
                let message = format!("{}: {}", step.object, step.reason);
                self.journal.note(Note::of("app.orphaned", &step.app, message), now);
            }
            Action::Create | Action::Update | Action::Recreate => self.note_repair(step, now),
            Action::Adopt | Action::Prepare => {}
        }
        self.save_inventory(&step.app, known)?;
        match &step.from {
            Some(from) => self.handed_over(step, from, now),
            None => Ok(()),
        }
    }

    /// What was taken over is no longer its former app's.
    fn handed_over(&mut self, step: &Step, from: &AppName, now: &Now) -> Result<(), JournalError> {
        let message = format!("{} was handed over by the app {from}", step.object);
        self.journal.note(Note::of("app.takeover", &step.app, message), now);
        let mut left = self.inventory.get(from).cloned().unwrap_or_default();
        left.remove(&step.object);
        self.save_inventory(from, left)?;
        // It may be what its removal waited for.
        self.wanted.insert(from.clone());
        Ok(())
    }

    /// A step for an app that was at rest puts right what somebody changed, and that is written down.
    fn note_repair(&mut self, step: &Step, now: &Now) {
        if self.is_at_rest(&step.app) {
            let message = format!("drift of {} was corrected: {}", step.object, step.reason);
            self.journal.note(Note::of("app.drift", &step.app, message), now);
        }
    }

    fn is_at_rest(&self, name: &AppName) -> bool {
        self.apps.get(name).is_some_and(|app| {
            matches!(
                app.phase,
                Phase::Good | Phase::RolledBack { .. } | Phase::Held { .. } | Phase::Judging(_)
            )
        })
    }

    /// Moves an app on by how its steps went.
    fn settle(
        &mut self,
        name: &AppName,
        failed: Option<&DriverError>,
        now: &Now,
    ) -> Result<(), JournalError> {
        let Some(app) = self.apps.get(name) else { return Ok(()) };
        let (phase, release) = (app.phase.clone(), app.current.as_ref().map(|target| target.release));
        match (failed, &phase, release) {
            (Some(DriverError::Release(reason)), Phase::Applying, Some(id)) => {
                self.fail(name, id, reason, now)
            }
            (Some(DriverError::NotYet(reason)), Phase::Applying, Some(id)) => {
                self.not_yet(name, id, reason, now)
            }
            (Some(error), ..) => self.stick(name, |app| app.stick(&error.to_string(), now), now),
            (None, Phase::Applying, Some(id)) => {
                self.change(name, |app| app.applied(now))?;
                self.journal.note(
                    Note::of("app.applied", name, format!("{id} was applied and is being judged")),
                    now,
                );
                Ok(())
            }
            (None, Phase::RollingBack { reason }, _) => {
                self.change(name, |app| app.restored(now))?;
                let back = release
                    .map_or("there is no earlier good release to roll back to".to_owned(), |id| {
                        format!("rolled back to {id}")
                    });
                self.journal.note(Note::of("app.rolledback", name, format!("{reason}; {back}")), now);
                self.health.remove(name);
                Ok(())
            }
            (None, Phase::Removing, _) => self.remove(name, now),
            (None, Phase::Preparing | Phase::Pending, _) => Ok(()),
            (None, ..) => self.change(name, |app| app.unstick()),
        }
    }

    /// Forgets an app that is gone. What is left in its inventory was orphaned, and stays listed.
    fn remove(&mut self, name: &AppName, now: &Now) -> Result<(), JournalError> {
        let (claims, owned) =
            (self.claims(&self.apps), self.inventory.get(name).cloned().unwrap_or_default());
        let is_others = |key: &ObjectKey, driver| {
            claims.owner_besides(name, driver, key).is_some_and(|(_, owned)| owned.orphaned.is_none())
        };
        let (left, owned): (BTreeMap<_, _>, BTreeMap<_, _>) = owned
            .into_iter()
            .filter(|(key, owned)| owned.orphaned.is_some() || !is_others(key, owned.driver))
            .partition(|(_, owned)| owned.orphaned.is_none());
        if !left.is_empty() {
            return Ok(());
        }
        self.save_inventory(name, owned)?;
        self.journal.save_apps(&[(name, None)])?;
        self.uncommitted.insert(name.clone());
        self.journal.note(Note::of("app.removed", name, "removed: it is no longer placed on this box"), now);
        self.apps.remove(name);
        self.health.remove(name);
        self.looks.remove(name);
        self.patience.forget(name);
        self.leftovers.forget(name);
        self.forget_releases();
        Ok(())
    }

    /// The runtime doesn't take the release yet: another try, or at the release's deadline its failure.
    fn not_yet(
        &mut self,
        name: &AppName,
        id: ReleaseId,
        reason: &str,
        now: &Now,
    ) -> Result<(), JournalError> {
        let Some(mut app) = self.apps.get(name).cloned() else { return Ok(()) };
        let deadline = app.current.as_ref().map(|target| target.policy.health.deadline).unwrap_or_default();
        let before = app.stuck.as_ref().map(|stuck| stuck.cause.clone());
        if app.not_yet(reason, deadline, now) {
            if before.as_deref() != Some(reason) {
                tracing::info!(app = %name, reason, "the runtime doesn't accept the release yet");
            }
            return self.change(name, |known| *known = app);
        }
        let reason =
            format!("the runtime did not accept the release within its deadline of {deadline:?}: {reason}");
        self.fail(name, id, &reason, now)
    }

    fn stick(&mut self, name: &AppName, stick: impl FnOnce(&mut App), now: &Now) -> Result<(), JournalError> {
        let Some(app) = self.apps.get(name) else { return Ok(()) };
        // What ran before an update must not stand in the update's way: it may be what is broken.
        if matches!(app.phase, Phase::Preparing | Phase::Pending) {
            self.patience.kept_in_vain(name, now);
            return Ok(());
        }
        let before = app.stuck.as_ref().map(|stuck| stuck.cause.clone());
        self.change(name, stick)?;
        let cause = self.apps.get(name).and_then(|app| app.stuck.as_ref()).map(|stuck| &stuck.cause);
        if cause == before.as_ref() {
            tracing::debug!(app = %name, cause, "the app still can't be reconciled");
        } else {
            tracing::warn!(app = %name, cause, "the app can't be reconciled");
        }
        Ok(())
    }

    pub(super) fn save_inventory(
        &mut self,
        name: &AppName,
        owned: BTreeMap<ObjectKey, Owned>,
    ) -> Result<(), JournalError> {
        if self.inventory.get(name).is_some_and(|known| *known == owned) {
            return Ok(());
        }
        self.journal.save_inventory(name, &owned.iter().collect::<Vec<_>>())?;
        self.uncommitted.insert(name.clone());
        self.holders.made(self.inventory.get(name), Some(&owned));
        if owned.is_empty() {
            self.inventory.remove(name);
        } else {
            self.inventory.insert(name.clone(), owned);
        }
        Ok(())
    }
}

/// Of steps that were walked at once several may have failed. That the release is at fault counts before anything
/// else: trying again is of no use then.
fn note_failure(failed: &mut Option<DriverError>, error: DriverError) {
    let at_fault = |error: &DriverError| matches!(error, DriverError::Release(_));
    if failed.as_ref().is_none_or(|known| at_fault(&error) && !at_fault(known)) {
        *failed = Some(error);
    }
}

fn not_asked(kind: DriverName, name: &AppName, error: &DriverError) -> String {
    format!("{kind} could not be asked for the objects of {name}: {error}")
}

/// What was answered, in the form that plans are made from: who didn't answer is left out.
fn in_form(name: &AppName, answers: &Answers) -> Observations {
    let seen = answers.iter().filter_map(|(kind, seen)| Some((*kind, seen.as_ref().ok()?.clone())));
    Observations::from([(name.clone(), seen.collect())])
}
