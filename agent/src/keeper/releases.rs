//! The keeper's releases: those that an app may come to run in full, and of others that stay on disk only what they need
//! there. An app of 500 objects takes some megabytes of memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_core::app::App;
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::generation::Apps;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::Release;
use holdfast_core::resolve::Resolved;

use super::{Journal, Keeper};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Releases {
    whole: BTreeMap<ReleaseId, Arc<Release>>,
    /// The artifacts of each release that no app may come to run by itself: the good one before the good one.
    former: BTreeMap<ReleaseId, BTreeSet<Digest>>,
}

impl Releases {
    /// Those that `apps` name, each read by `read`, which may not find it.
    pub(super) fn load(apps: &Apps, mut read: impl FnMut(&ReleaseId) -> Option<Release>) -> Releases {
        let mut releases = Releases::default();
        let Named { runnable, pinned } = Named::by(apps, None);
        for id in pinned {
            let Some(release) = read(&id) else { continue };
            if runnable.contains(&id) {
                releases.whole.insert(id, Arc::new(release));
            } else {
                releases.former.insert(id, release.artifacts);
            }
        }
        releases
    }

    /// Those of `resolved` that aren't here.
    pub(super) fn lacks(&self, resolved: &Resolved) -> Vec<Arc<Release>> {
        let new = resolved.releases.iter().filter(|(id, _)| self.get(id).is_none());
        new.map(|(_, release)| Arc::clone(release)).collect()
    }

    /// Takes in those of `resolved` that aren't here: copies, which have no room to spare and lie together. What was parsed
    /// lies among all that parsing needed.
    pub(super) fn copy(&mut self, resolved: &Resolved) {
        for (id, release) in &resolved.releases {
            self.whole.entry(*id).or_insert_with(|| Arc::new(Release::clone(release)));
        }
    }

    /// Lets go of what neither `apps` nor `resolved` name any more; gives whether any isn't whole any more.
    pub(super) fn keep_only(&mut self, apps: &Apps, resolved: Option<&Resolved>) -> bool {
        let Named { runnable, pinned } = Named::by(apps, resolved);
        let before = self.whole.len();
        for (id, release) in self.whole.extract_if(.., |id, _| !runnable.contains(id)) {
            self.former.insert(id, release.artifacts.clone());
        }
        self.former.retain(|id, _| pinned.contains(id) && !self.whole.contains_key(id));
        self.whole.len() != before
    }

    /// Those that an app may come to run.
    pub(super) fn whole(&self) -> &BTreeMap<ReleaseId, Arc<Release>> {
        &self.whole
    }

    /// The release `id`, if an app may come to run it.
    pub(super) fn get(&self, id: &ReleaseId) -> Option<&Arc<Release>> {
        self.whole.get(id)
    }

    /// What must stay on disk for all of them: what they need, and they themselves.
    pub(super) fn on_disk(&self) -> impl Iterator<Item = Digest> + '_ {
        let whole = self.whole.iter().map(|(id, release)| (id, &release.artifacts));
        let all = whole.chain(&self.former);
        all.flat_map(|(id, artifacts)| artifacts.iter().copied().chain([id.0]))
    }
}

impl<J: Journal> Keeper<J> {
    /// Every digest that must stay on disk: for what is to be, and for what would be again after a crash.
    pub fn pinned(&self) -> BTreeSet<Digest> {
        let mut pinned = self.pinned_now();
        pinned.extend(&self.pinned_on_disk);
        pinned
    }

    /// Whether everything of what an app should run is listed as made.
    pub(super) fn is_all_here(&self, name: &AppName, app: &App) -> bool {
        let release = app.current.as_ref().and_then(|target| self.releases.get(&target.release));
        let owned = self.inventory.get(name);
        release.is_some_and(|release| {
            let is_here = |key: &ObjectKey| owned.is_some_and(|owned| owned.contains_key(key));
            release.objects.iter().all(|object| is_here(&object.key))
        })
    }

    pub(super) fn pinned_now(&self) -> BTreeSet<Digest> {
        // Probes belong to the policy: a release may come to be judged by others while it runs.
        let resolved = self.resolved.iter().flat_map(|resolved| resolved.apps.values());
        let targets = self.apps.values().flat_map(App::targets).chain(resolved);
        let probes = targets.flat_map(|target| target.policy.components().copied());
        self.releases.on_disk().chain(probes).collect()
    }

    /// The releases that needn't be pinned again.
    pub fn releases_at_hand(&self) -> BTreeSet<ReleaseId> {
        self.releases.whole().keys().copied().collect()
    }

    /// Takes in the releases of a revision.
    pub(super) fn take_in(&mut self, resolved: &Resolved) {
        self.releases.copy(resolved);
        self.holders.rendered(self.releases.whole());
    }

    /// Lets go of releases that no app names any more.
    pub(super) fn forget_releases(&mut self) {
        if self.releases.keep_only(&self.apps, self.resolved.as_ref()) {
            self.holders.rendered(self.releases.whole());
        }
    }
}

/// The releases that somebody names.
struct Named {
    runnable: BTreeSet<ReleaseId>,
    pinned: BTreeSet<ReleaseId>,
}

impl Named {
    fn by(apps: &Apps, resolved: Option<&Resolved>) -> Named {
        let new =
            resolved.into_iter().flat_map(|resolved| resolved.apps.values().map(|target| target.release));
        Named {
            runnable: apps.values().flat_map(App::runnable).chain(new).collect(),
            pinned: apps.values().flat_map(App::pinned).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use holdfast_core::change::ChangePolicy;
    use holdfast_core::clock::{BootId, Moment, Now};
    use holdfast_core::digest::Revision;
    use holdfast_core::release::{
        HealthPolicy, Immutable, OnFailure, Policy, Strategy, Target, WorkloadKind,
    };
    use holdfast_core::runtime::DriverName;
    use jiff::Timestamp;

    use super::*;

    fn release(name: &str) -> Release {
        Release {
            app: "pos".parse().unwrap(),
            driver: DriverName::SIMULATED,
            objects: Vec::new(),
            artifacts: [Digest::of(name.as_bytes())].into(),
            secrets: BTreeMap::new(),
            account: None,
        }
    }

    fn target(release: &Release) -> Target {
        Target {
            release: release.id(),
            kind: WorkloadKind::Container,
            driver: release.driver,
            policy: Policy {
                depends_on: BTreeSet::new(),
                health: HealthPolicy::default(),
                on_failure: OnFailure::Rollback,
                strategy: Strategy::StopStart,
                irreversible: false,
                immutable: Immutable::Hold,
                group: None,
            },
            revision: Revision("r".into()),
        }
    }

    /// One app that runs `good`, and had `before` before that.
    fn apps(good: &Release, before: &Release) -> Apps {
        let moment = Moment { boot: BootId("b".into()), uptime: Duration::ZERO };
        let mut app = App::placed(&target(good), None, &Now::certain(Timestamp::UNIX_EPOCH, moment));
        app.good = app.target.clone();
        app.current = app.target.clone();
        app.previous = Some(target(before));
        Apps::from([(good.app.clone(), app)])
    }

    /// Which are whole, and what stays on disk.
    fn of(releases: &Releases) -> (Vec<ReleaseId>, BTreeSet<Digest>) {
        (releases.whole().keys().copied().collect(), releases.on_disk().collect())
    }

    #[test]
    fn a_release_that_only_stays_on_disk_is_not_kept_whole_and_all_that_it_needs_stays_there() {
        let [one, two] = ["one", "two"].map(release);
        let on_disk = [one.id().0, two.id().0, Digest::of(b"one"), Digest::of(b"two")].into();
        let kept = (vec![two.id()], on_disk);
        let apps = apps(&two, &one);
        let mut releases = Releases::default();
        let take = |releases: &mut Releases, new: &Release| {
            let of_it = BTreeMap::from([(new.id(), Arc::new(new.clone()))]);
            let resolved = Resolved {
                revision: Revision("r".into()),
                apps: BTreeMap::new(),
                releases: of_it,
                held: BTreeMap::new(),
                unread: Default::default(),
                wants: Default::default(),
                policy: ChangePolicy::default(),
            };
            assert_eq!(releases.lacks(&resolved).len(), 1);
            releases.copy(&resolved);
            assert_eq!(releases.lacks(&resolved), []);
        };
        take(&mut releases, &one);
        take(&mut releases, &two);
        releases.keep_only(&apps, None);
        assert_eq!(of(&releases), kept);
        // And the same at the next start.
        let all = [&one, &two];
        let read = |id: &ReleaseId| all.iter().find(|each| each.id() == *id).map(|each| (*each).clone());
        assert_eq!(of(&Releases::load(&apps, read)), kept);

        // A revision brings it again, and then it is gone for good.
        take(&mut releases, &one);
        releases.keep_only(&self::apps(&one, &two), None);
        assert_eq!(releases.whole().keys().copied().collect::<Vec<_>>(), [one.id()]);
        releases.keep_only(&self::apps(&one, &one), None);
        assert_eq!(of(&releases), (vec![one.id()], [one.id().0, Digest::of(b"one")].into()));
    }
}
