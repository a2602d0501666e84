//! The audit log: the chain of events, in the database, with its head in the anchor.
//!
//! An event is kept at once for this process and on disk at the next flush; the anchor's head is only written
//! after one. So after any crash the anchor's head is in the log; if it isn't, the log was cut or altered, and
//! the first event after that says so.

use std::fmt;

use holdfast_core::event::{BrokenChain, ChainHead, Draft, Event, verify_chain};
use jiff::Timestamp;

use crate::db::{Record, Table};
use crate::error::StoreError;
use crate::fault;

/// How many events are read at once.
const PAGE: usize = 500;

impl Record for Event {}

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
    table: Table<u64, Event>,
    head: Option<ChainHead>,
    /// The head at the opening: on disk, or the one that the anchor expected.
    base: Option<ChainHead>,
    /// The place of the oldest event, for dropping it.
    oldest: u64,
    kept: u64,
}

impl AuditLog {
    /// Opens the log in `table`, of which the newest `kept` events stay. `anchored` is the head that the
    /// anchor knows. If the log lacks it, the chain goes on from there: a gap stays visible.
    pub(crate) fn open(
        table: Table<u64, Event>,
        anchored: Option<&ChainHead>,
        kept: usize,
    ) -> Result<(Self, Option<LogCut>), StoreError> {
        let newest = table.last()?.map(|(_, event)| event.head());
        let cut = match anchored {
            Some(expected) if !holds(&table, expected)? => {
                Some(LogCut { expected: expected.clone(), found: newest.clone() })
            }
            _ => None,
        };
        // What goes on from the anchor must not overwrite what is there, though it be another chain.
        let head = match (&cut, newest) {
            (Some(cut), Some(newest)) if newest.seq > cut.expected.seq => Some(newest),
            (Some(cut), _) => Some(cut.expected.clone()),
            (None, newest) => newest,
        };
        let oldest = match table.first()? {
            Some((seq, _)) => seq,
            None => head.as_ref().map_or(0, |head| head.seq) + 1,
        };
        let kept = (kept as u64).max(1);
        Ok((AuditLog { table, base: head.clone(), head, oldest, kept }, cut))
    }

    /// Goes back to what the database holds: after an error of the disk it has lost what wasn't flushed, and
    /// an event that names a lost one as the one before it would break the chain.
    pub(crate) fn catch_up(&mut self) -> Result<(), StoreError> {
        let Some(head) = self.head.as_ref().filter(|_| self.head != self.base) else { return Ok(()) };
        if self.table.get(&head.seq)?.is_some_and(|event| event.hash == head.hash) {
            return Ok(());
        }
        let newest = self.table.last()?.map(|(_, event)| event.head());
        let base = self.base.clone();
        self.head = newest.filter(|newest| base.as_ref().is_none_or(|base| newest.seq >= base.seq)).or(base);
        if let Some((oldest, _)) = self.table.first()? {
            self.oldest = oldest;
        }
        Ok(())
    }

    /// Adds an event. It is on disk after the next flush.
    pub(crate) fn append(&mut self, time: Timestamp, draft: Draft) -> Result<Event, StoreError> {
        self.catch_up()?;
        let event = Event::after(self.head.as_ref(), time, draft);
        let dropped: Vec<u64> = (self.oldest..=event.seq.saturating_sub(self.kept)).take(PAGE).collect();
        let drops = dropped.iter().map(|seq| (seq, None));
        self.table.change(drops.chain(std::iter::once((&event.seq, Some(&event)))))?;
        fault::point("audit.event-written");
        self.head = Some(event.head());
        self.oldest += dropped.len() as u64;
        Ok(event)
    }

    /// The newest event's link.
    pub fn head(&self) -> Option<&ChainHead> {
        self.head.as_ref()
    }

    /// Up to `limit` events after the one with place `after` (0: from the oldest), oldest first.
    pub fn after(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let events = self.table.from(&after.saturating_add(1), limit)?;
        Ok(events.into_iter().map(|(_, event)| event).collect())
    }

    /// The newest `count` events, oldest first.
    pub fn newest(&self, count: usize) -> Result<Vec<Event>, StoreError> {
        let head = self.head.as_ref().map_or(0, |head| head.seq);
        self.after(head.saturating_sub(count as u64), count)
    }

    /// Checks the whole chain, a page at a time.
    pub fn verify(&self) -> Result<Result<Option<ChainHead>, BrokenChain>, StoreError> {
        let mut last: Option<Event> = None;
        loop {
            let after = last.as_ref().map_or(0, |event| event.seq);
            let page = self.after(after, PAGE)?;
            let verified = verify_chain(last.iter().chain(&page));
            match page.into_iter().next_back() {
                Some(event) if verified.is_ok() => last = Some(event),
                _ => return Ok(verified),
            }
        }
    }
}

fn holds(table: &Table<u64, Event>, head: &ChainHead) -> Result<bool, StoreError> {
    Ok(table.get(&head.seq)?.is_some_and(|event| event.head() == *head && event.computed_hash() == head.hash))
}
