//! The daemon: one loop that waits for something to happen, takes it in, and passes it down the pipeline.
//!
//! ```text
//! poll due -> [job] fetch -> verify, accept -> [job] select, render, resolve -> place
//!          -> [jobs] prepare -> pass -> [jobs] observe -> plan -> [jobs] steps -> [jobs] look -> judge -> status
//! ```
//!
//! Jobs block or wait; they run beside the loop, end within limits of their own, and come back as an
//! [`Event`]. The loop itself waits for nothing but events: no call to a runtime, a registry or the source is made in
//! it. It never ticks: between events it sleeps until the next deadline.

mod accept;
mod fetch_and_render;
mod full_disk;
mod gate_watch;
mod gates;
mod gather;
mod images;
mod jobs;
mod journal;
mod look;
mod metrics_history;
mod offline;
mod outside;
mod probe_components;
mod progress;
mod runtimes;
mod setup;
mod source_state;
mod starting;
mod status;
mod tags;
mod tell;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use holdfast_core::change::{Gate, GateAnswer};
use holdfast_core::clock::{Moment, Now};
use holdfast_core::digest::{ReleaseId, Revision};
use holdfast_core::health::Sight;
use holdfast_core::name::AppName;
use holdfast_core::report::Status;
use holdfast_core::runtime::DriverName;
use holdfast_drivers::{DriverError, DriverEvent};
use tokio::sync::{mpsc, watch};

use self::fetch_and_render::{NotRendered, PollResult, Rendered};
use self::full_disk::DiskTrouble;
use self::gate_watch::{GateWatch, Waiting};
use self::images::BoxImages;
use self::journal::{SharedStore, StoreJournal, lock};
use self::metrics_history::Histories;
use self::outside::{Outside, Signals};
use self::source_state::Following;
use self::starting::Opened;
use self::tags::Said;
use self::tell::PlanReply;
use crate::api::Request;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::allowance::Allowance;
use crate::keeper::{Answered, Done, JournalError, Keeper, Scope};
use crate::memory;
use crate::notify::{Environment, Notifier};
use crate::source::SourceError;

pub use offline::{offline_audit, offline_diagnosis, offline_events, offline_plan, offline_status};
pub use runtimes::fingerprints;

/// Events that may wait for the loop.
const WAITING_EVENTS: usize = 256;
/// The first pause after a poll that failed.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// How many events are taken in before the next pass at most.
const TAKEN_AT_ONCE: usize = 256;
/// How long drivers may take over giving back what others wait for, when the agent ends.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent that nobody can ask sees to what should run, before it ends.
const BRING_UP_LIMIT: Duration = Duration::from_secs(120);
/// The pause after the disk refused a write.
const DISK_PAUSE: Duration = Duration::from_secs(5);

/// Something that happened.
enum Event {
    Fetched(Result<PollResult, SourceError>),
    Rendered(Revision, Box<Result<Rendered, NotRendered>>),
    Tags(Said),
    Prepared(AppName, ReleaseId, Result<(), DriverError>),
    Done(Done),
    Planned(PlanReply, Answered),
    Swept(DriverName),
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
    follow: Following,
    images: BoxImages,
    /// What all downloads may use of the link.
    allowance: Allowance,
    keeper: Keeper<StoreJournal>,
    /// What the next pass is about; none when there is no reason for one.
    due: Option<Scope>,
    preparing: BTreeSet<(AppName, ReleaseId)>,
    /// The apps that are being looked at, and whether something happened meanwhile that the look may not have seen.
    looking: BTreeMap<AppName, bool>,
    /// The runtimes that are dropping what isn't needed any more.
    sweeping: BTreeSet<DriverName>,
    histories: Histories,
    /// What of the apps at rest to look at next.
    look_at: Scope,
    uncollected: bool,
    gates: GateWatch,
    waiting: Waiting,
    /// Much was done since memory was last given back.
    untrimmed: bool,
    disk: DiskTrouble,
    /// What the runtimes said of themselves.
    runtimes: runtimes::Known,
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
    let (parts, outside) = match Opened::open(&config, &clock).await {
        Err(error) if once.is_none() && starting::is_of_disk(&error) => {
            let mut outside = Outside::open(&config, signals, &notifier, newest_event.subscribe())?;
            let waited = starting::wait_for_disk(&config, &clock, &mut outside, &notifier, error).await?;
            let Some(parts) = waited else { return Ok(None) };
            (parts, Ok(outside))
        }
        parts => (parts?, Outside::open(&config, signals, &notifier, newest_event.subscribe())),
    };
    let Opened { store, allowance, keeper, source, images, progress } = parts;
    let now = clock.now();
    let gates = GateWatch::new(lock(&store).gate_hold()?);
    let (jobs, mut events) = mpsc::channel(WAITING_EVENTS);
    newest_event.send_replace(lock(&store).audit().head().map_or(0, |head| head.seq));
    let backoff = Backoff::new(FIRST_RETRY, config.source.interval);
    let mut daemon = Daemon {
        config,
        clock,
        store,
        follow: Following::new(source, progress, backoff),
        images,
        allowance,
        keeper,
        due: Some(Scope::All),
        preparing: BTreeSet::new(),
        looking: BTreeMap::new(),
        sweeping: BTreeSet::new(),
        histories: Histories::new(),
        look_at: Scope::All,
        uncollected: true,
        gates,
        waiting: Waiting::new(&now),
        untrimmed: true,
        disk: DiskTrouble::default(),
        runtimes: runtimes::Known::default(),
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
            let _ = tokio::time::timeout(BRING_UP_LIMIT, daemon.bring_up(&mut events)).await;
            daemon.wind_down().await;
            return Err(error);
        }
    };
    // A runtime may take minutes to bring everything back; the service manager must not give the agent up meanwhile,
    // and whoever asks is answered.
    daemon.notifier.ready();
    // The last known good comes first: before the network.
    daemon.pass();
    daemon.start_work();
    daemon.start_watching();
    daemon.render_accepted();
    let limit = once.map(|limit| daemon.clock.now().moment.uptime + limit);
    loop {
        daemon.advance();
        if let Some(limit) = limit
            && (daemon.at_rest() || daemon.clock.now().moment.uptime >= limit)
        {
            daemon.wind_down().await;
            return Ok(Some(daemon.status()));
        }
        let event = daemon.next_event(&mut events, outside.as_mut(), limit).await;
        if !daemon.take(event) {
            break;
        }
        // What has gathered meanwhile is taken in before the next pass.
        for _ in 0..TAKEN_AT_ONCE {
            let Ok(event) = events.try_recv() else { break };
            daemon.take(event);
        }
    }
    daemon.notifier.stopping();
    daemon.end_sweeping(&mut events).await;
    daemon.wind_down().await;
    daemon.save_time(true);
    // So that the anchor vouches for the events up to here.
    if let Err(error) = lock(&daemon.store).anchor_head() {
        tracing::warn!(%error, "the audit log's head can't be written into the anchor");
    }
    tracing::info!("the agent stops; all workloads keep running");
    Ok(once.map(|_| daemon.status()))
}

impl Daemon {
    /// The agent is about to end: what it is in the midst of is no change that it dies of, and the runtimes give back what
    /// others wait for.
    async fn wind_down(&mut self) {
        let now = self.clock.now();
        if let Err(error) = self.keeper.set_down(&now).and_then(|()| self.commit()) {
            tracing::warn!(%error, "can't record that the agent is stopping during a change");
        }
        let stopped = self.keeper.drivers().values().map(|driver| driver.stop());
        if tokio::time::timeout(STOP_LIMIT, join_all(stopped)).await.is_err() {
            tracing::warn!(
                "a driver doesn't release what others wait for (such as its lease) within {STOP_LIMIT:?}; the \
                 agent stops anyway"
            );
        }
    }

    /// Brings up what should run, and nothing else.
    async fn bring_up(&mut self, events: &mut mpsc::Receiver<Event>) {
        loop {
            self.pass();
            self.start_work();
            if self.keeper.is_idle() || self.disk.trouble.is_some() {
                return;
            }
            let Some(event) = events.recv().await else { return };
            self.take(event);
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
        let trouble = self.disk.trouble.as_ref().map(|(until, _)| until.clone());
        // While the disk refuses writes, nothing of the keeper's can be done.
        let keeper = if trouble.is_some() { None } else { self.keeper.next_wake(&self.handled) };
        let permit = if trouble.is_some() { None } else { self.waiting.due.clone() };
        let purge = if trouble.is_some() { None } else { self.keeper.next_purge(&now) };
        [limit, trouble, keeper, permit, purge, self.disk_is_due()]
            .into_iter()
            .flatten()
            .chain(self.follow.wakes())
            .map(|at| self.clock.until(&at))
            .min()
    }

    /// Takes in what happened; gives whether the agent goes on.
    fn take(&mut self, event: Event) -> bool {
        let now = self.clock.now();
        let result = match event {
            Event::Stop => return false,
            Event::Deadline => {
                self.handled = now.moment.clone();
                let due = self.keeper.due(&now);
                if !due.is_empty() || self.keeper.has_due_search(&now) {
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
                self.follow.poll_asked = true;
                self.follow.tags.ask_all_now(&now);
                self.follow.render_due = self.follow.render_due.is_some().then(|| now.moment.clone());
                self.keeper.try_all_now(&now);
                self.widen(Scope::All);
                Ok(())
            }
            Event::Runtime(event) => {
                tracing::debug!(?event, "a runtime reports");
                self.look_at = Scope::All;
                // A runtime that is back is no time to wait out a pause that grew before.
                if event.back {
                    self.runtimes.forget(event.driver);
                    self.keeper.try_all_of(event.driver, &now);
                }
                self.widen(event.app.map_or(Scope::All, |app| Scope::Apps(BTreeSet::from([app]))));
                Ok(())
            }
            Event::Tidied => {
                self.follow.ended();
                self.untrimmed = true;
                Ok(())
            }
            Event::Gates(gates, answers) => {
                self.gates_answered(gates, answers, &now);
                Ok(())
            }
            Event::Asked(request) => {
                self.answer(request, &now);
                Ok(())
            }
            Event::Fetched(result) => {
                self.follow.ended();
                self.fetched(result, &now)
            }
            Event::Rendered(revision, result) => {
                self.follow.ended();
                self.rendered(&revision, *result, &now)
            }
            Event::Tags(said) => {
                self.tags_said(said, &now);
                Ok(())
            }
            Event::Prepared(app, release, result) => {
                self.preparing.remove(&(app.clone(), release));
                if let Err(error) = &result {
                    self.note_disk(&error.to_string(), error.trouble(), &now);
                    // Something else may have been in its way.
                    self.uncollected |= self.is_scarce();
                }
                self.widen(Scope::Apps(BTreeSet::from([app.clone()])));
                self.keeper.prepared(&app, release, result, &now)
            }
            Event::Done(done) => {
                // What it was may be another one's turn, and what failed is tried again.
                self.widen(Scope::default());
                if let Some(app) = done.changed() {
                    let again = Scope::Apps(BTreeSet::from([app.clone()]));
                    self.look_at = std::mem::take(&mut self.look_at).and(again);
                }
                self.keeper.done(done, &now)
            }
            Event::Planned(reply, answered) => {
                self.planned(reply, answered, &now);
                Ok(())
            }
            Event::Swept(driver) => {
                self.sweeping.remove(&driver);
                Ok(())
            }
            Event::Seen(app, release, sight) => {
                if self.looking.remove(&app) == Some(true) {
                    let again = Scope::Apps(BTreeSet::from([app.clone()]));
                    self.look_at = std::mem::take(&mut self.look_at).and(again);
                }
                let before = self.keeper.phases();
                let result = self.keeper.seen(&app, release, sight, &now);
                if !self.keeper.is_judged(&app) {
                    self.histories.forget(&app);
                }
                if self.keeper.phases() != before {
                    self.widen(Scope::default());
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
    fn advance(&mut self) {
        let now = self.clock.now();
        self.mend_database(&now);
        self.look_at_disk(&now);
        if self.disk.trouble.as_ref().is_some_and(|(until, _)| self.clock.until(until).is_zero()) {
            self.disk.trouble = None;
            self.widen(Scope::All);
            self.follow.progress.unread |= self.follow.progress.is_unread();
        }
        // Before what follows brings it all to the disk: what a revision means for this box, which mostly is nothing.
        if self.disk.trouble.is_none() {
            self.pass();
        }
        self.note_applied();
        if self.follow.progress.unread && !self.follow.is_busy() {
            self.render_accepted();
        }
        // Before the next fetch: where one follows the other without a pause, nothing would ever be let go of.
        self.collect();
        if self.follow.is_poll_due(&now) {
            self.start_fetch(&now);
        }
        let render_due = self.follow.render_due.as_ref().is_some_and(|at| self.clock.until(at).is_zero());
        if render_due && !self.follow.is_busy() {
            self.render_accepted();
        }
        self.ask_registries(&now);
        if self.disk.trouble.is_none() {
            self.pass();
            let now = self.clock.now();
            self.renew_permit(&now);
            self.start_preparing();
            self.start_looking();
        }
        self.note_applied();
        if self.disk.trouble.is_none() {
            self.start_work();
        }
        self.collect();
        self.publish();
        if self.untrimmed && self.at_rest() {
            self.untrimmed = false;
            memory::give_back();
        }
    }

    /// Finds out what is to be done, if there is a reason to: [`Daemon::start_work`] begins it.
    fn pass(&mut self) {
        let Some(scope) = self.due.take() else { return };
        self.untrimmed = true;
        let now = self.clock.now();
        self.renew_permit(&now);
        let result = self.keeper.pass(&scope, &now);
        self.note_trouble(result, &now);
    }

    /// A disk that refuses writes stops changes, and nothing that runs; it is tried again.
    fn note_trouble(&mut self, result: Result<(), JournalError>, now: &Now) {
        if let Err(error) = result {
            tracing::error!(%error, "the agent can't save its state, and waits");
            self.disk.trouble = Some((now.moment_in(DISK_PAUSE), error.to_string()));
            self.note_disk(&error.cause, error.trouble, now);
        }
    }

    /// Whether every verdict is in.
    fn at_rest(&self) -> bool {
        let jobs = self.gates.is_asking()
            || self.follow.is_busy()
            || self.follow.poll_asked
            || !self.preparing.is_empty()
            || !self.sweeping.is_empty()
            || !self.looking.is_empty()
            || self.follow.tags.are_asked();
        !jobs && self.due.is_none() && self.disk.trouble.is_none() && self.keeper.at_rest()
    }

    /// Everything of a revision is good: that is remembered, and what is no longer needed goes.
    fn note_applied(&mut self) {
        let now = self.clock.now();
        // First what costs nothing: with every turn nearly always there is no news.
        let is_news = self.follow.progress.resolved.is_some()
            && self.follow.progress.applied != self.follow.progress.resolved;
        if is_news && self.keeper.converged() {
            self.follow.progress.applied.clone_from(&self.follow.progress.resolved);
            let revision = self.follow.progress.applied.clone();
            self.note(
                "revision.applied",
                revision.as_ref(),
                "all apps that the revision places on this box are good",
                &now,
            );
            self.uncollected = true;
        }
    }
}
