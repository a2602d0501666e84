//! Leftovers, which an app no longer wants and its runtime doesn't remove: an admission policy refuses it, a finalizer
//! stays, data depends on it. That is no fault of any release. It stays in the inventory and is named, the rest of the
//! app goes on, and the removal is tried again with growing pauses. Only in memory: a start of the agent finds it in the
//! inventory and tries it at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::app::{App, pause};
use holdfast_core::clock::{Moment, Now};
use holdfast_core::held::Held;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::Observations;
use holdfast_core::plan::{Action, Aim, Plan, Step};
use jiff::Timestamp;

use super::Keeper;
use super::journal::{Journal, Note};

/// The longest pause between two tries: nothing tells when a policy is gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so many tries nobody can say when it goes.
const TRIES: u32 = 3;
/// So many objects are named in a cause.
const NAMED: usize = 3;

/// One object that stays for now.
struct Leftover {
    cause: String,
    attempts: u32,
    retry_at: Moment,
    retry_wall: Timestamp,
}

/// All that stays for now, by app.
#[derive(Default)]
pub(super) struct Leftovers(BTreeMap<AppName, BTreeMap<ObjectKey, Leftover>>);

impl Leftovers {
    /// The runtime didn't let it go. Gives whether that is news: what the runtime says of it may differ each time.
    fn note(&mut self, step: &Step, why: &str, now: &Now) -> bool {
        let known = self.0.entry(step.app.clone()).or_default();
        let before = known.get(&step.object);
        let attempts = before.map_or(1, |before| before.attempts.saturating_add(1));
        let wait = pause(Duration::from_secs(1), attempts).min(LONGEST_PAUSE);
        let is_new = before.is_none();
        let leftover = Leftover {
            cause: named(&step.object, why),
            attempts,
            retry_at: now.moment_in(wait),
            retry_wall: now.wall_in(wait),
        };
        known.insert(step.object.clone(), leftover);
        is_new
    }

    /// Whether an object stays for now.
    pub(super) fn has(&self, app: &AppName, key: &ObjectKey) -> bool {
        self.0.get(app).is_some_and(|known| known.contains_key(key))
    }

    /// It is gone.
    pub(super) fn gone(&mut self, app: &AppName, key: &ObjectKey) {
        self.keep_only(app, |of, _| of != key);
    }

    /// Forgets an app that is gone.
    pub(super) fn forget(&mut self, app: &AppName) {
        self.0.remove(app);
    }

    fn keep_only(&mut self, app: &AppName, stays: impl Fn(&ObjectKey, &Leftover) -> bool) {
        let Some(known) = self.0.get_mut(app) else { return };
        known.retain(|key, leftover| stays(key, leftover));
        if known.is_empty() {
            self.0.remove(app);
        }
    }

    /// There is something new, or somebody asks: all of an app is tried now.
    pub(super) fn hurry(&mut self, app: &AppName, now: &Moment) {
        for leftover in self.0.get_mut(app).into_iter().flat_map(BTreeMap::values_mut) {
            leftover.retry_at = now.clone();
            leftover.attempts = 0;
        }
    }

    /// Whether nothing of any app stays.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something of an app stays.
    pub(super) fn has_any(&self, app: &AppName) -> bool {
        self.0.contains_key(app)
    }

    /// Whether nothing stays of an app, or all of that was tried often enough to say that it doesn't go now.
    pub(super) fn is_calm(&self, app: &AppName) -> bool {
        self.0.get(app).is_none_or(|known| known.values().all(|leftover| leftover.attempts >= TRIES))
    }

    /// Why an app is held that is `held` for something else, or for nothing.
    pub(super) fn added_to(&self, held: Option<Held>, app: &AppName) -> Option<Held> {
        let Some(known) = self.0.get(app) else { return held };
        let mut causes: Vec<&str> =
            known.values().take(NAMED).map(|leftover| leftover.cause.as_str()).collect();
        let more = format!("{} more", known.len().saturating_sub(NAMED));
        causes.extend((known.len() > NAMED).then_some(more.as_str()));
        let cause = format!("leftover objects, no longer wanted but not removed yet: {}", causes.join("; "));
        let unblock = "the agent retries the removal automatically, and it succeeds once the cause is gone";
        let next = known.values().map(|leftover| leftover.retry_wall).min();
        Some(match held {
            Some(held) => Held {
                cause: format!("{}; and {cause}", held.cause),
                next: held.next.into_iter().chain(next).min(),
                unblock: format!("{}; {unblock}", held.unblock),
            },
            None => Held { cause, next, unblock: format!("nothing to do: {unblock}") },
        })
    }

    /// The apps of which something is to be tried again.
    pub(super) fn due<'a>(&'a self, now: &'a Now) -> impl Iterator<Item = &'a AppName> {
        let due = |leftover: &Leftover| !now.moment.is_before(&leftover.retry_at);
        self.0.iter().filter(move |(_, known)| known.values().any(due)).map(|(app, _)| app)
    }

    /// When something is tried again.
    pub(super) fn retries(&self) -> impl Iterator<Item = &Moment> {
        self.0.values().flat_map(BTreeMap::values).map(|leftover| &leftover.retry_at)
    }
}

fn named(object: &ObjectKey, why: &str) -> String {
    let object = object.to_string();
    if why.contains(&object) { why.to_owned() } else { format!("{object}: {why}") }
}

impl<J: Journal> Keeper<J> {
    /// Whether something of an app is still to go: what a release has no longer goes once that is good.
    pub(super) fn has_unwanted(&self, name: &AppName, app: &App) -> bool {
        let release = app.current.as_ref().and_then(|target| self.releases.get(&target.release));
        let mut owned = self.inventory.get(name).into_iter().flatten();
        owned.any(|(key, owned)| owned.is_unwanted(key, release.map(Arc::as_ref)))
    }

    /// What is to be removed stays for now, in the inventory too; nothing else of the app waits for it.
    pub(super) fn step_left(&mut self, step: &Step, why: &str, now: &Now) {
        if self.leftovers.note(step, why, now) {
            tracing::warn!(app = %step.app, object = %step.object, why, "a leftover can't be removed yet");
            let message = format!(
                "leftover: no longer wanted, but it can't be removed yet: {}",
                named(&step.object, why)
            );
            self.journal.note(Note::of("app.leftover", &step.app, message), now);
        } else {
            tracing::debug!(app = %step.app, object = %step.object, why, "a leftover still can't be removed");
        }
    }

    /// Leaves out of an app's plan what is not to be tried again yet, and forgets what is wanted again. What is gone by now
    /// need not be waited for.
    pub(super) fn withhold(&mut self, name: &AppName, observed: &Observations, plan: &mut Plan, now: &Now) {
        if !self.leftovers.has_any(name) {
            return;
        }
        let goes = |step: &Step| step.app == *name && step.action == Action::Remove;
        let current = self.apps.get(name).and_then(|app| Aim::Current.of(app));
        let release = current.and_then(|target| self.releases.get(&target.release));
        let owned = self.inventory.get(name);
        // A removal may be put off until the release is good: that it isn't in this plan doesn't say that it is wanted.
        let is_unwanted = |key: &ObjectKey| {
            let owned = owned.and_then(|owned| owned.get(key));
            owned.is_some_and(|owned| owned.is_unwanted(key, release.map(Arc::as_ref)))
        };
        self.leftovers.keep_only(name, |key, _| is_unwanted(key));
        let seen = observed.get(name);
        let is_there = |step: &Step| {
            seen.and_then(|seen| seen.get(&step.driver)).is_some_and(|seen| seen.contains_key(&step.object))
        };
        let known = self.leftovers.0.get(name);
        let waits = |step: &Step| {
            known
                .and_then(|known| known.get(&step.object))
                .is_some_and(|left| now.moment.is_before(&left.retry_at))
        };
        plan.steps.retain(|step| !(goes(step) && waits(step) && is_there(step)));
    }
}
