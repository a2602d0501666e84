//! The audit log: the chain of events, in the database, with its head in the anchor.
//!
//! An event is kept at once for this process and on disk at the next flush; the anchor's head is only written
//! after one. So after any crash the anchor's head is in the log; if it isn't, the log was cut or altered, and
//! the first event after that says so.
//!
//! The log is bounded by count and by bytes. When it is full its oldest events are sealed: they go, and a
//! [segment](holdfast_core::event::segment) stays in their place, all in one write with the event that takes it into
//! the chain. One table holds the events by their places, which begin at 1, and the segments at place 0.

use std::fmt;

use holdfast_core::event::segment::{Seal, Segments, Verifier};
use holdfast_core::event::{BrokenChain, ChainHead, Draft, Event};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::EVENTS;
use crate::db::{Database, Record, Staged, Table};
use crate::error::StoreError;
use crate::fault;

/// How many events are read, and at most sealed, at once.
const PAGE: usize = 500;
/// The place of the segments.
const SEGMENTS: u64 = 0;
/// The place of the first event of all.
const FIRST: u64 = 1;

impl Record for Event {}
impl Record for Kept {}
impl Record for Segments {}

/// How large the log may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many events are kept.
    pub events: u64,
    /// How many bytes they may take, as JSON.
    pub bytes: u64,
}

impl Bounds {
    /// What is left when the oldest were sealed: so much less that it is done in lots, and seldom.
    fn after_sealing(self) -> Bounds {
        Bounds { events: self.events - self.events / 8, bytes: self.bytes - self.bytes / 8 }
    }
}

/// An event as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    event: Event,
    /// How many bytes of events were written before it, ever: so the size of the log is known without reading it.
    #[serde(default)]
    offset: u64,
}

impl Kept {
    /// Where the next event begins.
    fn end(&self) -> u64 {
        let size = serde_json::to_vec(&self.event).map_or(0, |bytes| bytes.len());
        self.offset.saturating_add(size as u64)
    }
}

/// The log does not hold what the anchor says it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCut {
    /// The head that the anchor knows.
    pub expected: ChainHead,
    /// The newest event that is there.
    pub found: Option<ChainHead>,
}

impl fmt::Display for LogCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the audit log must hold event {} ({}), and ", self.expected.seq, self.expected.hash)?;
        match &self.found {
            Some(found) if found.seq >= self.expected.seq => write!(f, "holds another one in its place"),
            Some(found) => write!(f, "ends with event {}", found.seq),
            None => write!(f, "is empty"),
        }
    }
}

/// The log.
#[derive(Debug)]
pub struct AuditLog {
    /// Three views of one table.
    events: Table<u64, Event>,
    kept: Table<u64, Kept>,
    segments: Table<u64, Segments>,
    now: State,
    /// The head at the opening: on disk, or the one that the anchor expected.
    base: Option<ChainHead>,
    bounds: Bounds,
}

/// The log in short.
#[derive(Clone, Debug, Default)]
struct State {
    head: Option<ChainHead>,
    /// Where the newest event ends.
    end: u64,
    /// The place of the oldest event that isn't sealed, and where it begins.
    oldest: u64,
    begin: u64,
    segments: Segments,
}

impl State {
    fn exceeds(&self, bounds: Bounds) -> bool {
        let events = (self.head.as_ref().map_or(0, |head| head.seq) + 1).saturating_sub(self.oldest);
        events > bounds.events || self.end.saturating_sub(self.begin) > bounds.bytes
    }
}

impl AuditLog {
    /// Opens the log in `db`, which keeps to `bounds`. `anchored` is the head that the anchor knows. If the log
    /// lacks it, the chain goes on from there: a gap stays visible.
    pub(crate) fn open(
        db: &Database,
        anchored: Option<&ChainHead>,
        bounds: Bounds,
    ) -> Result<(Self, Option<LogCut>), StoreError> {
        let (events, kept, segments) = (db.table(EVENTS), db.table(EVENTS), db.table(EVENTS));
        let mut log = AuditLog { events, kept, segments, now: State::default(), base: None, bounds };
        log.now = log.read()?;
        let newest = log.now.head.clone();
        let cut = match anchored {
            Some(expected) if !log.holds(expected)? => {
                Some(LogCut { expected: expected.clone(), found: newest.clone() })
            }
            _ => None,
        };
        // What goes on from the anchor must not overwrite what is there, though it be another chain.
        log.now.head = match (&cut, newest) {
            (Some(cut), Some(newest)) if newest.seq > cut.expected.seq => Some(newest),
            (Some(cut), _) => Some(cut.expected.clone()),
            (None, newest) => newest,
        };
        log.base.clone_from(&log.now.head);
        Ok((log, cut))
    }

    /// What the table holds.
    fn read(&self) -> Result<State, StoreError> {
        let newest = self.kept.last_from(&FIRST)?.map(|(_, newest)| newest);
        let oldest = self.kept.from(&FIRST, 1)?.into_iter().next().map(|(_, oldest)| oldest);
        Ok(State {
            head: newest.as_ref().map(|newest| newest.event.head()),
            end: newest.as_ref().map_or(0, Kept::end),
            oldest: oldest.as_ref().map_or(FIRST, |oldest| oldest.event.seq),
            begin: oldest.map_or(0, |oldest| oldest.offset),
            segments: self.segments.get(&SEGMENTS)?.unwrap_or_default(),
        })
    }

    /// Whether the log has this event, or had it until it was sealed.
    fn holds(&self, head: &ChainHead) -> Result<bool, StoreError> {
        if self.now.segments.may_hold(head) {
            return Ok(true);
        }
        let found = self.events.get(&head.seq.max(FIRST))?;
        Ok(found.is_some_and(|event| event.head() == *head && event.computed_hash() == head.hash))
    }

    /// Goes back to what the database holds: after an error of the disk it has lost what wasn't flushed, and
    /// an event that names a lost one as the one before it would break the chain.
    pub(crate) fn catch_up(&mut self) -> Result<(), StoreError> {
        let Some(head) = self.now.head.as_ref().filter(|_| self.now.head != self.base) else { return Ok(()) };
        if self.events.get(&head.seq)?.is_some_and(|event| event.hash == head.hash) {
            return Ok(());
        }
        let mut found = self.read()?;
        let base = self.base.clone();
        let newest = found.head.take();
        found.head = newest.filter(|newest| base.as_ref().is_none_or(|base| newest.seq >= base.seq)).or(base);
        self.now = found;
        Ok(())
    }

    /// Adds an event. It is on disk after the next flush. Where that is one too many, the oldest are sealed; gives
    /// whether they were.
    pub(crate) fn append(&mut self, time: Timestamp, draft: Draft) -> Result<(Event, bool), StoreError> {
        self.catch_up()?;
        let mut next = self.now.clone();
        let mut staged = Staged::default();
        let event = Event::after(next.head.as_ref(), time, draft);
        self.stage(&mut staged, &mut next, event.clone())?;
        let full = next.exceeds(self.bounds);
        if full {
            self.seal(&mut staged, &mut next, time)?;
        }
        self.events.apply(staged)?;
        fault::point("audit.event-written");
        self.now = next;
        Ok((event, full))
    }

    fn stage(&self, staged: &mut Staged, next: &mut State, event: Event) -> Result<(), StoreError> {
        let kept = Kept { event, offset: next.end };
        self.kept.stage(staged, &kept.event.seq, Some(&kept))?;
        next.end = kept.end();
        if next.head.is_none() || self.events.last_from(&FIRST)?.is_none() {
            (next.oldest, next.begin) = (kept.event.seq.min(next.oldest.max(FIRST)), kept.offset);
        }
        next.head = Some(kept.event.head());
        Ok(())
    }

    /// Seals the oldest events, of those that are on their places already.
    fn seal(&self, staged: &mut Staged, next: &mut State, time: Timestamp) -> Result<(), StoreError> {
        let bounds = self.bounds.after_sealing();
        let mut sealed = Vec::new();
        for (seq, kept) in self.kept.from(&next.oldest.max(FIRST), PAGE)? {
            if !next.exceeds(bounds) {
                break;
            }
            self.events.stage(staged, &seq, None)?;
            (next.oldest, next.begin) = (seq + 1, kept.end());
            sealed.push(kept.event);
        }
        if sealed.is_empty() {
            return Ok(());
        }
        next.segments = next.segments.and(&sealed);
        self.segments.stage(staged, &SEGMENTS, Some(&next.segments))?;
        let event = next.segments.event(next.head.as_ref(), time);
        self.stage(staged, next, event)
    }

    /// All that is there, for another database.
    pub(crate) fn take_out(&self) -> Result<TakenOut, StoreError> {
        Ok(TakenOut {
            events: self.kept.from(&FIRST, usize::MAX)?.into_iter().map(|(_, kept)| kept).collect(),
            segments: self.now.segments.clone(),
        })
    }

    /// Puts what was taken out into a database that has nothing of it.
    pub(crate) fn put_back(db: &Database, taken: &TakenOut) -> Result<(), StoreError> {
        let (kept, segments): (Table<u64, Kept>, Table<u64, Segments>) = (db.table(EVENTS), db.table(EVENTS));
        let mut staged = Staged::default();
        for event in &taken.events {
            kept.stage(&mut staged, &event.event.seq, Some(event))?;
        }
        if !taken.segments.is_empty() {
            segments.stage(&mut staged, &SEGMENTS, Some(&taken.segments))?;
        }
        kept.apply(staged).map(drop)
    }

    /// The newest event's link.
    pub fn head(&self) -> Option<&ChainHead> {
        self.now.head.as_ref()
    }

    /// What stands for the events that were dropped.
    pub fn segments(&self) -> &Segments {
        &self.now.segments
    }

    /// Up to `limit` events after the one with place `after` (0: from the oldest), oldest first.
    pub fn after(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let events = self.events.from(&after.saturating_add(1), limit)?;
        Ok(events.into_iter().map(|(_, event)| event).collect())
    }

    /// The newest `count` events, oldest first.
    pub fn newest(&self, count: usize) -> Result<Vec<Event>, StoreError> {
        let head = self.head().map_or(0, |head| head.seq);
        self.after(head.saturating_sub(count as u64), count)
    }

    /// Checks all of the log from event 1 on, a page at a time, and that it holds `anchored`.
    pub fn verify(
        &self,
        anchored: Option<&ChainHead>,
    ) -> Result<Result<Option<ChainHead>, BrokenChain>, StoreError> {
        let seal = Seal { segments: self.segments().clone(), anchored: anchored.cloned() };
        let mut verifier = match Verifier::begin(&seal) {
            Ok(verifier) => verifier,
            Err(broken) => return Ok(Err(broken)),
        };
        let mut after = 0;
        loop {
            let page = self.after(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(verifier.end()) };
            after = last.seq;
            if let Err(broken) = page.iter().try_for_each(|event| verifier.take(event)) {
                return Ok(Err(broken));
            }
        }
    }
}

/// Events and segments on their way from one database to another.
#[derive(Default)]
pub(crate) struct TakenOut {
    events: Vec<Kept>,
    segments: Segments,
}
