//! The plan: a readable value that says everything that will be done, and why. The executor only walks it.

mod purge;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::app::{App, Phase};
use crate::contention::can_stand_beside;
use crate::digest::ReleaseId;
use crate::generation::handover::Claims;
use crate::generation::holders::Holders;
use crate::generation::{Apps, Inventory, Owned, order};
use crate::held::Held;
use crate::name::{AppName, ObjectKey};
use crate::observe::{AppObservation, Observations, Observed};
use crate::release::{Immutable, Object, Release, Target};
use crate::resolve::Resolved;
use crate::runtime::{DriverName, Runtimes};

pub use purge::{Orphan, orphans, purges};

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Fetch and stage what the release needs. Disturbs nothing.
    Prepare,
    /// Make what is absent.
    Create,
    /// Change in place.
    Update,
    /// Remove and make again.
    Recreate,
    /// Remove what is ours and no longer wanted.
    Remove,
    /// Leave it where it is, and list it as nobody's: it holds data.
    Orphan,
    /// Take into the inventory what carries our mark.
    Adopt,
    /// Take out of the inventory what another app has by now: nothing is done to it. Reports call it a removal.
    Forget,
    /// Remove what holds data, as a Purge document asks for it; reports call it a removal.
    Purge,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The app that it is for.
    pub app: AppName,
    /// The runtime that does it.
    pub driver: DriverName,
    /// What is done.
    pub action: Action,
    /// To what.
    pub object: ObjectKey,
    /// Why, for people.
    pub reason: String,
    /// The release that it leads to; none for a removal.
    pub release: Option<ReleaseId>,
    /// The app that has it until then, where it is taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<AppName>,
}

/// Everything that is to be done now, in order, and what can't be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps: what must go before something can come, then the apps in order of their dependencies, then what else
    /// goes.
    pub steps: Vec<Step>,
    /// Apps that nothing is done for, and why.
    pub held: BTreeMap<AppName, Held>,
}

impl Plan {
    /// The steps of one app, in their order.
    pub fn steps_of<'a>(&'a self, app: &'a AppName) -> impl Iterator<Item = &'a Step> {
        self.steps.iter().filter(move |step| step.app == *app)
    }
}

/// Towards what a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// What the box should run now: what the executor walks.
    Current,
    /// Where every app is going, prepared or not: what `holdfast plan` shows.
    Target,
}

impl Aim {
    /// The release that `app` is planned for.
    pub fn of(self, app: &App) -> Option<&Target> {
        match (self, &app.phase) {
            (Aim::Target, Phase::Preparing | Phase::Pending) => app.target.as_ref(),
            _ => app.current.as_ref(),
        }
    }
}

/// Everything that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// All apps.
    pub apps: &'a Apps,
    /// The releases that they name.
    pub releases: &'a BTreeMap<ReleaseId, Arc<Release>>,
    /// What the drivers saw, asked for the same aim.
    pub observed: &'a Observations,
    /// What we made.
    pub inventory: &'a Inventory,
    /// The newest revision, once that is known.
    pub newest: Option<&'a Resolved>,
    /// The runtimes of the box.
    pub runtimes: &'a Runtimes,
    /// Which names more than one app has, where that was found out before.
    pub holders: Option<&'a Holders>,
}

impl<'a> Known<'a> {
    fn claims(&self) -> Claims<'a> {
        let Known { apps, releases, inventory, newest, runtimes, holders, .. } = *self;
        Claims { apps, releases, inventory, newest, runtimes, holders }
    }
}

/// Makes the plan. The same input gives the same plan; an app that was not observed gets no step.
pub fn plan(known: Known<'_>, aim: Aim) -> Plan {
    let mut plan = Plan::default();
    let mut removals = Vec::new();
    let mut additions = Vec::new();
    let mut later = Vec::new();
    for name in order(known.apps) {
        let (Some(app), Some(observed)) = (known.apps.get(&name), known.observed.get(&name)) else {
            continue;
        };
        match plan_app(known, aim, &name, app, observed) {
            Ok(steps) => {
                removals.push(steps.remove);
                additions.extend(steps.add);
                later.push(steps.later);
            }
            Err(held) => {
                plan.held.insert(name, held);
            }
        }
    }
    // Whatever depends on another goes before it. What is in the way goes before anything comes, and all else after it.
    plan.steps.extend(removals.into_iter().rev().flatten());
    plan.steps.extend(additions);
    plan.steps.extend(later.into_iter().rev().flatten());
    plan
}

/// The plan of one app alone, as [`plan`] would make it.
pub fn plan_one(known: Known<'_>, aim: Aim, name: &AppName) -> Plan {
    let (Some(app), Some(observed)) = (known.apps.get(name), known.observed.get(name)) else {
        return Plan::default();
    };
    match plan_app(known, aim, name, app, observed) {
        Ok(AppSteps { mut remove, add, later }) => {
            remove.extend(add);
            remove.extend(later);
            Plan { steps: remove, held: BTreeMap::new() }
        }
        Err(held) => Plan { steps: Vec::new(), held: BTreeMap::from([(name.clone(), held)]) },
    }
}

#[derive(Default)]
struct AppSteps {
    /// What goes before anything comes.
    remove: Vec<Step>,
    add: Vec<Step>,
    /// What goes once the rest is there.
    later: Vec<Step>,
}

fn plan_app(
    known: Known<'_>,
    aim: Aim,
    name: &AppName,
    app: &App,
    observed: &BTreeMap<DriverName, AppObservation>,
) -> Result<AppSteps, Held> {
    let release = match aim.of(app) {
        Some(target) => Some(known.releases.get(&target.release).ok_or_else(|| missing(target))?),
        None => None,
    };
    // Nothing is known of what it should be, so nothing of it is touched.
    if release.is_none() && matches!(app.phase, Phase::Held { .. }) {
        return Ok(AppSteps::default());
    }
    let nothing = BTreeMap::new();
    let owned = known.inventory.get(name).unwrap_or(&nothing);
    let mut steps = AppSteps::default();
    let going = removals(known.claims(), name, owned, observed, release.map(Arc::as_ref));
    for step in going {
        match when(known, aim, app, &step, release.map(Arc::as_ref)) {
            _ if step.action == Action::Forget => steps.remove.push(step),
            When::Before => steps.remove.push(step),
            When::After => steps.later.push(step),
            When::NotYet => {}
        }
    }
    steps.remove.extend(strays(known.claims(), name, owned, observed, release.map(Arc::as_ref)));
    if let (Some(release), Some(target)) = (release, aim.of(app))
        && let Some(seen) = observed.get(&release.driver)
    {
        steps.remove.extend(known.claims().in_the_way(name, release).into_iter().map(|(other, key)| Step {
            app: other.clone(),
            driver: release.driver,
            action: Action::Remove,
            object: key,
            reason: format!("it makes room for the object of the app {name}, to which it is handed over"),
            release: None,
            from: None,
        }));
        steps.add = additions(known.claims(), (name, app), aim, owned, seen, (target.release, release))?;
    }
    Ok(steps)
}

/// When something goes that is no longer wanted.
enum When {
    /// Before anything comes.
    Before,
    /// Once everything else is there.
    After,
    /// Not before what comes is found good.
    NotYet,
}

/// Nothing is removed before what may take its place is there and well, where both can stand beside each other.
fn when(known: Known<'_>, aim: Aim, app: &App, step: &Step, release: Option<&Release>) -> When {
    let Some(release) = release else { return When::Before };
    let before = app.targets().filter_map(|target| known.releases.get(&target.release));
    let old = before.into_iter().find_map(|release| release.object(&step.object));
    let strategy = aim.of(app).map(|target| target.policy.strategy).unwrap_or_default();
    let abilities = known.runtimes.get(release.driver);
    if matches!(app.phase, Phase::RollingBack { .. }) || !can_stand_beside(old, release, abilities, strategy)
    {
        return When::Before;
    }
    let [current, good] =
        [&app.current, &app.good].map(|target| target.as_ref().map(|target| target.release));
    let is_unproven = aim == Aim::Current && current != good;
    if is_unproven { When::NotYet } else { When::After }
}

fn additions(
    claims: Claims<'_>,
    (name, app): (&AppName, &App),
    aim: Aim,
    owned: &BTreeMap<ObjectKey, Owned>,
    observed: &AppObservation,
    (id, release): (ReleaseId, &Release),
) -> Result<Vec<Step>, Held> {
    let step = |action, key: &ObjectKey, reason: &str| Step {
        app: name.clone(),
        driver: release.driver,
        action,
        object: key.clone(),
        reason: reason.to_owned(),
        release: Some(id),
        from: None,
    };
    let mut steps = Vec::new();
    if aim == Aim::Target
        && app.phase == Phase::Preparing
        && let Some(first) = release.objects.first()
    {
        steps.push(step(Action::Prepare, &first.key, "this release is new on the box"));
    }
    let may_recreate = may_recreate(app);
    for Object { key, .. } in &release.objects {
        let ours = owned.get(key).is_some_and(|owned| owned.orphaned.is_none());
        // Whoever it is lent to keeps it as it is to be.
        if claims.lent_to(name, release.driver, key).is_some() {
            continue;
        }
        match observed.get(key).unwrap_or(&Observed::Absent) {
            // The agent died when it had taken this over, and before that was written down.
            Observed::Same if let Some((other, _)) = claims.owner_besides(name, release.driver, key) => {
                let taken = step(Action::Adopt, key, &format!("it was handed over by the app {other}"));
                steps.push(Step { from: Some(other.clone()), ..taken });
            }
            Observed::Same if ours => {}
            Observed::Same | Observed::Extra { .. } => {
                steps.push(step(Action::Adopt, key, "it has this agent's mark, but is not in the inventory"));
            }
            Observed::Absent => steps.push(step(Action::Create, key, absent_reason(app, ours))),
            Observed::Drift { difference, recreate: false } => {
                steps.push(step(Action::Update, key, difference))
            }
            Observed::Drift { difference, recreate: true } => {
                steps.push(step(Action::Recreate, key, difference))
            }
            Observed::Immutable { difference } if may_recreate && !key.holds_data() => {
                steps.push(step(
                    Action::Recreate,
                    key,
                    &format!("{difference}, which can't be changed in place"),
                ));
            }
            Observed::Immutable { .. } if key.holds_data() && was_good(app, id) => {}
            Observed::Immutable { difference } => return Err(immutable(key, difference)),
            Observed::Foreign { owner } => return Err(foreign(key, owner)),
            Observed::Another { app: other, immutable: why } => {
                if !claims.may_take(name, other, release.driver, key) {
                    return Err(anothers(key, other, claims.is_unknown(other)));
                }
                let reason = format!("it is handed over by the app {other}");
                let (action, reason) = match why {
                    None => (Action::Adopt, reason),
                    // As it is, it is what the last known good was.
                    Some(_) if key.holds_data() && was_good(app, id) => (Action::Adopt, reason),
                    Some(why) if may_recreate && !key.holds_data() => {
                        (Action::Recreate, format!("{reason}, and {why}, which can't be changed in place"))
                    }
                    Some(why) => return Err(immutable(key, why)),
                };
                steps.push(Step { from: Some(other.clone()), ..step(action, key, &reason) });
            }
        }
    }
    Ok(steps)
}

/// Whether what can't be changed in place may be removed and made again. What was done on the way to a target must
/// also be done on the way back, though the release that comes back was written before that was allowed. And what
/// goes back runs nothing that is worth protecting: held there, it could never be left again.
fn may_recreate(app: &App) -> bool {
    let targets = [&app.current, &app.target].into_iter().flatten();
    matches!(app.phase, Phase::RollingBack { .. })
        || targets.into_iter().any(|target| target.policy.immutable == Immutable::Recreate)
}

/// Whether this release is the last known good. What holds data may have changed since in a way that there is none back
/// from, by a release that failed or by hand: a claim grows and doesn't shrink. It stays as it is then: held for its sake,
/// an app would stay with what has failed, and what is changed of it by hand would stay changed.
fn was_good(app: &App, release: ReleaseId) -> bool {
    app.good.as_ref().is_some_and(|good| good.release == release)
}

fn absent_reason(app: &App, was_made: bool) -> &'static str {
    match &app.phase {
        Phase::Preparing | Phase::Pending | Phase::Applying => "it is part of the release",
        _ if was_made => "it was created before and is gone now",
        _ => "it is absent",
    }
}

/// What stands in the inventory and is no longer wanted, in reverse order of its making.
fn removals(
    claims: Claims<'_>,
    name: &AppName,
    owned: &BTreeMap<ObjectKey, Owned>,
    observed: &BTreeMap<DriverName, AppObservation>,
    release: Option<&Release>,
) -> Vec<Step> {
    owned
        .iter()
        .rev()
        .filter(|(key, owned)| owned.is_unwanted(key, release))
        .filter_map(|(key, owned)| Some((key, owned.driver, observed.get(&owned.driver)?.get(key))))
        .filter_map(|(key, driver, seen)| {
            let is_wanted = claims.is_wanted_elsewhere(name, driver, key);
            let other = claims.owner_besides(name, driver, key);
            let is_others =
                seen.is_none() && (is_wanted || other.is_some_and(|(_, owned)| owned.orphaned.is_none()));
            // Who has it takes it out of this app's inventory, and nobody is told to remove data.
            if (is_wanted && seen.is_some()) || (is_others && key.holds_data()) {
                return None;
            }
            let (action, reason) = match seen {
                _ if is_others => (Action::Forget, "it belongs to another app now".into()),
                Some(Observed::Foreign { owner }) => (Action::Orphan, format!("it belongs to {owner} now")),
                _ if key.holds_data() => {
                    (Action::Orphan, "it holds data and is never removed automatically".into())
                }
                _ => (Action::Remove, "it is no longer wanted".into()),
            };
            let (app, object) = (name.clone(), key.clone());
            Some(Step { app, driver, action, object, reason, release: None, from: None })
        })
        .collect()
}

/// What carries our mark and doesn't stand in the inventory: it is taken in first, and goes with the next
/// plan. Only what stands in both is ever removed.
fn strays(
    claims: Claims<'_>,
    name: &AppName,
    owned: &BTreeMap<ObjectKey, Owned>,
    observed: &BTreeMap<DriverName, AppObservation>,
    release: Option<&Release>,
) -> Vec<Step> {
    let all =
        observed.iter().flat_map(|(driver, seen)| seen.iter().map(move |(key, seen)| (*driver, key, seen)));
    all.filter_map(|(driver, key, seen)| {
        // What an object of the release made comes in as well, and again when it is wanted after all, or came with what
        // made it from another app.
        let made = release.is_some_and(|release| release.driver == driver && release.makes_claim(key));
        let other = made.then(|| claims.owner_besides(name, driver, key)).flatten().map(|(other, _)| other);
        // A claim of this name is another app's, which keeps it.
        if other.is_some_and(|other| !claims.may_take(name, other, driver, key)) {
            return None;
        }
        let from = other.cloned();
        let is_known =
            from.is_none() && owned.get(key).is_some_and(|owned| !made || owned.orphaned.is_none());
        let in_release =
            release.is_some_and(|release| release.driver == driver && release.object(key).is_some());
        let is_stray = matches!(seen, Observed::Extra { .. }) && !is_known && !in_release;
        is_stray.then(|| Step {
            app: name.clone(),
            driver,
            action: Action::Adopt,
            object: key.clone(),
            reason: match &from {
                Some(other) => {
                    format!("it is handed over by the app {other}, together with the object that created it")
                }
                None => "it has this agent's mark, but is not in the inventory".to_owned(),
            },
            release: None,
            from,
        })
    })
    .collect()
}

fn missing(target: &Target) -> Held {
    Held::until_changed(
        format!("the release {} is no longer on disk", target.release),
        "nothing to do: the agent renders it again, from the mirror or after the next fetch",
    )
}

fn foreign(key: &ObjectKey, owner: &str) -> Held {
    let unblock = match key.holds_data() {
        // Nobody is to lose data by following an advice.
        true => format!("in the repository, leave {key} to {owner}, or give this app's object another name"),
        false => format!("remove or rename {key} on the box, or give it another name in the repository"),
    };
    Held::until_changed(format!("{key} already exists and belongs to {owner}"), unblock)
}

/// What another app has and this one can't take over: that one wants it as well, or what it wants isn't known.
fn anothers(key: &ObjectKey, owner: &AppName, is_unknown: bool) -> Held {
    let unblock = match is_unknown {
        true => format!(
            "nothing to do here: it is handed over once it is known what {owner} wants: see what is held for \
             {owner}"
        ),
        false => format!(
            "nothing to do here if {owner} is about to give it up; otherwise rename it in one of the two apps"
        ),
    };
    Held::until_changed(format!("{key} already exists and belongs to the app {owner}"), unblock)
}

fn immutable(key: &ObjectKey, difference: &str) -> Held {
    let unblock = if key.holds_data() {
        format!(
            "restore the old value in the repository; {key} holds data and is never recreated automatically: to \
             change it, give it another name"
        )
    } else {
        "restore the old value in the repository, or set update.immutable: recreate in app.yaml".to_owned()
    };
    Held::until_changed(format!("{key} can't be changed in place: {difference}"), unblock)
}

#[cfg(test)]
mod tests;
