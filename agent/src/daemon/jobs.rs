//! What is begun beside the loop: preparing, looking, what apps need of their runtimes, and dropping what nobody needs.
//! Each comes back to the loop as an event.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use holdfast_core::digest::Revision;
use holdfast_core::release::DriverKind;
use holdfast_drivers::CALL_LIMIT;
use holdfast_store::fault;
use tokio::sync::mpsc;

use super::journal::lock;
use super::{Daemon, Event, WAITING_EVENTS, look, probes};
use crate::keeper::{Journal, Preparation};

/// How long an agent that ends waits for what runtimes drop.
const LAST_SWEEP: Duration = Duration::from_secs(5);

impl Daemon {
    /// Runtimes take their time for what they are asked, each app's beside those of the others.
    pub(super) fn start_work(&mut self) {
        for work in self.keeper.take_work() {
            let jobs = self.jobs.clone();
            tokio::spawn(async move {
                let ticket = work.ticket();
                let done = tokio::spawn(work.run()).await.unwrap_or_else(|error| {
                    tracing::error!(%error, "a driver failed in a way that it must not: report this");
                    ticket.lost(format!("its driver failed in a way that it must not: {error}"))
                });
                let _ = jobs.send(Event::Done(done)).await;
            });
        }
    }

    pub(super) fn start_preparing(&mut self) {
        let now = self.clock.now();
        // What is staged while its runtime drops what isn't needed might go with that.
        let sweeps = |kind: DriverKind| self.sweeping.contains(&kind);
        let is_free = |todo: &Preparation| {
            let probed = todo.prober.as_ref().filter(|_| todo.policy.components().next().is_some());
            !sweeps(todo.driver.kind()) && !probed.is_some_and(|prober| sweeps(prober.kind()))
        };
        let todo = self.keeper.to_prepare(&now).into_iter().filter(is_free);
        let new: Vec<_> = todo.filter(|todo| self.preparing.insert((todo.app.clone(), todo.id))).collect();
        // Downloads may take the room of what no release needs. While a job may be pinning something new, what came
        // since the pins were last set stays as well.
        if !new.is_empty() && !self.syncing {
            let pins = self.images.with_parts(self.keeper.pinned());
            lock(&self.store).content().set_pins(pins);
        }
        for todo in new {
            let jobs = self.jobs.clone();
            tokio::spawn(async move {
                let mut result = match todo.driver.check(&todo.release) {
                    Ok(()) => todo.driver.prepare(&todo.release).await,
                    refused => refused,
                };
                if result.is_ok() {
                    result = probes::prepare(&todo).await;
                }
                let _ = jobs.send(Event::Prepared(todo.app, todo.id, result)).await;
            });
        }
    }

    pub(super) fn start_looking(&mut self) {
        let now = self.clock.now();
        let scope = std::mem::take(&mut self.look_at);
        for todo in self.keeper.to_look_at(&now, &scope) {
            if let Some(is_stale) = self.looking.get_mut(&todo.app) {
                *is_stale |= scope.has(&todo.app);
                continue;
            }
            self.looking.insert(todo.app.clone(), false);
            let (jobs, windows) = (self.jobs.clone(), self.windows.clone());
            tokio::spawn(async move {
                let sight = look::look(&todo, &windows).await;
                let _ = jobs.send(Event::Seen(todo.app, todo.id, sight)).await;
            });
        }
    }

    /// Lets the runtimes report what happens to workloads.
    pub(super) fn start_watching(&self) {
        let (sender, mut reports) = mpsc::channel(WAITING_EVENTS);
        for driver in self.keeper.drivers().values() {
            Arc::clone(driver).watch(sender.clone());
        }
        let jobs = self.jobs.clone();
        tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                if jobs.send(Event::Runtime(report)).await.is_err() {
                    break;
                }
            }
        });
    }

    /// The agent ends: what it has begun to drop, or is about to, goes before, if that doesn't take long. Who has removed
    /// an app and then the agent would be left with its images.
    pub(super) async fn end_sweeping(&mut self, events: &mut mpsc::Receiver<Event>) {
        let limit = tokio::time::sleep(LAST_SWEEP);
        tokio::pin!(limit);
        loop {
            self.collect();
            if self.sweeping.is_empty() && !(self.uncollected && self.preparing.is_empty()) {
                return;
            }
            let event = tokio::select! {
                event = events.recv() => event,
                () = &mut limit => return,
            };
            match event {
                Some(Event::Swept(driver)) => {
                    self.sweeping.remove(&driver);
                }
                Some(Event::Tidied | Event::Fetched(_) | Event::Rendered(..)) => self.syncing = false,
                // What else comes now is as lost as it would be a moment later.
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Drops what no app can need any more. Not while a job may be pinning something new, and none is begun before the
    /// mirror is tidied up: a revision that was fetched meanwhile isn't among those that are kept.
    pub(super) fn collect(&mut self) {
        if !self.uncollected || self.syncing || !self.preparing.is_empty() || !self.sweeping.is_empty() {
            return;
        }
        self.uncollected = false;
        let keep = self.images.with_parts(self.keeper.pinned());
        self.keeper.journal().collect(&keep);
        let keep = Arc::new(keep);
        for (kind, driver) in self.keeper.drivers() {
            let (kind, driver, keep, jobs) =
                (*kind, Arc::clone(driver), Arc::clone(&keep), self.jobs.clone());
            self.sweeping.insert(kind);
            tokio::spawn(async move {
                let mut sweeping = tokio::spawn(async move { driver.collect(&keep).await });
                if !matches!(tokio::time::timeout(CALL_LIMIT, &mut sweeping).await, Ok(Ok(()))) {
                    sweeping.abort();
                    tracing::warn!(driver = %kind, "a runtime doesn't drop what isn't needed any more");
                }
                let _ = jobs.send(Event::Swept(kind)).await;
            });
        }
        let revisions = [self.progress.fetched.clone(), self.progress.resolved.clone()];
        let (source, jobs) = (Arc::clone(&self.source), self.jobs.clone());
        let accepted = self.progress.accepted.as_ref().map(|floor| floor.revision.clone());
        let scarce = self.is_scarce();
        self.syncing = true;
        tokio::task::spawn_blocking(move || {
            fault::mark("mirror.collect");
            let keep: Vec<Revision> = revisions.into_iter().chain([accepted]).flatten().collect();
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = source.collect(&keep, scarce) {
                tracing::warn!(%error, "the mirror can't be tidied up");
            }
            drop(source);
            // What that took of memory is given back as well.
            let _ = jobs.blocking_send(Event::Tidied);
        });
    }
}
