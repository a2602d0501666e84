//! Read-only commands without a daemon: the state folder is opened under its lock, and nothing is changed.

use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::event::Event;
use holdfast_core::event::segment::Seal;
use holdfast_core::name::AppName;
use holdfast_core::report::{PlanReport, Status};
use tokio::task::JoinSet;

use super::fetch_and_render::{Rendered, Renderer};
use super::journal::{SharedStore, StoreJournal, lock};
use super::metrics_history::Histories;
use super::progress::Progress;
use super::tags::Unknown;
use super::tell::nothing_kept;
use super::trust::Trust;
use super::{look, runtimes, setup, status};
use crate::clock::Clock;
use crate::config::Config;
use crate::http::allowance::Allowance;
use crate::keeper::{Keeper, Permit, Scope};

struct Offline {
    clock: Clock,
    keeper: Keeper<StoreJournal>,
    progress: Progress,
}

impl Offline {
    /// Reads what the last agent left, and renders the accepted revision from the mirror.
    fn open(config: &Config) -> Result<Self> {
        let clock = Clock::new();
        let now = clock.now();
        let store = setup::open_store(config, &now)?;
        setup::resume(&clock, &lock(&store))?;
        let drivers = setup::open_drivers(config, &store, &Allowance::unlimited())?;
        let keeper = Keeper::load(StoreJournal::new(Arc::clone(&store)), drivers)?;
        let mut offline = Offline { clock, keeper, progress: Progress::before(&store)? };
        offline.render(config, store)?;
        Ok(offline)
    }

    fn render(&mut self, config: &Config, store: SharedStore) -> Result<()> {
        let source = setup::open_source(config, &Allowance::unlimited())?;
        let now = self.clock.now();
        self.progress.recall(&*source);
        let waits = self.keeper.has_due_purge(&now) || self.keeper.awaits_purge(&now);
        self.progress.review(&Trust::read(config), waits, &now);
        if let Some(held) = &self.progress.standing.refused {
            self.keeper.permit(Permit::revoked(held));
        }
        let Some(verified) = self.progress.standing.verified().cloned() else { return Ok(()) };
        let source = Arc::new(Mutex::new(source));
        let runtimes = self.keeper.drivers().runtimes().clone();
        let device = config.device.name.clone();
        // A command that looks asks nobody.
        let renderer = Renderer { source, store, device, runtimes, unknown: Unknown::new(), ask: None };
        match renderer.render(&verified) {
            Ok(Rendered { resolved, .. }) => {
                let now = self.clock.now();
                // Gates are asked by the agent alone.
                let permit = Permit::by_clock(&resolved.policy, self.keeper.is_in_use(), &now.time);
                self.keeper.permit(permit);
                self.keeper.imagine(&resolved, &now);
                self.progress.resolved = Some(resolved.revision);
            }
            Err(why) => self.progress.unrendered = Some(why.held(None)),
        }
        Ok(())
    }
}

/// The status, read from the state folder under its lock.
pub async fn offline_status(config: &Config) -> Result<Status> {
    let mut offline = Offline::open(config)?;
    let now = offline.clock.now();
    // All at once: an agent that is being started waits for the lock.
    let mut looks = JoinSet::new();
    for todo in offline.keeper.to_look_at(&now, &Scope::All) {
        looks.spawn(async move { (todo.app.clone(), look::look(&todo, &Histories::new()).await) });
    }
    while let Some(Ok((app, sight))) = looks.join_next().await {
        offline.keeper.note_health(&app, sight.health);
    }
    let status = status::status(config, &offline.keeper, &offline.progress, &now);
    let drivers = offline.keeper.drivers().values().cloned().collect();
    // Not under the lock.
    drop(offline);
    Ok(Status {
        running: false,
        runtimes: runtimes::Known::default().ask(drivers, runtimes::LIMIT).await,
        ..status
    })
}

/// The plan, made from the state folder under its lock.
pub async fn offline_plan(config: &Config) -> Result<PlanReport> {
    let offline = Offline::open(config)?;
    let now = offline.clock.now();
    let answered = offline.keeper.ask_for_plan(&now).run().await;
    let plan = offline.keeper.plan_to_target(answered, &now);
    let held = status::status(config, &offline.keeper, &offline.progress, &now).held;
    Ok(status::plan_report(&plan, &offline.progress, held, offline.keeper.orphans(&now)))
}

/// What was kept of an app when it last failed, read from the state folder.
pub fn offline_diagnosis(config: &Config, app: &AppName) -> Result<Diagnosis> {
    let store = setup::open_store(config, &Clock::new().now())?;
    let kept = lock(&store).diagnoses().get(app);
    kept?.ok_or_else(|| anyhow!(nothing_kept(app)))
}

/// Events after `since`, oldest first, read from the state folder.
pub fn offline_events(config: &Config, since: u64) -> Result<Vec<Event>> {
    let store = setup::open_store(config, &Clock::new().now())?;
    let events = lock(&store).audit().after(since, usize::MAX);
    events.map_err(|error| anyhow!("the audit log can't be read: {error}"))
}

/// The events that are there, oldest first, and what they are checked by, read from the state folder.
pub fn offline_audit(config: &Config) -> Result<(Vec<Event>, Seal)> {
    let store = setup::open_store(config, &Clock::new().now())?;
    let store = lock(&store);
    let events = store.audit().after(0, usize::MAX);
    Ok((events.map_err(|error| anyhow!("the audit log can't be read: {error}"))?, store.seal()))
}
