//! The anchor: what can't be recovered from anywhere else. Its content is here, its bytes in `format`, its
//! file in `file`. Why two slots and not a journal: docs/adr/0001-anchor.md.

mod file;
mod format;

use std::collections::BTreeMap;

use holdfast_core::clock::BootId;
use holdfast_core::digest::{ReleaseId, Revision};
use holdfast_core::event::{ChainHead, Event};
use holdfast_core::generation::Failure;
use holdfast_core::name::{AppName, DeviceName};
use holdfast_core::release::JudgedBy;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

pub use file::{AnchorFile, AnchorState};
pub use format::{BadSlot, Decoded, FORMAT, SLOT_COUNT, SLOT_SIZE, decode, decode_slot, encode_slot};

/// How many failed releases are remembered for one app.
pub const FAILED_PER_APP: usize = 8;
/// How many failed releases are remembered in all.
pub const FAILED_IN_ALL: usize = 512;
/// How many apps may be set aside at once.
pub const SET_ASIDE_IN_ALL: usize = 256;
/// The longest reason that is remembered with a failed release, in bytes.
pub const REASON_LIMIT: usize = 240;

/// What can't be found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anchor {
    /// Who this box is.
    pub identity: Identity,
    /// The accepted revision: nothing older is taken any more.
    #[serde(default)]
    pub floor: Option<Floor>,
    /// What the box has proof of: it is at least this late. Never goes back.
    pub time_floor: Timestamp,
    /// Releases that failed, oldest first: they aren't tried again by themselves.
    #[serde(default)]
    pub failed: BTreeMap<AppName, Vec<FailedRelease>>,
    /// The newest event when the anchor was last written.
    #[serde(default)]
    pub audit_head: Option<ChainHead>,
    /// The newest events, up to that one, that may be missing in the database after a crash: few of them need no write there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unflushed: Vec<Event>,
    /// The newest revision that was fetched.
    #[serde(default)]
    pub fetched: Option<Revision>,
    /// The newest revision that was applied in full.
    #[serde(default)]
    pub applied: Option<Revision>,
    /// The changes that are open, at most one for each app. Agents that made one change at a time wrote one, or null.
    #[serde(default, alias = "transaction", deserialize_with = "one_or_several")]
    pub transactions: Vec<Transaction>,
    /// Changes under which the agent itself died again and again.
    #[serde(default)]
    pub set_aside: BTreeMap<AppName, SetAside>,
}

/// Who this box is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its name when the anchor was made.
    pub device: DeviceName,
    /// When that was, by the clock of that day.
    pub created: Timestamp,
}

/// What the box has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    /// The revision.
    pub revision: Revision,
    /// When it was made, as it says itself (Git: the committer's time).
    pub committed: Timestamp,
    /// Its number, where revisions are ordered by numbers; none where ancestry orders them (Git).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

/// A release that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedRelease {
    /// Which.
    pub release: ReleaseId,
    /// Why, for people.
    pub reason: String,
    /// What it was judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<JudgedBy>,
    /// When.
    pub at: Timestamp,
}

/// What a transaction does to its app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransactionKind {
    /// It brings a new release.
    Change,
    /// It brings the last known good back.
    Rollback,
    /// It removes the app.
    Remove,
    /// It puts drift right.
    Repair,
}

/// A change that was begun and not yet closed. Found at a start, it says that the agent died under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// The app that it changes.
    pub app: AppName,
    /// The release that it leads to; none for a removal.
    pub release: Option<ReleaseId>,
    /// What it does.
    pub kind: TransactionKind,
    /// The boot in which the agent last worked on it.
    pub boot: BootId,
    /// How often the agent died under it in that boot.
    pub deaths_this_boot: u32,
    /// In how many boots it was worked on.
    pub boots: u32,
    /// When it was begun.
    pub opened: Timestamp,
    /// Whether it was worked on when this was written; if not, a death of the agent says nothing about it.
    #[serde(default = "yes")]
    pub under_way: bool,
}

fn yes() -> bool {
    true
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Transaction>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(Option<Box<Transaction>>),
        Several(Vec<Transaction>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(one) => one.into_iter().map(|one| *one).collect(),
        Either::Several(several) => several,
    })
}

/// A change that waits because the agent died under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetAside {
    /// The release that it led to.
    pub release: Option<ReleaseId>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried again.
    pub next: Timestamp,
}

impl Anchor {
    /// The anchor of a box that starts for the first time, or that lost the one it had, by the clock of that day and by
    /// what is proven without it.
    pub fn new(device: DeviceName, now: Timestamp, proven: Timestamp) -> Self {
        Anchor {
            identity: Identity { device, created: now },
            floor: None,
            time_floor: proven,
            failed: BTreeMap::new(),
            audit_head: None,
            unflushed: Vec::new(),
            fetched: None,
            applied: None,
            transactions: Vec::new(),
            set_aside: BTreeMap::new(),
        }
    }

    /// Remembers that `release` of `app` failed. What failed before is replaced; the oldest go when there
    /// are too many.
    pub fn remember_failed(&mut self, app: &AppName, release: ReleaseId, failure: &Failure, at: Timestamp) {
        let of_app = self.failed.entry(app.clone()).or_default();
        of_app.retain(|failed| failed.release != release);
        let Failure { reason, judged_by } = failure;
        of_app.push(FailedRelease { release, reason: short(reason), judged_by: *judged_by, at });
        self.bound();
    }

    /// Whether `release` of `app` is known to have failed, and how.
    pub fn failure(&self, app: &AppName, release: &ReleaseId) -> Option<&FailedRelease> {
        self.failed.get(app)?.iter().find(|failed| failed.release == *release)
    }

    /// The open change of `app`.
    pub fn transaction(&self, app: &AppName) -> Option<&Transaction> {
        self.transactions.iter().find(|open| open.app == *app)
    }

    /// Opens a change, in the place of the one that its app had.
    pub fn open_transaction(&mut self, transaction: Transaction) {
        self.close_transaction(&transaction.app);
        self.transactions.push(transaction);
    }

    /// Closes the change of `app`.
    pub fn close_transaction(&mut self, app: &AppName) {
        self.transactions.retain(|open| open.app != *app);
    }

    /// Forgets that a release of `app` failed. Gives whether there was something to forget.
    pub fn forget_failed(&mut self, app: &AppName) -> bool {
        self.failed.remove(app).is_some()
    }

    /// Keeps everything within its bounds, so that the anchor always fits into its slot.
    fn bound(&mut self) {
        for of_app in self.failed.values_mut() {
            for failed in of_app.iter_mut().filter(|failed| failed.reason.len() > REASON_LIMIT) {
                failed.reason = short(&failed.reason);
            }
            let excess = of_app.len().saturating_sub(FAILED_PER_APP);
            of_app.drain(..excess);
        }
        while self.failed.values().map(Vec::len).sum::<usize>() > FAILED_IN_ALL {
            self.drop_oldest_failed();
        }
        self.failed.retain(|_, of_app| !of_app.is_empty());
        while self.set_aside.len() > SET_ASIDE_IN_ALL {
            let soonest = self.set_aside.iter().min_by_key(|(_, aside)| aside.next);
            let Some(app) = soonest.map(|(app, _)| app.clone()) else { break };
            self.set_aside.remove(&app);
        }
    }

    fn drop_oldest_failed(&mut self) {
        let oldest = self
            .failed
            .iter()
            .filter_map(|(app, of_app)| Some((of_app.first()?.at, app.clone())))
            .min()
            .and_then(|(_, app)| self.failed.get_mut(&app));
        if let Some(of_app) = oldest {
            of_app.remove(0);
        }
    }
}

/// A reason without control characters, which JSON writes in six bytes each, and not too long.
fn short(reason: &str) -> String {
    let mut text: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = (0..=REASON_LIMIT.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use holdfast_core::digest::Digest;

    use super::*;

    fn failure(reason: &str) -> Failure {
        Failure { reason: reason.to_owned(), judged_by: Some(serde_json::from_str("4294967295").unwrap()) }
    }

    fn second(n: usize) -> Timestamp {
        Timestamp::from_second(n as i64).unwrap()
    }

    fn release(n: usize) -> ReleaseId {
        ReleaseId(Digest::of(&n.to_le_bytes()))
    }

    #[test]
    fn the_oldest_failures_are_forgotten_first() {
        let mut anchor = Anchor::new("box".parse().unwrap(), second(0), second(0));
        let app: AppName = "pos".parse().unwrap();
        for n in 0..FAILED_PER_APP + 2 {
            anchor.remember_failed(&app, release(n), &failure("no"), second(n));
        }
        assert!(anchor.failure(&app, &release(1)).is_none());
        assert!(anchor.failure(&app, &release(2)).is_some());
        anchor.remember_failed(&app, release(2), &failure("again"), second(99));
        assert_eq!(anchor.failure(&app, &release(2)).unwrap().reason, "again");
        assert_eq!(anchor.failed[&app].len(), FAILED_PER_APP);
    }

    #[test]
    fn an_anchor_that_is_full_in_every_way_fits_into_its_slot() {
        let mut anchor = Anchor::new("box".parse().unwrap(), second(0), second(0));
        anchor.identity.device = format!("{}/{}", "a".repeat(63), "b".repeat(63)).parse().unwrap();
        for n in 0..2000 {
            let app: AppName = format!("{n:0>63}").parse().unwrap();
            anchor.remember_failed(&app, release(n), &failure(&"\"\\\u{1}".repeat(500)), Timestamp::MAX);
            let aside = SetAside { release: Some(release(n)), attempts: u32::MAX, next: Timestamp::MAX };
            anchor.set_aside.insert(app.clone(), aside);
            if n < 64 {
                anchor.open_transaction(Transaction {
                    app,
                    release: Some(release(n)),
                    kind: TransactionKind::Change,
                    boot: BootId("0".repeat(36)),
                    deaths_this_boot: u32::MAX,
                    boots: u32::MAX,
                    opened: Timestamp::MAX,
                    under_way: false,
                });
            }
        }
        anchor.bound();
        assert_eq!(anchor.failed.len(), FAILED_IN_ALL);
        assert_eq!(anchor.set_aside.len(), SET_ASIDE_IN_ALL);
        let slot = encode_slot(u64::MAX, &anchor).unwrap();
        assert!(slot.len() < SLOT_SIZE * 9 / 10, "{}", slot.len());
    }
}
