//! The daemon: one loop that waits for something to happen, takes it in, and passes it down the pipeline.
//!
//! ```text
//! poll due -> [job] fetch -> verify, accept -> [job] select, render, resolve -> place
//!          -> [jobs] prepare -> pass: observe, plan, execute -> [jobs] look -> judge -> status
//! ```
//!
//! Jobs block or wait; they run beside the loop, end within limits of their own, and come back as an
//! [`Event`]. The loop never ticks: between events it sleeps until the next deadline.

mod disk;
mod follow;
mod gates;
mod gather;
mod images;
mod journal;
mod look;
mod offline;
mod outside;
mod permit;
mod probes;
mod progress;
mod setup;
mod starting;
mod status;
mod sync;
mod tell;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Result;
use holdfast_core::change::{Gate, GateAnswer};
use holdfast_core::clock::{Moment, Now};
use holdfast_core::digest::{ReleaseId, Revision};
use holdfast_core::health::Sight;
use holdfast_core::held::Held;
use holdfast_core::name::AppName;
use holdfast_core::report::Status;
use holdfast_core::resolve::Resolved;
use holdfast_drivers::{DriverError, DriverEvent};
use holdfast_store::fault;
use tokio::sync::{mpsc, watch};

use self::images::BoxImages;
use self::journal::{SharedStore, StoreJournal, lock};
use self::outside::{Outside, Signals};
use self::permit::{GateWatch, Waiting};
use self::progress::Progress;
use self::starting::Parts;
use self::sync::{Found, NotRendered, SharedSource};
use self::windows::Windows;
use crate::api::Request;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::allowance::Allowance;
use crate::keeper::{Journal, JournalError, Keeper, Scope};
use crate::memory;
use crate::notify::{Environment, Notifier};
use crate::source::SourceError;

pub use offline::{offline_audit, offline_diagnosis, offline_events, offline_plan, offline_status};
pub use setup::fingerprints;

/// Events that may wait for the loop.
const WAITING_EVENTS: usize = 256;
/// The first pause after a poll that failed.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The pause after the disk refused a write.
const DISK_PAUSE: Duration = Duration::from_secs(5);

/// Something that happened.
enum Event {
    Fetched(Result<Found, SourceError>),
    Rendered(Revision, Box<Result<Resolved, NotRendered>>),
    Prepared(AppName, ReleaseId, Result<(), DriverError>),
    Seen(AppName, ReleaseId, Sight),
    Runtime(DriverEvent),
    Gates(Vec<Gate>, Vec<GateAnswer>),
    Asked(Request),
    PollNow,
    Tidied,
    Stop,
    Deadline,
}

struct Daemon {
    config: Config,
    clock: Clock,
    store: SharedStore,
    source: SharedSource,
    images: BoxImages,
    /// What all downloads may use of the link.
    allowance: Allowance,
    keeper: Keeper<StoreJournal>,
    progress: Progress,
    backoff: Backoff,
    /// What the next pass is about; none when there is no reason for one.
    due: Option<Scope>,
    /// A job uses the source: it fetches, renders or garbage-collects. One at a time, each begun with what the loop knew
    /// then: what one brings, another that was begun before it would take for something that nobody needs.
    syncing: bool,
    poll_asked: bool,
    preparing: BTreeSet<(AppName, ReleaseId)>,
    /// The apps that are being looked at, and whether something happened meanwhile that the look may not have seen.
    looking: BTreeMap<AppName, bool>,
    windows: Windows,
    /// What of the apps at rest to look at next.
    look_at: Scope,
    searched: bool,
    uncollected: bool,
    stopped: bool,
    gates: GateWatch,
    /// The newest revision can't be read, and may hold an emergency stop.
    unread_stop: Option<Held>,
    waiting: Waiting,
    /// Much was done since memory was last given back.
    untrimmed: bool,
    trouble: Option<(Moment, String)>,
    /// The database was begun anew, and what is known isn't written down in it yet.
    unwritten: bool,
    /// The disk refused something.
    short: Option<disk::Short>,
    /// Deadlines up to here have been seen to.
    handled: Moment,
    jobs: mpsc::Sender<Event>,
    newest_event: watch::Sender<u64>,
    notifier: Notifier,
    /// What the service manager was last told.
    told: String,
}

/// Runs the agent until it is told to stop, and gives `None`. With `once`, makes one pass, waits for every
/// verdict (so long at most), and gives the status that it ended with.
pub async fn run(config: Config, once: Option<Duration>) -> Result<Option<Status>> {
    // Before anything else: a signal that comes while the agent starts must not end the process.
    let signals = Signals::catch()?;
    let clock = Clock::new();
    let notifier = Notifier::new(&Environment::of_process());
    let newest_event = watch::Sender::new(0);
    let (parts, outside) = match Parts::open(&config, &clock).await {
        Err(error) if once.is_none() && starting::is_of_disk(&error) => {
            let mut outside = Outside::open(&config, signals, &notifier, newest_event.subscribe())?;
            let waited = starting::wait_for_disk(&config, &clock, &mut outside, &notifier, error).await?;
            let Some(parts) = waited else { return Ok(None) };
            (parts, Ok(outside))
        }
        parts => (parts?, Outside::open(&config, signals, &notifier, newest_event.subscribe())),
    };
    let Parts { store, allowance, keeper, source, images, progress } = parts;
    setup::resume(&clock, &lock(&store))?;
    let now = clock.now();
    let gates = GateWatch::new(lock(&store).gate_hold()?);
    let (jobs, mut events) = mpsc::channel(WAITING_EVENTS);
    newest_event.send_replace(lock(&store).audit().head().map_or(0, |head| head.seq));
    let backoff = Backoff::new(FIRST_RETRY, config.source.interval);
    let mut daemon = Daemon {
        config,
        clock,
        store,
        source,
        images,
        allowance,
        keeper,
        progress,
        backoff,
        due: Some(Scope::All),
        syncing: false,
        poll_asked: true,
        preparing: BTreeSet::new(),
        looking: BTreeMap::new(),
        windows: Windows::new(),
        look_at: Scope::All,
        searched: false,
        uncollected: true,
        stopped: false,
        gates,
        unread_stop: None,
        waiting: Waiting::new(&now),
        untrimmed: true,
        trouble: None,
        unwritten: false,
        short: None,
        handled: now.moment,
        jobs,
        newest_event,
        notifier,
        told: String::new(),
    };
    let mut outside = match outside {
        Ok(outside) => Some(outside),
        Err(error) => {
            // Nobody can ask, but what should run can be seen to before the agent is started again.
            daemon.pass(&mut None).await;
            return Err(error);
        }
    };
    // A runtime may take minutes to bring everything back; the service manager must not give the agent up meanwhile,
    // and whoever asks is answered.
    daemon.notifier.ready();
    // The last known good comes first: before the network.
    daemon.pass(&mut outside).await;
    daemon.start_watching();
    daemon.render_accepted();
    let limit = once.map(|limit| daemon.clock.now().moment.uptime + limit);
    loop {
        daemon.advance(&mut outside).await;
        if daemon.stopped {
            break;
        }
        if let Some(limit) = limit
            && (daemon.at_rest() || daemon.clock.now().moment.uptime >= limit)
        {
            daemon.stop_drivers().await;
            return Ok(Some(daemon.status()));
        }
        let event = daemon.next_event(&mut events, outside.as_mut(), limit).await;
        if !daemon.take(event).await {
            break;
        }
        // What has gathered meanwhile is taken in before the next pass.
        while let Ok(event) = events.try_recv() {
            daemon.take(event).await;
        }
    }
    daemon.notifier.stopping();
    daemon.stop_drivers().await;
    daemon.save_time(true);
    // So that the anchor vouches for the events up to here.
    if let Err(error) = lock(&daemon.store).anchor_head() {
        tracing::warn!(%error, "the audit log's head can't be written into the anchor");
    }
    tracing::info!("the agent stops; every workload runs on");
    Ok(once.map(|_| daemon.status()))
}

impl Daemon {
    /// Has the runtimes give back what others wait for.
    async fn stop_drivers(&self) {
        for driver in self.keeper.drivers().values() {
            driver.stop().await;
        }
    }

    /// Waits until something happens.
    async fn next_event(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        outside: Option<&mut Outside>,
        limit: Option<Duration>,
    ) -> Event {
        let wait = self.until_deadline(limit);
        let deadline = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        let rest = memory::stay_small();
        tokio::pin!(rest);
        let Some(outside) = outside else { return Event::Stop };
        loop {
            tokio::select! {
                Some(event) = events.recv() => return event,
                Some(request) = outside.requests.recv() => return Event::Asked(request),
                _ = outside.hangup.recv() => return Event::PollNow,
                () = outside.stop.received() => return Event::Stop,
                () = &mut deadline => return Event::Deadline,
                never = &mut rest, if !self.untrimmed => match never {},
                () = outside.watchdog.due() => self.notifier.alive(),
            }
        }
    }

    /// How long nothing is due.
    fn until_deadline(&self, limit: Option<Duration>) -> Option<Duration> {
        let now = self.clock.now();
        let limit = limit.map(|uptime| Moment { boot: now.moment.boot.clone(), uptime });
        let poll = (!self.syncing).then(|| self.progress.next_poll.clone()).flatten();
        let trouble = self.trouble.as_ref().map(|(until, _)| until.clone());
        // While the disk refuses writes, nothing of the keeper's can be done.
        let keeper = if trouble.is_some() { None } else { self.keeper.next_wake(&self.handled) };
        let permit = if trouble.is_some() { None } else { self.waiting.due.clone() };
        let purge = if trouble.is_some() { None } else { self.keeper.next_purge(&now) };
        [limit, poll, trouble, keeper, permit, purge, self.disk_is_due()]
            .into_iter()
            .flatten()
            .map(|at| self.clock.until(&at))
            .min()
    }

    /// Takes in what happened; gives whether the agent goes on.
    async fn take(&mut self, event: Event) -> bool {
        let now = self.clock.now();
        let result = match event {
            Event::Stop => return false,
            Event::Deadline => {
                self.handled = now.moment.clone();
                let due = self.keeper.due(&now);
                if !due.is_empty() {
                    self.widen(Scope::Apps(due));
                }
                let permit_is_due =
                    self.waiting.due.as_ref().is_some_and(|at| self.clock.until(at).is_zero());
                if permit_is_due || self.keeper.has_due_purge(&now) {
                    self.widen(Scope::All);
                }
                Ok(())
            }
            Event::PollNow => {
                self.poll_asked = true;
                self.keeper.try_all_now(&now);
                self.widen(Scope::All);
                Ok(())
            }
            Event::Runtime(event) => {
                tracing::debug!(?event, "a runtime reports");
                self.look_at = Scope::All;
                // A runtime that is back is no time to wait out a pause that grew before.
                if event.back {
                    self.keeper.try_all_of(event.driver, &now);
                }
                self.widen(event.app.map_or(Scope::All, |app| Scope::Apps(BTreeSet::from([app]))));
                Ok(())
            }
            Event::Tidied => {
                self.syncing = false;
                self.untrimmed = true;
                Ok(())
            }
            Event::Gates(gates, answers) => {
                self.gates_answered(gates, answers, &now);
                Ok(())
            }
            Event::Asked(request) => {
                self.answer(request, &now).await;
                Ok(())
            }
            Event::Fetched(result) => {
                self.syncing = false;
                self.fetched(result, &now)
            }
            Event::Rendered(revision, result) => {
                self.syncing = false;
                self.rendered(&revision, *result, &now)
            }
            Event::Prepared(app, release, result) => {
                self.preparing.remove(&(app.clone(), release));
                if let Err(error) = &result {
                    self.note_disk(&error.to_string(), &now);
                    // Something else may have been in its way.
                    self.uncollected |= self.is_scarce();
                }
                self.widen(Scope::Apps(BTreeSet::from([app.clone()])));
                self.keeper.prepared(&app, release, result, &now)
            }
            Event::Seen(app, release, sight) => {
                if self.looking.remove(&app) == Some(true) {
                    let again = Scope::Apps(BTreeSet::from([app.clone()]));
                    self.look_at = std::mem::take(&mut self.look_at).and(again);
                }
                let before = self.keeper.phases();
                let result = self.keeper.seen(&app, release, sight, &now);
                if !self.keeper.is_judged(&app) {
                    self.windows.forget(&app);
                }
                if self.keeper.phases() != before {
                    self.widen(Scope::All);
                }
                result
            }
        };
        self.note_trouble(result, &now);
        true
    }

    fn widen(&mut self, scope: Scope) {
        self.due = Some(match self.due.take() {
            Some(due) => due.and(scope),
            None => scope,
        });
    }

    /// Starts what is due, and makes a pass if there is a reason for one.
    async fn advance(&mut self, outside: &mut Option<Outside>) {
        let now = self.clock.now();
        self.mend_database(&now);
        self.look_at_disk(&now);
        if self.trouble.as_ref().is_some_and(|(until, _)| self.clock.until(until).is_zero()) {
            self.trouble = None;
            self.widen(Scope::All);
            if !self.syncing
                && self.progress.accepted.as_ref().map(|floor| &floor.revision)
                    != self.progress.resolved.as_ref()
            {
                self.render_accepted();
            }
        }
        // Before the next fetch: where one follows the other without a pause, nothing would ever be let go of.
        self.collect().await;
        if !self.syncing && (self.poll_asked || self.progress.is_due(&now)) {
            self.start_fetch(&now);
        }
        if self.trouble.is_none() {
            self.pass(outside).await;
            let now = self.clock.now();
            self.renew_permit(&now);
            self.start_preparing();
            self.start_looking();
        }
        self.note_applied();
        self.collect().await;
        self.publish();
        if self.untrimmed && self.at_rest() {
            self.untrimmed = false;
            memory::give_back();
        }
    }

    async fn pass(&mut self, outside: &mut Option<Outside>) {
        while let Some(scope) = self.due.take() {
            self.untrimmed = true;
            let now = self.clock.now();
            self.renew_permit(&now);
            let before = self.keeper.phases();
            let result = self.keeper_pass(&scope, outside, &now).await;
            if result.is_err() {
                self.note_trouble(result, &now);
                return;
            }
            if self.stopped {
                return;
            }
            // A change of one app may be another's turn.
            if self.keeper.phases() != before {
                self.widen(Scope::All);
            }
        }
    }

    /// The keeper's pass. A runtime may take its time over it, so whoever asks meanwhile gets the status from
    /// before, and a signal ends it where it is, as a crash would.
    async fn keeper_pass(
        &mut self,
        scope: &Scope,
        outside: &mut Option<Outside>,
        now: &Now,
    ) -> Result<(), JournalError> {
        let status = self.status();
        let mut others = Vec::new();
        let known = self.progress.resolved.is_some();
        let (keeper, searched) = (&mut self.keeper, &mut self.searched);
        let mut work = Box::pin(async {
            // Only with a revision at hand can it be said what is unknown.
            if !*searched && known {
                *searched = keeper.find_unknown(now).await?;
            }
            keeper.pass(scope, now).await
        });
        let result = loop {
            let Some(outside) = outside.as_mut() else { break (&mut work).await };
            tokio::select! {
                result = &mut work => break result,
                Some(request) = outside.requests.recv() => match request {
                    Request::Status(reply) => {
                        let _ = reply.send(status.clone());
                    }
                    other => others.push(other),
                },
                () = outside.stop.received() => {
                    self.stopped = true;
                    break Ok(());
                }
                () = outside.watchdog.due() => self.notifier.alive(),
            }
        };
        drop(work);
        for request in others {
            self.answer(request, now).await;
        }
        result
    }

    /// A disk that refuses writes stops changes, and nothing that runs; it is tried again.
    fn note_trouble(&mut self, result: Result<(), JournalError>, now: &Now) {
        if let Err(error) = result {
            tracing::error!(%error, "the agent can't write down what it does, and waits");
            let until = now.moment.uptime + DISK_PAUSE;
            self.trouble = Some((Moment { boot: now.moment.boot.clone(), uptime: until }, error.to_string()));
            self.note_disk(&error.to_string(), now);
        }
    }

    fn start_preparing(&mut self) {
        let now = self.clock.now();
        let todo = self.keeper.to_prepare(&now).into_iter();
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

    fn start_looking(&mut self) {
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
    fn start_watching(&self) {
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

    /// Whether every verdict is in.
    fn at_rest(&self) -> bool {
        let jobs = self.gates.is_asking()
            || self.syncing
            || self.poll_asked
            || !self.preparing.is_empty()
            || !self.looking.is_empty();
        !jobs && self.due.is_none() && self.trouble.is_none() && self.keeper.at_rest()
    }

    /// Everything of a revision is good: that is remembered, and what is no longer needed goes.
    fn note_applied(&mut self) {
        let now = self.clock.now();
        let settled = self.progress.resolved.is_some() && self.keeper.converged();
        if settled && self.progress.applied != self.progress.resolved {
            self.progress.applied.clone_from(&self.progress.resolved);
            let revision = self.progress.applied.clone();
            self.note("revision.applied", revision.as_ref(), "everything that it places here is good", &now);
            self.uncollected = true;
        }
    }

    /// Drops what no app can need any more. Not while a job may be pinning something new, and none is begun before the
    /// mirror is tidied up: a revision that was fetched meanwhile isn't among those that are kept.
    async fn collect(&mut self) {
        if !self.uncollected || self.syncing || !self.preparing.is_empty() {
            return;
        }
        self.uncollected = false;
        let keep = self.images.with_parts(self.keeper.pinned());
        self.keeper.journal().collect(&keep);
        for driver in self.keeper.drivers().values() {
            driver.collect(&keep).await;
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
            let collected = if scarce { source.collect_all(&keep) } else { source.collect(&keep) };
            if let Err(error) = collected {
                tracing::warn!(%error, "the mirror can't be tidied up");
            }
            drop(source);
            // What that took of memory is given back as well.
            let _ = jobs.blocking_send(Event::Tidied);
        });
    }
}
