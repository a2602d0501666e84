//! Following the source: fetched -> verified and accepted -> resolved and placed. Each stage takes in what the
//! job before it brought.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock::Now;
use holdfast_core::digest::Revision;
use holdfast_core::held::Held;
use holdfast_core::name::AppName;
use holdfast_core::resolve::Resolved;
use holdfast_core::verify::{Fetched, Floor, verify};
use holdfast_store::{anchor, fault};

use super::fetch_and_render::{self, NotRendered, PollResult, Rendered, Renderer};
use super::journal::lock;
use super::source_state::SourceJob;
use super::trust::{Standing, Trust, no_policy};
use super::{Daemon, Event};
use crate::backoff::spread;
use crate::keeper::{Journal, JournalError, Note, Scope};
use crate::source::SourceError;

/// The longest that a server is left alone because it asks for it.
pub(super) const LEFT_ALONE: Duration = Duration::from_secs(86_400);

/// When the source is asked again after a failure. One that was asked is asked no sooner than a healthy one would be, and
/// not before it wants to be; only where there was no way to it is a sooner try worth something.
fn pause_after(error: &SourceError, backoff: Duration, interval: Duration) -> Duration {
    let least = if error.was_asked() { interval } else { Duration::ZERO };
    backoff.max(least).max(error.retry_after().unwrap_or_default().min(LEFT_ALONE))
}

/// 64 random bits. Without randomness there is no jitter, and nothing worse.
pub(super) fn random() -> u64 {
    let mut random = [0; 8];
    let _ = getrandom::fill(&mut random);
    u64::from_le_bytes(random)
}

impl Daemon {
    pub(super) fn start_fetch(&mut self, now: &Now) {
        self.review_trust(now);
        self.follow.begin(SourceJob::Fetch);
        let asked = std::mem::take(&mut self.follow.poll_asked);
        self.look_at = Scope::All;
        self.widen(Scope::All);
        self.poll_after_interval(now);
        let source = Arc::clone(&self.follow.source);
        let content = lock(&self.store).shared_content();
        let known = self.follow.progress.known.clone();
        let accepted = self.follow.progress.accepted.as_ref().map(|floor| floor.revision.clone());
        let job = tokio::task::spawn_blocking(move || {
            Event::Fetched(fetch_and_render::fetch(
                &source,
                &content,
                known.as_ref(),
                accepted.as_ref(),
                asked,
            ))
        });
        self.await_job(job, |why| Event::Fetched(Err(SourceError::here(why))));
    }

    fn poll_after_interval(&mut self, now: &Now) {
        self.follow.progress.poll_in(spread(self.config.source.interval, random()), now);
    }

    /// Fetched -> Verified.
    pub(super) fn fetched(
        &mut self,
        result: Result<PollResult, SourceError>,
        now: &Now,
    ) -> Result<(), JournalError> {
        self.untrimmed = true;
        // Once a poll is often enough to see whether the disk has room again, if nothing waits for that.
        if let Err(error) = lock(&self.store).reserve().restore() {
            tracing::warn!(%error, "there is no room for the reserve that is kept for a full disk");
        }
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.poll_failed(&error, now);
                self.follow.progress.unfetched = match &error {
                    SourceError::UsedUp { cause, .. } => {
                        Some(cause.held_revision(format!("a new revision can't be fetched yet: {cause}")))
                    }
                    SourceError::OverBudget { .. } => {
                        Some(NotRendered::Source(error.clone()).held(self.follow.progress.next_poll_wall))
                    }
                    _ => None,
                };
                return Ok(());
            }
        };
        self.follow.progress.error = None;
        self.follow.progress.unfetched = None;
        self.follow.progress.last_poll = Some(now.wall);
        match found {
            PollResult::Same => {
                self.follow.backoff.succeeded();
                Ok(())
            }
            PollResult::New(fetched) => self.verify(*fetched, now),
        }
    }

    pub(super) fn poll_failed(&mut self, error: &SourceError, now: &Now) {
        let waits = match error {
            SourceError::UsedUp { .. } => {
                Some("the source has a new revision, which waits for the byte budget")
            }
            SourceError::OverBudget { .. } => {
                // What never came whole into a release may go.
                self.uncollected = true;
                Some("the source has a new revision, which doesn't fit into the disk budget")
            }
            _ => None,
        };
        if let Some(waits) = waits {
            tracing::warn!(%error, "{waits}");
            // It answers, and is asked as often as ever and no more: each time costs.
            self.follow.backoff.succeeded();
            self.follow.progress.last_poll = Some(now.wall);
            self.poll_after_interval(now);
            self.follow.progress.error = None;
            return;
        }
        let text = error.to_string();
        if self.follow.progress.error.as_ref() == Some(&text) {
            tracing::debug!(%error, "the source still can't be polled");
        } else {
            tracing::warn!(%error, "the source can't be polled; the box keeps its current state");
        }
        let wait = self.follow.backoff.failed(random());
        let wait = spread(pause_after(error, wait, self.config.source.interval), random());
        self.follow.progress.poll_in(wait, now);
        self.follow.progress.error = Some(text);
        if matches!(error, SourceError::Local { .. }) {
            self.note_disk(&error.to_string(), error.trouble(), now);
        }
        // What waits for the source waits for the next poll.
        if let Some(held) = self.follow.progress.unrendered.as_mut().filter(|held| held.next.is_some()) {
            held.next = self.follow.progress.next_poll_wall;
        }
    }

    pub(super) fn verify(&mut self, fetched: Fetched, now: &Now) -> Result<(), JournalError> {
        let revision = fetched.revision.clone();
        self.follow.progress.fetched = Some(revision.clone());
        if self.follow.progress.accepted.as_ref().is_some_and(|floor| floor.revision == revision) {
            return self.accepted_again(fetched, now);
        }
        let trust = Trust::read(&self.config);
        let policy = match trust.policy() {
            Ok(policy) => policy,
            Err(cause) => {
                // Not remembered as known: with the file in order, the next poll looks again.
                self.refuse(&revision, no_policy(cause), now);
                return Ok(());
            }
        };
        match verify(&fetched, &policy, self.follow.progress.accepted.as_ref(), now) {
            Ok(verified) => {
                self.accept(verified.floor(), now);
                self.follow.progress.known = Some(revision);
                self.follow.progress.refused = None;
                self.follow.progress.standing = Standing::accepted(fetched, verified, &trust);
                self.render_accepted();
            }
            Err(refused) => {
                // What could not be shown may be shown by the next answer, and a key's time may come; the rest stays as
                // it is.
                let unproven = refused.may_pass();
                self.follow.progress.known = (!unproven).then(|| revision.clone());
                self.refuse(&revision, Held::from(refused), now);
            }
        }
        Ok(())
    }

    /// The source shows what was accepted before: after a start, or because the mirror lacked it.
    fn accepted_again(&mut self, fetched: Fetched, now: &Now) -> Result<(), JournalError> {
        self.follow.progress.known = Some(fetched.revision.clone());
        self.follow.progress.refused = None;
        self.follow.progress.show(fetched);
        self.review_trust(now);
        // An anchor that was lost learns its floor again.
        let floor = self.follow.progress.standing.verified().map(|verified| verified.floor());
        if let Some(floor) = floor.filter(|_| lock(&self.store).anchor().floor.is_none()) {
            self.accept(floor, now);
        }
        self.follow.backoff.succeeded();
        self.render_accepted();
        Ok(())
    }

    pub(super) fn refuse(&mut self, revision: &Revision, held: Held, now: &Now) {
        if self.follow.progress.refused.as_ref() != Some(&held) {
            self.note("revision.held", Some(revision), &held.cause, now);
        }
        self.follow.progress.refused = Some(held);
        // What was accepted before may still lack what the source is to send.
        match self.follow.progress.unrendered.as_ref().is_some_and(|held| held.next.is_some()) {
            true => self.render_accepted(),
            false => self.follow.backoff.succeeded(),
        }
    }

    /// Nothing older is taken from here on. It is on disk before anything is done for this revision.
    fn accept(&mut self, floor: Floor, now: &Now) {
        if self.follow.progress.accepted.as_ref() == Some(&floor) {
            return;
        }
        lock(&self.store).stage_anchor(|anchor| {
            anchor.floor = Some(anchor::Floor {
                revision: floor.revision.clone(),
                committed: floor.committed,
                sequence: floor.sequence,
            });
            anchor.fetched = Some(floor.revision.clone());
            anchor.time_floor = anchor.time_floor.max(now.proven).max(floor.committed);
        });
        self.clock.not_before(floor.committed);
        fault::point("accept.floor-staged");
        self.note(
            "revision.accepted",
            Some(&floor.revision),
            "verified and accepted; older revisions are refused from now on",
            now,
        );
        self.follow.progress.accepted = Some(floor);
    }

    /// Verified -> Resolved, for what was accepted, unless it may not be used any more; needs no network unless that
    /// was lost before all came.
    pub(super) fn render_accepted(&mut self) {
        self.follow.progress.unread = false;
        let Some(verified) = self.follow.progress.standing.verified().cloned() else { return };
        self.follow.begin(SourceJob::Render);
        self.follow.render_due = None;
        let renderer = Renderer {
            source: Arc::clone(&self.follow.source),
            store: Arc::clone(&self.store),
            device: self.config.device.name.clone(),
            runtimes: self.keeper.drivers().runtimes().clone(),
            unknown: self.follow.tags.unknown().clone(),
            ask: Some(self.allowance.clone()),
        };
        let revision = verified.revision().clone();
        let known = self.keeper.releases_at_hand();
        let job = tokio::task::spawn_blocking(move || {
            fault::mark("render");
            let result = renderer
                .render(&verified)
                .and_then(|rendered| renderer.pin_releases(&rendered.resolved, &known).map(|()| rendered));
            Event::Rendered(verified.revision().clone(), Box::new(result))
        });
        self.await_job(job, |why| Event::Rendered(revision, Box::new(Err(NotRendered::Broken(why)))));
    }

    pub(super) fn rendered(
        &mut self,
        revision: &Revision,
        result: Result<Rendered, NotRendered>,
        now: &Now,
    ) -> Result<(), JournalError> {
        if self.follow.progress.standing.refused.is_some() {
            // It lost its leave while it was rendered.
            self.uncollected = true;
            return Ok(());
        }
        match result {
            Ok(Rendered { resolved, wanted }) => {
                self.follow.backoff.succeeded();
                self.follow.tags.want(wanted);
                self.follow.progress.unrendered = None;
                self.follow.unread_stop = None;
                let before: BTreeMap<AppName, Held> =
                    self.keeper.faulty().map(|(name, held)| (name.clone(), held.clone())).collect();
                if let Err(error) = self.keeper.place(&resolved, now) {
                    // A new revision that can't be pinned holds nothing up of what is here.
                    return self.rendered(
                        revision,
                        Err(NotRendered::Disk { cause: error.cause, trouble: error.trouble }),
                        now,
                    );
                }
                let policy = &resolved.policy;
                let zone = policy.zone.time_zone().clone();
                self.allowance.set(policy.downloads, policy.urgent.is_some(), zone);
                self.note_faulty(&before, &resolved, now);
                self.retry_what_is_held(&resolved, now);
                // Not only once everything is good: what is held for weeks must not keep what others have replaced.
                self.uncollected |= self.follow.progress.resolved.as_ref() != Some(&resolved.revision);
                self.follow.progress.resolved = Some(resolved.revision);
                self.widen(Scope::All);
            }
            Err(NotRendered::Source(error)) => {
                // As if the poll had failed: what came stays in the mirror, and the rest is asked for again.
                self.follow.progress.known = None;
                self.poll_failed(&error, now);
                let held = NotRendered::Source(error).held(self.follow.progress.next_poll_wall);
                self.follow.progress.unrendered = Some(held);
            }
            Err(why) => {
                self.follow.backoff.succeeded();
                // What the mirror lacks is fetched anew with the next poll; a full disk is tried again then.
                if !matches!(why, NotRendered::Documents(_)) {
                    self.follow.progress.known = None;
                }
                if let NotRendered::Documents(refused) = &why {
                    self.follow.unread_stop = refused.stops.then(|| unread_stop(revision));
                    self.widen(Scope::All);
                }
                let of_disk = match &why {
                    NotRendered::Disk { trouble, .. } => Some(*trouble),
                    NotRendered::Mirror(_) => Some(None),
                    _ => None,
                };
                // What was pinned of a revision that can't be had whole may go.
                self.uncollected |= matches!(why, NotRendered::Budget(_));
                let held = why.held(self.follow.progress.next_poll_wall);
                if let Some(trouble) = of_disk {
                    self.note_disk(&held.cause, trouble, now);
                }
                if self.follow.progress.unrendered.as_ref() != Some(&held) {
                    self.note("revision.held", Some(revision), &held.cause, now);
                }
                self.follow.progress.unrendered = Some(held);
            }
        }
        Ok(())
    }

    /// What an app lacks that the source has is asked for again by itself, whenever the source is polled next.
    fn retry_what_is_held(&mut self, resolved: &Resolved, now: &Now) {
        let late = resolved.held.iter().filter(|(app, _)| !self.follow.tags.are_wanted_by(app));
        let Some(next) = late.filter_map(|(_, held)| held.next).min() else { return };
        let wait = Duration::try_from(next.duration_since(now.wall)).unwrap_or_default();
        self.follow.render_due = Some(now.moment_in(wait.max(Duration::from_secs(1))));
    }

    /// Writes down which apps' documents are at fault, and weren't so before. That a registry is being asked is no fault.
    fn note_faulty(&mut self, before: &BTreeMap<AppName, Held>, resolved: &Resolved, now: &Now) {
        let is_new =
            |name: &AppName, held: &Held| before.get(name).is_none_or(|before| before.cause != held.cause);
        let at_fault = resolved.held.iter().filter(|(name, _)| !self.follow.tags.are_unasked_for(name));
        for (name, held) in at_fault.filter(|(name, held)| is_new(name, held)) {
            let revision = Some(resolved.revision.0.clone());
            let note = Note { revision, ..Note::of("app.held", name, &held.cause) };
            self.keeper.journal().note(note, now);
        }
    }
}

/// What holds everything that is still to be changed, whichever revision asked for it.
fn unread_stop(revision: &Revision) -> Held {
    Held::until_changed(
        format!(
            "the revision {revision} can't be read and may contain an emergency stop for this box, so no change is \
             applied"
        ),
        "correct the documents in a new commit; `holdfast validate` shows every error",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_answered_with_an_error_is_asked_no_sooner_than_a_healthy_one_and_not_before_it_wants_to_be()
     {
        let second = Duration::from_secs(1);
        let busy = |retry_after: Option<u64>| SourceError::Busy {
            url: "https://git.example".into(),
            why: "HTTP status 429".into(),
            retry_after: retry_after.map(Duration::from_secs),
        };
        for (asks_for, waits) in [(None, 300), (Some(7), 300), (Some(1200), 1200), (Some(u64::MAX), 86_400)] {
            assert_eq!(
                pause_after(&busy(asks_for), 5 * second, 300 * second),
                waits * second,
                "{asks_for:?}"
            );
        }
        let away = SourceError::Unreachable { url: "https://git.example".into(), why: "no route".into() };
        assert_eq!(pause_after(&away, 5 * second, 300 * second), 5 * second);
    }
}
