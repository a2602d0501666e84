//! Judging a release by the looks at it: a grace for its start, a soak without a break, a deadline, and a limit on
//! flapping.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::health::{Health, Sight};
use crate::release::HealthPolicy;

/// How many looks in a row must be bad before they count: one lost packet is no broken release.
const FAILURES_THAT_COUNT: u32 = 3;
/// How often it may fall ill after it was well before that counts by itself, however soon it is well again.
const FALLS_THAT_COUNT: u32 = 5;
/// How often its runtime may start something of it again, once its start is over, before that counts.
const RESTARTS_THAT_COUNT: u64 = 3;
/// A deadline goes on for so long after a look. While nobody looks for longer, the agent was away, or busy: that is no
/// fault of the release.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// What has been seen of a release since it was applied. Only `started` outlives the agent: after a restart
/// the soak begins anew, and so does the deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judging {
    /// When it was applied.
    pub started: Moment,
    #[serde(skip)]
    healthy_since: Option<Moment>,
    #[serde(skip)]
    last_look: Option<Moment>,
    /// For how long somebody looked.
    #[serde(skip)]
    watched: Duration,
    #[serde(skip)]
    was_healthy: bool,
    #[serde(skip)]
    failures: u32,
    #[serde(skip)]
    last_reason: String,
    /// It was well at the last look that could tell.
    #[serde(skip)]
    is_well: bool,
    /// How often it fell ill after it was well.
    #[serde(skip)]
    falls: u32,
    /// How often something of it had been started again when its start was over.
    #[serde(skip)]
    restarts_at_start: Option<u64>,
    /// And how often since.
    #[serde(skip)]
    restarts: u64,
    /// The last look ended its soak; it is judged on until the rest of its group has come as far.
    #[serde(skip)]
    has_passed: bool,
    /// It has passed before. From then on its deadline is counted from when it last did, or from the first look after
    /// the agent was started anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    passed_before: bool,
    #[serde(skip)]
    last_passed: Option<Moment>,
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too early to tell.
    Wait,
    /// It was healthy through its soak.
    Good,
    /// It failed.
    Bad {
        /// Why, for people.
        reason: String,
    },
}

impl Judging {
    /// Begins at the moment when the release was applied.
    pub fn begin(started: Moment) -> Self {
        Judging {
            started,
            healthy_since: None,
            last_look: None,
            watched: Duration::ZERO,
            was_healthy: false,
            failures: 0,
            last_reason: String::new(),
            is_well: false,
            falls: 0,
            restarts_at_start: None,
            restarts: 0,
            has_passed: false,
            passed_before: false,
            last_passed: None,
        }
    }

    /// Whether it would be good, were it not for the rest of its group.
    pub fn has_passed(&self) -> bool {
        self.has_passed
    }

    /// Takes one look into account. What has passed is judged on: it may still fail.
    pub fn judge(&mut self, policy: &HealthPolicy, seen: &Sight, now: &Moment) -> Verdict {
        let verdict = self.weigh(policy, seen, now);
        self.has_passed = verdict == Verdict::Good;
        if self.has_passed {
            self.passed_before = true;
            self.last_passed = Some(now.clone());
        }
        verdict
    }

    fn weigh(&mut self, policy: &HealthPolicy, seen: &Sight, now: &Moment) -> Verdict {
        let Some(elapsed) = now.since(&self.started) else {
            // The box was started anew, and the release with it: it is judged from here.
            *self = Judging::begin(now.clone());
            return self.weigh(policy, seen, now);
        };
        let gap = self.last_look.as_ref().and_then(|last| now.since(last)).unwrap_or(elapsed);
        self.last_look = Some(now.clone());
        self.watched += gap.min(LONGEST_GAP);
        let in_startup = elapsed < policy.startup;
        let in_grace = in_startup && !self.has_started(policy);
        self.note_restarts(seen.restarts, in_grace);
        self.note(&seen.health, in_startup, in_grace, now);
        // Why nothing could be told is the reason as well, should it stay so until the deadline.
        if let (Health::Unknown, Some(remark)) = (&seen.health, &seen.remark) {
            self.last_reason.clone_from(remark);
        }
        if let Some(reason) = self.flaps() {
            return Verdict::Bad { reason };
        }
        let soaked = self.healthy_since.as_ref().and_then(|since| now.since(since));
        if soaked.is_some_and(|soaked| soaked >= policy.soak) {
            return Verdict::Good;
        }
        let grace_is_over = !in_startup || self.has_started(policy);
        if grace_is_over && self.failures >= FAILURES_THAT_COUNT {
            return Verdict::Bad { reason: self.last_reason.clone() };
        }
        // What was well in time, and waits for others, has a new deadline if it falls ill.
        let late = if self.passed_before {
            let since = self.last_passed.get_or_insert_with(|| now.clone());
            now.since(since).unwrap_or_default()
        } else {
            self.watched
        };
        // What is well just now may end its soak.
        if late >= policy.deadline && self.healthy_since.is_none() {
            return Verdict::Bad { reason: self.too_late(policy) };
        }
        Verdict::Wait
    }

    /// Whether its start is over before its time: it was asked, and was well. That a process is there says nothing yet of
    /// an app that isn't asked: it may end as soon as it misses something.
    fn has_started(&self, policy: &HealthPolicy) -> bool {
        self.was_healthy && !policy.checks.is_empty()
    }

    /// What is started again while it starts is forgiven, and so is what was before anybody looked.
    fn note_restarts(&mut self, seen: Option<u64>, is_starting: bool) {
        let Some(seen) = seen else { return };
        let before = match self.restarts_at_start {
            // A count that went down was begun anew.
            Some(before) if !is_starting => before.min(seen),
            _ => seen,
        };
        self.restarts_at_start = Some(before);
        self.restarts = self.restarts.max(seen - before);
    }

    /// Why it counts as ill whatever it is at this moment: it comes and goes.
    fn flaps(&self) -> Option<String> {
        let (times, what) = if self.restarts >= RESTARTS_THAT_COUNT {
            (self.restarts, "was restarted")
        } else if self.falls >= FALLS_THAT_COUNT {
            (u64::from(self.falls), "became healthy and then unhealthy again")
        } else {
            return None;
        };
        let mut text = format!("it is flapping: it {what} {times} times while it was being judged");
        if !self.last_reason.is_empty() {
            text.push_str(&format!(", the last time: {}", self.last_reason));
        }
        Some(text)
    }

    fn note(&mut self, seen: &Health, in_startup: bool, in_grace: bool, now: &Moment) {
        let ill = match seen {
            Health::Unhealthy { .. } => true,
            Health::Starting { .. } => !in_startup,
            Health::Healthy | Health::Unknown => false,
        };
        if self.is_well && ill && !in_grace {
            self.falls = self.falls.saturating_add(1);
        }
        if *seen != Health::Unknown {
            self.is_well = *seen == Health::Healthy;
        }
        match seen {
            Health::Healthy => {
                self.healthy_since.get_or_insert_with(|| now.clone());
                self.was_healthy = true;
                self.failures = 0;
            }
            Health::Starting { reason } => {
                self.healthy_since = None;
                self.last_reason.clone_from(reason);
            }
            Health::Unhealthy { reason } => {
                self.healthy_since = None;
                self.failures = self.failures.saturating_add(1);
                self.last_reason.clone_from(reason);
            }
            Health::Unknown => self.healthy_since = None,
        }
    }

    fn too_late(&self, policy: &HealthPolicy) -> String {
        let mut text =
            format!("it was not healthy for {:?} within its deadline of {:?}", policy.soak, policy.deadline);
        if !self.last_reason.is_empty() {
            text.push_str(": ");
            text.push_str(&self.last_reason);
        }
        text
    }

    /// How long to wait before the next look: often enough to see a soak broken, never a busy loop.
    pub fn next_look(policy: &HealthPolicy) -> Duration {
        (policy.soak / 5).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::BootId;
    use crate::release::Check;

    #[test]
    fn what_could_not_be_checked_until_the_deadline_is_why_it_failed() {
        let mut judging = Judging::begin(at(0));
        let seen = Sight { remark: Some("not checked: no kubelet".into()), ..Health::Unknown.into() };
        let verdict = (1..10_000).map(|second| judging.judge(&policy(), &seen, &at(second * 1000)));
        let end = verdict.into_iter().find(|verdict| *verdict != Verdict::Wait);
        let Some(Verdict::Bad { reason }) = end else { panic!("{end:?}") };
        assert!(reason.ends_with(": not checked: no kubelet"), "{reason}");
    }

    fn at(millis: u64) -> Moment {
        Moment { boot: BootId("b".into()), uptime: Duration::from_millis(millis) }
    }

    fn policy() -> HealthPolicy {
        HealthPolicy {
            startup: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
            soak: Duration::from_secs(5),
            checks: vec![check()],
        }
    }

    fn check() -> Check {
        Check::Tcp { address: "127.0.0.1:5432".into() }
    }

    fn bad() -> Health {
        Health::Unhealthy { reason: "answered 500".into() }
    }

    /// Plays looks of one second and tells the first verdict that isn't `Wait`, with its second.
    fn play<S: Into<Sight>>(seen: impl Fn(u64) -> S) -> (u64, Verdict) {
        play_with(&policy(), seen)
    }

    fn play_with<S: Into<Sight>>(policy: &HealthPolicy, seen: impl Fn(u64) -> S) -> (u64, Verdict) {
        let mut judging = Judging::begin(at(0));
        (1..=100)
            .map(|second| (second, judging.judge(policy, &seen(second).into(), &at(second * 1000))))
            .find(|(_, verdict)| *verdict != Verdict::Wait)
            .expect("a verdict within the deadline")
    }

    #[test]
    fn healthy_through_the_soak_is_good() {
        assert_eq!(play(|_| Health::Healthy), (6, Verdict::Good));
    }

    #[test]
    fn failures_within_the_start_are_forgiven() {
        let (second, verdict) = play(|second| if second < 9 { bad() } else { Health::Healthy });
        assert_eq!((second, verdict), (14, Verdict::Good));
    }

    #[test]
    fn never_healthy_is_bad_once_the_start_is_over() {
        assert_eq!(play(|_| bad()), (10, Verdict::Bad { reason: "answered 500".into() }));
    }

    #[test]
    fn failing_in_the_soak_is_bad_without_waiting_for_the_grace() {
        let (second, verdict) = play(|second| if second == 1 { Health::Healthy } else { bad() });
        assert_eq!((second, verdict), (4, Verdict::Bad { reason: "answered 500".into() }));
    }

    fn reason(verdict: Verdict) -> String {
        let Verdict::Bad { reason } = verdict else { panic!("{verdict:?}") };
        reason
    }

    #[test]
    fn an_app_that_falls_ill_again_and_again_is_bad_before_its_deadline() {
        let (second, verdict) = play(|second| if second % 4 == 0 { bad() } else { Health::Healthy });
        assert_eq!(second, 20);
        let reason = reason(verdict);
        assert!(reason.contains("became healthy and then unhealthy again 5 times"), "{reason}");
        assert!(reason.ends_with("answered 500"), "{reason}");
    }

    #[test]
    fn a_few_falls_are_forgiven() {
        let ill = [3, 6, 9, 12];
        let (second, verdict) = play(|second| if ill.contains(&second) { bad() } else { Health::Healthy });
        assert_eq!((second, verdict), (18, Verdict::Good));
    }

    fn restarted(times: u64) -> Sight {
        Sight { restarts: Some(times), ..Health::Healthy.into() }
    }

    #[test]
    fn an_app_that_is_started_again_and_again_is_bad_though_every_look_found_it_well() {
        let (second, verdict) = play(|second| restarted(5 + second));
        assert_eq!(second, 4);
        assert!(reason(verdict).contains("was restarted 3 times"));
        let (second, verdict) = play(|second| restarted(second.min(3)));
        assert_eq!((second, verdict), (6, Verdict::Good), "twice is forgiven");
    }

    #[test]
    fn an_app_that_comes_up_again_and_again_flaps_only_once_its_start_is_over() {
        let starting = |second: u64| match second % 2 {
            0 => Health::Starting { reason: "warms up".into() },
            _ => Health::Healthy,
        };
        let (second, verdict) = play(starting);
        assert_eq!(second, 18);
        assert!(reason(verdict).contains("unhealthy again 5 times"));
    }

    #[test]
    fn what_is_started_again_while_it_starts_is_forgiven() {
        let starting = |second| Sight {
            health: Health::Starting { reason: "waits for its database".into() },
            ..restarted(second)
        };
        let (second, verdict) = play(|second| if second < 9 { starting(second) } else { restarted(9) });
        assert_eq!((second, verdict), (14, Verdict::Good));
    }

    /// An app that nobody asks, and that ends until its database is there.
    #[test]
    fn an_app_without_checks_may_come_and_go_for_all_of_its_start_and_not_longer() {
        let policy = HealthPolicy { checks: vec![], ..policy() };
        let until = |end: u64| {
            move |second: u64| {
                let health = if second.is_multiple_of(2) && second < end { bad() } else { Health::Healthy };
                Sight { restarts: Some(second.min(end)), ..health.into() }
            }
        };
        assert_eq!(play_with(&policy, until(9)), (14, Verdict::Good));
        let (second, verdict) = play_with(&policy, until(100));
        assert_eq!(second, 12);
        assert!(reason(verdict).contains("was restarted 3 times"));
        assert_eq!(play_with(&policy, |_| bad()).0, 10);
        // One that is well from its start on waits for nothing but its soak.
        assert_eq!(play_with(&policy, |_| Health::Healthy), (6, Verdict::Good));
    }

    proptest! {
        /// However looks fall: what is good was well for its soak without a break, and what is bad has a reason
        /// that was seen.
        #[test]
        fn nothing_that_flaps_is_ever_good(
            looks in prop::collection::vec((0..4u8, prop::bool::weighted(0.1)), 61..70),
        ) {
            let mut judging = Judging::begin(at(0));
            let (mut well, mut falls, mut restarts, mut was_well) = (0, 0, 0, false);
            for ((kind, again), second) in looks.into_iter().zip(1..) {
                let health = if kind == 0 { bad() } else { Health::Healthy };
                let is_well = health == Health::Healthy;
                falls += u32::from(was_well && !is_well);
                restarts += u64::from(again && was_well);
                was_well = is_well;
                well = if is_well { well + 1 } else { 0 };
                let sight = Sight { restarts: Some(restarts), ..health.into() };
                let flaps = falls >= FALLS_THAT_COUNT || restarts >= RESTARTS_THAT_COUNT;
                match judging.judge(&policy(), &sight, &at(second * 1000)) {
                    Verdict::Wait => prop_assert!(!flaps && (second < 60 || is_well)),
                    Verdict::Good => {
                        prop_assert!(!flaps && well > 5);
                        return Ok(());
                    }
                    Verdict::Bad { reason } => {
                        prop_assert_eq!(flaps, reason.contains("is flapping"), "{}", reason);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "no verdict");
        }
    }

    #[test]
    fn what_passed_and_waits_for_its_group_has_a_new_deadline_after_a_bad_look_and_after_a_restart() {
        let mut judging = Judging::begin(at(0));
        let look = |judging: &mut Judging, health: Health, second: u64| {
            judging.judge(&policy(), &health.into(), &at(second * 1000))
        };
        for second in 1..=100 {
            look(&mut judging, Health::Healthy, second);
        }
        assert!(judging.has_passed(), "its deadline of a minute doesn't count any more");
        assert_eq!(look(&mut judging, Health::Unknown, 101), Verdict::Wait);
        assert!(!judging.has_passed());
        assert_eq!(look(&mut judging, Health::Healthy, 102), Verdict::Wait);
        assert_eq!(look(&mut judging, Health::Healthy, 107), Verdict::Good);
        let text = serde_json::to_string(&judging).unwrap();
        let mut again: Judging = serde_json::from_str(&text).unwrap();
        assert_eq!(look(&mut again, Health::Healthy, 500), Verdict::Wait);
        assert_eq!(look(&mut again, Health::Healthy, 505), Verdict::Good);
        let mut ill: Judging = serde_json::from_str(&text).unwrap();
        assert_eq!(look(&mut ill, Health::Unknown, 500), Verdict::Wait);
        assert!(matches!(look(&mut ill, Health::Unknown, 560), Verdict::Bad { .. }));
    }

    #[test]
    fn a_release_does_not_fail_for_the_time_in_which_nobody_looked() {
        let mut judging = Judging::begin(at(0));
        let starting = Health::Starting { reason: "warms up".into() };
        assert_eq!(judging.judge(&policy(), &starting.clone().into(), &at(1000)), Verdict::Wait);
        let text = serde_json::to_string(&judging).unwrap();
        // The agent was away, then the box was asleep: each time for longer than the deadline of a minute.
        for again in [serde_json::from_str(&text).unwrap(), judging] {
            let mut again: Judging = again;
            assert_eq!(again.judge(&policy(), &Health::Unknown.into(), &at(500_000)), Verdict::Wait);
            assert_eq!(again.judge(&policy(), &starting.clone().into(), &at(900_000)), Verdict::Wait);
            assert_eq!(again.judge(&policy(), &Health::Healthy.into(), &at(901_000)), Verdict::Wait);
            assert_eq!(again.judge(&policy(), &Health::Healthy.into(), &at(906_000)), Verdict::Good);
        }
    }

    #[test]
    fn what_is_well_at_its_deadline_may_end_its_soak_and_no_more() {
        let late = |second| {
            if second < 58 { Health::Starting { reason: "warms up".into() } } else { Health::Healthy }
        };
        assert_eq!(play(late), (63, Verdict::Good));
        let ill_again = |second| if second == 61 { Health::Unknown } else { late(second) };
        let (second, verdict) = play(ill_again);
        assert_eq!(second, 61);
        assert!(reason(verdict).contains("within its deadline"));
    }

    #[test]
    fn a_reboot_judges_from_the_beginning() {
        let mut judging = Judging::begin(at(0));
        let after = Moment { boot: BootId("other".into()), uptime: Duration::from_secs(3600) };
        assert_eq!(judging.judge(&policy(), &bad().into(), &after), Verdict::Wait);
        assert_eq!(judging.started, after);
    }
}
