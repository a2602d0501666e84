//! The permit to change the box: what the policy, the clock and the gates allow now, and what waits for it.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::app::{App, Phase};
use holdfast_core::change::ChangePolicy;
use holdfast_core::clock::{Moment, Now, Time};
use holdfast_core::generation::is_ready;
use holdfast_core::held::Held;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::plan::{Orphan, orphans};
use holdfast_core::release::Target;

use super::Keeper;
use super::journal::{Journal, JournalError, Note};

/// What may be done now. What keeps the box as it is, and what brings it back, needs none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Permit {
    /// Why nothing may be downloaded.
    pub download: Option<Held>,
    /// Why nothing may be changed.
    pub apply: Option<Held>,
    /// What is being changed is taken back: whoever asked for it isn't trusted any more.
    pub revoked: bool,
}

impl Permit {
    /// What `policy` allows at this time, whatever gates say. Nobody uses a box that never ran anything; a
    /// stop counts all the same.
    pub fn by_clock(policy: &ChangePolicy, is_in_use: bool, time: &Time) -> Self {
        if !is_in_use && policy.stop.is_none() {
            return Permit::default();
        }
        let (download, apply) = (policy.holds_download(time), policy.holds_apply(time));
        Permit { download, apply, revoked: false }
    }

    /// Nothing, and what was begun is taken back.
    pub fn revoked(held: &Held) -> Self {
        Permit { download: Some(held.clone()), apply: Some(held.clone()), revoked: true }
    }

    /// Nothing, until somebody has looked at what the revision says.
    pub fn unknown() -> Self {
        let cause = "the agent has not read yet when the revision allows changes";
        let held = Held::until_changed(cause, "nothing to do: it continues once the revision has been read");
        Permit { download: Some(held.clone()), apply: Some(held), revoked: false }
    }
}

impl<J: Journal> Keeper<J> {
    /// Says what may be done from now on.
    pub fn permit(&mut self, permit: Permit) {
        if *self.permit != permit {
            *self.permit = permit;
        }
    }

    /// Whether a change may begin.
    pub(super) fn may_change(&self) -> bool {
        self.permit.apply.is_none()
    }

    /// Takes back what was begun and may not be brought to its end.
    pub(super) fn take_back(&mut self, now: &Now) -> Result<(), JournalError> {
        if !self.permit.revoked {
            return Ok(());
        }
        let begun = |app: &&App| matches!(app.phase, Phase::Applying | Phase::Removing);
        let begun: Vec<AppName> =
            self.apps.iter().filter(|(_, app)| begun(app)).map(|(name, _)| name.clone()).collect();
        for name in begun {
            self.change(&name, |app| app.take_back(now))?;
        }
        Ok(())
    }

    /// Whether something would be changed now if it were allowed.
    pub fn wants_change(&self, now: &Now) -> bool {
        let order = self.order();
        self.withheld
            || self.has_due_purge(now)
            || self.apps.iter().any(|(name, app)| is_ready(name, app, &self.apps, order, now))
    }

    /// Writes down what is kept from being removed and wasn't before. What waits for its time is written down by whoever
    /// asks for the permit.
    pub(super) fn note_kept(&mut self, kept: &BTreeMap<AppName, Held>, now: &Now) {
        let waits = self.permit.apply.as_ref();
        let known: BTreeSet<&String> = self.kept.values().map(|held| &held.cause).collect();
        let new = kept.values().filter(|held| waits != Some(*held)).map(|held| &held.cause);
        let new: BTreeSet<String> = new.filter(|cause| !known.contains(cause)).cloned().collect();
        let revision = self.resolved.as_ref().map(|resolved| resolved.revision.0.clone());
        for message in new {
            self.journal
                .note(Note { kind: "change.held", app: None, revision: revision.clone(), message }, now);
        }
    }

    /// When the next orphan goes that stayed when orphans were last looked through. While it isn't known what time it
    /// is, none is on its way.
    pub fn next_purge(&self, now: &Now) -> Option<Moment> {
        now.time.known()?;
        let goes = self.purgeable(now).into_iter().filter_map(|orphan| orphan.due);
        let next = goes.filter(|due| self.purged.is_none_or(|purged| *due > purged)).min()?;
        let wait = next.saturating_sub(now.seen);
        Some(now.moment_in(wait))
    }

    /// Whether an orphan is on its way: then it counts how much time is seen.
    pub fn awaits_purge(&self, now: &Now) -> bool {
        self.purgeable(now).iter().any(|orphan| orphan.due.is_some())
    }

    /// What holds data and what no app wants any more.
    pub fn orphans(&self, now: &Now) -> Vec<Orphan> {
        let unknown = ChangePolicy::default();
        let policy = self.policy().unwrap_or(&unknown);
        orphans(&self.inventory, policy, |app, key| self.may_want(app, key), now)
    }

    /// Whether a release of the app that is to come, runs or may come back has this object, or one of another app that
    /// shares it, or nobody can tell.
    fn may_want(&self, app: &AppName, key: &ObjectKey) -> bool {
        let wants =
            |target: &Target| self.releases.get(&target.release).is_none_or(|release| release.wants(key));
        let targets = self.apps.get(app).into_iter().flat_map(|app| [&app.target, &app.current, &app.good]);
        // What the newest revision wants may not be the app's target yet: one that goes back ends that first.
        let newest = self.resolved.as_ref().and_then(|resolved| resolved.apps.get(app));
        let driver = self.inventory.get(app).and_then(|owned| owned.get(key)).map(|owned| owned.driver);
        self.faulty_apps().contains_key(app)
            || targets.flatten().chain(newest).any(wants)
            || driver.is_some_and(|driver| self.claims(&self.apps).may_be_wanted_elsewhere(app, driver, key))
    }

    /// The orphans that are to go now.
    pub(super) fn due_purges(&self, now: &Now) -> Vec<Orphan> {
        let mut orphans = self.purgeable(now);
        orphans.retain(|orphan| orphan.is_due(now.seen));
        orphans
    }

    /// The orphans, if anybody asks for any to go. Nearly always nobody does.
    fn purgeable(&self, now: &Now) -> Vec<Orphan> {
        match self.policy() {
            Some(policy) if !policy.purges.is_empty() => self.orphans(now),
            _ => Vec::new(),
        }
    }

    /// Whether something is to be purged now, if it is allowed.
    pub fn has_due_purge(&self, now: &Now) -> bool {
        !self.due_purges(now).is_empty()
    }

    /// Whether an app would get ready for its change now if it were allowed.
    pub fn wants_download(&self) -> bool {
        self.permit.download.is_some() && self.apps.values().any(|app| app.phase == Phase::Preparing)
    }

    /// Whether anything was ever good here. If not, nobody uses the box yet.
    pub fn is_in_use(&self) -> bool {
        self.apps.values().any(|app| app.good.is_some())
    }

    /// What the newest revision says about changing the box, once that is known.
    pub fn policy(&self) -> Option<&ChangePolicy> {
        self.resolved.as_ref().map(|resolved| &resolved.policy)
    }
}
