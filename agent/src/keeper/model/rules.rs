//! The rules that hold after every step of a history, and at its end.

use holdfast_core::generation::advance;
use holdfast_core::generation::handover::Handovers;
use holdfast_core::generation::holders::Holders;
use holdfast_core::name::ObjectKey;

use super::*;

impl History {
    /// The rules that hold after every step.
    pub(super) fn check(&mut self) {
        let shared = self.shared.lock().unwrap();
        let disk = self.disk.lock().unwrap();
        assert!(
            shared.world.objects.contains_key(&key("Deployment/somebody")),
            "somebody else's was removed"
        );
        for done in &shared.done[self.checked..] {
            // What has begun can't be called back.
            let is_news = done.begun == self.played;
            assert!(
                done.action != Action::Create || done.seen_absent,
                "{} was created without having been seen absent",
                done.object
            );
            if done.removed && is_news && self.is_placed {
                self.check_removal(&done.object, &done.app);
            }
            assert!(
                !(done.action == Action::Remove && done.object.holds_data()),
                "{} holds data and was removed",
                done.object
            );
            let purges = done.action == Action::Purge && is_news;
            assert!(!purges || self.purge, "nobody asked for {} to go", done.object);
            let apps = disk.loaded.apps.values();
            let targets = apps.flat_map(|app| [&app.target, &app.current, &app.good]).flatten();
            let mut wanted = targets.filter_map(|target| disk.releases.get(&target.release));
            assert!(
                !purges || !wanted.any(|release| release.object(&done.object).is_some()),
                "{} was purged and is wanted",
                done.object
            );
        }
        for app in disk.loaded.apps.values() {
            for kept in [&app.good, &app.previous].into_iter().flatten() {
                assert!(disk.releases.contains_key(&kept.release), "a good release is not on disk");
            }
            let stands = [&app.target, &app.good]
                .into_iter()
                .flatten()
                .any(|t| app.current.as_ref().is_none_or(|current| current.release == t.release));
            assert!(
                stands
                    || matches!(
                        app.phase,
                        Phase::Preparing | Phase::Pending | Phase::Held { .. } | Phase::Removing
                    ),
                "{:?} runs what it neither wants nor knows as good",
                app.phase
            );
        }
        let mut failures = disk.loaded.failed.values().flat_map(BTreeMap::values);
        assert!(
            !failures.any(|failure| failure.reason.contains(KEPT)),
            "a release failed by what it left over"
        );
        self.check_group(&disk);
        if let Some(keeper) = &self.keeper {
            assert_eq!(keeper.holders, Holders::of(keeper.releases.whole(), &keeper.inventory));
            check_advanced(keeper, &self.now());
        }
        drop((shared, disk));
        self.checked = self.shared.lock().unwrap().done.len();
    }

    /// Nothing is removed that another app is to have, and nothing of an app that was good before the newest commit
    /// doesn't have it any more, and before all of that was read.
    fn check_removal(&self, object: &ObjectKey, by: &AppName) {
        for (what, home) in ROAMS.iter().zip(self.homes) {
            let is_wanted = self.commit.get(home).is_some_and(|says| matches!(says, Says::Version(..)));
            assert!(
                *object != key(what) || !is_wanted || name(home) == *by,
                "{object} was removed by {by}, and another app wants it"
            );
        }
        // A box that has lost its store knows of no last known good: what fails then leaves nothing.
        let was_good = self.good_before.get(by).is_some_and(Option::is_some)
            && !self.going_before.contains(by)
            && !self.has_forgotten;
        let all_read = !self.commit.iter().any(|says| matches!(says, Says::Faulty | Says::Misnamed));
        for (app, says) in self.commit.iter().enumerate().filter(|(app, _)| name(*app) == *by) {
            let is_own = *object == key(&format!("Deployment/{}", APPS[app]));
            assert!(
                !is_own || !was_good || (matches!(says, Says::Nothing) && all_read),
                "{object} was removed by {by}, of which the commit says {says:?}"
            );
        }
    }

    /// Of a group nothing new is good while something of it has failed.
    fn check_group(&self, disk: &Disk) {
        let resolved = self.resolved();
        let wanted = |app: &str| resolved.apps.get(&app.parse::<AppName>().unwrap()).map(|t| t.release);
        let has_failed = |app: &str| {
            let failed = disk.loaded.failed.get(&app.parse::<AppName>().unwrap());
            wanted(app).is_some_and(|release| failed.is_some_and(|failed| failed.contains_key(&release)))
        };
        let good_in = |app: &AppName| disk.loaded.apps.get(app).and_then(good_of);
        let is_new = |app: &AppName| good_in(app) != self.good_before.get(app).copied().flatten();
        for (one, other) in [(GROUP[0], GROUP[1]), (GROUP[1], GROUP[0])] {
            let (failed, other): (AppName, AppName) = (one.parse().unwrap(), other.parse().unwrap());
            if !has_failed(one) {
                continue;
            }
            let is_wanted = good_in(&other).is_some() && good_in(&other) == wanted(other.as_str());
            // What both were before may have been found good, of both, after the commit came and before it was placed.
            assert!(
                !is_wanted || !is_new(&other) || is_new(&failed),
                "{other} is good, and {one} of its group has failed"
            );
        }
    }

    /// A release that failed is not put in place again, unless it is the last known good.
    pub(super) fn check_failed(&self, before: &Failed, held: &BTreeMap<AppName, ReleaseId>, from: usize) {
        let (shared, disk) = (self.shared.lock().unwrap(), self.disk.lock().unwrap());
        for done in shared.done[from..].iter().filter(|done| done.begun == self.played) {
            let Some(release) = done.release else { continue };
            let failed = before.get(&done.app).is_some_and(|failed| failed.contains_key(&release));
            let app = disk.loaded.apps.get(&done.app);
            let is_good =
                app.is_some_and(|app| app.good.as_ref().is_some_and(|good| good.release == release));
            // What isn't to go back is kept as it is.
            let is_held = held.get(&done.app) == Some(&release);
            assert!(
                !failed || is_good || is_held || done.action == Action::Adopt,
                "{} was tried again: {done:?}",
                release
            );
        }
    }

    /// With everything well again, the box ends at the newest good commit.
    pub(super) async fn ends_well(&mut self) {
        // One more commit: what has begun before it can't be called back.
        self.played += 1;
        self.shared.lock().unwrap().world.script.runtime = RuntimeIs::Up;
        self.keep(false);
        self.fuse.set(None);
        self.disk.lock().unwrap().is_full = false;
        self.permit = Permit::default();
        self.pending.pace = 0;
        let says: Vec<Says> = (0..5)
            .map(|app| Says::Version(100 + app as u8 * 2 + (self.revisions % 2) as u8, Kind::Good))
            .collect();
        // What roams goes to the next app once more.
        self.homes = self.homes.map(|home| (home + 1) % APPS.len());
        self.push(says.try_into().unwrap());
        self.live(900).await;
        self.check();
        let disk = self.disk.lock().unwrap();
        let shared = self.shared.lock().unwrap();
        for (name, target) in &self.resolved().apps {
            let app = &disk.loaded.apps[name];
            let log: Vec<_> = disk
                .notes
                .iter()
                .map(|note| format!("{} {:?} {}", note.kind, note.app, note.message))
                .collect();
            assert_eq!(
                app.phase,
                Phase::Good,
                "{name}: {:?}, {:?}; its log: {:#?}",
                app.stuck,
                self.keeper.as_ref().and_then(|keeper| keeper.held(name, &self.now())),
                &log[log.len().saturating_sub(40)..]
            );
            assert_eq!(app.good.as_ref().unwrap().release, target.release, "{name}");
            for object in &disk.releases[&target.release].objects {
                let Some(Entry::Object(there)) = shared.world.objects.get(&object.key) else {
                    panic!("{} is not there", object.key)
                };
                assert_eq!(there.spec, object.spec);
            }
        }
        let ours = shared.world.objects.iter().filter(|(key, _)| key.name != "somebody" && !key.holds_data());
        for (key, _) in ours {
            let known = disk.loaded.inventory.values().any(|owned| owned.contains_key(key));
            let wanted = self.resolved().releases.values().any(|release| release.object(key).is_some());
            assert!(known && wanted, "{key} was left over");
        }
    }
}

/// Where a pass would not bring the revision to the apps again, that would change nothing.
fn check_advanced(keeper: &Keeper<Memory>, now: &Now) {
    let Some(resolved) = &*keeper.resolved else { return };
    if keeper.advanced != Some(keeper.basis()) {
        return;
    }
    let mut apps = keeper.apps.clone();
    let handovers = Handovers::of(keeper.claims(&apps), resolved);
    assert_eq!(handovers, keeper.handovers);
    let withheld = keeper.permit.apply.as_ref();
    let defers = withheld.is_some() || keeper.permit.download.is_some();
    let again = advance(&mut apps, resolved, &keeper.failed, withheld, defers, &handovers, now);
    assert_eq!((again.changed.len(), &again.kept), (0, &keeper.kept));
    assert_eq!(again.withheld, keeper.withheld);
}
