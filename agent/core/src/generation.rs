//! The generation: every app of this box, and what a newly resolved revision changes about it.

pub mod group;
pub mod handover;
pub mod holders;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::app::{App, Phase};
use crate::change::PruneLimit;
use crate::clock::Now;
use crate::digest::ReleaseId;
use crate::held::Held;
use crate::name::{AppName, ObjectKey};
use crate::release::{JudgedBy, Release, Target};
use crate::resolve::Resolved;
use crate::runtime::DriverName;

use self::handover::Handovers;

/// All apps of the box.
pub type Apps = BTreeMap<AppName, App>;

/// Releases that failed on this box. They are not tried again.
pub type Failed = BTreeMap<AppName, BTreeMap<ReleaseId, Failure>>;

/// How a release failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Why, for people.
    pub reason: String,
    /// What it was judged by: by another policy it may do. None if the runtime refused it, whatever the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<JudgedBy>,
}

/// An object that we made, or are about to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owned {
    /// The runtime that holds it.
    pub driver: DriverName,
    /// Since when no app wants it any more. It holds data: it is listed, and never removed automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphaned: Option<Timestamp>,
    /// How much time the box had seen by then ([`Now::seen`]): its grace time is counted from there.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub seen: Duration,
}

impl Owned {
    /// Made for an app that wants it.
    pub fn by(driver: DriverName) -> Self {
        Owned { driver, orphaned: None, seen: Duration::ZERO }
    }

    /// Whether it is to go: it is no orphan, and not what `release` is to have under this name.
    pub fn is_unwanted(&self, key: &ObjectKey, release: Option<&Release>) -> bool {
        let wants = |release: &Release| release.driver == self.driver && release.wants(key);
        self.orphaned.is_none() && !release.is_some_and(wants)
    }
}

/// What we made for one app, as it is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnedObjects(pub BTreeMap<ObjectKey, Owned>);

/// What we made, app by app. Written before an object is made, and cleared after it is gone.
pub type Inventory = BTreeMap<AppName, BTreeMap<ObjectKey, Owned>>;

/// What [`advance`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advance {
    /// The apps whose record changed.
    pub changed: BTreeSet<AppName>,
    /// Apps that stay although the revision no longer has them, and why.
    pub kept: BTreeMap<AppName, Held>,
    /// Something waits for nothing but leave to change: a removal, or what comes after a verdict.
    pub withheld: bool,
}

/// Brings a resolved revision to the apps: places what it wants, withdraws what it no longer has. An app
/// whose documents are faulty stays as it is. While changes are `withheld`, nothing is withdrawn; while something may
/// have to wait for long (`defers`), what is being judged gets its verdict before its successor takes its place. What
/// hands objects over stays until these are well where they go.
pub fn advance(
    apps: &mut Apps,
    resolved: &Resolved,
    failed: &Failed,
    withheld: Option<&Held>,
    defers: bool,
    handovers: &Handovers,
    now: &Now,
) -> Advance {
    let mut advance = Advance::default();
    // Looked at before the first of them is changed: a group is judged as it was.
    let failing: BTreeMap<&AppName, (String, bool)> = resolved
        .apps
        .iter()
        .filter_map(|(name, target)| {
            let reason = group::failure(name, target, resolved, failed)?;
            let stays = apps.get(name).is_some_and(|app| group::stays(app, apps));
            Some((name, (reason, stays)))
        })
        .collect();
    let in_between = if defers { group::in_between(apps, resolved) } else { BTreeSet::new() };
    let is_deferred = |app: &App, target: &Target| {
        defers && (app.is_in_between(target) || app.group().is_some_and(|group| in_between.contains(group)))
    };
    for (name, target) in &resolved.apps {
        let reason = failing.get(name).map(|(reason, _)| reason.as_str());
        match apps.get_mut(name) {
            Some(app) if is_deferred(app, target) => advance.withheld |= withheld.is_some(),
            // A way back goes on for as long as nothing else may be changed.
            Some(app) if defers && matches!(app.phase, Phase::RollingBack { .. }) => app.renew_policy(target),
            Some(app) => {
                let before = app.clone();
                let stays = failing.get(name).is_some_and(|(_, stays)| *stays);
                app.place(target, reason, stays, now);
                if *app != before {
                    advance.changed.insert(name.clone());
                }
            }
            // A new member comes with its group.
            None if target.policy.group.as_ref().is_some_and(|group| in_between.contains(group)) => {
                advance.withheld |= withheld.is_some();
            }
            None => {
                apps.insert(name.clone(), App::placed(target, reason, now));
                advance.changed.insert(name.clone());
            }
        }
    }
    withdraw(apps, resolved, withheld, handovers, now, &mut advance);
    advance
}

fn withdraw(
    apps: &mut Apps,
    resolved: &Resolved,
    withheld: Option<&Held>,
    handovers: &Handovers,
    now: &Now,
    advance: &mut Advance,
) {
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
    let limit = &resolved.policy.prune;
    // What goes over to other apps as a whole isn't removed.
    let removed = going.iter().filter(|name| !handovers.is_whole(name)).count();
    for name in going.iter() {
        if !handovers.is_whole(name) && !limit.allows(removed, present) {
            advance.kept.insert(name.clone(), prune_held(removed, present, limit));
        } else if let Some(held) = handovers.holds(name, apps).or_else(|| handovers.unread(resolved)) {
            advance.kept.insert(name.clone(), held);
        } else if let Some(held) = withheld {
            advance.withheld = true;
            advance.kept.insert(name.clone(), held.clone());
        } else if let Some(app) = apps.get_mut(name) {
            app.withdraw(now);
            advance.changed.insert(name.clone());
        }
    }
}

fn prune_held(going: usize, present: usize, limit: &PruneLimit) -> Held {
    Held::until_changed(
        format!(
            "the revision would prune {going} of {present} apps; policy.prune allows {} app(s) or {} %, whichever is \
             more",
            limit.max_apps, limit.max_share_percent
        ),
        "restore the apps in a new commit, or raise policy.prune where it is set (in holdfast.yaml, by default), in \
         the same commit that removes them",
    )
}

/// Apps whose documents are faulty, and why.
pub type Faulty = BTreeMap<AppName, Held>;

/// What decides whose turn it is.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Apps whose documents are faulty.
    pub faulty: &'a Faulty,
    /// What goes from app to app.
    pub handovers: Option<&'a Handovers>,
}

impl<'a> From<&'a Faulty> for Order<'a> {
    fn from(faulty: &'a Faulty) -> Self {
        Order { faulty, handovers: None }
    }
}

/// Why a prepared app has to wait for others; `None` when its turn has come.
pub fn waits_for<'a>(name: &AppName, app: &App, apps: &Apps, order: impl Into<Order<'a>>) -> Option<Held> {
    let order = order.into();
    let target = app.target.as_ref()?;
    let on = target.policy.depends_on.iter().find_map(|name| match apps.get(name) {
        Some(other) if other.converged() => None,
        // Of one group: they are good together.
        Some(other) if other.has_passed() && other.group().is_some() && other.group() == app.group() => None,
        Some(other) => Some(Held::until_changed(
            format!("waiting for the app {name} (dependsOn), which is {}", other.phase.word()),
            match cause_of(name, apps) {
                Some(root) if root == name => {
                    format!("{name} has failed and must become good first: see what is held for {name}")
                }
                Some(root) => format!(
                    "{name} must become good first, but it waits for {root}, which has failed: see what is held \
                     for {root}"
                ),
                None => format!("nothing to do here: it continues when {name} is good"),
            },
        )),
        None => Some(Held::until_changed(
            format!("it depends on the app {name}, which is not on this box"),
            format!("place {name} on this box, or remove it from dependsOn"),
        )),
    });
    let lends = || order.handovers.and_then(|handovers| handovers.holds(name, apps));
    on.or_else(|| group::waits(app, apps, order)).or_else(lends)
}

/// The app for which somebody must do something before `name` is good: itself, or one that it depends on.
fn cause_of<'a>(name: &'a AppName, apps: &'a Apps) -> Option<&'a AppName> {
    let mut seen = BTreeSet::new();
    let mut next = vec![name];
    while let Some(name) = next.pop() {
        let Some(app) = apps.get(name).filter(|_| seen.insert(name)) else { continue };
        if matches!(app.phase, Phase::RolledBack { .. } | Phase::Held { .. }) {
            return Some(name);
        }
        next.extend(app.target.iter().flat_map(|target| &target.policy.depends_on));
    }
    None
}

/// The prepared apps whose turn has come, in order of their dependencies.
pub fn ready<'a>(apps: &Apps, by: impl Into<Order<'a>>, now: &Now) -> Vec<AppName> {
    let by = by.into();
    order(apps)
        .into_iter()
        .filter(|name| apps.get(name).is_some_and(|app| is_ready(name, app, apps, by, now)))
        .collect()
}

/// Whether the turn of an app has come.
pub fn is_ready<'a>(name: &AppName, app: &App, apps: &Apps, by: impl Into<Order<'a>>, now: &Now) -> bool {
    app.phase == Phase::Pending && !app.waits(&now.moment) && waits_for(name, app, apps, by).is_none()
}

/// What an app depends on and what is being changed at the moment: how the app fares meanwhile is no fault of its
/// own.
pub fn shaken_by<'a>(app: &'a App, apps: &Apps) -> Option<&'a AppName> {
    let needs = app.current.iter().flat_map(|current| &current.policy.depends_on);
    needs.into_iter().find(|name| {
        apps.get(*name).is_some_and(|other| match &other.phase {
            Phase::Applying | Phase::RollingBack { .. } => true,
            Phase::Judging(judging) => !judging.has_passed(),
            _ => false,
        })
    })
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
