//! Bringing apps to what they should run: observe, plan, walk the steps, settle. The executor has no choices
//! to make; it writes each step's intent down before and its end after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_core::app::{App, Phase};
use holdfast_core::clock::Now;
use holdfast_core::digest::ReleaseId;
use holdfast_core::generation::Owned;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observations};
use holdfast_core::plan::{Action, Aim, Plan, Step, purges};
use holdfast_core::release::{DriverKind, Release, Strategy};
use holdfast_drivers::{ApplyStep, CALL_LIMIT, DriverError};
use holdfast_store::fault;

use super::Keeper;
use super::journal::{Journal, JournalError, Note};

/// Why drivers could not be asked, by app.
type Unseen = BTreeMap<AppName, String>;

impl<J: Journal> Keeper<J> {
    /// Observes these apps, plans, walks the plan, and moves each app on by how it went.
    pub(super) async fn converge(&mut self, names: &[AppName], now: &Now) -> Result<(), JournalError> {
        let (observed, unseen) = self.observe(names, Aim::Current).await;
        self.diagnose(names, &observed, now).await;
        let plan = self.plan(&self.apps, &observed, Aim::Current);
        log_plan(&plan);
        let outcome = self.walk(&plan, now).await?;
        for name in names {
            if let Some(cause) = unseen.get(name) {
                self.stick(name, |app| app.stick(cause, now))?;
            } else if let Some(held) = plan.held.get(name) {
                self.stick(name, |app| app.stick_until(&held.cause, &held.unblock, now))?;
            } else {
                self.settle(name, outcome.get(name), now)?;
            }
        }
        Ok(())
    }

    /// Removes what holds data where a Purge document asks for it and its grace time is over.
    pub(super) async fn purge(&mut self, now: &Now) -> Result<(), JournalError> {
        let steps = self.purge_steps(now).await;
        if steps.is_empty() || !self.may_change() {
            return Ok(());
        }
        let plan = Plan { steps, ..Plan::default() };
        log_plan(&plan);
        self.walk(&plan, now).await.map(drop)
    }

    /// What is to be purged now, as far as the runtimes can be asked.
    pub(super) async fn purge_steps(&self, now: &Now) -> Vec<Step> {
        let orphans = self.due_purges(now);
        let mut observed = Observations::new();
        for orphan in &orphans {
            if let Ok(seen) =
                self.observe_one(&orphan.app, orphan.driver, self.desired(&orphan.app, Aim::Current)).await
            {
                observed.entry(orphan.app.clone()).or_default().insert(orphan.driver, seen);
            }
        }
        purges(&orphans, &observed, now.seen)
    }

    /// Asks the drivers of these apps. A driver that doesn't answer is not asked again in this pass.
    pub(super) async fn observe(&self, names: &[AppName], aim: Aim) -> (Observations, Unseen) {
        let mut observed = Observations::new();
        let mut unseen = Unseen::new();
        let mut silent: BTreeMap<DriverKind, String> = BTreeMap::new();
        for name in names {
            let by_driver = observed.entry(name.clone()).or_default();
            for kind in self.drivers_of(name, aim) {
                if let Some(cause) = silent.get(&kind) {
                    unseen.insert(name.clone(), cause.clone());
                    continue;
                }
                match self.observe_one(name, kind, self.desired(name, aim)).await {
                    Ok(seen) => {
                        by_driver.insert(kind, seen);
                    }
                    Err(error) => {
                        let cause = format!("{kind} could not be asked what it holds of {name}: {error}");
                        unseen.insert(name.clone(), cause.clone());
                        // It answers, and can't tell of this app alone: others are asked all the same.
                        if matches!(error, DriverError::Runtime(_)) {
                            silent.insert(kind, cause);
                        }
                    }
                }
            }
        }
        (observed, unseen)
    }

    /// The release that an app is planned for.
    fn desired(&self, name: &AppName, aim: Aim) -> Option<&Arc<Release>> {
        let target = self.apps.get(name).and_then(|app| aim.of(app))?;
        self.releases.get(&target.release)
    }

    /// What one runtime has of an app, compared with `desired` if that is a release for it.
    pub(super) async fn observe_one(
        &self,
        name: &AppName,
        kind: DriverKind,
        desired: Option<&Arc<Release>>,
    ) -> Result<AppObservation, DriverError> {
        let driver = self.drivers.get(&kind);
        let driver = driver
            .ok_or_else(|| DriverError::Runtime(format!("the driver {kind} is not enabled on this box")))?;
        let desired = desired.filter(|release| release.driver == kind);
        limited(CALL_LIMIT, driver.observe(name, desired.map(Arc::as_ref))).await
    }

    fn drivers_of(&self, name: &AppName, aim: Aim) -> BTreeSet<DriverKind> {
        let wanted = self.apps.get(name).and_then(|app| aim.of(app)).map(|target| target.driver);
        let made =
            self.inventory.get(name).into_iter().flatten().filter(|(_, owned)| owned.orphaned.is_none());
        wanted.into_iter().chain(made.map(|(_, owned)| owned.driver)).collect()
    }

    /// Walks the steps in their order, as many at once as the driver takes where they don't depend on each other.
    /// After a step that failed, its app gets no further one: there is no replacement for what could not be stopped.
    async fn walk(&mut self, plan: &Plan, now: &Now) -> Result<BTreeMap<AppName, DriverError>, JournalError> {
        let mut failed: BTreeMap<AppName, DriverError> = BTreeMap::new();
        self.write_intents(plan)?;
        let mut left = plan.steps.as_slice();
        while let Some(first) = left.first() {
            let (together, rest) = left.split_at(self.abreast(first, left));
            left = rest;
            if failed.contains_key(&first.app) {
                continue;
            }
            let results = join_all(together.iter().map(|step| self.step(step))).await;
            for (step, result) in together.iter().zip(results) {
                match result {
                    Ok(()) => self.step_done(step, now)?,
                    Err(error) => {
                        tracing::warn!(app = %step.app, object = %step.object, action = ?step.action, %error, "a step failed");
                        note_failure(&mut failed, &step.app, error);
                    }
                }
            }
        }
        Ok(failed)
    }

    /// How many steps, from `first` on, are walked at once: those that make or change objects of one kind of one app
    /// don't depend on each other.
    fn abreast(&self, first: &Step, steps: &[Step]) -> usize {
        let makes = |step: &Step| matches!(step.action, Action::Create | Action::Update);
        let with_first = |step: &&Step| {
            makes(step)
                && (&step.app, step.driver, &step.object.kind)
                    == (&first.app, first.driver, &first.object.kind)
        };
        let width = self.drivers.get(&first.driver).map_or(1, |driver| driver.width());
        steps.iter().take(width).take_while(with_first).count().max(1)
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
            fault::point("executor.intent-written");
        }
        Ok(())
    }

    async fn step(&self, step: &Step) -> Result<(), DriverError> {
        let Some(driver) = self.drivers.get(&step.driver) else {
            return Err(DriverError::Runtime(format!(
                "the driver {} is not enabled on this box",
                step.driver
            )));
        };
        let release = step.release.and_then(|id| self.releases.get(&id));
        let apply = ApplyStep {
            app: &step.app,
            action: step.action,
            object: &step.object,
            release: release.map(Arc::as_ref),
            id: step.release,
            strategy: self.strategy_of(&step.app),
        };
        limited(driver.step_limit(), driver.apply(apply)).await
    }

    /// How what an app should run takes the place of what it has.
    fn strategy_of(&self, name: &AppName) -> Strategy {
        let current = self.apps.get(name).and_then(|app| app.current.as_ref());
        current.map(|target| target.policy.strategy).unwrap_or_default()
    }

    fn step_done(&mut self, step: &Step, now: &Now) -> Result<(), JournalError> {
        fault::point("executor.step-done");
        let mut known = self.inventory.get(&step.app).cloned().unwrap_or_default();
        match step.action {
            Action::Remove => {
                known.remove(&step.object);
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
        self.save_inventory(&step.app, known)
    }

    /// A step for an app that was at rest puts right what somebody changed, and that is written down.
    fn note_repair(&mut self, step: &Step, now: &Now) {
        let at_rest = self.apps.get(&step.app).is_some_and(|app| {
            matches!(
                app.phase,
                Phase::Good | Phase::RolledBack { .. } | Phase::Held { .. } | Phase::Judging(_)
            )
        });
        if at_rest {
            let message = format!("{} was put right: {}", step.object, step.reason);
            self.journal.note(Note::of("app.drift", &step.app, message), now);
        }
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
            (Some(error), ..) => self.stick(name, |app| app.stick(&error.to_string(), now)),
            (None, Phase::Applying, Some(id)) => {
                self.change(name, |app| app.applied(now))?;
                self.journal
                    .note(Note::of("app.applied", name, format!("{id} runs and is being judged")), now);
                Ok(())
            }
            (None, Phase::RollingBack { reason }, _) => {
                self.change(name, |app| app.restored(now))?;
                let back = release.map_or("nothing ran before".to_owned(), |id| format!("{id} is back"));
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
        let left = self
            .inventory
            .get(name)
            .is_some_and(|owned| owned.values().any(|owned| owned.orphaned.is_none()));
        if left {
            return Ok(());
        }
        self.journal.save_apps(&[(name, None)])?;
        self.journal.note(Note::of("app.removed", name, "it is no longer placed here"), now);
        self.apps.remove(name);
        self.health.remove(name);
        self.looks.remove(name);
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
        if app.not_yet(reason, deadline, now) {
            tracing::info!(app = %name, reason, "the runtime doesn't take the release yet");
            return self.change(name, |known| *known = app);
        }
        let reason = format!("the runtime did not take it within its deadline of {deadline:?}: {reason}");
        self.fail(name, id, &reason, now)
    }

    fn stick(&mut self, name: &AppName, stick: impl FnOnce(&mut App)) -> Result<(), JournalError> {
        // What ran before an update must not stand in the update's way: it may be what is broken.
        let on_its_way = |app: &App| matches!(app.phase, Phase::Preparing | Phase::Pending);
        if self.apps.get(name).is_some_and(on_its_way) {
            return Ok(());
        }
        self.change(name, |app| {
            stick(app);
            let cause = app.stuck.as_ref().map(|stuck| stuck.cause.as_str());
            tracing::warn!(app = %name, cause, "the app can't be brought to what it should be");
        })
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
fn note_failure(failed: &mut BTreeMap<AppName, DriverError>, app: &AppName, error: DriverError) {
    let known = failed.get(app);
    if known.is_none()
        || (matches!(error, DriverError::Release(_)) && !matches!(known, Some(DriverError::Release(_))))
    {
        failed.insert(app.clone(), error);
    }
}

/// A driver's call, cut off after `limit`: a runtime that hangs doesn't stop the loop.
pub(super) async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(DriverError::Runtime(format!("the runtime did not answer within {limit:?}"))),
    }
}

fn log_plan(plan: &Plan) {
    for step in &plan.steps {
        tracing::info!(app = %step.app, action = ?step.action, object = %step.object, reason = step.reason, "plan");
    }
    for (app, held) in &plan.held {
        tracing::warn!(%app, cause = held.cause, "plan: held");
    }
}
