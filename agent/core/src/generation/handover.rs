//! Hand-overs: an object that one app lets go of and another one wants, as when its file is moved between their folders,
//! or when a folder is renamed. It is never removed for that: whoever wants it takes it over as it is.
//!
//! The taker goes first. Until it is good the giver stays what it is, and lends the object; so if the taker fails, the
//! giver has it back as it was. Only then the giver changes, or goes. While somebody wants an object, nobody removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::holders::Holders;
use super::{Apps, Inventory, Owned};
use crate::app::Phase;
use crate::contention::contend;
use crate::digest::ReleaseId;
use crate::held::Held;
use crate::name::{AppName, ObjectKey};
use crate::release::{Object, Release, Target};
use crate::resolve::Resolved;
use crate::runtime::{DriverName, Runtimes};

/// The releases that are known.
pub type Releases = BTreeMap<ReleaseId, Arc<Release>>;

/// Which apps hand objects over to which, by the newest revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handovers {
    /// By giver, by taker.
    gives: BTreeMap<AppName, BTreeMap<AppName, BTreeSet<ObjectKey>>>,
    /// What each taker is to become.
    targets: BTreeMap<AppName, ReleaseId>,
    /// Givers that the revision still has.
    stay: BTreeSet<AppName>,
    /// Givers of which everything that they run goes over.
    whole: BTreeSet<AppName>,
    /// An app that can't be read, and may want anything.
    unread: Option<AppName>,
}

impl Handovers {
    /// What `resolved` moves between the apps.
    pub fn of(claims: Claims<'_>, resolved: &Resolved) -> Self {
        let Claims { apps, releases, inventory, runtimes, .. } = claims;
        let mut found = Handovers { unread: resolved.unread.first().cloned(), ..Handovers::default() };
        let wants = |name: &AppName, driver: DriverName, key: &ObjectKey| {
            resolved.apps.get(name).is_some_and(|target| has(releases, target, driver, key))
        };
        let nothing = BTreeMap::new();
        let mut takers: BTreeMap<(DriverName, &ObjectKey), Vec<&AppName>> = BTreeMap::new();
        for (name, target) in resolved.apps.iter().filter(|(_, target)| runtimes.moves(target.driver)) {
            let objects = releases.get(&target.release).into_iter().flat_map(|release| &release.objects);
            for object in objects {
                takers.entry((target.driver, &object.key)).or_default().push(name);
            }
        }
        // Those that can't be resolved yet want what they want all the same.
        for (name, keys) in &resolved.wants {
            for (driver, key) in
                keys.iter().flat_map(|key| runtimes.of_containers().map(move |driver| (driver, key)))
            {
                takers.entry((driver, key)).or_default().push(name);
            }
        }
        for (giver, app) in apps {
            // What it wants isn't known: it keeps what it has.
            if resolved.held.contains_key(giver) {
                continue;
            }
            let current = app.current.iter().filter_map(|target| releases.get(&target.release));
            let current = current
                .flat_map(|release| release.objects.iter().map(|object| (release.driver, &object.key)));
            let owned = inventory.get(giver).unwrap_or(&nothing);
            // What nobody wants any more is not given by anybody.
            let owned = owned.iter().filter(|(_, owned)| owned.orphaned.is_none());
            let owned = owned.map(|(key, owned)| (owned.driver, key));
            let mut moved: BTreeSet<&ObjectKey> = BTreeSet::new();
            for (driver, key) in current.chain(owned) {
                if wants(giver, driver, key) {
                    continue;
                }
                for taker in takers.get(&(driver, key)).into_iter().flatten().filter(|taker| **taker != giver)
                {
                    let target = resolved.apps.get(*taker).map(|target| target.release);
                    moved.insert(key);
                    // Where each app has names of its own it isn't the same object, and is in place once it was good.
                    let good = apps.get(*taker).and_then(|app| app.good.as_ref());
                    if !runtimes.is_name_shared(driver, key)
                        && good.is_some_and(|good| has(releases, good, driver, key))
                    {
                        continue;
                    }
                    let to = found.gives.entry(giver.clone()).or_default();
                    to.entry((*taker).clone()).or_default().insert(key.clone());
                    found.targets.extend(target.map(|target| ((*taker).clone(), target)));
                }
            }
            if resolved.apps.contains_key(giver) {
                found.stay.insert(giver.clone());
            }
            let current = app.current.as_ref().and_then(|target| releases.get(&target.release));
            if current.is_some_and(|all| all.objects.iter().all(|object| moved.contains(&object.key))) {
                found.whole.insert(giver.clone());
            }
        }
        found
    }

    /// Whether all that an app runs goes over to others: then its going removes nothing that is wanted.
    pub(super) fn is_whole(&self, giver: &AppName) -> bool {
        self.whole.contains(giver)
    }

    /// Why an app that is to change, or to go, has to wait: what it lets go of isn't well yet where it goes.
    pub fn holds(&self, giver: &AppName, apps: &Apps) -> Option<Held> {
        let (taker, objects) = self.gives.get(giver)?.iter().find(|(taker, _)| {
            let goes_first = || self.stay.contains(giver) && self.reaches(taker, giver, apps);
            !(self.is_settled(taker, apps) || goes_first())
        })?;
        let objects = objects.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let phase = match apps.get(taker).map(|app| &app.phase) {
            None => "is not here yet".to_owned(),
            Some(Phase::Good) => "has not been changed yet".to_owned(),
            Some(phase) => format!("is {}", phase.word()),
        };
        Some(Held::until_changed(
            format!("waiting to hand over {objects} to the app {taker}, which {phase}"),
            format!("nothing to do here: it continues when {taker} is good; until then nothing is removed"),
        ))
    }

    /// Why an app that the revision no longer has stays for now: nobody can tell whether another one wants what it has.
    pub(super) fn unread(&self, resolved: &Resolved) -> Option<Held> {
        let name = self.unread.as_ref()?;
        let why = resolved.held.get(name).map_or("", |held| held.cause.as_str());
        Some(Held::until_changed(
            format!(
                "the documents of the app {name} can't be read, and it may want objects that this app has: {why}"
            ),
            format!("correct the documents of {name} in a new commit"),
        ))
    }

    fn is_settled(&self, taker: &AppName, apps: &Apps) -> bool {
        let Some(app) = apps.get(taker) else { return false };
        app.converged() && app.good.as_ref().map(|good| good.release) == self.targets.get(taker).copied()
    }

    /// Whether `from` waits, by what it depends on or gives away, for `to`: then one of them must go first.
    fn reaches(&self, from: &AppName, to: &AppName, apps: &Apps) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(name) = next.pop() {
            if name == to {
                return true;
            }
            if !seen.insert(name) {
                continue;
            }
            next.extend(self.gives.get(name).into_iter().flat_map(BTreeMap::keys));
            let Some(app) = apps.get(name) else { continue };
            next.extend(app.target.iter().flat_map(|target| &target.policy.depends_on));
            let group = app.group();
            next.extend(
                apps.iter()
                    .filter(|(_, other)| group.is_some() && other.group() == group)
                    .map(|(name, _)| name),
            );
        }
        false
    }
}

/// Who wants an object, by all that is known.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    /// All apps.
    pub apps: &'a Apps,
    /// The releases that they name.
    pub releases: &'a Releases,
    /// What we made.
    pub inventory: &'a Inventory,
    /// The newest revision, once that is known.
    pub newest: Option<&'a Resolved>,
    /// The runtimes of the box.
    pub runtimes: &'a Runtimes,
    /// Which names more than one app has, by `releases` and `inventory`, where that was found out before.
    pub holders: Option<&'a Holders>,
}

impl Claims<'_> {
    /// What an app runs.
    fn current(&self, app: &AppName) -> Option<&Release> {
        let target = self.apps.get(app)?.current.as_ref()?;
        self.releases.get(&target.release).map(Arc::as_ref)
    }

    /// Whether the newest revision wants this object for `app`; none if that isn't known.
    fn newest_wants(&self, app: &AppName, driver: DriverName, key: &ObjectKey) -> Option<bool> {
        let own = self.apps.get(app).and_then(|app| app.target.as_ref());
        let target = match self.newest {
            Some(newest) if newest.held.contains_key(app) => return None,
            Some(newest) => newest.apps.get(app),
            None => own,
        };
        match target {
            Some(target) => self.releases.get(&target.release).map(|release| is_in(release, driver, key)),
            None => Some(false),
        }
    }

    fn runs(&self, app: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        self.current(app).is_some_and(|release| is_in(release, driver, key))
    }

    /// Whether what `one` wants counts before what `other` has.
    fn precedes(&self, one: &AppName, other: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        let wants = |app| self.newest_wants(app, driver, key);
        wants(one) == Some(true)
            && wants(other) == Some(false)
            && !self.keeps_for_now(other, one, driver, key)
    }

    /// Whether `holder` keeps what the newest revision wants `app` to have back: `holder` took it over and is good with it, and
    /// its own change, which lets go of it, has not begun. That may have to wait for a window, and `app`, which is not being
    /// changed, must not get ahead of it.
    fn keeps_for_now(&self, holder: &AppName, app: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        let (Some(has), Some(lends)) = (self.apps.get(holder), self.apps.get(app)) else { return false };
        let is_good = has.current.is_some() && has.current == has.good;
        let waits = matches!(has.phase, Phase::Good | Phase::Preparing | Phase::Pending);
        let is_changed = matches!(
            lends.phase,
            Phase::Applying | Phase::Judging(_) | Phase::RollingBack { .. } | Phase::Removing
        );
        is_good
            && waits
            && !is_changed
            && self.runs(holder, driver, key)
            && self.runs(app, driver, key)
            && self.owns(holder, driver, key)
            && !self.owns(app, driver, key)
    }

    /// What an app runs and another one keeps for now, and that one.
    pub fn kept_by_another(&self, app: &AppName) -> Option<(&ObjectKey, &AppName)> {
        let release = self.current(app)?;
        let missing = release.objects.iter().filter(|object| !self.owns(app, release.driver, &object.key));
        let mut kept = missing.filter_map(|Object { key, .. }| {
            let keeps = |other: &&AppName| self.keeps_for_now(other, app, release.driver, key);
            Some((key, self.apps.keys().find(keeps)?))
        });
        kept.next()
    }

    fn owns(&self, app: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        let owned = self.inventory.get(app).and_then(|owned| owned.get(key));
        owned.is_some_and(|owned| owned.driver == driver)
    }

    /// Another app that has an object as well, by our own records.
    pub fn owner_besides(
        &self,
        app: &AppName,
        driver: DriverName,
        key: &ObjectKey,
    ) -> Option<(&AppName, &Owned)> {
        if !self.runtimes.is_name_shared(driver, key) || !self.is_made_besides(app, key) {
            return None;
        }
        let others = self.inventory.iter().filter(|(name, _)| *name != app);
        let mut owners = others.filter_map(|(name, owned)| Some((name, owned.get(key)?)));
        owners.find(|(_, owned)| owned.driver == driver)
    }

    /// Whether another app may have made an object of this name: else none need be looked at.
    fn is_made_besides(&self, app: &AppName, key: &ObjectKey) -> bool {
        let has_it = || self.inventory.get(app).is_some_and(|owned| owned.contains_key(key));
        self.holders.is_none_or(|holders| holders.is_made_besides(key, has_it()))
    }

    /// Whether another app may run an object of this name.
    fn is_run_besides(&self, app: &AppName, key: &ObjectKey) -> bool {
        let has_it = || {
            let targets = self.apps.get(app).into_iter().flat_map(|app| [&app.current, &app.target]);
            let releases = targets.flatten().filter_map(|target| self.releases.get(&target.release));
            releases.filter(|release| release.app == *app).any(|release| release.object(key).is_some())
        };
        self.holders.is_none_or(|holders| holders.is_rendered_besides(key, has_it()))
    }

    /// Whether `app` may take an object over that carries another one's mark, which the driver has proved. That one must not
    /// run it, or be to let go of it; and where it doesn't run it, our own records must name it as its owner, or the newest
    /// revision must not want it there: after the inventory was lost nothing else is known of what was left of an app.
    pub fn may_take(&self, app: &AppName, from: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        match self.runs(from, driver, key) {
            true => self.precedes(app, from, driver, key),
            false => self.owns(from, driver, key) || self.newest_wants(from, driver, key) == Some(false),
        }
    }

    /// The app that has an object, or is about to, which `app` runs as well: it is lent to that one.
    pub fn lent_to(&self, app: &AppName, driver: DriverName, key: &ObjectKey) -> Option<&AppName> {
        if !self.runtimes.moves(driver) {
            return None;
        }
        if let Some(holders) = self.holders
            && !self.is_made_besides(app, key)
            && !self.is_run_besides(app, key)
        {
            // Nobody else has it, so that only its data can be another one's.
            let mut others =
                holders.of_data().filter(|other| *other != app && self.apps.contains_key(*other));
            return others.find(|other| self.has_the_data_of(other, app, driver, key));
        }
        // Two that are both to have it: the second one is held, and says so.
        let is_due = self.newest.is_some() && self.newest_wants(app, driver, key) == Some(true);
        let has_it = |other: &AppName| self.owns(other, driver, key) && !self.owns(app, driver, key);
        let mut others = self.apps.keys().filter(|other| *other != app);
        others.find(|other| match self.runs(other, driver, key) {
            true => {
                self.precedes(other, app, driver, key)
                    || (has_it(other) && !is_due)
                    || self.keeps_for_now(other, app, driver, key)
            }
            // What was made in its place goes first.
            false => {
                (!self.runtimes.is_name_shared(driver, key)
                    && has_it(other)
                    && self.precedes(other, app, driver, key))
                    || self.has_the_data_of(other, app, driver, key)
            }
        })
    }

    /// Whether `taker` runs with data that `giver` lets go of, so that the giver's object `key` must not run beside it. Only
    /// where names are each app's own: elsewhere what runs is handed over with its data.
    fn has_the_data_of(&self, taker: &AppName, giver: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        let current = |app: &AppName| self.current(app).filter(|release| release.driver == driver);
        if key.holds_data() || self.runtimes.is_name_shared(driver, key) {
            return false;
        }
        let (Some(takes), Some(object)) =
            (current(taker), current(giver).and_then(|release| release.object(key)))
        else {
            return false;
        };
        self.takes_data(taker, takes, giver) && contend(object, takes)
    }

    /// Whether `release` of `taker` has data by a shared name that `giver` is to let go of.
    fn takes_data(&self, taker: &AppName, release: &Release, giver: &AppName) -> bool {
        let driver = release.driver;
        let data = release.objects.iter().map(|object| &object.key).filter(|key| key.holds_data());
        data.filter(|key| self.runtimes.is_name_shared(driver, key)).any(|key| {
            self.precedes(taker, giver, driver, key) || self.keeps_for_now(taker, giver, driver, key)
        })
    }

    /// What of other apps is in the way of `release`: their own object of a name that it is to have from now on, and what
    /// runs with the data that it takes over. It is made again if the release fails.
    pub(crate) fn in_the_way(&self, app: &AppName, release: &Release) -> Vec<(&AppName, ObjectKey)> {
        let driver = release.driver;
        if !self.runtimes.moves(driver) {
            return Vec::new();
        }
        let is_own = |key: &ObjectKey| !key.holds_data() && !self.runtimes.is_name_shared(driver, key);
        // Nothing is known of what no release has, as of an app that goes: it may need anything.
        let contends = |other: &AppName, key: &ObjectKey| {
            let object = self.current(other).and_then(|current| current.object(key));
            object.is_none_or(|object| contend(object, release))
        };
        let others = || self.apps.keys().filter(|other| *other != app);
        let mut found = Vec::new();
        let mut own = release.objects.iter().map(|object| &object.key).filter(|key| is_own(key)).peekable();
        let has_own = own.peek().is_some();
        for key in own.filter(|key| self.is_made_besides(app, key)) {
            let owners = others()
                .filter(|other| self.owns(other, driver, key) && self.precedes(app, other, driver, key));
            found.extend(owners.filter(|other| contends(other, key)).map(|other| (other, key.clone())));
        }
        let has_data = release.objects.iter().any(|object| object.key.holds_data());
        for other in others().filter(|other| has_own && has_data && self.takes_data(app, release, other)) {
            let owned = self.inventory.get(other).into_iter().flatten();
            let owned = owned.filter(|(key, owned)| owned.driver == driver && is_own(key));
            found.extend(owned.filter(|(key, _)| contends(other, key)).map(|(key, _)| (other, key.clone())));
        }
        found.sort();
        found.dedup();
        found
    }

    /// Whether another app runs an object, or is to, or may go back to it, or has it made: then it isn't removed.
    pub fn is_wanted_elsewhere(&self, app: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        let newest = self.newest.into_iter().flat_map(|newest| &newest.apps);
        let own = self.apps.iter().flat_map(|(name, app)| {
            [&app.target, &app.current, &app.good].into_iter().flatten().map(move |target| (name, target))
        });
        let mut others = newest.chain(own).filter(|(name, target)| *name != app && target.driver == driver);
        let mut waiting = self.newest.into_iter().flat_map(|newest| &newest.wants);
        let wants =
            |target: &Target| self.releases.get(&target.release).is_none_or(|release| release.wants(key));
        self.runtimes.is_name_shared(driver, key)
            && (waiting.any(|(name, keys)| name != app && keys.contains(key))
                || others.any(|(_, target)| wants(target)))
    }

    /// Whether another app may want an object, by all that can be known.
    pub fn may_be_wanted_elsewhere(&self, app: &AppName, driver: DriverName, key: &ObjectKey) -> bool {
        self.is_wanted_elsewhere(app, driver, key)
            || (self.runtimes.is_name_shared(driver, key) && self.is_another_unread(app))
    }

    /// Whether what an app is to have isn't known: it keeps what it has.
    pub fn is_unknown(&self, app: &AppName) -> bool {
        self.newest.is_none_or(|newest| newest.held.contains_key(app))
    }

    /// Whether the documents of another app can't be read: what that one wants isn't known.
    pub fn is_another_unread(&self, app: &AppName) -> bool {
        self.newest.is_some_and(|newest| newest.unread.iter().any(|unread| unread != app))
    }

    /// Whether one of the `others` has an object, or is to have one, that `app` has or is to have. What one of them sees
    /// of it is out of date as soon as the other one acts.
    pub fn shares_any<'a>(&self, app: &AppName, mut others: impl Iterator<Item = &'a AppName>) -> bool {
        // Of most names an app knows that no other one has them.
        let is_anothers = |key: &ObjectKey| self.is_made_besides(app, key) || self.is_run_besides(app, key);
        let own: BTreeSet<_> = self.objects_of(app).filter(|(_, key)| is_anothers(key)).collect();
        let goes_over = |(driver, key): (DriverName, &ObjectKey), other: &AppName| {
            self.runtimes.is_name_shared(driver, key)
                || self.precedes(app, other, driver, key)
                || self.precedes(other, app, driver, key)
        };
        let shares = |other: &AppName| {
            self.objects_of(other).any(|object| own.contains(&object) && goes_over(object, other))
        };
        !own.is_empty() && others.any(|other| other != app && shares(other))
    }

    /// What an app has, or is to have, and what may be another's as well.
    fn objects_of(&self, app: &AppName) -> impl Iterator<Item = (DriverName, &ObjectKey)> {
        let record = self.apps.get(app).into_iter();
        let targets = record.flat_map(|app| [&app.target, &app.current].into_iter().flatten());
        let releases = targets.filter_map(|target| self.releases.get(&target.release));
        let wanted =
            releases.flat_map(|release| release.objects.iter().map(|object| (release.driver, &object.key)));
        let owned = self.inventory.get(app).into_iter().flatten().map(|(key, owned)| (owned.driver, key));
        wanted.chain(owned).filter(|(driver, _)| self.runtimes.moves(*driver))
    }

    /// The apps that would have something back, or have something lent that they could take now: with the next pass
    /// they are looked at, though nothing happened to them.
    pub fn takers(&self) -> BTreeSet<AppName> {
        let takes = |name: &AppName, release: &Release| {
            let driver = release.driver;
            let is_free = |key: &ObjectKey| match self.owner_besides(name, driver, key) {
                Some((owner, _)) => self.may_take(name, owner, driver, key),
                // It made room for what failed.
                None => !self.runtimes.is_name_shared(driver, key),
            };
            let misses = |key: &ObjectKey| !self.owns(name, driver, key) && is_free(key);
            self.runtimes.moves(driver)
                && release
                    .objects
                    .iter()
                    .any(|Object { key, .. }| misses(key) && self.lent_to(name, driver, key).is_none())
        };
        let found =
            self.apps.keys().filter(|name| self.current(name).is_some_and(|release| takes(name, release)));
        found.cloned().collect()
    }
}

fn is_in(release: &Release, driver: DriverName, key: &ObjectKey) -> bool {
    release.driver == driver && release.object(key).is_some()
}

fn has(releases: &Releases, target: &Target, driver: DriverName, key: &ObjectKey) -> bool {
    releases.get(&target.release).is_some_and(|release| is_in(release, driver, key))
}
