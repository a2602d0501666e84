//! Judging a release by what its probes saw: a grace for its start, a soak without a break, a deadline.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::health::Health;
use crate::release::HealthPolicy;

/// How many looks in a row must be bad before they count: one lost packet is no broken release.
const FAILURES_THAT_COUNT: u32 = 3;

/// What has been seen of a release since it was applied. Only `started` outlives the agent: after a restart
/// the soak begins anew, the deadline goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judging {
    /// When it was applied.
    pub started: Moment,
    #[serde(skip)]
    healthy_since: Option<Moment>,
    #[serde(skip)]
    was_healthy: bool,
    #[serde(skip)]
    failures: u32,
    #[serde(skip)]
    last_reason: String,
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
        Judging { started, healthy_since: None, was_healthy: false, failures: 0, last_reason: String::new() }
    }

    /// Takes one look into account.
    pub fn judge(&mut self, policy: &HealthPolicy, seen: &Health, now: &Moment) -> Verdict {
        let Some(elapsed) = now.since(&self.started) else {
            // The box was started anew, and the release with it: it is judged from here.
            *self = Judging::begin(now.clone());
            return self.judge(policy, seen, now);
        };
        self.note(seen, now);
        let soaked = self.healthy_since.as_ref().and_then(|since| now.since(since));
        if soaked.is_some_and(|soaked| soaked >= policy.soak) {
            return Verdict::Good;
        }
        let grace_is_over = elapsed >= policy.startup || self.was_healthy;
        if grace_is_over && self.failures >= FAILURES_THAT_COUNT {
            return Verdict::Bad { reason: self.last_reason.clone() };
        }
        if elapsed >= policy.deadline {
            return Verdict::Bad { reason: self.too_late(policy) };
        }
        Verdict::Wait
    }

    fn note(&mut self, seen: &Health, now: &Moment) {
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
    use super::*;
    use crate::clock::BootId;

    fn at(millis: u64) -> Moment {
        Moment { boot: BootId("b".into()), uptime: Duration::from_millis(millis) }
    }

    fn policy() -> HealthPolicy {
        HealthPolicy {
            startup: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
            soak: Duration::from_secs(5),
            checks: vec![],
        }
    }

    fn bad() -> Health {
        Health::Unhealthy { reason: "answered 500".into() }
    }

    /// Plays looks of one second and tells the first verdict that isn't `Wait`, with its second.
    fn play(seen: impl Fn(u64) -> Health) -> (u64, Verdict) {
        let mut judging = Judging::begin(at(0));
        (1..=100)
            .map(|second| (second, judging.judge(&policy(), &seen(second), &at(second * 1000))))
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

    #[test]
    fn flapping_never_becomes_good_and_ends_at_the_deadline() {
        let (second, verdict) = play(|second| if second % 4 == 0 { bad() } else { Health::Healthy });
        assert_eq!(second, 60);
        assert!(matches!(verdict, Verdict::Bad { .. }));
    }

    #[test]
    fn a_reboot_judges_from_the_beginning() {
        let mut judging = Judging::begin(at(0));
        let after = Moment { boot: BootId("other".into()), uptime: Duration::from_secs(3600) };
        assert_eq!(judging.judge(&policy(), &bad(), &after), Verdict::Wait);
        assert_eq!(judging.started, after);
    }
}
