//! What downloads may use of the box's link: one allowance, which everything that is fetched shares.
//!
//! ```text
//! Allowance    the limits, what was used, who waits; kept over restarts
//!   Line       one client's way through it: what it is used for now, how long it was held up
//!     connector   counts what passes a socket, both ways, and stops what nothing is left for
//! ```
//!
//! Counted is what the box itself sends and receives over TCP: bodies, heads, TLS. The headers of TCP and IP, and
//! names that are looked up, come on top of it: a few percent.
//!
//! The rate is kept by waiting, between reads and never within one, so that no server is thought slow for it. The
//! budget is kept by not reading on. What nobody should wait for goes beyond it: polls, and for each revision [`EXTRA`] a
//! day for its documents. Each of these has a bound of its own that nothing else uses up: what says how much may be used,
//! what is urgent and what is to stop must get through whatever was used before.

mod connector;
mod keep;
mod line;
mod used_up;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::network::{Bucket, BudgetPeriod, ByteBudget, DownloadLimits, Usage};
use holdfast_core::report::{BudgetStatus, DownloadStatus};
use holdfast_store::records::LinkUsage;
use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(crate) use self::connector::Counted;
pub use self::keep::{Keep, Nowhere};
pub(crate) use self::line::Line;
pub use self::used_up::UsedUp;
use crate::clock::Clock;

/// Bytes a day that the commit, folders and documents of one revision may use beyond the budget; and as many more for
/// the manifests of all images. A box's own part of a repository has some tens of KiB.
pub const EXTRA: u64 = 256 << 10;
/// Bytes that one poll may use beyond the budget. It needs some 8 KiB, most of it for TLS.
pub const POLL: u64 = 64 << 10;
/// After so many bytes what was used is written down, while a download runs.
const WRITTEN_EVERY: u64 = 1 << 20;
/// The longest sleep: new limits hold after it.
const STEP: Duration = Duration::from_millis(250);

/// What something is downloaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To see whether there is something new.
    Poll,
    /// To know what the box should be: commits, folders, documents.
    Documents,
    /// To know what images are.
    Manifests,
    /// Files of apps out of Git, whose size nobody knows before, and which nobody can go on with in the middle. More
    /// than so many bytes, since so many weren't enough before.
    Files(u64),
    /// What is run: an image's layer. So many bytes are missing.
    Content(u64),
}

/// The time, so that tests needn't wait.
pub trait Time: Send + Sync {
    /// What periods go by: the time, or what is proven of it while nobody knows it. That goes on as fast, so that a
    /// budget is given once for each period that the box has seen, and no clock that is wrong gives one.
    fn wall(&self) -> Timestamp;
    /// Time since some beginning, on a clock that doesn't jump.
    fn uptime(&self) -> Duration;
    /// Waits.
    fn sleep(&self, wait: Duration);
}

impl Time for Clock {
    fn wall(&self) -> Timestamp {
        let now = self.now();
        now.time.known().unwrap_or(now.proven)
    }

    fn uptime(&self) -> Duration {
        self.now().moment.uptime
    }

    fn sleep(&self, wait: Duration) {
        std::thread::sleep(wait);
    }
}

/// What all downloads together may use. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Allowance(Arc<Inner>);

struct Inner {
    time: Box<dyn Time>,
    keep: Box<dyn Keep>,
    state: Mutex<State>,
    /// Who writes: what is newer must not be overwritten by what is older.
    writing: Mutex<()>,
}

struct State {
    kept: LinkUsage,
    urgent: bool,
    zone: TimeZone,
    bucket: Bucket,
    /// Bytes that were used and aren't written down.
    unwritten: u64,
}

impl Allowance {
    /// An allowance without limits, which nothing is kept of.
    pub fn unlimited() -> Self {
        Allowance::open(Nowhere, Clock::new())
    }

    /// An allowance with the limits and the usage that were kept in `keep`. Until [`Allowance::set`] its days are
    /// those of UTC.
    pub fn open(keep: impl Keep + 'static, time: impl Time + 'static) -> Self {
        let kept = keep.load().unwrap_or_else(|error| {
            tracing::warn!(%error, "the record of the used byte budget is lost: counting starts from zero");
            None
        });
        let state = State {
            kept: kept.unwrap_or_default(),
            urgent: false,
            zone: TimeZone::UTC,
            bucket: Bucket::new(),
            unwritten: 0,
        };
        let (time, keep) = (Box::new(time), Box::new(keep));
        Allowance(Arc::new(Inner { time, keep, state: Mutex::new(state), writing: Mutex::new(()) }))
    }

    /// Says what holds from now on (and writes that to the store: not to be called under its lock), for downloads that run too. With `urgent` there are no limits, but what is used is
    /// counted. Budgets are for the days, weeks and months of `zone`.
    pub fn set(&self, limits: DownloadLimits, urgent: bool, zone: TimeZone) {
        let mut state = self.state();
        let changed = state.kept.limits != limits;
        if changed {
            tracing::info!(%limits, "the limits for downloads have changed");
        }
        if state.kept.limits.rate != limits.rate || urgent {
            state.bucket.forgive(self.0.time.uptime());
        }
        state.kept.limits = limits;
        (state.urgent, state.zone) = (urgent, zone);
        if limits.budget.is_none() {
            state.kept = LinkUsage { limits, ..LinkUsage::default() };
        }
        state.advance(self.0.time.wall());
        drop(state);
        if changed {
            self.write();
        }
    }

    /// Bytes used in the present period; none without a budget.
    pub fn used(&self) -> Option<u64> {
        let mut state = self.state();
        state.advance(self.0.time.wall())?;
        state.kept.used.as_ref().map(Usage::bytes)
    }

    /// Bytes left in the present period; none without a budget.
    pub fn left(&self) -> Option<u64> {
        let mut state = self.state();
        let budget = state.advance(self.0.time.wall())?;
        Some(budget.left(state.used()))
    }

    /// The limits and what is left of them, for `status`; none without limits.
    pub fn standing(&self) -> Option<DownloadStatus> {
        let mut state = self.state();
        let now = self.0.time.wall();
        let budget = state.advance(now);
        let DownloadLimits { rate, budget: _ } = state.kept.limits;
        let budget = budget.map(|budget| BudgetStatus {
            bytes: budget.bytes,
            per: budget.per,
            used: state.used(),
            next: budget.per.next(now, &state.zone),
        });
        (rate.is_some() || budget.is_some()).then_some(DownloadStatus { rate, budget, urgent: state.urgent })
    }

    /// The way of one client.
    pub(crate) fn line(&self) -> Line {
        Line::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uptime(&self) -> Duration {
        self.0.time.uptime()
    }

    /// The documents are those of `revision` from now on. Those of another one have had an extra of their own.
    fn documents_of(&self, revision: &str) {
        let mut state = self.state();
        if state.kept.extra_of.as_deref() != Some(revision) {
            state.kept.extra_of = Some(revision.to_owned());
            state.kept.extra = None;
        }
    }

    /// Whether there is a budget to keep to.
    fn has_budget(&self) -> bool {
        let state = self.state();
        state.kept.limits.budget.is_some() && !state.urgent
    }

    /// Whether downloads are held up.
    fn has_rate(&self) -> bool {
        let state = self.state();
        state.kept.limits.rate.is_some() && !state.urgent
    }

    /// Whether a download for `purpose` may begin.
    fn may_begin(&self, purpose: Purpose) -> Result<(), UsedUp> {
        self.state().check(purpose, 0, true, self.0.time.wall())
    }

    /// Whether one that brought `taken` bytes may go on.
    fn may_go_on(&self, purpose: Purpose, taken: u64) -> Result<(), UsedUp> {
        self.state().check(purpose, taken, false, self.0.time.wall())
    }

    /// Books what passed.
    fn book(&self, purpose: Purpose, bytes: u64) {
        let mut state = self.state();
        if let Some(rate) = state.kept.limits.rate.filter(|_| !state.urgent) {
            state.bucket.take(bytes, rate, self.0.time.uptime());
        }
        let Some(budget) = state.advance(self.0.time.wall()) else { return };
        let beyond = bytes.saturating_sub(budget.left(state.used()));
        if let Some(used) = &mut state.kept.used {
            used.book(bytes);
        }
        let extra = match purpose {
            Purpose::Documents => &mut state.kept.extra,
            Purpose::Manifests => &mut state.kept.manifests,
            Purpose::Poll | Purpose::Files(_) | Purpose::Content(_) => &mut None,
        };
        if let Some(extra) = extra {
            extra.book(beyond);
        }
        state.unwritten += bytes;
        // Polls wait for something larger: a pass with nothing to do writes nothing.
        let write = state.unwritten >= WRITTEN_EVERY && purpose != Purpose::Poll;
        drop(state);
        if write {
            self.write();
        }
    }

    /// Waits until what was taken is paid for; gives how long.
    fn wait(&self) -> Duration {
        let began = self.uptime();
        loop {
            let wait = match self.state() {
                state if state.urgent => Duration::ZERO,
                state => state.bucket.wait(self.uptime()),
            };
            if wait.is_zero() {
                return self.uptime().saturating_sub(began);
            }
            self.0.time.sleep(wait.min(STEP));
        }
    }

    /// A download ended.
    fn ended(&self, purpose: Purpose) {
        if purpose != Purpose::Poll && self.state().unwritten > 0 {
            self.write();
        }
    }

    fn write(&self) {
        let _one = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, unwritten) = {
            let state = self.state();
            (state.kept.clone(), state.unwritten)
        };
        match self.0.keep.save(&kept) {
            Ok(()) => {
                let mut state = self.state();
                state.unwritten = state.unwritten.saturating_sub(unwritten);
            }
            Err(error) => tracing::warn!(%error, "the used byte budget can't be saved"),
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.kept.used.as_ref().map_or(0, Usage::bytes)
    }

    /// Takes in what the time is; gives the budget, if there is one.
    fn advance(&mut self, now: Timestamp) -> Option<ByteBudget> {
        let budget = self.kept.limits.budget?;
        match &mut self.kept.used {
            Some(used) => {
                if used.advance(budget.per, now, &self.zone) {
                    tracing::info!(per = budget.per.word(), "a new period of the byte budget began");
                }
            }
            none => {
                tracing::info!("counting for the byte budget starts from zero");
                *none = Some(Usage::new(budget.per, now, &self.zone));
            }
        }
        for extra in [&mut self.kept.extra, &mut self.kept.manifests] {
            match extra {
                Some(extra) => {
                    extra.advance(BudgetPeriod::Day, now, &self.zone);
                }
                none => *none = Some(Usage::new(BudgetPeriod::Day, now, &self.zone)),
            }
        }
        Some(budget)
    }

    fn check(&mut self, purpose: Purpose, taken: u64, begins: bool, now: Timestamp) -> Result<(), UsedUp> {
        let Some(budget) = self.advance(now).filter(|_| !self.urgent) else { return Ok(()) };
        let left = budget.left(self.used());
        let beyond = |extra: &Option<Usage>| left > 0 || extra.as_ref().map_or(0, Usage::bytes) < EXTRA;
        let (passes, wanted, next) = match purpose {
            Purpose::Poll => (left > 0 || taken < POLL, None, budget.per),
            Purpose::Documents => (beyond(&self.kept.extra), None, BudgetPeriod::Day),
            Purpose::Manifests => (beyond(&self.kept.manifests), None, BudgetPeriod::Day),
            Purpose::Files(more_than) if begins => (left > more_than, Some(more_than), budget.per),
            Purpose::Content(size) if begins => (budget.has_room(left, size), Some(size), budget.per),
            Purpose::Files(_) | Purpose::Content(_) => (left > 0, None, budget.per),
        };
        if passes {
            return Ok(());
        }
        Err(UsedUp { used: self.used(), budget, wanted, next: next.next(now, &self.zone) })
    }
}

impl fmt::Debug for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowance").field("kept", &self.state().kept).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
