//! Events: what the box did and what was done to it, as one hash chain.
//!
//! Whoever holds one hash from outside (the anchor holds the newest) can tell whether any event up to it was
//! changed, left out or put in later. The chain proves order and integrity, not authorship. What was dropped for
//! age leaves a [`segment`] in its place.

pub mod segment;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Revision};
use crate::name::AppName;
use crate::release::write_canonical;

/// The longest message that an event keeps, in bytes; more is cut.
pub const MESSAGE_LIMIT: usize = 2048;

/// One event, as `holdfast events --json` prints it (CONTRACT, "events --json").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// When it was written, by the clock on the wall.
    pub time: Timestamp,
    /// What happened, as a dotted word: `app.rolledback`.
    pub kind: String,
    /// The app that it is about.
    pub app: Option<AppName>,
    /// The revision that it is about.
    pub revision: Option<Revision>,
    /// What happened, for people. Never a secret.
    pub message: String,
    /// The digest of the sealed segments, as they are from this event on; only in an event that is about these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seals: Option<Digest>,
    /// The hash of the event before; 32 zero bytes in front of the first.
    pub prev: Digest,
    /// SHA-256 over the canonical JSON of all the other fields.
    pub hash: Digest,
}

/// An event before it has its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// See [`Event::kind`].
    pub kind: String,
    /// See [`Event::app`].
    pub app: Option<AppName>,
    /// See [`Event::revision`].
    pub revision: Option<Revision>,
    /// See [`Event::message`].
    pub message: String,
}

impl Draft {
    /// An event that is about neither an app nor a revision.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Draft { kind: kind.into(), app: None, revision: None, message: message.into() }
    }

    /// The same, about `app`.
    pub fn app(mut self, app: &AppName) -> Self {
        self.app = Some(app.clone());
        self
    }

    /// The same, about `revision`.
    pub fn revision(mut self, revision: &Revision) -> Self {
        self.revision = Some(revision.clone());
        self
    }
}

/// The newest link of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// The event's place.
    pub seq: u64,
    /// The event's hash.
    pub hash: Digest,
}

impl Event {
    /// The event that follows `head`; the first of all when there is none.
    pub fn after(head: Option<&ChainHead>, time: Timestamp, draft: Draft) -> Event {
        Event::linked(None, head, time, draft)
    }

    /// The same for one that takes sealed segments into the chain.
    fn sealing(seals: Digest, head: Option<&ChainHead>, time: Timestamp, draft: Draft) -> Event {
        Event::linked(Some(seals), head, time, draft)
    }

    fn linked(seals: Option<Digest>, head: Option<&ChainHead>, time: Timestamp, draft: Draft) -> Event {
        let mut event = Event {
            seq: head.map_or(0, |head| head.seq).saturating_add(1),
            time,
            kind: draft.kind,
            app: draft.app,
            revision: draft.revision,
            message: cut(draft.message),
            seals,
            prev: head.map_or(Digest::from_bytes([0; 32]), |head| head.hash),
            hash: Digest::from_bytes([0; 32]),
        };
        event.hash = event.computed_hash();
        event
    }

    /// What [`Event::hash`] must be.
    pub fn computed_hash(&self) -> Digest {
        // Strings, numbers and nulls always have a JSON form.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("hash");
        }
        let mut bytes = Vec::new();
        write_canonical(&value, &mut bytes);
        Digest::of(&bytes)
    }

    /// The chain's head, if this event is its newest.
    pub fn head(&self) -> ChainHead {
        ChainHead { seq: self.seq, hash: self.hash }
    }
}

/// Where a chain doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is broken at event {seq}: {reason}")]
pub struct BrokenChain {
    /// The first event that doesn't fit.
    pub seq: u64,
    /// Why it doesn't.
    pub reason: &'static str,
}

/// Checks that `events`, oldest first, are one chain without a gap. The oldest may have any place: for a log from its
/// first event on there is [`segment::verify_log`]. Gives the newest link, for comparing with a head that was kept
/// elsewhere.
pub fn verify_chain<'a>(
    events: impl IntoIterator<Item = &'a Event>,
) -> Result<Option<ChainHead>, BrokenChain> {
    let mut head: Option<ChainHead> = None;
    for event in events {
        check(event, head.as_ref())?;
        head = Some(event.head());
    }
    Ok(head)
}

/// Checks one event, and that it follows `before`.
fn check(event: &Event, before: Option<&ChainHead>) -> Result<(), BrokenChain> {
    let broken = |reason| Err(BrokenChain { seq: event.seq, reason });
    if event.computed_hash() != event.hash {
        return broken("its content doesn't match its hash: it was changed after it was written");
    }
    let Some(before) = before else { return Ok(()) };
    if before.seq.checked_add(1) != Some(event.seq) {
        return broken("it doesn't follow what comes before it: events are missing or out of order");
    }
    if before.hash != event.prev {
        return broken("its link to the previous event doesn't match that event");
    }
    Ok(())
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        let end = (0..=MESSAGE_LIMIT).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: u64) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        for n in 0..count {
            let head = events.last().map(Event::head);
            let time = Timestamp::from_second(n as i64).unwrap();
            let draft = Draft::new("app.good", format!("event {n}")).app(&"pos".parse().unwrap());
            events.push(Event::after(head.as_ref(), time, draft));
        }
        events
    }

    #[test]
    fn a_chain_holds_from_any_of_its_events_on() {
        let events = chain(5);
        assert_eq!(verify_chain(&events).unwrap(), Some(events[4].head()));
        assert_eq!(verify_chain(&events[2..]).unwrap(), Some(events[4].head()));
        assert_eq!(verify_chain([]).unwrap(), None);
        assert_eq!(events[0].seq, 1);
    }

    #[test]
    fn a_changed_a_missing_and_a_swapped_event_break_the_chain() {
        let mut changed = chain(5);
        changed[2].message.push('!');
        assert_eq!(verify_chain(&changed).unwrap_err().seq, 3);

        let mut rehashed = chain(5);
        rehashed[2].message.push('!');
        rehashed[2].hash = rehashed[2].computed_hash();
        assert_eq!(verify_chain(&rehashed).unwrap_err().seq, 4);

        let mut missing = chain(5);
        missing.remove(2);
        assert_eq!(verify_chain(&missing).unwrap_err().seq, 4);

        let mut swapped = chain(5);
        swapped.swap(1, 2);
        assert!(verify_chain(&swapped).is_err());
    }

    #[test]
    fn an_event_keeps_its_hash_through_json() {
        let time: Timestamp = "2026-11-21T09:00:00.120Z".parse().unwrap();
        let event = Event::after(None, time, Draft::new("x", "ü\n\"").revision(&Revision("abc".into())));
        let back: Event = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
        assert_eq!(back.computed_hash(), event.hash);
        assert!(event.prev.to_hex().bytes().all(|b| b == b'0'));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let event = Event::after(None, Timestamp::UNIX_EPOCH, Draft::new("x", "ü".repeat(MESSAGE_LIMIT)));
        assert!(event.message.len() <= MESSAGE_LIMIT + '…'.len_utf8());
    }
}
