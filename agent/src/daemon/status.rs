//! What the daemon says about itself.

use holdfast_core::change::ChangePolicy;
use holdfast_core::clock::Now;
use holdfast_core::health::Health;
use holdfast_core::held::Held;
use holdfast_core::plan::{Orphan, Plan};
use holdfast_core::report::{
    AppStatus, ClockStatus, HeldReport, PlanReport, RevisionStatus, SourceStatus, Status, StepReport,
};

use super::progress::Progress;
use crate::config::Config;
use crate::keeper::{Journal, Keeper};

/// The box's status.
pub(super) fn status<J: Journal>(
    config: &Config,
    keeper: &Keeper<J>,
    progress: &Progress,
    now: &Now,
) -> Status {
    let held: Vec<_> = progress.held().collect();
    let accepted = progress.accepted.as_ref().map(|floor| floor.revision.clone());
    // What is accepted but not rendered yet, or held on its way, is not what the box holds.
    let follows = accepted.is_some() && progress.resolved == accepted && held.is_empty();
    let converged = follows && keeper.converged();
    // A stop changes nothing about what runs, and must be seen all the same.
    let stopped = keeper.policy().and_then(ChangePolicy::stopped);
    Status {
        device: config.device.name.clone(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        running: true,
        trust: config.trust.mode.word().to_owned(),
        converged,
        source: SourceStatus {
            url: config.source.url.clone(),
            last_poll: progress.last_poll,
            next_poll: progress.next_poll_wall,
            error: progress.error.clone(),
        },
        revision: RevisionStatus {
            fetched: progress.fetched.clone(),
            accepted,
            applied: progress.applied.clone(),
        },
        change: progress.standing.change(),
        clock: ClockStatus::of(&now.time),
        runtimes: Vec::new(),
        apps: apps(keeper, now),
        held: held.into_iter().chain(stopped).collect(),
        downloads: None,
        orphans: keeper.orphans(now),
    }
}

fn apps<J: Journal>(keeper: &Keeper<J>, now: &Now) -> Vec<AppStatus> {
    let here = keeper.apps().iter().map(|(name, app)| {
        let target = app.current.as_ref().or(app.target.as_ref());
        let held = keeper.held(name, now);
        let faulty = keeper.faulty().any(|(faulty, _)| faulty == name);
        let health = keeper.health(name);
        AppStatus {
            name: name.clone(),
            kind: target.map(|target| target.kind),
            driver: target.map(|target| target.driver),
            phase: if faulty { "Held" } else { app.phase.word() }.to_owned(),
            health: health.word().to_owned(),
            reason: match health {
                Health::Starting { reason } | Health::Unhealthy { reason } => Some(reason.clone()),
                Health::Unknown | Health::Healthy => keeper.remark(name).cloned(),
            },
            release: target.map(|target| target.release),
            good: app.good.as_ref().map(|good| good.release),
            revision: target.map(|target| target.revision.clone()),
            since: Some(app.since),
            held,
        }
    });
    let nowhere = keeper.faulty().filter(|(name, _)| !keeper.apps().contains_key(*name));
    let nowhere = nowhere.map(|(name, held)| AppStatus {
        name: name.clone(),
        kind: None,
        driver: None,
        phase: "Held".to_owned(),
        health: Health::Unknown.word().to_owned(),
        reason: None,
        release: None,
        good: None,
        revision: None,
        since: None,
        held: Some(held.clone()),
    });
    let mut apps: Vec<AppStatus> = here.chain(nowhere).collect();
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    apps
}

/// A plan as `holdfast plan` prints it, with what is `held` of the whole box.
pub(super) fn plan_report(
    plan: &Plan,
    progress: &Progress,
    held: Vec<Held>,
    orphans: Vec<Orphan>,
) -> PlanReport {
    let apps = plan.held.iter().map(|(app, held)| HeldReport { app: Some(app.clone()), held: held.clone() });
    let beyond = held.into_iter().map(|held| HeldReport { app: None, held });
    PlanReport {
        revision: progress.resolved.clone(),
        steps: plan.steps.iter().map(StepReport::from).collect(),
        held: beyond.chain(apps).collect(),
        orphans,
    }
}
