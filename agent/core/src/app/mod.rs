//! The state machine of one app on this box: one enum of phases, one method for each transition.
//!
//! `docs/app-states.md` draws it, and a test holds the drawing to this file. What the box should run now is
//! [`App::current`], whatever the phase: the planner makes the box match it, and so a first start, an update,
//! a rollback, a repair and a bring-up after a reboot are one piece of code.

mod judging;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use judging::{Judging, Verdict};

use crate::clock::{Moment, Now};
use crate::digest::ReleaseId;
use crate::held::Held;
use crate::name::AppName;
use crate::release::Target;

/// Where an app stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name")]
pub enum Phase {
    /// Everything that the target needs is being fetched; what ran runs on.
    Preparing,
    /// Prepared, and waiting for its turn: the apps that it depends on come first.
    Pending,
    /// The target is being put in place.
    Applying,
    /// The target runs and is being judged.
    Judging(Box<Judging>),
    /// The target runs and was found good.
    Good,
    /// The target failed; the last known good is being put back.
    RollingBack {
        /// Why the target failed.
        reason: String,
    },
    /// The target failed; the last known good runs, or nothing if there was none.
    RolledBack {
        /// Why the target failed.
        reason: String,
    },
    /// The target failed or was refused, and nothing was put back.
    Held {
        /// Why.
        reason: String,
    },
    /// No longer placed here; it is being removed.
    Removing,
}

impl Phase {
    /// The word that `status` prints.
    pub fn word(&self) -> &'static str {
        match self {
            Phase::Preparing => "Preparing",
            Phase::Pending => "Pending",
            Phase::Applying => "Applying",
            Phase::Judging(_) => "Judging",
            Phase::Good => "Good",
            Phase::RollingBack { .. } => "RollingBack",
            Phase::RolledBack { .. } => "RolledBack",
            Phase::Held { .. } => "Held",
            Phase::Removing => "Removing",
        }
    }
}

/// A step that did not work and will be tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stuck {
    /// What was being done, and why it failed.
    pub cause: String,
    /// How often in a row.
    pub attempts: u32,
    /// Not before this moment; in another boot, at once.
    pub retry_at: Moment,
    /// The same for people.
    pub retry_wall: Timestamp,
    /// What would unblock it, for people, if it isn't only another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unblock: Option<String>,
    /// Since when, in a row, the runtime has been there and has not taken the target yet: only while that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_yet: Option<Moment>,
}

/// After so many tries in a row nobody can say when a target will be prepared.
const LONG_ENOUGH: u32 = 3;

/// The longest pause between two tries of what the runtime doesn't take yet: what it waits for comes in seconds.
const LONGEST_PAUSE_NOT_YET: Duration = Duration::from_secs(10);

/// The longest pause between two tries of the same thing.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// The pause after `attempts` failures in a row, from `first` on, doubled each time.
pub fn pause(first: Duration, attempts: u32) -> Duration {
    first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

/// One app on this box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// Where it stands.
    pub phase: Phase,
    /// Since when, for people.
    pub since: Timestamp,
    /// Where it is going, or what it last failed to become.
    pub target: Option<Target>,
    /// What the box should run now.
    pub current: Option<Target>,
    /// The last known good.
    pub good: Option<Target>,
    /// The good one before that. It stays pinned: a box without network can still go back one.
    pub previous: Option<Target>,
    /// What did not work at the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
}

impl App {
    /// An app that was placed here for the first time; `failed` as in [`App::place`].
    pub fn placed(target: &Target, failed: Option<&str>, now: &Now) -> Self {
        let mut app = App::found(now);
        app.aim(target, failed, false, now);
        app
    }

    /// An app that only the runtime still knows of, found by our mark. It is left as it is until a revision
    /// says what becomes of it.
    pub fn found(now: &Now) -> Self {
        App {
            phase: Phase::Held {
                reason:
                    "a runtime has objects of this app with this agent's mark, but the agent has no other record \
                     of it"
                        .into(),
            },
            since: now.wall,
            target: None,
            current: None,
            good: None,
            previous: None,
            stuck: None,
        }
    }

    /// Any phase: a revision wants `target`. The release that it already has or goes to changes nothing but
    /// the policy; a release that is `failed` is not tried again, and if it was being changed to that, goes back
    /// unless it `stays`.
    pub fn place(&mut self, target: &Target, failed: Option<&str>, stays: bool, now: &Now) {
        let same_target = self.target.as_ref().is_some_and(|t| t.release == target.release);
        let is_good = self.good.as_ref().is_some_and(|good| good.release == target.release);
        let runs_good = self.current.as_ref().map(|t| t.release) == self.good.as_ref().map(|t| t.release);
        self.renew_policy(target);
        match &self.phase {
            // Ends first; the next pass places anew. Where it can't end, what is new is the way out.
            Phase::RollingBack { .. } if same_target || failed.is_some() || !self.is_stuck_for_long() => {}
            // It was good before, and isn't until it has been seen to be there again.
            Phase::Applying | Phase::Judging(_) if same_target && failed.is_none() => {}
            _ if is_good && runs_good => {
                if self.phase != Phase::Good {
                    self.target = self.good.clone();
                    self.enter(Phase::Good, now);
                }
            }
            // Until there is something else to go to it is what it was: nothing more of it goes.
            Phase::Removing => {
                self.current = self.good.clone();
                self.aim(target, failed, stays, now);
            }
            // Another of its group failed while it waited.
            Phase::Preparing | Phase::Pending if same_target && failed.is_some() => {
                self.aim(target, failed, stays, now);
            }
            // It was remembered, and the agent died before it was seen to.
            Phase::Applying | Phase::Judging(_) if same_target && failed.is_some() => {
                self.fail(failed.unwrap_or_default(), stays, now);
            }
            // What it failed with has changed, or somebody wants another try.
            Phase::RolledBack { .. } | Phase::Held { .. } if same_target && failed.is_none() => {
                self.aim(target, None, stays, now);
            }
            _ if same_target => {}
            _ => self.aim(target, failed, stays, now),
        }
    }

    /// Whether what it is about was tried again and again, and didn't work.
    fn is_stuck_for_long(&self) -> bool {
        self.stuck.as_ref().is_some_and(|stuck| stuck.attempts >= LONG_ENOUGH)
    }

    /// Whether it is being changed or judged, and `target` is another release.
    pub fn is_in_between(&self, target: &Target) -> bool {
        matches!(self.phase, Phase::Applying | Phase::Judging(_))
            && self.target.as_ref().is_none_or(|own| own.release != target.release)
    }

    /// Nothing is to come of its target for long: what runs was never found good, and goes back to what was.
    fn leave_unproven(&mut self) {
        // Members of a group belong together: one of them alone doesn't go back.
        if !self.keeps_unproven() && self.good.is_some() && self.group().is_none() {
            self.current = self.good.clone();
        }
    }

    /// Whether what runs was never found good, and stays all the same.
    pub fn keeps_unproven(&self) -> bool {
        let stays = self.current.as_ref().is_some_and(|current| current.policy.stays());
        stays && self.current.as_ref().map(|t| t.release) != self.good.as_ref().map(|t| t.release)
    }

    fn aim(&mut self, target: &Target, failed: Option<&str>, stays: bool, now: &Now) {
        self.target = Some(target.clone());
        let runs_good = self.good.is_some()
            && self.current.as_ref().map(|t| t.release) == self.good.as_ref().map(|t| t.release);
        match failed {
            // Nothing of it was put in place, so nothing is to be taken back.
            Some(reason) if runs_good => self.enter(Phase::RolledBack { reason: reason.to_owned() }, now),
            // What runs may itself be unproven: it stays if it must, or goes back to what is known to be good.
            Some(reason) if stays && self.current.is_some() => {
                self.enter(Phase::Held { reason: reason.to_owned() }, now);
            }
            Some(reason) => {
                self.current = self.good.clone();
                self.enter(Phase::RollingBack { reason: reason.to_owned() }, now);
            }
            None => self.enter(Phase::Preparing, now),
        }
    }

    /// A policy belongs to the repository and not to the release: a new one counts at once.
    pub(crate) fn renew_policy(&mut self, target: &Target) {
        for slot in [&mut self.target, &mut self.current, &mut self.good].into_iter().flatten() {
            if slot.release == target.release && slot.policy != target.policy {
                slot.policy = target.policy.clone();
            }
        }
    }

    /// Preparing -> Pending: everything that the target needs is on disk.
    pub fn prepared(&mut self, now: &Now) {
        if self.phase == Phase::Preparing {
            self.enter(Phase::Pending, now);
        }
    }

    /// Preparing -> Held: the target can never run here. What ran runs on.
    pub fn refuse(&mut self, reason: &str, now: &Now) {
        if self.phase == Phase::Preparing {
            self.leave_unproven();
            self.enter(Phase::Held { reason: reason.to_owned() }, now);
        }
    }

    /// Pending -> Applying: its turn has come.
    pub fn apply(&mut self, now: &Now) {
        if self.phase == Phase::Pending {
            self.current = self.target.clone();
            self.enter(Phase::Applying, now);
        }
    }

    /// Applying -> Judging: the runtime has taken every step.
    pub fn applied(&mut self, now: &Now) {
        if self.phase == Phase::Applying {
            self.enter(Phase::Judging(Box::new(Judging::begin(now.moment.clone()))), now);
        }
    }

    /// Judging -> Good: it was healthy through its soak.
    pub fn pass(&mut self, now: &Now) {
        if !matches!(self.phase, Phase::Judging(_)) {
            return;
        }
        if self.good.as_ref().map(|t| t.release) != self.target.as_ref().map(|t| t.release) {
            self.previous = self.good.take();
        }
        self.good = self.target.clone();
        self.enter(Phase::Good, now);
    }

    /// Applying, Judging -> RollingBack, or Held if it `stays`: the target failed, or another of its group.
    pub fn fail(&mut self, reason: &str, stays: bool, now: &Now) {
        if !matches!(self.phase, Phase::Applying | Phase::Judging(_)) {
            return;
        }
        let reason = reason.to_owned();
        if stays {
            self.enter(Phase::Held { reason }, now);
        } else {
            self.current = self.good.clone();
            self.enter(Phase::RollingBack { reason }, now);
        }
    }

    fn runs_target(&self) -> bool {
        self.current.is_some()
            && self.current.as_ref().map(|t| t.release) == self.target.as_ref().map(|t| t.release)
    }

    /// Whether its policy holds the target that failed, instead of going back.
    pub fn stays_after_failure(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.policy.stays())
    }

    /// The group that it changes with.
    pub fn group(&self) -> Option<&AppName> {
        self.target.as_ref().or(self.current.as_ref())?.policy.group.as_ref()
    }

    /// Whether it is judged, and would be good were it not for the rest of its group.
    pub fn has_passed(&self) -> bool {
        matches!(&self.phase, Phase::Judging(judging) if judging.has_passed())
    }

    /// RollingBack -> RolledBack: the last known good is back.
    pub fn restored(&mut self, now: &Now) {
        if let Phase::RollingBack { reason } = &self.phase {
            let reason = reason.clone();
            self.enter(Phase::RolledBack { reason }, now);
        }
    }

    /// Applying -> Pending: the agent itself died under this change, again and again. The last known good
    /// comes back, and the change is tried again after `wait`.
    pub fn set_aside(&mut self, cause: &str, attempts: u32, wait: Duration, now: &Now) {
        if self.phase == Phase::Applying {
            self.current = self.good.clone();
            self.enter(Phase::Pending, now);
            self.stick_for(cause, attempts, wait, now);
        }
    }

    /// Applying -> Pending, Removing -> Good: whoever asked for that isn't trusted any more. The last known good comes
    /// back, and the change waits. An app of which nothing was ever good goes on being removed.
    pub fn take_back(&mut self, now: &Now) {
        match self.phase {
            Phase::Applying => {
                self.current = self.good.clone();
                self.enter(Phase::Pending, now);
            }
            Phase::Removing if self.good.is_some() => {
                self.target = self.good.clone();
                self.current = self.good.clone();
                self.enter(Phase::Good, now);
            }
            _ => {}
        }
    }

    /// Any phase -> Removing: it is no longer placed here.
    pub fn withdraw(&mut self, now: &Now) {
        if self.phase != Phase::Removing {
            self.target = None;
            self.current = None;
            self.enter(Phase::Removing, now);
        }
    }

    /// Any phase: the last try of what the phase is about did not work, and is worth another.
    pub fn stick(&mut self, cause: &str, now: &Now) {
        let attempts = self.stuck.as_ref().map_or(1, |stuck| stuck.attempts.saturating_add(1));
        if self.phase == Phase::Preparing && attempts >= LONG_ENOUGH {
            self.leave_unproven();
        }
        self.stick_for(cause, attempts, pause(Duration::from_secs(1), attempts), now);
    }

    /// Any phase: as [`App::stick`], where something else than another try would `unblock` it.
    pub fn stick_until(&mut self, cause: &str, unblock: &str, now: &Now) {
        self.stick(cause, now);
        if let Some(stuck) = &mut self.stuck {
            stuck.unblock = Some(unblock.to_owned());
        }
    }

    /// Applying: the runtime is there and does not take the target yet. Gives whether it is tried again; if not,
    /// that has been so for `deadline`, and the target is to fail. What the box or the runtime is the reason for
    /// doesn't count, and neither does what was before a reboot.
    pub fn not_yet(&mut self, cause: &str, deadline: Duration, now: &Now) -> bool {
        let first = self.stuck.as_ref().and_then(|stuck| stuck.not_yet.as_ref());
        let begun = first.and_then(|first| Some((first.clone(), now.moment.since(first)?)));
        let (first, elapsed) = begun.unwrap_or_else(|| (now.moment.clone(), Duration::ZERO));
        let Some(left) = deadline.checked_sub(elapsed).filter(|left| !left.is_zero()) else { return false };
        let attempts = self.stuck.as_ref().map_or(1, |stuck| stuck.attempts.saturating_add(1));
        // The last try is at the deadline.
        let wait = pause(Duration::from_secs(1), attempts).min(LONGEST_PAUSE_NOT_YET).min(left);
        self.stick_for(cause, attempts, wait, now);
        if let Some(stuck) = &mut self.stuck {
            stuck.not_yet = Some(first);
        }
        true
    }

    fn stick_for(&mut self, cause: &str, attempts: u32, wait: Duration, now: &Now) {
        self.stuck = Some(Stuck {
            cause: cause.to_owned(),
            attempts,
            retry_at: now.moment_in(wait),
            retry_wall: now.wall_in(wait),
            unblock: None,
            not_yet: None,
        });
    }

    /// Any phase: it worked.
    pub fn unstick(&mut self) {
        self.stuck = None;
    }

    /// Whether a failed try keeps it from being tried now.
    pub fn waits(&self, now: &Moment) -> bool {
        self.retry_at().is_some_and(|at| now.is_before(at))
    }

    /// When it is tried again, if it is stuck.
    pub fn retry_at(&self) -> Option<&Moment> {
        self.stuck.as_ref().map(|stuck| &stuck.retry_at)
    }

    /// Whether the box runs what the repository wants, and it was found good.
    pub fn converged(&self) -> bool {
        self.phase == Phase::Good && self.stuck.is_none()
    }

    /// Every release that it may come to run though nothing new comes.
    pub fn runnable(&self) -> impl Iterator<Item = ReleaseId> + '_ {
        [&self.target, &self.current, &self.good].into_iter().flatten().map(|target| target.release)
    }

    /// Every release that must stay on disk for this app.
    pub fn pinned(&self) -> impl Iterator<Item = ReleaseId> + '_ {
        self.targets().map(|target| target.release)
    }

    /// Every target that it has, and the good one before the last known good.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        [&self.target, &self.current, &self.good, &self.previous].into_iter().flatten()
    }

    /// Why it waits, if it does; for people, who know it as `name`.
    pub fn held(&self, name: &AppName) -> Option<Held> {
        let reason = match &self.phase {
            Phase::RollingBack { reason } | Phase::RolledBack { reason } => {
                Some(format!("the release failed: {reason}"))
            }
            // It was put in place and failed.
            Phase::Held { reason } if self.runs_target() && self.stays_after_failure() => Some(format!(
                "the release failed and was not rolled back, because of update.irreversible or onFailure: hold: \
                 {reason}"
            )),
            Phase::Held { reason } => Some(reason.clone()),
            _ => None,
        };
        match (&self.stuck, reason) {
            (Some(stuck), _) => Some(Held {
                cause: stuck.cause.clone(),
                next: Some(stuck.retry_wall),
                unblock: stuck.unblock.clone().unwrap_or_else(|| match stuck.not_yet {
                    Some(_) => {
                        "nothing to do: the agent retries it automatically until the release's deadline"
                            .to_owned()
                    }
                    None => "nothing to do: the agent retries it automatically".to_owned(),
                }),
            }),
            (None, Some(reason)) => Some(Held::until_changed(
                reason,
                format!(
                    "commit a change to this app (it is tried immediately); `holdfast diag {name}` shows what was \
                     observed, `holdfast retry {name}` retries the same release unchanged"
                ),
            )),
            (None, None) => None,
        }
    }

    fn enter(&mut self, phase: Phase, now: &Now) {
        self.phase = phase;
        self.since = now.wall;
        self.stuck = None;
    }
}

#[cfg(test)]
mod tests;
