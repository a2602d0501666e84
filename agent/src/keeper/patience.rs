//! Growing pauses before anything is repeated: a step that fails, drift that comes back, a runtime that keeps coming
//! back. And what is repeated is said once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use holdfast_core::app::pause;
use holdfast_core::clock::{Moment, Now};
use holdfast_core::name::AppName;
use holdfast_core::plan::{Plan, Step};
use holdfast_core::runtime::DriverName;
use holdfast_drivers::DriverError;

use super::Keeper;
use super::journal::Journal;

/// So often may the same be put right without a pause.
const REPAIRS_AT_ONCE: u32 = 5;
/// After so long without having to be put right an app has settled.
const SETTLED_AFTER: Duration = Duration::from_secs(600);

/// A pause before another try of something, which grows with each one in a row.
#[derive(Clone, Debug)]
pub(super) struct Pause {
    attempts: u32,
    pub(super) until: Moment,
}

impl Pause {
    /// The pause after another failure.
    pub(super) fn after(before: Option<&Pause>, now: &Now) -> Self {
        let attempts = before.map_or(1, |before| before.attempts.saturating_add(1));
        Pause { attempts, until: now.moment_in(Self::length(attempts)) }
    }

    fn length(attempts: u32) -> Duration {
        pause(Duration::from_secs(1), attempts)
    }

    pub(super) fn is_on(&self, now: &Now) -> bool {
        now.moment.is_before(&self.until)
    }

    /// Whether it ended longer ago than it took: what comes now is no repetition.
    fn is_past(&self, now: &Now) -> bool {
        now.moment.since(&self.until).is_none_or(|ago| !self.is_on(now) && ago > Self::length(self.attempts))
    }
}

/// What an app at rest was last put right by.
#[derive(Clone, Debug)]
struct Repair {
    what: u64,
    times: u32,
    at: Moment,
}

/// What is waited for, by app and by runtime; only in memory, since an agent that starts tries everything.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Apps that are kept as they are while an update is on its way, where that fails.
    kept: BTreeMap<AppName, Pause>,
    /// Apps of which something is to be purged, where that fails.
    purges: BTreeMap<AppName, Pause>,
    repairs: BTreeMap<AppName, Repair>,
    /// Runtimes that came back.
    back: BTreeMap<DriverName, Pause>,
    /// The last plan that was logged for an app, and the last failure.
    said: BTreeMap<AppName, (u64, u64)>,
}

impl Patience {
    /// Whether an app is to be left alone for now.
    pub(super) fn spares(&self, name: &AppName, now: &Now) -> bool {
        self.kept.get(name).is_some_and(|pause| pause.is_on(now))
    }

    pub(super) fn spares_purge(&self, name: &AppName, now: &Now) -> bool {
        self.purges.get(name).is_some_and(|pause| pause.is_on(now))
    }

    /// An app can't be kept as it is.
    pub(super) fn kept_in_vain(&mut self, name: &AppName, now: &Now) {
        let pause = Pause::after(self.kept.get(name), now);
        self.kept.insert(name.clone(), pause);
    }

    pub(super) fn purged(&mut self, name: &AppName, failed: bool, now: &Now) {
        let before = self.purges.remove(name);
        if failed {
            self.purges.insert(name.clone(), Pause::after(before.as_ref(), now));
        }
    }

    /// An app at rest was put right by these steps.
    pub(super) fn repaired(&mut self, name: &AppName, what: u64, now: &Now) {
        let before = self.repairs.get(name).filter(|before| {
            before.what == what && now.moment.since(&before.at).is_some_and(|ago| ago < SETTLED_AFTER)
        });
        let times = before.map_or(1, |before| before.times.saturating_add(1));
        self.repairs.insert(name.clone(), Repair { what, times, at: now.moment.clone() });
        if let Some(attempts) = times.checked_sub(REPAIRS_AT_ONCE).filter(|attempts| *attempts > 0) {
            self.kept.insert(name.clone(), Pause { attempts, until: now.moment_in(Pause::length(attempts)) });
        } else {
            self.kept.remove(name);
        }
    }

    /// Ends the pause of an app no later than `at`.
    pub(super) fn hurry(&mut self, name: &AppName, at: &Moment) {
        if let Some(pause) = self.kept.get_mut(name)
            && pause.until.uptime > at.uptime
        {
            pause.until = at.clone();
        }
    }

    /// An app is as it should be, or is to be something else.
    pub(super) fn is_well(&mut self, name: &AppName) {
        self.kept.remove(name);
        self.said.remove(name);
    }

    /// Forgets an app.
    pub(super) fn forget(&mut self, name: &AppName) {
        self.is_well(name);
        self.repairs.remove(name);
        self.purges.remove(name);
    }

    /// A runtime is back. Gives when those of its apps that wait for a pause are to be tried: now, but for one that comes
    /// back again and again.
    pub(super) fn back(&mut self, driver: DriverName, now: &Now) -> Moment {
        let before = self.back.get(&driver).filter(|before| !before.is_past(now));
        if let Some(before) = before.filter(|before| before.is_on(now)) {
            return before.until.clone();
        }
        let pause = Pause::after(before, now);
        self.back.insert(driver, pause);
        now.moment.clone()
    }

    /// The apps whose pause is over.
    pub(super) fn over(&self, now: &Now) -> impl Iterator<Item = &AppName> {
        self.kept.iter().filter(|(_, pause)| !pause.is_on(now)).map(|(name, _)| name)
    }

    /// When a pause ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = &Moment> {
        self.kept.values().chain(self.purges.values()).map(|pause| &pause.until)
    }

    /// Whether the plan of an app is another one than was last said of it.
    fn is_new_plan(&mut self, name: &AppName, plan: u64) -> bool {
        std::mem::replace(&mut self.said.entry(name.clone()).or_default().0, plan) != plan
    }

    fn is_new_failure(&mut self, name: &AppName, failure: u64) -> bool {
        std::mem::replace(&mut self.said.entry(name.clone()).or_default().1, failure) != failure
    }
}

/// What tells one thing that is said from another.
pub(super) fn mark(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// What tells steps from others.
pub(super) fn mark_of<'a>(steps: impl Iterator<Item = &'a Step>) -> u64 {
    mark(steps.map(|step| (step.action, &step.object, &step.reason)).collect::<Vec<_>>())
}

impl<J: Journal> Keeper<J> {
    pub(super) fn log_plan(&mut self, name: &AppName, plan: &Plan) {
        let causes: Vec<_> = plan.held.values().map(|held| &held.cause).collect();
        // What is tried again and again was said when it first was.
        let steps = || plan.steps.iter().filter(|step| !self.leftovers.has(&step.app, &step.object));
        if steps().next().is_none() && plan.held.is_empty() {
            return;
        }
        let what = mark((mark_of(steps()), causes));
        if !self.patience.is_new_plan(name, what) {
            tracing::debug!(app = %name, steps = plan.steps.len(), "plan: the same as before");
            return;
        }
        for step in &plan.steps {
            tracing::info!(app = %step.app, action = ?step.action, object = %step.object, reason = step.reason, "plan");
        }
        for (app, held) in &plan.held {
            tracing::warn!(%app, cause = held.cause, "plan: held");
        }
    }

    pub(super) fn log_failure(&mut self, step: &Step, error: &DriverError) {
        let what = mark((step.action, &step.object, error.to_string()));
        if self.patience.is_new_failure(&step.app, what) {
            tracing::warn!(app = %step.app, object = %step.object, action = ?step.action, %error, "a step failed");
        } else {
            tracing::debug!(app = %step.app, object = %step.object, action = ?step.action, %error, "a step failed again");
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::clock::BootId;
    use jiff::Timestamp;

    use super::*;

    fn at(seconds: u64) -> Now {
        let uptime = Duration::from_secs(seconds);
        Now::certain(Timestamp::UNIX_EPOCH, Moment { boot: BootId("b".into()), uptime })
    }

    #[test]
    fn what_must_be_put_right_again_and_again_is_put_right_after_pauses_that_grow() {
        let (mut patience, app) = (Patience::default(), "pos".parse().unwrap());
        for second in 0..5 {
            patience.repaired(&app, 1, &at(second));
            assert!(!patience.spares(&app, &at(second)), "repair {second}");
        }
        let mut waits = Vec::new();
        let mut now = 10;
        for _ in 0..4 {
            patience.repaired(&app, 1, &at(now));
            let wait = (0..100).find(|more| !patience.spares(&app, &at(now + more))).unwrap();
            waits.push(wait);
            now += wait;
        }
        assert_eq!(waits, [1, 2, 4, 8]);
        patience.repaired(&app, 2, &at(now));
        assert!(!patience.spares(&app, &at(now)), "something else is put right at once");
    }

    #[test]
    fn a_runtime_that_comes_back_again_and_again_makes_nobody_hurry() {
        let mut patience = Patience::default();
        let mut honoured = 0;
        for second in 0..60 {
            honoured += u32::from(patience.back(DriverName::KUBERNETES, &at(second)) == at(second).moment);
        }
        assert!((2..=7).contains(&honoured), "{honoured}");
        assert_eq!(patience.back(DriverName::KUBERNETES, &at(1000)), at(1000).moment);
        assert_eq!(patience.back(DriverName::PODMAN, &at(30)), at(30).moment, "another one is not meant");
    }
}
