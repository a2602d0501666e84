//! The generation: every app that this box holds, and what a newly resolved revision makes of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::app::{App, Phase};
use crate::clock::Now;
use crate::digest::ReleaseId;
use crate::held::Held;
use crate::name::{AppName, ObjectKey};
use crate::release::DriverKind;
use crate::resolve::Resolved;

/// All apps of the box.
pub type Apps = BTreeMap<AppName, App>;

/// Releases that failed on this box, with why. They are not tried again.
pub type Failed = BTreeMap<AppName, BTreeMap<ReleaseId, String>>;

/// An object that we made, or are about to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owned {
    /// The runtime that holds it.
    pub driver: DriverKind,
    /// No app wants it any more, and it holds data: it is listed, and never removed automatically.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphaned: bool,
}

/// What we made for one app, as it is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnedObjects(pub BTreeMap<ObjectKey, Owned>);

/// What we made, app by app. Written before an object is made, and cleared after it is gone.
pub type Inventory = BTreeMap<AppName, BTreeMap<ObjectKey, Owned>>;

/// How much a plan may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneLimit {
    /// So many apps may always go at once.
    pub max_apps: usize,
    /// And so many in a hundred of those that are here.
    pub max_share_percent: u32,
}

impl Default for PruneLimit {
    fn default() -> Self {
        PruneLimit { max_apps: 1, max_share_percent: 25 }
    }
}

impl PruneLimit {
    /// Whether `going` apps of `present` may be removed: only what is over both limits is held.
    pub fn allows(&self, going: usize, present: usize) -> bool {
        going <= self.max_apps || going * 100 <= present * self.max_share_percent as usize
    }
}

/// What [`advance`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advance {
    /// The apps whose record changed.
    pub changed: BTreeSet<AppName>,
    /// Apps that stay although the revision no longer has them, and why.
    pub kept: BTreeMap<AppName, Held>,
}

/// Brings a resolved revision to the apps: places what it wants, withdraws what it no longer has. An app
/// whose documents are faulty stays as it is.
pub fn advance(apps: &mut Apps, resolved: &Resolved, failed: &Failed, now: &Now) -> Advance {
    let mut advance = Advance::default();
    for (name, target) in &resolved.apps {
        let reason = failed.get(name).and_then(|failed| failed.get(&target.release)).map(String::as_str);
        match apps.get_mut(name) {
            Some(app) => {
                let before = app.clone();
                app.place(target, reason, now);
                if *app != before {
                    advance.changed.insert(name.clone());
                }
            }
            None => {
                apps.insert(name.clone(), App::placed(target, reason, now));
                advance.changed.insert(name.clone());
            }
        }
    }
    withdraw(apps, resolved, now, &mut advance);
    advance
}

fn withdraw(apps: &mut Apps, resolved: &Resolved, now: &Now, advance: &mut Advance) {
    let going: Vec<AppName> = apps
        .iter()
        .filter(|(name, app)| {
            app.phase != Phase::Removing
                && !resolved.apps.contains_key(*name)
                && !resolved.held.contains_key(*name)
        })
        .map(|(name, _)| name.clone())
        .collect();
    let present = apps.values().filter(|app| app.phase != Phase::Removing).count();
    let allowed = resolved.policy.prune.allows(going.len(), present);
    for name in &going {
        if allowed {
            if let Some(app) = apps.get_mut(name) {
                app.withdraw(now);
                advance.changed.insert(name.clone());
            }
        } else {
            advance.kept.insert(name.clone(), prune_held(going.len(), present, &resolved.policy.prune));
        }
    }
}

fn prune_held(going: usize, present: usize, limit: &PruneLimit) -> Held {
    Held::until_changed(
        format!(
            "the revision would remove {going} of {present} apps; the Fleet's policy.prune allows {} app(s) or {} %",
            limit.max_apps, limit.max_share_percent
        ),
        "bring the apps back, or raise spec.policy.prune in holdfast.yaml in the same commit that removes them",
    )
}

/// Why a prepared app has to wait for another; `None` when its turn has come.
pub fn waits_for(app: &App, apps: &Apps) -> Option<Held> {
    let target = app.target.as_ref()?;
    target.policy.depends_on.iter().find_map(|name| match apps.get(name) {
        Some(other) if other.converged() => None,
        Some(other) => Some(Held::until_changed(
            format!("it waits for the app {name}, which is {}", other.phase.word()),
            format!("nothing to do here: it goes on when {name} is good"),
        )),
        None => Some(Held::until_changed(
            format!("it depends on the app {name}, which is not on this box"),
            format!("place {name} on this box, or take it out of dependsOn"),
        )),
    })
}

/// The prepared apps whose turn has come, in order of their dependencies.
pub fn ready(apps: &Apps, now: &Now) -> Vec<AppName> {
    order(apps)
        .into_iter()
        .filter(|name| {
            apps.get(name).is_some_and(|app| {
                app.phase == Phase::Pending && !app.waits(&now.moment) && waits_for(app, apps).is_none()
            })
        })
        .collect()
}

/// The apps in order of their dependencies, those that depend on nothing first, else by name. Documents
/// with a cycle are refused before; where one came about by parts of several revisions, the rest of the
/// names follow in order.
pub fn order(apps: &Apps) -> Vec<AppName> {
    let mut waiting: BTreeMap<&AppName, BTreeSet<&AppName>> = apps
        .iter()
        .map(|(name, app)| {
            let policy = app.current.as_ref().or(app.target.as_ref()).map(|target| &target.policy);
            let needs = policy.into_iter().flat_map(|policy| &policy.depends_on);
            (name, needs.filter(|need| apps.contains_key(*need)).collect())
        })
        .collect();
    let mut ordered = Vec::with_capacity(apps.len());
    while !waiting.is_empty() {
        let mut free: Vec<&AppName> =
            waiting.iter().filter(|(_, needs)| needs.is_empty()).map(|(name, _)| *name).collect();
        if free.is_empty() {
            free = waiting.keys().copied().collect();
        }
        for name in &free {
            waiting.remove(*name);
        }
        for needs in waiting.values_mut() {
            needs.retain(|need| !free.contains(need));
        }
        ordered.extend(free.into_iter().cloned());
    }
    ordered
}

#[cfg(test)]
mod tests;
