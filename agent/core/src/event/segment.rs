//! Sealed segments: what is kept of old events that were dropped.
//!
//! A log that dropped its oldest events without a trace could have lost any others as well. So a dropped run of
//! events leaves a [`Segment`] in its place, and the log gets an event that names the digest of all segments
//! ([`Event::seals`]): the chain vouches for them, up to the head that is kept elsewhere. Segments are few for
//! ever, as the two oldest become one when there would be more.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BrokenChain, ChainHead, Draft, Event};
use crate::digest::Digest;
use crate::release::write_canonical;

/// As many segments are kept.
pub const MAX_SEGMENTS: usize = 16;

/// The kind of the event that names the segments.
pub const SEALED_KIND: &str = "audit.sealed";

/// A run of events that were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    /// The place of its first event.
    pub first: u64,
    /// The place of its last event.
    pub last: u64,
    /// How many events it had.
    pub count: u64,
    /// The hash of the event before it; 32 zero bytes for a segment that begins with event 1.
    pub prev: Digest,
    /// The hash of its last event, which the event after it names as the one before.
    pub end: Digest,
    /// SHA-256 over the digest of the segment before (32 zero bytes in front of the first) and an event's hash,
    /// then over that and the next event's hash, and so on to its last event. So whoever has a copy of the events
    /// finds the same digest, whichever segments were put together since.
    pub digest: Digest,
    /// The earliest time that one of its events has. A clock may have been wrong.
    pub from: Timestamp,
    /// The latest time that one of its events has.
    pub to: Timestamp,
    /// At how many places in it the chain did not hold when it was sealed. What was broken stays so.
    pub gaps: u64,
}

/// The segments of a log, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Segments(Vec<Segment>);

/// All that is left of a log, for checking it: the segments, and the head that is kept outside of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// What stands for the events that were dropped.
    pub segments: Segments,
    /// The newest event when the anchor was written last.
    pub anchored: Option<ChainHead>,
}

impl Segment {
    /// Seals `events`, oldest first, which follow `before`; none for no events.
    pub fn of(before: Option<&Segment>, events: &[Event]) -> Option<Segment> {
        let (first, last) = (events.first()?, events.last()?);
        let mut digest = before.map_or(Digest::from_bytes([0; 32]), |before| before.digest);
        let mut gaps = 0;
        let mut previous: Option<&Event> = None;
        for event in events {
            digest = folded(&digest, &event.hash);
            let follows =
                previous.is_none_or(|before| follows(before.seq, &before.hash, event.seq, &event.prev));
            gaps += u64::from(!follows || event.computed_hash() != event.hash);
            previous = Some(event);
        }
        Some(Segment {
            first: first.seq,
            last: last.seq,
            count: events.len() as u64,
            prev: first.prev,
            end: last.hash,
            digest,
            from: events.iter().map(|event| event.time).min().unwrap_or(first.time),
            to: events.iter().map(|event| event.time).max().unwrap_or(last.time),
            gaps,
        })
    }

    /// This one and the one after it as one.
    fn with(self, next: Segment) -> Segment {
        let gap = !follows(self.last, &self.end, next.first, &next.prev);
        Segment {
            first: self.first,
            last: next.last,
            count: self.count.saturating_add(next.count),
            prev: self.prev,
            end: next.end,
            digest: next.digest,
            from: self.from.min(next.from),
            to: self.to.max(next.to),
            gaps: self.gaps.saturating_add(next.gaps).saturating_add(u64::from(gap)),
        }
    }
}

impl Segments {
    /// The same with `events`, which follow, sealed as well. The two oldest become one when there would be too many.
    #[must_use]
    pub fn and(&self, events: &[Event]) -> Segments {
        let mut all = self.0.clone();
        all.extend(Segment::of(self.0.last(), events));
        while all.len() > MAX_SEGMENTS {
            let next = all.remove(1);
            let oldest = all.remove(0);
            all.insert(0, oldest.with(next));
        }
        Segments(all)
    }

    /// Whether nothing was dropped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The segments, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter()
    }

    /// The newest.
    pub fn last(&self) -> Option<&Segment> {
        self.0.last()
    }

    /// SHA-256 over the canonical JSON of all of them: what [`Event::seals`] names.
    pub fn digest(&self) -> Digest {
        // Numbers and strings always have a JSON form.
        let value = serde_json::to_value(self).unwrap_or_default();
        let mut bytes = Vec::new();
        write_canonical(&value, &mut bytes);
        Digest::of(&bytes)
    }

    /// The event that takes them into the chain, after `head`.
    pub fn event(&self, head: Option<&ChainHead>, time: Timestamp) -> Event {
        let message = match self.last() {
            Some(newest) => format!("the {} events up to {} are sealed", newest.count, newest.last),
            None => "no events are sealed".to_owned(),
        };
        Event::sealing(self.digest(), head, time, Draft::new(SEALED_KIND, message))
    }

    /// Whether `head` is of an event that was sealed, as far as that can be told: of most only the place is known.
    pub fn may_hold(&self, head: &ChainHead) -> bool {
        let of = self.0.iter().find(|segment| (segment.first..=segment.last).contains(&head.seq));
        of.is_some_and(|segment| head.seq < segment.last || head.hash == segment.end)
    }

    /// Checks that the segments follow each other from event 1 without a gap, and were whole when they were sealed.
    fn verify(&self) -> Result<(), BrokenChain> {
        let mut before: (u64, Digest) = (0, Digest::from_bytes([0; 32]));
        for segment in &self.0 {
            let broken = |reason| Err(BrokenChain { seq: segment.first, reason });
            if !follows(before.0, &before.1, segment.first, &segment.prev) {
                return broken("events are missing before this sealed segment, or it was changed");
            }
            if segment.gaps > 0 {
                return broken("the chain was broken already when this segment was sealed");
            }
            if segment.last.checked_sub(segment.first).and_then(|n| n.checked_add(1)) != Some(segment.count) {
                return broken("this sealed segment was changed: it doesn't have as many events as it says");
            }
            before = (segment.last, segment.end);
        }
        Ok(())
    }
}

/// Checks a log from its first event on: that the sealed segments and `events`, oldest first, are one chain without
/// a gap, that the newest event which names segments names these, and that the head which was kept elsewhere is in
/// it. `events` are all that weren't dropped. Takes them one by one.
#[derive(Debug)]
pub struct Verifier<'a> {
    seal: &'a Seal,
    head: Option<ChainHead>,
    /// What the newest event that names segments names, and where that event is.
    sealed: Option<(u64, Digest)>,
    anchored: bool,
}

impl<'a> Verifier<'a> {
    /// Checks the segments.
    ///
    /// # Errors
    /// The segment that doesn't fit.
    pub fn begin(seal: &'a Seal) -> Result<Self, BrokenChain> {
        seal.segments.verify()?;
        let head = seal.segments.last().map(|newest| ChainHead { seq: newest.last, hash: newest.end });
        let anchored = seal.anchored.as_ref().is_none_or(|anchored| seal.segments.may_hold(anchored));
        Ok(Verifier { seal, head, sealed: None, anchored })
    }

    /// Takes the next event in.
    ///
    /// # Errors
    /// Why it doesn't fit.
    pub fn take(&mut self, event: &Event) -> Result<(), BrokenChain> {
        let start = ChainHead { seq: 0, hash: Digest::from_bytes([0; 32]) };
        super::check(event, Some(self.head.as_ref().unwrap_or(&start)))?;
        if let Some(digest) = event.seals {
            self.sealed = Some((event.seq, digest));
        }
        let head = event.head();
        self.anchored |= self.seal.anchored.as_ref() == Some(&head);
        self.head = Some(head);
        Ok(())
    }

    /// Gives the newest link, once every event was taken in.
    ///
    /// # Errors
    /// The segments aren't those that the chain names, or the newest events are missing.
    pub fn end(self) -> Result<Option<ChainHead>, BrokenChain> {
        let named = self.sealed.map(|(_, digest)| digest);
        let there = (!self.seal.segments.is_empty()).then(|| self.seal.segments.digest());
        if named != there {
            let seq = self.sealed.map_or(1, |(seq, _)| seq);
            let reason = "the chain names sealed segments other than those that exist: they were changed";
            return Err(BrokenChain { seq, reason });
        }
        match &self.seal.anchored {
            Some(anchored) if !self.anchored => Err(BrokenChain {
                seq: anchored.seq,
                reason: "the anchor names another event for this place, or one that no longer exists",
            }),
            _ => Ok(self.head),
        }
    }
}

/// Checks all of a log, as [`Verifier`] does.
///
/// # Errors
/// The first event or segment that doesn't fit, with why.
pub fn verify_log<'a>(
    seal: &Seal,
    events: impl IntoIterator<Item = &'a Event>,
) -> Result<Option<ChainHead>, BrokenChain> {
    let mut verifier = Verifier::begin(seal)?;
    for event in events {
        verifier.take(event)?;
    }
    verifier.end()
}

fn follows(seq: u64, hash: &Digest, next: u64, prev: &Digest) -> bool {
    seq.checked_add(1) == Some(next) && hash == prev
}

fn folded(digest: &Digest, hash: &Digest) -> Digest {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(digest.as_bytes());
    bytes[32..].copy_from_slice(hash.as_bytes());
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests;
