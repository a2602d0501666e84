//! Whether the box may be changed now: what the policy, the clock and the gates say, handed to the keeper before each
//! pass. Gates are only asked while a change waits for nothing else.

use std::time::Duration;

use holdfast_core::change::{ChangePolicy, GateAnswer};
use holdfast_core::clock::{Moment, Now};
use holdfast_core::held::Held;
use jiff::Timestamp;

use super::journal::lock;
use super::{Daemon, Event, gates};
use crate::keeper::Permit;

/// So long an answer of the gates counts: a change begins right after it.
const FRESH: Duration = Duration::from_secs(10);
/// The pause before gates are asked again.
const PAUSE: Duration = Duration::from_secs(30);
/// How much of a gate's hold may be forgotten by a power cut.
const SAVED_EVERY: Duration = Duration::from_secs(600);

/// What the gates said, and for how long they have held a change.
#[derive(Debug, Default)]
pub(super) struct GateWatch {
    answers: Option<(Moment, Vec<GateAnswer>)>,
    asking: bool,
    /// For how long they have held what waits, over restarts too.
    held: Duration,
    /// Up to when that was counted.
    counted: Option<Moment>,
    saved: Duration,
}

impl GateWatch {
    /// Goes on with what was counted before the agent was started.
    pub(super) fn new(held: Duration) -> Self {
        GateWatch { held, saved: held, ..GateWatch::default() }
    }

    /// Whether an answer is on its way.
    pub(super) fn is_asking(&self) -> bool {
        self.asking
    }

    /// Why a change must wait now.
    fn holds(&self, policy: &ChangePolicy, now: &Now) -> Option<Held> {
        let next = now.wall_in(self.pause(now));
        let current = self.answers.as_ref().filter(|(_, answers)| answers.len() == policy.gates().len());
        let Some((asked, answers)) = current else { return Some(not_asked(next)) };
        let held = policy.holds_gates(answers, self.held, next);
        let is_fresh = now.moment.since(asked).is_some_and(|age| age < FRESH);
        // What was free a while ago may be in use again.
        held.or_else(|| (!is_fresh).then(|| not_asked(next)))
    }

    /// How long until they are asked again.
    fn pause(&self, now: &Now) -> Duration {
        let Some((asked, answers)) = &self.answers else { return Duration::ZERO };
        let pause =
            if answers.contains(&GateAnswer::Free) && !answers.iter().any(in_use) { FRESH } else { PAUSE };
        now.moment.since(asked).map_or(Duration::ZERO, |age| pause.saturating_sub(age))
    }

    fn take(&mut self, answers: Vec<GateAnswer>, now: &Now) {
        self.asking = false;
        if answers.iter().any(in_use) {
            let more = self.counted.as_ref().and_then(|counted| now.moment.since(counted));
            self.held = self.held.saturating_add(more.unwrap_or_default());
            self.counted = Some(now.moment.clone());
        }
        self.answers = Some((now.moment.clone(), answers));
    }

    /// Nothing waits for the gates any more: the next change begins to count anew.
    fn forget(&mut self) {
        *self = GateWatch { asking: self.asking, saved: self.saved, ..GateWatch::default() };
    }

    /// What is to be kept over restarts, if that has changed by enough.
    fn take_unsaved(&mut self) -> Option<Duration> {
        let begins = self.saved.is_zero() != self.held.is_zero();
        if !begins && self.held.abs_diff(self.saved) < SAVED_EVERY {
            return None;
        }
        self.saved = self.held;
        Some(self.held)
    }
}

fn in_use(answer: &GateAnswer) -> bool {
    matches!(answer, GateAnswer::InUse(_))
}

fn not_asked(next: Timestamp) -> Held {
    Held {
        cause: "the gates are asked whether the box is in use".to_owned(),
        next: Some(next),
        unblock: "nothing to do: it goes on when they have answered".to_owned(),
    }
}

impl Daemon {
    /// Tells the keeper what may be done now, and asks the gates if that is all that a change waits for.
    pub(super) fn renew_permit(&mut self, now: &Now) {
        let Some(policy) = self.keeper.policy() else { return };
        let wall = self.trusted_wall(now);
        let is_in_use = self.keeper.is_in_use();
        let mut permit = Permit::by_clock(policy, is_in_use, wall);
        let gated = is_in_use && permit.apply.is_none() && !policy.gates().is_empty();
        if gated {
            permit.apply = self.gates.holds(policy, now);
        }
        let gated = gated && permit.apply.is_some();
        let nexts = [&permit.download, &permit.apply].into_iter().flatten().filter_map(|held| held.next);
        let next = nexts.min();
        self.keeper.permit(permit);
        let waits = self.keeper.waits_for_permit(now);
        self.permit_due = next.filter(|_| waits).map(|next| {
            let ahead = Duration::try_from(next.duration_since(wall)).unwrap_or_default();
            Moment { boot: now.moment.boot.clone(), uptime: now.moment.uptime.saturating_add(ahead) }
        });
        let wants = self.keeper.wants_change(now);
        if gated && wants {
            self.ask_gates(now);
        } else if !wants {
            self.gates.forget();
        }
        self.save_hold();
    }

    fn ask_gates(&mut self, now: &Now) {
        let Some(policy) = self.keeper.policy() else { return };
        if self.gates.asking || !self.gates.pause(now).is_zero() {
            return;
        }
        self.gates.asking = true;
        let (gates, jobs) = (policy.gates().to_vec(), self.jobs.clone());
        tokio::spawn(async move {
            let answers = gates::ask(&gates).await;
            let _ = jobs.send(Event::Gates(answers)).await;
        });
    }

    /// Takes in what the gates said.
    pub(super) fn gates_answered(&mut self, answers: Vec<GateAnswer>, now: &Now) {
        self.gates.take(answers, now);
        self.widen(crate::keeper::Scope::All);
    }

    fn save_hold(&mut self) {
        if let Some(held) = self.gates.take_unsaved() {
            let store = lock(&self.store);
            if let Err(error) = store.set_gate_hold(held).and_then(|_| store.flush()) {
                tracing::warn!(%error, "how long gates have held a change can't be kept");
            }
        }
    }

    /// The clock on the wall, or where that is surely wrong what is known of it: it can't be earlier than what
    /// the box has seen before.
    fn trusted_wall(&self, now: &Now) -> Timestamp {
        let floor = lock(&self.store).anchor().time_floor;
        if now.wall >= floor {
            return now.wall;
        }
        floor.saturating_add(now.moment.uptime).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::change::{Gate, GateProbe};
    use holdfast_core::clock::BootId;

    use super::*;

    fn at(seconds: u64) -> Now {
        let uptime = Duration::from_secs(seconds);
        Now { wall: Timestamp::UNIX_EPOCH, moment: Moment { boot: BootId("b".into()), uptime } }
    }

    fn policy() -> ChangePolicy {
        let probe = GateProbe::File { path: "/x".into() };
        let gate = Gate { name: "sale".into(), probe, max_hold: Duration::from_secs(100) };
        ChangePolicy { gates: vec![gate], ..ChangePolicy::default() }
    }

    fn in_use() -> Vec<GateAnswer> {
        vec![GateAnswer::InUse("it is there".into())]
    }

    #[test]
    fn a_change_waits_until_the_gates_were_asked_and_begins_right_after() {
        let mut watch = GateWatch::default();
        assert!(watch.holds(&policy(), &at(0)).is_some());
        watch.take(vec![GateAnswer::Free], &at(1));
        assert_eq!(watch.holds(&policy(), &at(2)), None);
        assert!(watch.holds(&policy(), &at(1 + FRESH.as_secs())).is_some(), "that was a while ago");
        assert!(watch.pause(&at(1 + FRESH.as_secs())).is_zero());
    }

    #[test]
    fn a_gate_that_is_in_use_is_asked_again_and_holds_no_longer_than_it_may() {
        let mut watch = GateWatch::default();
        watch.take(in_use(), &at(0));
        assert_eq!(watch.pause(&at(10)), PAUSE - Duration::from_secs(10));
        for seconds in [30, 60, 90] {
            watch.take(in_use(), &at(seconds));
            assert!(watch.holds(&policy(), &at(seconds)).unwrap().cause.contains("it is there"));
        }
        watch.take(in_use(), &at(120));
        assert_eq!(watch.holds(&policy(), &at(120)), None);
    }

    #[test]
    fn how_long_gates_held_a_change_outlives_the_agent_and_not_the_change() {
        let mut watch = GateWatch::default();
        watch.take(in_use(), &at(0));
        watch.take(in_use(), &at(60));
        assert_eq!(watch.take_unsaved(), Some(Duration::from_secs(60)));
        assert_eq!(watch.take_unsaved(), None);
        let mut later = GateWatch::new(Duration::from_secs(60));
        later.take(in_use(), &at(1000));
        later.take(in_use(), &at(1050));
        assert_eq!(later.holds(&policy(), &at(1050)), None);
        later.forget();
        assert_eq!(later.take_unsaved(), Some(Duration::ZERO));
    }
}
