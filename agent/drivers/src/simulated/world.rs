//! The simulated runtime itself, without files, clocks or waiting: its objects, and how it answers. The
//! driver wraps it in a folder; a model test drives it directly with time of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_core::clock::Moment;
use holdfast_core::digest::ReleaseId;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, DeviceName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observed};
use holdfast_core::plan::Action;
use holdfast_core::release::{ExecCheck, Object, Release};
use holdfast_core::runtime::DriverName;

pub use super::object::{Applied, Entry, Fault, Seen, StoredObject};
use super::script::{Behaviour, Crash, HealthScript, Reaction, Runtime, Script, annotation};
use crate::ApplyStep;
use crate::diff::difference;

/// Why a removal is refused that the script doesn't let be.
pub const KEPT: &str = "the script says that the runtime does not let it go";

/// The runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The device whose agent asks.
    pub device: DeviceName,
    /// What it holds. A test may put in, change and take out what it likes: that is a hand-made change.
    pub objects: BTreeMap<ObjectKey, Entry>,
    /// How it behaves.
    pub script: Script,
    /// Looks at each app's health, for what flaps.
    looks: BTreeMap<AppName, u64>,
    /// When each release was first not taken yet.
    put_off: BTreeMap<ReleaseId, Moment>,
}

impl World {
    /// An empty runtime.
    pub fn new(device: DeviceName) -> Self {
        World {
            device,
            objects: BTreeMap::new(),
            script: Script::default(),
            looks: BTreeMap::new(),
            put_off: BTreeMap::new(),
        }
    }

    /// Whether it answers at all.
    pub fn reach(&self) -> Result<(), Fault> {
        match &self.script.runtime {
            Runtime::Up => Ok(()),
            Runtime::Hang => Err(Fault::Hang),
            Runtime::Down => Err(Fault::Runtime("the simulated runtime is down, as script.json says".into())),
            Runtime::Broken(why) => Err(Fault::Runtime(format!("the simulated runtime is down: {why}"))),
        }
    }

    /// What is scripted for `release`.
    pub fn behaviour(&self, release: &Release) -> Result<Behaviour, Fault> {
        self.script.behaviour(release).map_err(Fault::Release)
    }

    /// How long a call waits before it begins.
    pub fn delay(&self, release: Option<&Release>) -> Duration {
        let own = release.and_then(|release| self.script.behaviour(release).ok());
        self.script.delay.saturating_add(own.map_or(Duration::ZERO, |behaviour| behaviour.delay))
    }

    /// Whether `release` could run here.
    pub fn check(&self, release: &Release) -> Result<(), Fault> {
        if release.driver != DriverName::SIMULATED {
            return Err(Fault::Release(format!(
                "{} was rendered for {}, and this is the simulated driver",
                release.app, release.driver
            )));
        }
        for (index, object) in release.objects.iter().enumerate() {
            if release.objects[..index].iter().any(|earlier| earlier.key == object.key) {
                return Err(Fault::Release(format!("{} has two objects {}", release.app, object.key)));
            }
        }
        self.behaviour(release).map(drop)
    }

    /// Stages `release`.
    pub fn prepare(&mut self, release: &Release) -> Result<(), Fault> {
        self.reach()?;
        let behaviour = self.behaviour(release)?;
        if behaviour.crash == Some(Crash::Prepare) {
            return Err(Fault::Crash);
        }
        react(behaviour.prepare, || format!("prepare {}", release.app))
    }

    /// Looks at what there is of `app`.
    pub fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, Fault> {
        self.reach()?;
        let mut seen = AppObservation::new();
        if let Some(release) = desired {
            let id = release.id();
            for object in &release.objects {
                seen.insert(object.key.clone(), self.look(app, release, id, object));
            }
        }
        for (key, stored) in self.marked(app).filter(|(key, _)| !seen.contains_key(*key)).collect::<Vec<_>>()
        {
            seen.insert(key.clone(), Observed::Extra { release: Some(stored.release) });
        }
        Ok(seen)
    }

    /// The apps that something of this device exists for.
    pub fn apps(&self) -> Result<Vec<AppName>, Fault> {
        self.reach()?;
        let mut apps: Vec<AppName> = self
            .objects
            .values()
            .filter_map(|entry| match entry {
                Entry::Object(stored) if stored.device == self.device && !stored.orphaned => {
                    Some(stored.app.clone())
                }
                _ => None,
            })
            .collect();
        apps.sort();
        apps.dedup();
        Ok(apps)
    }

    /// What carries this device's mark for `app`, but for what was given up.
    fn marked(&self, app: &AppName) -> impl Iterator<Item = (&ObjectKey, &StoredObject)> {
        self.objects.iter().filter_map(move |(key, entry)| match entry {
            Entry::Object(stored)
                if stored.device == self.device && &stored.app == app && !stored.orphaned =>
            {
                Some((key, &**stored))
            }
            _ => None,
        })
    }

    /// The object under `key` if it is ours and `app`'s; else whose it is.
    fn ours(&self, app: &AppName, key: &ObjectKey) -> Result<Option<&StoredObject>, String> {
        match self.objects.get(key) {
            None => Ok(None),
            Some(Entry::Unreadable(why)) => Err(format!("nobody that can be told: {why}")),
            Some(Entry::Object(stored)) if stored.device != self.device => {
                Err(format!("app {} of device {}", stored.app, stored.device))
            }
            Some(Entry::Object(stored)) if &stored.app != app => {
                Err(format!("app {} of this device", stored.app))
            }
            Some(Entry::Object(stored)) => Ok(Some(stored)),
        }
    }

    /// The object under `key` if another app of this device has it.
    fn anothers(&self, app: &AppName, key: &ObjectKey) -> Option<&StoredObject> {
        match self.objects.get(key) {
            Some(Entry::Object(stored)) if stored.device == self.device && &stored.app != app => Some(stored),
            _ => None,
        }
    }

    /// What is taken over carries the new app's mark from here on.
    fn hand_over(&mut self, step: &ApplyStep<'_>) {
        let Some(from) = step.from else { return };
        if let Some(Entry::Object(stored)) = self.objects.get_mut(step.object)
            && stored.device == self.device
            && &stored.app == from
        {
            stored.app = step.app.clone();
        }
    }

    fn look(&self, app: &AppName, release: &Release, id: ReleaseId, object: &Object) -> Observed {
        if let Some(theirs) = self.anothers(app, &object.key) {
            let immutable =
                is_immutable(theirs, object).then(|| drift(theirs, release, id, object)).flatten();
            return Observed::Another { app: theirs.app.clone(), immutable };
        }
        match self.ours(app, &object.key) {
            Err(owner) => Observed::Foreign { owner },
            Ok(None) => Observed::Absent,
            Ok(Some(stored)) => match drift(stored, release, id, object) {
                None => Observed::Same,
                Some(difference) if is_immutable(stored, object) => Observed::Immutable { difference },
                Some(difference) => {
                    let fixed = annotation(&object.spec, "change") == Some("recreate");
                    Observed::Drift { difference, recreate: stored.half_made || fixed }
                }
            },
        }
    }

    /// Does one step. The same step again comes to the same end.
    pub fn apply(&mut self, now: &Moment, step: &ApplyStep<'_>) -> Applied {
        let reached = self.reach();
        if reached.is_ok() {
            self.hand_over(step);
        }
        let seen = self.seen(step);
        let result = reached.and_then(|()| match step.action {
            Action::Adopt if step.from.is_some() => self.make(now, step, seen),
            Action::Remove | Action::Purge | Action::Orphan => self.let_go(step, seen),
            Action::Adopt => self.adopt(step),
            Action::Create | Action::Update | Action::Recreate => self.make(now, step, seen),
            Action::Forget => Ok("ok"),
            Action::Prepare => Err(Fault::Release(format!("{} cannot be prepared by a step", step.app))),
        });
        Applied { seen, result }
    }

    fn seen(&self, step: &ApplyStep<'_>) -> Seen {
        if let Some((release, object)) =
            step.release.and_then(|release| Some((release, release.object(step.object)?)))
        {
            return Seen::from(&self.look(step.app, release, release.id(), object));
        }
        match self.ours(step.app, step.object) {
            Err(_) => Seen::Foreign,
            Ok(None) => Seen::Absent,
            Ok(Some(_)) => Seen::Extra,
        }
    }

    fn let_go(&mut self, step: &ApplyStep<'_>, seen: Seen) -> Result<&'static str, Fault> {
        match seen {
            Seen::Absent => return Ok("absent"),
            // Ours is gone already, and somebody else took the name.
            Seen::Foreign => return Ok("foreign"),
            Seen::Same | Seen::Drift | Seen::Extra => {}
        }
        if step.action == Action::Remove && self.script.keeps(step.app) {
            return Err(Fault::Stays(format!("{}: {KEPT}", step.object)));
        }
        if step.action != Action::Orphan {
            self.objects.remove(step.object);
        } else if let Some(Entry::Object(stored)) = self.objects.get_mut(step.object) {
            stored.orphaned = true;
        }
        Ok("ok")
    }

    /// Takes what is there into the inventory as it is: its mark is renewed, what it is isn't touched.
    fn adopt(&mut self, step: &ApplyStep<'_>) -> Result<&'static str, Fault> {
        let (app, key) = (step.app, step.object);
        match self.ours(app, key) {
            Err(owner) => return Err(left_alone(app, key, &owner)),
            Ok(None) => return Err(gone(app, key)),
            Ok(Some(_)) => {}
        }
        if let Some(Entry::Object(stored)) = self.objects.get_mut(key) {
            stored.orphaned = false;
            // Without a release it is taken in only to be removed next.
            stored.release = step.release.map_or(stored.release, Release::id);
        }
        Ok("ok")
    }

    fn make(&mut self, now: &Moment, step: &ApplyStep<'_>, seen: Seen) -> Result<&'static str, Fault> {
        let (app, key) = (step.app, step.object);
        let release = step.release.ok_or_else(|| {
            Fault::Release(format!("{key} of {app} cannot be made: the step has no release"))
        })?;
        let object = release
            .object(key)
            .ok_or_else(|| Fault::Release(format!("{key} is not part of the release of {app}")))?;
        self.ours(app, key).map_err(|owner| left_alone(app, key, &owner))?;
        if seen == Seen::Same {
            return Ok("exists");
        }
        if seen == Seen::Absent && step.action == Action::Update {
            return Err(gone(app, key));
        }
        let behaviour = self.behaviour(release)?;
        if behaviour.crash == Some(Crash::Apply) {
            return Err(Fault::Crash);
        }
        let mut half_made = false;
        if let Reaction::NotYet(until) = behaviour.apply {
            self.wait(now, release.id(), until)?;
        }
        if behaviour.apply == Reaction::Partial {
            // The second time finds the half that the first one left, and completes it.
            half_made = !matches!(self.ours(app, key), Ok(Some(stored)) if stored.half_made && stored.release == release.id());
        } else {
            react(behaviour.apply, || format!("apply {key} of {app}"))?;
        }
        self.put(now, step.action, release, object, half_made);
        match behaviour.crash {
            Some(Crash::Applied) => Err(Fault::Crash),
            _ if half_made => Err(Fault::Runtime(format!("the runtime broke off half way through {key}"))),
            _ => Ok("ok"),
        }
    }

    /// Doesn't take `release` until so long after the first try; in another boot that begins anew.
    fn wait(&mut self, now: &Moment, release: ReleaseId, until: Option<Duration>) -> Result<(), Fault> {
        let first = self.put_off.entry(release).or_insert_with(|| now.clone());
        let Some(waited) = now.since(first) else {
            *first = now.clone();
            return Err(not_yet());
        };
        if until.is_some_and(|until| waited >= until) { Ok(()) } else { Err(not_yet()) }
    }

    fn put(&mut self, now: &Moment, action: Action, release: &Release, object: &Object, half_made: bool) {
        let old = match self.objects.remove(&object.key) {
            Some(Entry::Object(old)) if action != Action::Recreate => Some(old),
            _ => None,
        };
        let runs_on = old.as_ref().filter(|old| old.spec == object.spec && old.secrets == release.secrets);
        let stored = StoredObject {
            device: self.device.clone(),
            app: release.app.clone(),
            release: release.id(),
            spec: object.spec.clone(),
            secrets: release.secrets.clone(),
            created: old.as_ref().map_or(now, |old| &old.created).clone(),
            started: runs_on.map_or(now, |old| &old.started).clone(),
            half_made,
            orphaned: false,
        };
        self.objects.insert(object.key.clone(), Entry::Object(Box::new(stored)));
    }

    /// How `release` is.
    pub fn health(&mut self, now: &Moment, release: &Release) -> Health {
        if let Err(fault) = self.reach() {
            tracing::debug!(app = %release.app, ?fault, "the health of a simulated app is not known");
            return Health::Unknown;
        }
        let mut running = Duration::MAX;
        for object in &release.objects {
            match self.ours(&release.app, &object.key) {
                Ok(Some(stored)) if !stored.half_made => {
                    // In another boot it was started when the box was.
                    running = running.min(now.since(&stored.started).unwrap_or(now.uptime));
                }
                Ok(Some(_)) => return Health::Unhealthy { reason: format!("{} is half made", object.key) },
                Ok(None) => return Health::Unhealthy { reason: format!("{} does not exist", object.key) },
                Err(owner) => {
                    return Health::Unhealthy { reason: format!("{} belongs to {owner}", object.key) };
                }
            }
        }
        let looks = self.looks.entry(release.app.clone()).or_default();
        *looks = looks.wrapping_add(1);
        match self.script.behaviour(release) {
            Ok(behaviour) => scripted(behaviour.health, running, *looks),
            Err(why) => Health::Unhealthy { reason: why },
        }
    }

    /// How the program of a health check ends, by the annotation `exec`: its own verdict, if it runs at all.
    pub fn exec(&self, release: &Release, check: &ExecCheck) -> Result<Result<(), String>, Fault> {
        self.reach()?;
        if !matches!(self.ours(&release.app, &check.target), Ok(Some(_))) {
            return Ok(Err(format!("{} does not exist", check.target)));
        }
        Ok(match self.behaviour(release)?.exec {
            Reaction::Fails => Err(format!("{} exited with code 1", check.command.join(" "))),
            Reaction::Hangs => return Err(Fault::Hang),
            Reaction::Works | Reaction::Retry | Reaction::Partial | Reaction::NotYet(_) => Ok(()),
        })
    }

    /// Where an object is reached, by its annotation `address`.
    pub fn address_of(&self, release: &Release, target: &ObjectKey) -> Option<SocketAddr> {
        annotation(&release.object(target)?.spec, "address")?.parse().ok()
    }
}

fn left_alone(app: &AppName, key: &ObjectKey, owner: &str) -> Fault {
    Fault::Runtime(format!(
        "{key} of {app} was not changed: it belongs to {owner}; remove it by hand or give the app's object another name"
    ))
}

fn gone(app: &AppName, key: &ObjectKey) -> Fault {
    Fault::Runtime(format!("{key} of {app} no longer exists: look again"))
}

fn not_yet() -> Fault {
    Fault::NotYet("the script says that the runtime does not take it yet".to_owned())
}

/// Whether what is there differs in what its script says can't be changed.
fn is_immutable(stored: &StoredObject, object: &Object) -> bool {
    annotation(&object.spec, "change") == Some("immutable")
        && !stored.half_made
        && difference(&stored.spec, &object.spec, false).is_some()
}

/// In what an object differs from what it should be.
fn drift(stored: &StoredObject, release: &Release, id: ReleaseId, object: &Object) -> Option<String> {
    let values = object.key.kind != "Secret";
    difference(&stored.spec, &object.spec, values)
        .or_else(|| stored.half_made.then(|| "it is half made".to_owned()))
        .or_else(|| (stored.secrets != release.secrets).then(|| "a secret of it has changed".to_owned()))
        .or_else(|| stored.orphaned.then(|| "it had been given up".to_owned()))
        .or_else(|| {
            (stored.release != id).then(|| format!("it carries the mark of release {}", stored.release))
        })
}

fn react(reaction: Reaction, what: impl FnOnce() -> String) -> Result<(), Fault> {
    match reaction {
        // Of the others is seen to where they count.
        Reaction::Works | Reaction::Partial | Reaction::NotYet(_) => Ok(()),
        Reaction::Fails => {
            Err(Fault::Release(format!("the script says that the runtime refuses to {}", what())))
        }
        Reaction::Retry => {
            Err(Fault::Runtime(format!("the script says that the runtime is too busy to {}", what())))
        }
        Reaction::Hangs => Err(Fault::Hang),
    }
}

fn scripted(script: HealthScript, running: Duration, looks: u64) -> Health {
    let ill = |why: &str| Health::Unhealthy { reason: format!("the script says so: {why}") };
    let starting = || Health::Starting { reason: "the script says that it takes its time".to_owned() };
    match script {
        HealthScript::Healthy => Health::Healthy,
        HealthScript::Unhealthy => ill("unhealthy"),
        HealthScript::Never => starting(),
        HealthScript::Flapping if looks.is_multiple_of(2) => ill("flapping"),
        HealthScript::Flapping => Health::Healthy,
        HealthScript::Slow(after) if running < after => starting(),
        HealthScript::Slow(_) => Health::Healthy,
        HealthScript::Dies(after) if running >= after => ill("it has died"),
        HealthScript::Dies(_) => Health::Healthy,
    }
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
