//! How long to wait before a server (the source, a registry) is asked again: after a failure, with exponential back-off, and
//! after a success, with jitter. What an app waits before another try is in core's `app`.

use std::time::Duration;

/// Exponential backoff with jitter: each failure doubles the ceiling, and the wait is anywhere between a
/// quarter of it and the whole, so that a fleet whose server comes back does not ask all at once. Pure: the
/// randomness is passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits at most `first` after the first failure, and at most `most` ever.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { first, most: most.max(first), failures: 0 }
    }

    /// It worked: the next failure is a first one.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// It failed. How long to wait, given a random number of all 64 bits. Never less than a quarter of the
    /// ceiling: a server that is down gains nothing from a box that asks again at once.
    pub fn failed(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let least = ceiling / 4;
        least + (ceiling - least).mul_f64(share(random))
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn ceiling(&self) -> Duration {
        let factor = 2u32.checked_pow(self.failures).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.most)
    }
}

/// The usual interval, and up to a tenth more, given a random number of all 64 bits: boxes that were started together, after
/// a power cut of a region, must not ask together for ever.
pub fn spread(interval: Duration, random: u64) -> Duration {
    interval + (interval / 10).mul_f64(share(random))
}

/// A random number from 0 to below 1.
fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn boxes_that_were_started_together_ask_at_other_times_and_no_sooner_than_the_interval() {
        let minute = SECOND * 60;
        assert_eq!(spread(minute, 0), minute);
        assert_eq!(spread(minute, u64::MAX / 2 + 1), minute + SECOND * 3);
        assert!(
            spread(minute, u64::MAX) > minute + SECOND * 5 && spread(minute, u64::MAX) <= minute + SECOND * 6
        );
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_most_and_a_success_ends_it() {
        let mut backoff = Backoff::new(SECOND, SECOND * 10);
        let waits: Vec<u64> = (0..6).map(|_| backoff.failed(u64::MAX).as_secs_f64().round() as u64).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        backoff.succeeded();
        assert_eq!(backoff.failed(0), SECOND / 4);
    }

    proptest! {
        #[test]
        fn no_number_of_failures_leaves_the_bounds(
            randoms in proptest::collection::vec(any::<u64>(), 1..200),
            first in 1u64..1000,
            most in 1u64..100_000,
        ) {
            let (first, most) = (SECOND * first as u32, SECOND * most as u32);
            let mut backoff = Backoff::new(first, most);
            for random in randoms {
                let wait = backoff.failed(random);
                prop_assert!(wait >= first / 4 && wait <= most.max(first));
            }
        }
    }
}
