//! The jobs beside the loop: preparing releases, looking at apps, the keeper's work on runtimes, and garbage
//! collection. Each comes back to the loop as an event.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use holdfast_core::digest::Revision;
use holdfast_core::health::{Health, Sight};
use holdfast_core::runtime::DriverName;
use holdfast_drivers::{CALL_LIMIT, DriverError};
use holdfast_store::fault;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::journal::lock;
use super::source_state::SourceJob;
use super::{Daemon, Event, WAITING_EVENTS, look, probe_components};
use crate::keeper::{Journal, Preparation};

/// How long an agent that ends waits for what runtimes drop.
const LAST_SWEEP: Duration = Duration::from_secs(5);

impl Daemon {
    /// Takes in what a job brings, once it ends. One that breaks off (which none should) comes back as well, as what
    /// `broken` makes of the reason: the loop waits for every job that it has begun.
    pub(super) fn await_job(
        &self,
        job: JoinHandle<Event>,
        broken: impl FnOnce(String) -> Event + Send + 'static,
    ) {
        let jobs = self.jobs.clone();
        tokio::spawn(async move {
            let event = job.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a job ended unexpectedly, which is a bug: report it");
                broken(format!("a job ended unexpectedly, which is a bug: {error}"))
            });
            let _ = jobs.send(event).await;
        });
    }

    /// Runtimes take their time for what they are asked, each app's beside those of the others.
    pub(super) fn start_work(&mut self) {
        let (works, committed) = self.keeper.take_work();
        self.note_trouble(committed, &self.clock.now());
        for work in works {
            let ticket = work.ticket();
            let job = tokio::spawn(async move { Event::Done(work.run().await) });
            self.await_job(job, |why| Event::Done(ticket.lost(why)));
        }
    }

    pub(super) fn start_preparing(&mut self) {
        let now = self.clock.now();
        // What is staged while its runtime drops what isn't needed might go with that.
        let sweeps = |kind: DriverName| self.sweeping.contains(&kind);
        let is_free = |todo: &Preparation| {
            let probed = todo.prober.as_ref().filter(|_| todo.policy.components().next().is_some());
            !sweeps(todo.driver.name()) && !probed.is_some_and(|prober| sweeps(prober.name()))
        };
        let todo = self.keeper.to_prepare(&now).into_iter().filter(is_free);
        let new: Vec<_> = todo.filter(|todo| self.preparing.insert((todo.app.clone(), todo.id))).collect();
        // Downloads may take the room of what no release needs. While a job may be pinning something new, what came
        // since the pins were last set stays as well.
        if !new.is_empty() && !self.follow.is_busy() {
            let pins = self.images.with_parts(self.keeper.pinned());
            lock(&self.store).content().set_pins(pins);
        }
        for todo in new {
            let (app, id) = (todo.app.clone(), todo.id);
            let job = tokio::spawn(async move {
                let mut result = match todo.driver.check(&todo.release) {
                    Ok(()) => todo.driver.prepare(&todo.release).await,
                    refused => refused,
                };
                if result.is_ok() {
                    result = probe_components::prepare(&todo).await;
                }
                Event::Prepared(todo.app, todo.id, result)
            });
            self.await_job(job, move |why| Event::Prepared(app, id, Err(DriverError::Runtime(why))));
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
            let (app, id, windows) = (todo.app.clone(), todo.id, self.histories.clone());
            let job = tokio::spawn(async move {
                let sight = look::look(&todo, &windows).await;
                Event::Seen(todo.app, todo.id, sight)
            });
            self.await_job(job, move |_| Event::Seen(app, id, Sight::from(Health::Unknown)));
        }
    }

    /// Lets the runtimes report what happens to workloads.
    pub(super) fn start_watching(&self) {
        let (sender, mut reports) = mpsc::channel(WAITING_EVENTS);
        self.runtimes.log(self.keeper.drivers().values().cloned().collect());
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
                Some(Event::Tidied | Event::Fetched(_) | Event::Rendered(..)) => self.follow.ended(),
                // What else comes now is as lost as it would be a moment later.
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Drops what no app can need any more. Not while a job may be pinning something new, and none is begun before the
    /// mirror is tidied up: a revision that was fetched meanwhile isn't among those that are kept.
    pub(super) fn collect(&mut self) {
        let pins = self.follow.is_busy() || !self.preparing.is_empty() || self.follow.tags.are_asked();
        if !self.uncollected || pins || !self.sweeping.is_empty() {
            return;
        }
        self.uncollected = false;
        // So that little has to stay for what the box would have again after a crash. Where the disk refuses that, all the
        // more is to go: it may be full.
        if self.disk.trouble.is_none() {
            let committed = self.commit();
            self.note_trouble(committed, &self.clock.now());
        }
        let keep = self.images.with_parts(self.keeper.pinned());
        self.keeper.journal().collect(&keep);
        let keep = Arc::new(keep);
        for (kind, driver) in self.keeper.drivers().iter() {
            let (kind, driver, keep) = (*kind, Arc::clone(driver), Arc::clone(&keep));
            self.sweeping.insert(kind);
            let job = tokio::spawn(async move {
                if tokio::time::timeout(CALL_LIMIT, driver.collect(&keep)).await.is_err() {
                    tracing::warn!(driver = %kind, "a driver did not finish garbage collection in time");
                }
                Event::Swept(kind)
            });
            self.await_job(job, move |_| Event::Swept(kind));
        }
        let revisions = [self.follow.progress.fetched.clone(), self.follow.progress.resolved.clone()];
        let source = Arc::clone(&self.follow.source);
        let accepted = self.follow.progress.accepted.as_ref().map(|floor| floor.revision.clone());
        let scarce = self.is_scarce();
        self.follow.begin(SourceJob::Collect);
        let job = tokio::task::spawn_blocking(move || {
            fault::mark("mirror.collect");
            let keep: Vec<Revision> = revisions.into_iter().chain([accepted]).flatten().collect();
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = source.collect(&keep, scarce) {
                tracing::warn!(%error, "the mirror can't be garbage-collected");
            }
            // What that took of memory is given back as well.
            Event::Tidied
        });
        self.await_job(job, |_| Event::Tidied);
    }
}
