//! How long to wait before trying again.

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
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        least + (ceiling - least).mul_f64(share)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

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
