//! How far the source was followed, and what is held meanwhile.

use std::time::Duration;

use anyhow::Result;
use holdfast_core::clock::{Moment, Now};
use holdfast_core::digest::{Digest, Revision};
use holdfast_core::held::Held;
use holdfast_core::verify::Floor;
use holdfast_store::anchor;
use jiff::Timestamp;

use super::journal::{SharedStore, lock};
use super::trust::Standing;

/// The state of the source, as the loop knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The tip that the source last showed and that was looked at in full.
    pub(super) known: Option<Revision>,
    /// The newest that was fetched.
    pub(super) fetched: Option<Revision>,
    /// The newest that was accepted.
    pub(super) accepted: Option<Floor>,
    /// Whether that may still be used.
    pub(super) standing: Standing,
    /// By which files of trusted keys revisions were judged last.
    pub(super) trusted: Option<Digest>,
    /// The accepted revision is to be rendered, once nothing else is being fetched or rendered.
    pub(super) unread: bool,
    /// The newest that was resolved and handed to the keeper.
    pub(super) resolved: Option<Revision>,
    /// The newest that everything was good under.
    pub(super) applied: Option<Revision>,
    /// When the source last answered.
    pub(super) last_poll: Option<Timestamp>,
    /// When it is asked next.
    pub(super) next_poll: Option<Moment>,
    /// The same, for people.
    pub(super) next_poll_wall: Option<Timestamp>,
    /// Why it could not be asked.
    pub(super) error: Option<String>,
    /// Why a revision that the source showed isn't fetched although it answers.
    pub(super) unfetched: Option<Held>,
    /// Why the newest revision isn't accepted.
    pub(super) refused: Option<Held>,
    /// Why the accepted revision isn't rendered.
    pub(super) unrendered: Option<Held>,
}

impl Progress {
    /// How far the agent came before it was started this time.
    pub(super) fn before(store: &SharedStore) -> Result<Self> {
        let store = lock(store);
        let revisions = store.revisions()?;
        let floor = store.anchor().floor.clone();
        // An anchor that was lost: nothing older is taken than the newest that the database knows of.
        let known = revisions.accepted.map(|revision| Floor {
            revision,
            committed: Timestamp::UNIX_EPOCH,
            sequence: None,
        });
        Ok(Progress {
            fetched: revisions.fetched,
            applied: revisions.applied,
            accepted: floor
                .map(|anchor::Floor { revision, committed, sequence }| Floor {
                    revision,
                    committed,
                    sequence,
                })
                .or(known),
            ..Progress::default()
        })
    }

    /// The next poll is due `wait` from now.
    pub(super) fn poll_in(&mut self, wait: Duration, now: &Now) {
        self.next_poll = Some(now.moment_in(wait));
        self.next_poll_wall = Some(now.wall_in(wait));
    }

    /// Whether the accepted revision isn't rendered yet.
    pub(super) fn is_unread(&self) -> bool {
        self.accepted.as_ref().map(|floor| &floor.revision) != self.resolved.as_ref()
    }

    /// Whether a poll is due.
    pub(super) fn is_due(&self, now: &Now) -> bool {
        self.next_poll.as_ref().is_none_or(|at| !now.moment.is_before(at))
    }

    /// What is held beyond a single app.
    pub(super) fn held(&self) -> impl Iterator<Item = Held> {
        let refused = self.refused.clone().or_else(|| self.refused_before());
        // Without leave to use it, it isn't rendered either.
        let unused = self.standing.refused.clone().or_else(|| self.unrendered.clone());
        [self.unfetched.clone(), refused, unused].into_iter().flatten()
    }

    /// What was fetched and isn't accepted is held, after a restart too, although nobody knows any more why
    /// until the source has shown it again.
    fn refused_before(&self) -> Option<Held> {
        let fetched = self.fetched.as_ref()?;
        if self.accepted.as_ref().is_some_and(|floor| floor.revision == *fetched) {
            return None;
        }
        Some(Held {
            cause: format!(
                "revision {fetched} was fetched before the agent was restarted, but is not accepted"
            ),
            next: self.next_poll_wall,
            unblock:
                "nothing to do here: the next poll verifies it again; `holdfast events` shows the reason"
                    .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(fetched: &str, accepted: &str) -> Progress {
        let revision = Revision(accepted.to_owned());
        let floor = Floor { revision, committed: Timestamp::UNIX_EPOCH, sequence: None };
        let fetched = Some(Revision(fetched.to_owned()));
        Progress { fetched, accepted: Some(floor), ..Progress::default() }
    }

    #[test]
    fn a_revision_that_was_refused_is_still_held_after_a_restart() {
        let causes: Vec<String> = progress("two", "one").held().map(|held| held.cause).collect();
        assert!(causes[0].contains("two"), "{causes:?}");
        assert_eq!(progress("one", "one").held().count(), 0);
        assert_eq!(Progress::default().held().count(), 0);
        let refused = Some(Held::until_changed("not signed", "sign it"));
        let known = Progress { refused: refused.clone(), ..progress("two", "one") };
        assert_eq!(known.held().collect::<Vec<_>>(), refused.into_iter().collect::<Vec<_>>());
    }
}
