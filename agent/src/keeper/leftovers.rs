//! What an app no longer wants and its runtime doesn't let go: an admission policy refuses the removal, a finalizer is not
//! taken off, data hangs on it. That is no fault of any release. It stays in the inventory and is named, the rest of the
//! app goes on, and the removal is tried again with growing pauses. A start of the agent tries it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::app::pause;
use holdfast_core::clock::{Moment, Now};
use holdfast_core::held::Held;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::plan::{Action, Plan, Step};
use jiff::Timestamp;

/// The longest pause between two tries: nothing tells when a policy is gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so many tries nobody can say when it goes.
const TRIES: u32 = 3;

/// One object that stays for now.
struct Leftover {
    cause: String,
    attempts: u32,
    retry_at: Moment,
    retry_wall: Timestamp,
}

impl Leftover {
    fn waits(&self, now: &Moment) -> bool {
        self.retry_at.boot == now.boot && self.retry_at.uptime > now.uptime
    }
}

/// All that stays for now, by app.
#[derive(Default)]
pub(super) struct Leftovers(BTreeMap<AppName, BTreeMap<ObjectKey, Leftover>>);

impl Leftovers {
    /// The runtime didn't let it go. Gives whether that is news.
    pub(super) fn note(&mut self, step: &Step, cause: &str, now: &Now) -> bool {
        let known = self.0.entry(step.app.clone()).or_default();
        let before = known.get(&step.object);
        let attempts = before.map_or(1, |before| before.attempts.saturating_add(1));
        let wait = pause(Duration::from_secs(1), attempts).min(LONGEST_PAUSE);
        let is_new = before.is_none_or(|before| before.cause != cause);
        let leftover = Leftover {
            cause: cause.to_owned(),
            attempts,
            retry_at: Moment { boot: now.moment.boot.clone(), uptime: now.moment.uptime + wait },
            retry_wall: now.wall_in(wait),
        };
        known.insert(step.object.clone(), leftover);
        is_new
    }

    /// Leaves out of a plan what is not to be tried again yet, and forgets what an app wants again.
    pub(super) fn withhold(&mut self, app: &AppName, plan: &mut Plan, now: &Now) {
        let Some(known) = self.0.get_mut(app) else { return };
        let goes = |step: &Step| step.app == *app && step.action == Action::Remove;
        known.retain(|key, _| plan.steps.iter().any(|step| goes(step) && step.object == *key));
        let waits = |key: &ObjectKey| known.get(key).is_some_and(|leftover| leftover.waits(&now.moment));
        plan.steps.retain(|step| !(goes(step) && waits(&step.object)));
        if known.is_empty() {
            self.0.remove(app);
        }
    }

    /// Whether an object stays for now.
    pub(super) fn has(&self, app: &AppName, key: &ObjectKey) -> bool {
        self.0.get(app).is_some_and(|known| known.contains_key(key))
    }

    /// It is gone.
    pub(super) fn gone(&mut self, app: &AppName, key: &ObjectKey) {
        if let Some(known) = self.0.get_mut(app) {
            known.remove(key);
            if known.is_empty() {
                self.0.remove(app);
            }
        }
    }

    /// Forgets an app that is gone.
    pub(super) fn forget(&mut self, app: &AppName) {
        self.0.remove(app);
    }

    /// There is something new, or somebody asks: all of an app is tried now.
    pub(super) fn hurry(&mut self, app: &AppName, now: &Moment) {
        for leftover in self.0.get_mut(app).into_iter().flat_map(BTreeMap::values_mut) {
            leftover.retry_at = now.clone();
        }
    }

    /// Whether nothing of any app stays.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what stays of an app was tried often enough to say that it doesn't go now.
    pub(super) fn given_up(&self, app: &AppName) -> bool {
        self.0.get(app).is_some_and(|known| known.values().all(|leftover| leftover.attempts >= TRIES))
    }

    /// What stays of an app, and why.
    pub(super) fn held(&self, app: &AppName) -> Option<Held> {
        let known = self.0.get(app)?;
        let next = known.values().map(|leftover| leftover.retry_wall).min();
        let causes: Vec<&str> = known.values().map(|leftover| leftover.cause.as_str()).collect();
        Some(Held {
            cause: format!("what it no longer wants is still there: {}", causes.join("; ")),
            next,
            unblock: "nothing to do for the app, which goes on: the removal is tried again by itself, and works once its \
                      cause is gone"
                .to_owned(),
        })
    }

    /// The apps of which something is to be tried again.
    pub(super) fn due<'a>(&'a self, now: &'a Moment) -> impl Iterator<Item = &'a AppName> {
        let due = |known: &BTreeMap<ObjectKey, Leftover>| known.values().any(|leftover| !leftover.waits(now));
        self.0.iter().filter(move |(_, known)| due(known)).map(|(app, _)| app)
    }

    /// When something is tried again.
    pub(super) fn retries(&self) -> impl Iterator<Item = &Moment> {
        self.0.values().flat_map(BTreeMap::values).map(|leftover| &leftover.retry_at)
    }
}
