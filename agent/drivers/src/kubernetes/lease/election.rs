//! What a candidate does next: a state machine without a clock, network or randomness of its own.

use std::time::Duration;

use jiff::Timestamp;

use super::{Record, Times};

/// What to ask of the server.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// To read the Lease; then `Election::saw`.
    Read,
    /// To make it; then `Election::wrote`, if it was taken.
    Create(Record),
    /// To put this in the place of the version it was read as; then `Election::wrote`, if it was taken.
    Replace(Record),
    /// Nothing: another leads.
    StandBy,
}

/// That this candidate leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Belief {
    /// Until when, on the boot clock.
    pub(super) until: Duration,
    /// Since when, by this box's clock on the wall, for people.
    pub(super) since: Option<Timestamp>,
}

/// The Lease as it was last seen.
#[derive(Clone, Debug)]
struct Sight {
    /// What it says; `None` if there is no Lease.
    record: Option<Record>,
    /// Since when it is known to say so, on the boot clock.
    since: Duration,
}

/// One candidate. Times are of the boot clock, which may be read at any moment of a request but where it says
/// otherwise.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    times: Times,
    seen: Option<Sight>,
    /// The last holder that there was is another: where the Lease was deleted, that one may still believe.
    last_was_another: bool,
    /// What was seen is no longer there: somebody wrote at the same time.
    outdated: bool,
    belief: Option<Belief>,
}

impl Election {
    /// A candidate that has seen nothing. `identity` is of this process and of no other.
    pub(super) fn new(identity: String, times: Times) -> Self {
        Election { identity, times, seen: None, last_was_another: false, outdated: false, belief: None }
    }

    /// How long the parts of it take.
    pub(super) fn times(&self) -> Times {
        self.times
    }

    /// How a round begins. Who leads renews without having read: its last write is what is there.
    pub(super) fn begin(&self, now: Duration, wall: Timestamp) -> Act {
        match self.held() {
            Some(record) if self.leads(now) && !self.outdated => {
                Act::Replace(record.renewal(&self.times, wall))
            }
            _ => Act::Read,
        }
    }

    /// The Lease was read. `now` is after the answer came: staleness must not be counted from before.
    pub(super) fn saw(&mut self, record: Option<Record>, now: Duration, wall: Timestamp) -> Act {
        self.look(record, now);
        let Some(Sight { record, since }) = &self.seen else { return Act::Read };
        let silent_for = now.saturating_sub(*since);
        match record {
            // The holder of a Lease that was deleted doesn't know of it, and may have renewed until then.
            None if self.last_was_another && silent_for < self.times.lease => Act::StandBy,
            None => Act::Create(Record::new(&self.identity, &self.times, wall)),
            Some(record) if record.holder.as_deref() == Some(&self.identity) => {
                Act::Replace(record.renewal(&self.times, wall))
            }
            Some(record) if record.holder.is_some() && silent_for < record.patience(&self.times) => {
                Act::StandBy
            }
            Some(record) => Act::Replace(record.taken(&self.identity, &self.times, wall)),
        }
    }

    /// A write was taken, and this is what the server made of it. `started` is before it was sent, `now` after its
    /// answer came.
    pub(super) fn wrote(&mut self, record: Record, started: Duration, now: Duration) {
        let is_held = record.holder.as_deref() == Some(&self.identity);
        let since = record.acquired;
        self.look(Some(record), now);
        self.belief = is_held.then(|| Belief { until: started.saturating_add(self.times.deadline), since });
    }

    /// A write was refused: somebody else wrote at the same time.
    pub(super) fn conflicted(&mut self) {
        self.outdated = true;
    }

    /// Leads no more from now on, whatever the Lease says.
    pub(super) fn resign(&mut self) {
        self.belief = None;
    }

    /// What to write to let another lead at once; nothing, if the Lease isn't held. Only after `resign`.
    pub(super) fn release(&self, wall: Timestamp) -> Option<Record> {
        self.held().filter(|_| self.belief.is_none()).map(|record| record.released(wall))
    }

    /// That it leads, if it does.
    pub(super) fn belief(&self) -> Option<Belief> {
        self.belief
    }

    /// Who holds the Lease, as far as it was seen.
    pub(super) fn holder(&self) -> Option<(&str, Option<Timestamp>)> {
        let record = self.seen.as_ref()?.record.as_ref()?;
        Some((record.holder.as_deref()?, record.acquired))
    }

    /// Whether the Lease that was last seen is its own.
    pub(super) fn holds(&self) -> bool {
        self.held().is_some()
    }

    /// When the next round begins, after one that began at `started` and is over `now`. `jitter`, from 0 to 1, keeps
    /// candidates apart.
    pub(super) fn next_round(&self, started: Duration, now: Duration, jitter: f64) -> Duration {
        if self.leads(now) {
            return started.saturating_add(self.times.retry).max(now);
        }
        let pause = self.times.retry.mul_f64(1.0 + 0.2 * jitter.clamp(0.0, 1.0));
        let next = now.saturating_add(pause);
        // A Lease that falls free is taken at that moment.
        match self.free_at() {
            Some(free) if free > now => free.min(next),
            _ => next,
        }
    }

    fn leads(&self, now: Duration) -> bool {
        self.belief.is_some_and(|belief| now < belief.until)
    }

    fn held(&self) -> Option<&Record> {
        let record = self.seen.as_ref()?.record.as_ref()?;
        (record.holder.as_deref() == Some(&self.identity)).then_some(record)
    }

    /// When another's Lease is to be had, if it stays as it is.
    fn free_at(&self) -> Option<Duration> {
        let seen = self.seen.as_ref()?;
        let patience = match &seen.record {
            Some(record) => record.holder.as_ref().map(|_| record.patience(&self.times))?,
            None => self.times.lease,
        };
        Some(seen.since.saturating_add(patience))
    }

    fn look(&mut self, record: Option<Record>, now: Duration) {
        if let Some(record) = &record {
            let is_own = record.holder.as_deref() == Some(&self.identity);
            self.last_was_another = record.holder.is_some() && !is_own;
            // Somebody took it away by hand: nobody else could have.
            self.belief = self.belief.filter(|_| is_own);
        }
        let since = match (&self.seen, &record) {
            (Some(Sight { record: None, since }), None) => *since,
            (Some(Sight { record: Some(before), since }), Some(after)) if after.says_what(before) => *since,
            _ => now,
        };
        self.seen = Some(Sight { record, since });
        self.outdated = false;
    }
}
