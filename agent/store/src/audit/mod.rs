//! The audit log: the chain of events, bounded by count and bytes ([`crate::Options`]), with its head in the anchor.
//!
//! An event is kept at once for this process and on disk at the next commit: in the anchor with the newest few, up to its
//! head, or in the database, by a flush before the head is written. So after any crash the anchor's head is in the log; if it
//! isn't, the log was cut or altered, and the first event after that says so.
//!
//! ```text
//! event 1             ..                             ..          the newest
//! | segments: sealed, gone | pages: files of some hundred | the database |
//! ```
//!
//! The newest events are in the database. When these have become many, the older of them move to a [page] of their own.
//! The log is bounded by count and by bytes. When it is full its oldest events are sealed: they go, and a
//! [segment](holdfast_core::event::segment) stays in their place, all in one write with the event that takes it into
//! the chain. One table holds the events by their places, which begin at 1, and the segments at place 0.

mod page;

use std::fmt;
use std::path::{Path, PathBuf};

use holdfast_core::event::segment::{Seal, Segments, Verifier};
use holdfast_core::event::{BrokenChain, ChainHead, Draft, Event};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::EVENTS;
use crate::db::{Database, Record, Staged, Table};
use crate::error::StoreError;
use crate::fault;

pub(crate) use page::make_usable;

use page::Pages;

/// How many events are read, and at most sealed from the database, at once.
const LOT: usize = page::LARGEST;
/// A page has so much of a full log: one part in this many.
const PAGES: u64 = 40;
/// So many events are few.
const FEW: u64 = 32;
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

    /// With so much a page is full.
    fn of_page(self) -> Bounds {
        Bounds { events: (self.events / PAGES).max(1), bytes: (self.bytes / PAGES).max(1) }
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
        write!(
            f,
            "the audit log must contain event {} ({}), but it ",
            self.expected.seq, self.expected.hash
        )?;
        match &self.found {
            Some(found) if found.seq >= self.expected.seq => write!(f, "contains another event in its place"),
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
    db: Database,
    /// The folder of the pages.
    dir: PathBuf,
    now: State,
    /// The head at the opening: on disk, or the one that the anchor expected.
    base: Option<ChainHead>,
    bounds: Bounds,
    /// From this place on the next page is tried: the disk refused the last one.
    next_page: u64,
}

/// The log in short.
#[derive(Clone, Debug)]
struct State {
    head: Option<ChainHead>,
    /// The place of the oldest event that is in the database and on no page; that of the next one without any.
    first: u64,
    /// Where that begins, and where the newest ends.
    begin: u64,
    end: u64,
    pages: Pages,
    segments: Segments,
}

impl State {
    /// What the tables and the pages hold.
    fn read(
        dir: &Path,
        kept: &Table<u64, Kept>,
        segments: &Table<u64, Segments>,
    ) -> Result<State, StoreError> {
        let segments = segments.get(&SEGMENTS)?.unwrap_or_default();
        let sealed = sealed(&segments);
        let pages = Pages::open(dir, sealed)?;
        // What is on a page, or sealed, may be in the table as well: a crash left it there.
        let first = pages.end().max(sealed).saturating_add(1);
        let newest = kept.last_from(&first)?.map(|(_, newest)| newest);
        let oldest = kept.from(&first, 1)?.pop();
        let head = match &newest {
            Some(newest) => Some(newest.event.head()),
            None => pages.head()?,
        };
        Ok(State {
            head,
            first: oldest.as_ref().map_or(first, |(seq, _)| *seq),
            begin: oldest.map_or(0, |(_, oldest)| oldest.offset),
            end: newest.as_ref().map_or(0, Kept::end),
            pages,
            segments,
        })
    }

    /// The next event comes after `head`.
    fn go_on_from(&mut self, head: Option<ChainHead>) {
        if self.begin == self.end {
            self.first = head.as_ref().map_or(FIRST, |head| head.seq.saturating_add(1));
        }
        self.head = head;
    }

    /// The place of the oldest event that isn't sealed.
    fn oldest(&self) -> u64 {
        self.pages.oldest().map_or(self.first, |page| page.first)
    }

    /// How much of it is in the database.
    fn in_table(&self) -> Bounds {
        Bounds { events: self.since(self.first), bytes: self.end.saturating_sub(self.begin) }
    }

    fn exceeds(&self, bounds: Bounds) -> bool {
        let bytes = self.in_table().bytes.saturating_add(self.pages.bytes());
        self.since(self.oldest()) > bounds.events || bytes > bounds.bytes
    }

    /// How many places there are from `first` to the newest.
    fn since(&self, first: u64) -> u64 {
        self.head.as_ref().map_or(0, |head| head.seq).saturating_add(1).saturating_sub(first)
    }
}

/// The place of the newest event that was sealed; 0 without one.
fn sealed(segments: &Segments) -> u64 {
    segments.last().map_or(0, |newest| newest.last)
}

impl AuditLog {
    /// Opens the log in `db`, with its pages in the folder `dir`, which keeps to `bounds`. `anchored` is the head that
    /// the anchor knows, and `unflushed` what it has of the newest events, which are put where they are missing. If the log
    /// lacks the head then, the chain goes on from there: a gap stays visible.
    pub(crate) fn open(
        db: &Database,
        dir: &Path,
        anchored: Option<&ChainHead>,
        unflushed: &[Event],
        bounds: Bounds,
    ) -> Result<(Self, Option<LogCut>), StoreError> {
        let (events, kept, segments) = (db.table(EVENTS), db.table(EVENTS), db.table(EVENTS));
        let now = State::read(dir, &kept, &segments)?;
        let db = db.clone();
        let mut log = AuditLog {
            events,
            kept,
            segments,
            db,
            dir: dir.to_owned(),
            now,
            base: None,
            bounds,
            next_page: 0,
        };
        log.take_in(unflushed)?;
        let newest = log.now.head.clone();
        let cut = match anchored {
            Some(expected) if !log.holds(expected)? => {
                Some(LogCut { expected: expected.clone(), found: newest.clone() })
            }
            _ => None,
        };
        // What goes on from the anchor must not overwrite what is there, though it be another chain.
        log.now.go_on_from(match (&cut, newest) {
            (Some(cut), Some(newest)) if newest.seq > cut.expected.seq => Some(newest),
            (Some(cut), _) => Some(cut.expected.clone()),
            (None, newest) => newest,
        });
        log.base.clone_from(&log.now.head);
        Ok((log, cut))
    }

    /// Puts those of `events` that come after the newest one.
    fn take_in(&mut self, events: &[Event]) -> Result<(), StoreError> {
        for event in events {
            let head = self.now.head.as_ref();
            let follows = head.map_or(event.seq == FIRST, |head| {
                event.seq == head.seq.saturating_add(1) && event.prev == head.hash
            });
            if !follows || event.computed_hash() != event.hash {
                continue;
            }
            let (mut next, mut staged) = (self.now.clone(), Staged::default());
            next.go_on_from(head.cloned());
            self.stage(&mut staged, &mut next, event.clone())?;
            self.events.apply(staged)?;
            self.now = next;
        }
        Ok(())
    }

    /// The events after the one with place `after`, if they aren't many or large: at most `bytes` as JSON.
    pub(crate) fn few_after(&self, after: u64, bytes: usize) -> Result<Option<Vec<Event>>, StoreError> {
        let newest = self.head().map_or(0, |head| head.seq);
        if newest.saturating_sub(after) > FEW {
            return Ok(None);
        }
        let events = self.after(after, FEW as usize)?;
        let size: usize =
            events.iter().map(|event| serde_json::to_vec(event).map_or(bytes, |json| json.len())).sum();
        Ok((size <= bytes).then_some(events))
    }

    /// Whether the log has this event, or had it until it was sealed.
    fn holds(&self, head: &ChainHead) -> Result<bool, StoreError> {
        if self.now.segments.may_hold(head) {
            return Ok(true);
        }
        let found = self.after(head.seq.saturating_sub(1), 1)?.pop();
        Ok(found.is_some_and(|event| event.head() == *head && event.computed_hash() == head.hash))
    }

    /// Goes back to what the database holds: after an error of the disk it has lost what wasn't flushed, and
    /// an event that names a lost one as the one before it would break the chain.
    pub(crate) fn catch_up(&mut self) -> Result<(), StoreError> {
        let Some(head) = self.now.head.as_ref().filter(|_| self.now.head != self.base) else { return Ok(()) };
        if self.events.get(&head.seq)?.is_some_and(|event| event.hash == head.hash) {
            return Ok(());
        }
        let mut found = State::read(&self.dir, &self.kept, &self.segments)?;
        let base = self.base.clone();
        let newest = found.head.take();
        found.go_on_from(
            newest.filter(|newest| base.as_ref().is_none_or(|base| newest.seq >= base.seq)).or(base),
        );
        self.now = found;
        Ok(())
    }

    /// Adds an event. It is on disk after the next flush. Where that is one too many, the oldest are sealed, and where the
    /// database has many, the older move to a page; gives whether the anchor's head should be one that stays.
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
        if full && let Err(error) = self.remove_sealed() {
            tracing::warn!(%error, "sealed events can't be removed from disk yet");
        }
        let moved = self.begin_page().unwrap_or_else(|error| {
            tracing::warn!(%error, "older events can't be moved out of the database yet");
            self.next_page = event.seq.saturating_add((self.bounds.of_page().events / 8).max(1));
            false
        });
        Ok((event, full || moved))
    }

    fn stage(&self, staged: &mut Staged, next: &mut State, event: Event) -> Result<(), StoreError> {
        let kept = Kept { event, offset: next.end };
        self.kept.stage(staged, &kept.event.seq, Some(&kept))?;
        next.end = kept.end();
        next.head = Some(kept.event.head());
        Ok(())
    }

    /// Seals the oldest events, of those that are on their places already: page by page, and where there is none, those
    /// in the database.
    fn seal(&self, staged: &mut Staged, next: &mut State, time: Timestamp) -> Result<(), StoreError> {
        let bounds = self.bounds.after_sealing();
        let mut sealed = Vec::new();
        while next.exceeds(bounds)
            && let Some(page) = next.pages.take_oldest()
        {
            sealed.extend(next.pages.read(&page)?);
        }
        let rest = if next.exceeds(bounds) { self.kept.from(&next.first, LOT)? } else { Vec::new() };
        for (seq, kept) in rest {
            if !next.exceeds(bounds) {
                break;
            }
            self.events.stage(staged, &seq, None)?;
            (next.first, next.begin) = (seq + 1, kept.end());
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

    /// Removes the pages that were sealed, once what stands for them is on disk.
    fn remove_sealed(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(self.now.pages.remove_up_to(sealed(&self.now.segments))?)
    }

    /// Moves the older events to a page of their own, once there is enough for two; gives whether it did.
    fn begin_page(&mut self) -> Result<bool, StoreError> {
        let (full, held) = (self.bounds.of_page(), self.now.in_table());
        let newest = self.now.head.as_ref().map_or(0, |head| head.seq);
        let is_due = held.events / 2 >= full.events || held.bytes / 2 >= full.bytes;
        if !is_due || newest < self.next_page {
            return Ok(false);
        }
        // A page is no reason to take the room that the database needs, or the reserve.
        self.db.check_room(held.bytes)?;
        // No event is on disk before what it tells of.
        self.db.flush()?;
        let mut next = self.now.clone();
        let mut staged = Staged::default();
        let mut events = Vec::new();
        for (seq, kept) in self.kept.from(&FIRST, LOT.min(full.events as usize))? {
            let moved = next.begin.saturating_sub(self.now.begin);
            if seq == newest || moved >= full.bytes {
                break;
            }
            self.events.stage(&mut staged, &seq, None)?;
            // What is below is on a page already.
            if seq >= next.first {
                (next.first, next.begin) = (seq + 1, kept.end());
                events.push(kept.event);
            }
        }
        next.pages.add(&events)?;
        self.events.apply(staged)?;
        self.now = next;
        Ok(true)
    }

    /// Whether the event at `seq` belongs on a page, and not into the database.
    pub(crate) fn is_of_pages(&self, seq: u64) -> bool {
        seq <= self.now.pages.end()
    }

    /// All that the database has and that can be read, for another one.
    pub(crate) fn take_out(&self) -> TakenOut {
        let newest = self.now.head.as_ref().map_or(0, |head| head.seq);
        let events = (self.now.first..=newest).filter_map(|seq| self.kept.get(&seq).ok().flatten());
        TakenOut { events: events.collect(), segments: self.now.segments.clone() }
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
        let mut events = self.now.pages.after(after, limit)?;
        let rest = self.events.from(&after.saturating_add(1).max(self.now.first), limit - events.len())?;
        events.extend(rest.into_iter().map(|(_, event)| event));
        Ok(events)
    }

    /// The newest `count` events, oldest first.
    pub fn newest(&self, count: usize) -> Result<Vec<Event>, StoreError> {
        let head = self.head().map_or(0, |head| head.seq);
        self.after(head.saturating_sub(count as u64), count)
    }

    /// Checks all of the log from event 1 on, some at a time, and that it holds `anchored`.
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
            let lot = self.after(after, LOT)?;
            let Some(last) = lot.last() else { return Ok(verifier.end()) };
            after = last.seq;
            if let Err(broken) = lot.iter().try_for_each(|event| verifier.take(event)) {
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
