//! Whether the box may be changed now: what the policy, the clock and the gates say, handed to the keeper before each
//! pass. Gates are only asked while a change waits for nothing else.

use std::time::Duration;

use holdfast_core::change::{ChangePolicy, Gate, GateAnswer};
use holdfast_core::clock::{Moment, Now};
use holdfast_core::held::Held;
use jiff::{SignedDuration, Timestamp};

use super::journal::lock;
use super::{Daemon, Event, gates};
use crate::keeper::Permit;

/// So long an answer of the gates counts: a change begins right after it.
const FRESH: Duration = Duration::from_secs(10);
/// The pause before gates are asked again.
const PAUSE: Duration = Duration::from_secs(30);
/// What is said while they are asked.
const ASKED: &str = "waiting for the gates to answer whether the box is in use";
/// From one asking to the next it takes no longer, but where the box slept.
const LONGEST_ROUND: Duration = Duration::from_secs(180);
/// The pause before the clock is looked at again that isn't trusted.
const CLOCK_PAUSE: Duration = Duration::from_secs(60);
/// How much of the time that was seen may be forgotten by a power cut, while a grace time is counted.
const SEEN_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How much of the time that is proven may be forgotten by a power cut, and at an ordinary end.
const PROVEN_EVERY: SignedDuration = SignedDuration::from_hours(7 * 24);
const PROVEN_AT_END: SignedDuration = SignedDuration::from_hours(1);
/// How much of a gate's hold may be forgotten by a power cut.
const SAVED_EVERY: Duration = Duration::from_secs(600);

/// What the gates said, and for how long they have held a change.
#[derive(Debug, Default)]
pub(super) struct GateWatch {
    /// When they were asked, which they were, and what they said.
    answers: Option<(Moment, Vec<Gate>, Vec<GateAnswer>)>,
    asking: bool,
    /// For how long they have held what waits, over restarts too.
    held: Duration,
    /// They have let a change go: what comes next begins to count anew.
    let_go: bool,
    /// Up to when that was counted.
    counted: Option<Moment>,
    saved: Duration,
}

/// What waits for leave.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// When something may go on that isn't allowed yet.
    pub(super) due: Option<Moment>,
    /// What was last written down to hold changes.
    noted: Option<String>,
    /// How much time was seen when that was last written down.
    saved: Duration,
}

impl Waiting {
    /// Nothing waits yet.
    pub(super) fn new(now: &Now) -> Self {
        Waiting { saved: now.seen, ..Waiting::default() }
    }
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

    /// Whether what they said is too old for a change to begin by it.
    fn is_stale(&self, now: &Now) -> bool {
        self.answers
            .as_ref()
            .is_some_and(|(asked, ..)| now.moment.since(asked).is_none_or(|age| age >= FRESH))
    }

    /// Why a change must wait now.
    fn holds(&self, policy: &ChangePolicy, now: &Now) -> Option<Held> {
        let next = now.wall_in(self.pause(now));
        let current = self.answers.as_ref().filter(|(_, gates, _)| gates == policy.gates());
        let Some((asked, _, answers)) = current else { return Some(not_asked(next)) };
        let held = policy.holds_gates(answers, self.held, next);
        let is_fresh = now.moment.since(asked).is_some_and(|age| age < FRESH);
        // What was free a while ago may be in use again.
        held.or_else(|| (!is_fresh).then(|| not_asked(next)))
    }

    /// How long until they are asked again.
    fn pause(&self, now: &Now) -> Duration {
        let Some((asked, gates, answers)) = &self.answers else { return Duration::ZERO };
        let holding =
            gates.iter().zip(answers).filter(|(_, answer)| in_use(answer)).map(|(gate, _)| gate.max_hold);
        // No gate holds for longer than it may.
        let ends =
            holding.filter_map(|most| most.checked_sub(self.held)).filter(|left| !left.is_zero()).min();
        let pause =
            if answers.iter().any(in_use) { ends.map_or(PAUSE, |left| left.min(PAUSE)) } else { FRESH };
        now.moment.since(asked).map_or(Duration::ZERO, |age| pause.saturating_sub(age))
    }

    fn take(&mut self, gates: Vec<Gate>, answers: Vec<GateAnswer>, now: &Now) {
        self.asking = false;
        if answers.iter().any(in_use) {
            let more = self.counted.as_ref().and_then(|counted| now.moment.since(counted));
            // A box that slept meanwhile was not held.
            self.held = self.held.saturating_add(more.unwrap_or_default().min(LONGEST_ROUND));
            self.counted = Some(now.moment.clone());
        }
        self.answers = Some((now.moment.clone(), gates, answers));
    }

    fn begin_to_ask(&mut self) {
        self.asking = true;
        if std::mem::take(&mut self.let_go) {
            self.held = Duration::ZERO;
            self.counted = None;
        }
    }

    /// Something else than the gates holds what waits: that time isn't theirs.
    fn interrupt(&mut self) {
        self.counted = None;
        self.answers = None;
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
        cause: ASKED.to_owned(),
        next: Some(next),
        unblock: "nothing to do: it continues when the gates have answered".to_owned(),
    }
}

impl Daemon {
    /// Tells the keeper what may be done now, and asks the gates if that is all that a change waits for.
    pub(super) fn renew_permit(&mut self, now: &Now) {
        self.review_trust(now);
        if let Some(held) = self.follow.progress.standing.refused.clone() {
            self.keeper.permit(Permit::revoked(&held));
            self.waiting.due = None;
            self.gates.interrupt();
            return;
        }
        let Some(policy) = self.keeper.policy() else { return };
        if self.follow.progress.resolved.is_none() {
            // What is placed is of a revision that was refused, and another one that is trusted is being read: the leave is
            // that one's, and not for what still stands in its place.
            self.keeper.permit(Permit::unknown());
            self.waiting.due = None;
            return;
        }
        let is_in_use = self.keeper.is_in_use();
        let mut permit = Permit::by_clock(policy, is_in_use, &now.time);
        let by_clock = [&permit.download, &permit.apply].into_iter().any(Option::is_some);
        if let Some(held) = &self.follow.unread_stop {
            permit = Permit { download: Some(held.clone()), apply: Some(held.clone()), revoked: false };
        }
        let opens =
            [&permit.download, &permit.apply].into_iter().flatten().filter_map(|held| held.next).min();
        if is_in_use && permit.apply.is_none() && !policy.gates().is_empty() {
            permit.apply = self.gates.holds(policy, now);
        }
        let let_go = is_in_use && permit.apply.is_none() && !policy.gates().is_empty();
        let gated = is_in_use
            && permit.apply.is_some()
            && policy.holds_apply(&now.time).is_none()
            && self.follow.unread_stop.is_none();
        let hold = permit.apply.as_ref().map(|held| held.cause.clone());
        self.keeper.permit(permit);
        let wants = self.keeper.wants_change(now);
        let opens = opens.filter(|_| wants || self.keeper.wants_download()).map(|opens| {
            // What has passed meanwhile is due now.
            Duration::try_from(opens.duration_since(now.wall)).unwrap_or_default()
        });
        // Nothing wakes the loop when a clock is synchronized.
        let doubted = by_clock && now.time.doubt().is_some() && (wants || self.keeper.wants_download());
        let doubted = doubted || now.time.doubt().is_some() && self.keeper.awaits_purge(now);
        let mut asks = None;
        self.gates.let_go |= let_go && wants;
        if gated && wants {
            self.ask_gates(now);
            // While they are asked their answer wakes the loop, and nothing else has to.
            asks = (!self.gates.asking).then(|| self.gates.pause(now));
        } else if !wants {
            self.gates.forget();
        } else if !gated && self.gates.is_stale(now) {
            self.gates.interrupt();
        }
        let looks = doubted.then_some(CLOCK_PAUSE);
        self.waiting.due = opens.into_iter().chain(asks).chain(looks).min().map(|wait| now.moment_in(wait));
        self.note_hold(hold.filter(|_| wants), now);
        self.save_hold();
        self.save_time(false);
    }

    /// Writes down what is known of the time, where that is worth a write: how much was seen while a grace time is
    /// counted, and once a week what is proven, so that a box that runs for a year without a commit trusts its clock after
    /// a power cut.
    pub(super) fn save_time(&mut self, ends: bool) {
        let now = self.clock.now();
        let unsaved = now.seen.saturating_sub(self.waiting.saved);
        let counts = unsaved >= SEEN_EVERY || ends && !unsaved.is_zero();
        let counts = counts && self.keeper.awaits_purge(&now);
        let mut store = lock(&self.store);
        let behind = now.proven.duration_since(store.anchor().time_floor);
        if !counts && behind < if ends { PROVEN_AT_END } else { PROVEN_EVERY } {
            return;
        }
        self.waiting.saved = now.seen;
        let kept = store.set_seen_time(now.seen).and_then(|_| store.flush());
        let kept = kept.and_then(|_| {
            store.update_anchor(|anchor| anchor.time_floor = anchor.time_floor.max(now.proven))
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "the elapsed time can't be saved");
        }
    }

    /// Writes down what holds a change, once.
    fn note_hold(&mut self, hold: Option<String>, now: &Now) {
        // That gates are being asked is nothing yet.
        if hold.as_deref() == Some(ASKED) || hold == self.waiting.noted {
            return;
        }
        if let Some(cause) = &hold {
            self.note("change.held", None, cause, now);
        }
        self.waiting.noted = hold;
    }

    fn ask_gates(&mut self, now: &Now) {
        let Some(policy) = self.keeper.policy() else { return };
        if self.gates.asking || !self.gates.pause(now).is_zero() {
            return;
        }
        self.gates.begin_to_ask();
        let gates = policy.gates().to_vec();
        let asked = gates.clone();
        let job = tokio::spawn(async move {
            let answers = gates::ask(&gates).await;
            Event::Gates(gates, answers)
        });
        self.await_job(job, |why| {
            let answers = asked.iter().map(|_| GateAnswer::InUse(why.clone())).collect();
            Event::Gates(asked, answers)
        });
    }

    /// Takes in what the gates said.
    pub(super) fn gates_answered(&mut self, gates: Vec<Gate>, answers: Vec<GateAnswer>, now: &Now) {
        self.gates.take(gates, answers, now);
        self.widen(crate::keeper::Scope::All);
    }

    fn save_hold(&mut self) {
        if let Some(held) = self.gates.take_unsaved() {
            let mut store = lock(&self.store);
            if let Err(error) = store.set_gate_hold(held).and_then(|_| store.flush()) {
                tracing::warn!(%error, "the time for which gates have held a change can't be saved");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::change::GateKind;
    use holdfast_core::clock::BootId;

    use super::*;

    fn at(seconds: u64) -> Now {
        let uptime = Duration::from_secs(seconds);
        Now::certain(Timestamp::UNIX_EPOCH, Moment { boot: BootId("b".into()), uptime })
    }

    fn policy() -> ChangePolicy {
        let probe = GateKind::File { path: "/x".into() };
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
        watch.take(policy().gates, vec![GateAnswer::Free], &at(1));
        assert_eq!(watch.holds(&policy(), &at(2)), None);
        assert!(watch.holds(&policy(), &at(1 + FRESH.as_secs())).is_some(), "that was a while ago");
        assert!(watch.pause(&at(1 + FRESH.as_secs())).is_zero());
    }

    #[test]
    fn a_gate_that_is_in_use_is_asked_again_and_holds_no_longer_than_it_may() {
        let mut watch = GateWatch::default();
        watch.take(policy().gates, in_use(), &at(0));
        assert_eq!(watch.pause(&at(10)), PAUSE - Duration::from_secs(10));
        for seconds in [30, 60, 90] {
            watch.take(policy().gates, in_use(), &at(seconds));
            assert!(watch.holds(&policy(), &at(seconds)).unwrap().cause.contains("it is there"));
        }
        watch.take(policy().gates, in_use(), &at(120));
        assert_eq!(watch.holds(&policy(), &at(120)), None);
    }

    #[test]
    fn what_other_gates_said_and_time_in_which_nobody_asked_count_for_nothing() {
        let mut watch = GateWatch::default();
        watch.take(Vec::new(), vec![GateAnswer::Free], &at(0));
        assert!(watch.holds(&policy(), &at(1)).is_some());
        watch.take(policy().gates, in_use(), &at(10));
        watch.interrupt();
        watch.take(policy().gates, in_use(), &at(70_000));
        assert_eq!(watch.held, Duration::ZERO);
        watch.take(policy().gates, in_use(), &at(140_000));
        assert_eq!(watch.held, LONGEST_ROUND, "it slept in between");
    }

    #[test]
    fn once_they_have_let_a_change_go_the_next_one_begins_to_count_anew() {
        let mut watch = GateWatch::new(Duration::from_secs(100));
        watch.take(policy().gates, in_use(), &at(0));
        assert_eq!(watch.holds(&policy(), &at(0)), None, "it has held for long enough");
        watch.let_go = true;
        watch.begin_to_ask();
        watch.take(policy().gates, in_use(), &at(30));
        assert!(watch.holds(&policy(), &at(30)).is_some());
    }

    #[test]
    fn how_long_gates_held_a_change_outlives_the_agent_and_not_the_change() {
        let mut watch = GateWatch::default();
        watch.take(policy().gates, in_use(), &at(0));
        watch.take(policy().gates, in_use(), &at(60));
        assert_eq!(watch.take_unsaved(), Some(Duration::from_secs(60)));
        assert_eq!(watch.take_unsaved(), None);
        let mut later = GateWatch::new(Duration::from_secs(60));
        later.take(policy().gates, in_use(), &at(1000));
        later.take(policy().gates, in_use(), &at(1050));
        assert_eq!(later.holds(&policy(), &at(1050)), None);
        later.forget();
        assert_eq!(later.take_unsaved(), Some(Duration::ZERO));
    }
}
