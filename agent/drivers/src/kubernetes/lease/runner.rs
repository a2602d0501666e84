//! A candidate at work: it asks the server round by round, and publishes the result within the agent.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::election::{Act, Belief, Election};
use super::{Clock, LeaseStore, Record, Refused, Standing, Times, device_in};

/// What a node says of itself once it was told to stop.
const OVER: &str = "this node is no longer a candidate for the lease";

/// The shortest pause between two rounds: a clock that stands must not make it ask all the time.
const BREATH: Duration = Duration::from_millis(100);

/// What is known at one moment. What follows from it depends on the time at which it is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
struct View {
    belief: Option<Belief>,
    /// Another who holds the Lease.
    other: Option<(String, Option<Timestamp>)>,
    /// When the server last answered, on the boot clock.
    heard: Option<Duration>,
    /// Why the last round came to nothing.
    trouble: Option<String>,
}

impl View {
    fn standing(&self, now: Duration, lease: Duration) -> Standing {
        if let Some(belief) = self.belief.filter(|belief| now < belief.until) {
            return Standing::Leads { since: belief.since };
        }
        let is_recent = self.heard.is_some_and(|heard| now.saturating_sub(heard) < lease);
        match (&self.other, &self.trouble) {
            (Some((leader, since)), trouble) if trouble.is_none() || is_recent => {
                Standing::StandsBy { leader: leader.clone(), since: *since }
            }
            (_, Some(trouble)) => Standing::Unknown { reason: trouble.clone() },
            (_, None) => Standing::Unknown { reason: "no node holds the lease yet".to_owned() },
        }
    }

    /// When the standing changes by nothing but time.
    fn ends(&self, now: Duration, lease: Duration) -> Option<Duration> {
        let moments =
            [self.belief.map(|belief| belief.until), self.heard.map(|heard| heard.saturating_add(lease))];
        moments.into_iter().flatten().filter(|moment| *moment > now).min()
    }
}

/// Where this node stands, at any moment. Dropping it ends the candidacy, as `stop` does, without waiting.
pub(crate) struct Leadership {
    view: watch::Receiver<View>,
    clock: Clock,
    lease: Duration,
    call: Duration,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Leadership {
    /// Becomes a candidate for the Lease in `store`. `identity` is of this process alone, see `super::identity`.
    pub(crate) fn start(store: Arc<dyn LeaseStore>, identity: String) -> Self {
        let election = Election::new(identity, Times::USUAL);
        let (leadership, work) = Leadership::prepare(store, election, Clock::of_the_box());
        *leadership.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::spawn(work));
        leadership
    }

    /// A candidacy, and the work for it that is still to be run.
    pub(super) fn prepare(
        store: Arc<dyn LeaseStore>,
        election: Election,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let Times { lease, call, .. } = election.times();
        let first = View { trouble: Some("the server has not been asked yet".to_owned()), ..View::default() };
        let (tell, view) = watch::channel(first);
        let (stop, stopped) = watch::channel(false);
        let (trouble, heard, unsure) = (None, None, false);
        let candidate = Candidate { store, election, clock: clock.clone(), tell, trouble, heard, unsure };
        let leadership = Leadership { view, clock, lease, call, stop, task: Mutex::default() };
        (leadership, candidate.run(stopped))
    }

    /// Where it stands now.
    pub(crate) fn standing(&self) -> Standing {
        if *self.stop.borrow() {
            return Standing::Unknown { reason: OVER.to_owned() };
        }
        self.view.borrow().standing((self.clock.uptime)(), self.lease)
    }

    /// By when everything must have ended that only the one may do who leads; `None` if that isn't this node. Ask
    /// anew before each write: it moves on with each renewal.
    pub(crate) fn leads_until(&self) -> Option<Instant> {
        let now = (self.clock.uptime)();
        let is_over = *self.stop.borrow();
        let belief = self.view.borrow().belief.filter(|belief| !is_over && now < belief.until)?;
        // In this order, what passes between the two readings makes it earlier, not later.
        Some(Instant::now() + belief.until.saturating_sub((self.clock.uptime)()))
    }

    /// Tells whenever the standing is another.
    pub(crate) fn changes(&self) -> Changes {
        Changes { view: self.view.clone(), clock: self.clock.clone(), lease: self.lease, last: None }
    }

    /// Ends the candidacy: leads no more, and lets another lead at once. Everything that only the one may do who
    /// leads must have ended before. Bounded; a server that doesn't answer is left alone.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // Two reads and two writes at most.
            let _ = timeout(self.call * 5, task).await;
        }
    }
}

/// The standings, one after the other.
pub(crate) struct Changes {
    view: watch::Receiver<View>,
    clock: Clock,
    lease: Duration,
    last: Option<Standing>,
}

impl Changes {
    /// The standing now, the first time; then the next one that is another. `None` once the candidacy is over and
    /// nothing can change any more. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Standing> {
        loop {
            let now = (self.clock.uptime)();
            let (standing, ends) = {
                let view = self.view.borrow_and_update();
                (view.standing(now, self.lease), view.ends(now, self.lease))
            };
            if self.last.as_ref() != Some(&standing) {
                self.last = Some(standing.clone());
                return Some(standing);
            }
            let is_over = self.view.has_changed().is_err();
            if is_over && ends.is_none() {
                return None;
            }
            tokio::select! {
                _ = self.view.changed(), if !is_over => {}
                () = pause(ends.map(|ends| ends.saturating_sub(now))) => {}
            }
        }
    }
}

/// Sleeps so long; for ever, if nothing is to come.
async fn pause(length: Option<Duration>) {
    match length {
        Some(length) => sleep(length).await,
        None => std::future::pending().await,
    }
}

/// A candidate's task. Whatever happens between a request and its answer, the election is told of whole answers only.
struct Candidate {
    store: Arc<dyn LeaseStore>,
    election: Election,
    clock: Clock,
    tell: watch::Sender<View>,
    trouble: Option<String>,
    heard: Option<Duration>,
    /// A write was sent whose answer didn't come: the Lease may be held without our knowing.
    unsure: bool,
}

impl Candidate {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = self.lock_of() => {}
            }
        }
        self.election.resign();
        let trouble = Some(OVER.to_owned());
        self.tell.send_replace(View { trouble, ..View::default() });
        if self.election.holds() || self.unsure {
            self.release().await;
        }
    }

    /// One round, and the time until the next.
    async fn lock_of(&mut self) {
        let started = self.now();
        self.trouble = self.round().await.err();
        self.publish();
        let now = self.now();
        let next = self.election.next_round(started, now, chance());
        sleep(next.saturating_sub(now).max(BREATH)).await;
    }

    /// Reads and writes until it stands where it can stand. A write that somebody came before is followed by a look
    /// at what that one wrote, once.
    async fn round(&mut self) -> Result<(), String> {
        let act = self.election.begin(self.now(), self.wall());
        if !matches!(act, Act::Read) && self.write(act).await? {
            return Ok(());
        }
        for _ in 0..2 {
            let record = self.read().await?;
            let act = self.election.saw(record, self.now(), self.wall());
            self.publish();
            if self.write(act).await? {
                return Ok(());
            }
        }
        Err("other clients keep writing the Lease at the same time".to_owned())
    }

    async fn read(&mut self) -> Result<Option<Record>, String> {
        let record = match timeout(self.election.times().call, self.store.get()).await {
            Ok(record) => record.map_err(|error| format!("can't read the Lease: {error}"))?,
            Err(_) => return Err("the API server does not answer the request to read the Lease".to_owned()),
        };
        self.heard = Some(self.now());
        self.trouble = None;
        Ok(record)
    }

    /// Whether it is as it should be now; not if somebody else wrote at the same time.
    async fn write(&mut self, act: Act) -> Result<bool, String> {
        // Before it is sent: what others do is counted from the moment at which it may have arrived.
        let started = self.now();
        self.unsure |= matches!(act, Act::Create(_) | Act::Replace(_));
        let answer = match &act {
            Act::Read | Act::StandBy => return Ok(true),
            Act::Create(record) => timeout(self.election.times().call, self.store.create(record)).await,
            Act::Replace(record) => timeout(self.election.times().call, self.store.replace(record)).await,
        };
        match answer {
            Ok(Ok(record)) => {
                self.unsure = false;
                let now = self.now();
                self.heard = Some(now);
                self.trouble = None;
                self.election.wrote(record, started, now);
                self.publish();
                Ok(true)
            }
            Ok(Err(Refused::Conflict)) => {
                self.unsure = false;
                self.heard = Some(self.now());
                self.election.conflicted();
                Ok(false)
            }
            Ok(Err(Refused::Failed(error))) => Err(format!("can't write the Lease: {error}")),
            Err(_) => Err("the API server does not answer the request to write the Lease".to_owned()),
        }
    }

    /// Lets another lead at once. What can't be released runs out by itself.
    async fn release(&mut self) {
        for _ in 0..2 {
            let Ok(record) = self.read().await else { return };
            self.election.saw(record, self.now(), self.wall());
            let Some(record) = self.election.release(self.wall()) else { return };
            match timeout(self.election.times().call, self.store.replace(&record)).await {
                // A renewal that was under way came first: read again.
                Ok(Err(Refused::Conflict)) => {}
                _ => return,
            }
        }
    }

    fn publish(&self) {
        let belief = self.election.belief();
        let holder = self.election.holder().filter(|_| !self.election.holds());
        let other = holder.map(|(holder, since)| (device_in(holder).to_owned(), since));
        let view = View { belief, other, heard: self.heard, trouble: self.trouble.clone() };
        self.tell.send_if_modified(|last| {
            let is_other = *last != view;
            *last = view;
            is_other
        });
    }

    fn now(&self) -> Duration {
        (self.clock.uptime)()
    }

    fn wall(&self) -> Timestamp {
        (self.clock.wall)()
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
