//! A rate that several downloads share.

use std::time::Duration;

/// How much may come at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket whose tokens are paid afterwards: bytes that have come can't be refused, so whoever took them waits
/// until they are paid for, and so does everybody who comes meanwhile.
///
/// Moments are durations since a beginning that the caller chooses, on a clock that doesn't jump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When everything that was taken is paid for. Up to [`BURST`] before now is credit.
    paid: Duration,
}

impl Bucket {
    /// Nothing was taken yet.
    pub fn new() -> Self {
        Bucket::default()
    }

    /// Takes `bytes` at `rate` bytes a second.
    pub fn take(&mut self, bytes: u64, rate: u64, now: Duration) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now.saturating_sub(BURST)).saturating_add(cost);
    }

    /// How long to wait before more is taken.
    pub fn wait(&self, now: Duration) -> Duration {
        self.paid.saturating_sub(now)
    }

    /// Forgives what isn't paid: the rate was lifted or changed.
    pub fn forgive(&mut self, now: Duration) {
        self.paid = self.paid.min(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_came_too_early_is_waited_for() {
        let start = SECOND * 100;
        let mut bucket = Bucket::new();
        bucket.take(1000, 1000, start);
        assert_eq!(bucket.wait(start), Duration::ZERO, "a second's worth may come at once");
        bucket.take(500, 1000, start);
        assert_eq!(bucket.wait(start), SECOND / 2);
        assert_eq!(bucket.wait(start + SECOND / 2), Duration::ZERO);
        bucket.take(1 << 20, 1000, start);
        bucket.forgive(start);
        assert_eq!(bucket.wait(start), Duration::ZERO);
    }

    #[test]
    fn a_long_pause_earns_no_more_than_a_second() {
        let mut bucket = Bucket::new();
        bucket.take(1, 1000, Duration::ZERO);
        let later = SECOND * 86_400;
        bucket.take(3000, 1000, later);
        assert_eq!(bucket.wait(later), SECOND * 2);
    }

    #[test]
    fn no_number_is_a_panic() {
        let mut bucket = Bucket::new();
        bucket.take(u64::MAX, 0, Duration::MAX);
        bucket.take(u64::MAX, u64::MAX, Duration::ZERO);
        assert!(bucket.wait(Duration::ZERO) > SECOND);
    }

    proptest! {
        /// Whoever shares a bucket and waits when told to gets no more in all than the rate, and one burst, allow;
        /// the last one's own bytes can't be taken back.
        #[test]
        fn several_who_share_it_keep_to_one_rate(
            rate in 1u64..10_000_000,
            takes in proptest::collection::vec((1u64..65_536, 0u64..2000), 1..200),
        ) {
            let mut bucket = Bucket::new();
            let start = SECOND * 1000;
            let (mut now, mut taken) = (start, 0u64);
            for (bytes, pause) in takes {
                now += Duration::from_millis(pause).max(bucket.wait(now));
                let allowed = (now - start + BURST).as_secs_f64() * rate as f64;
                prop_assert!(taken as f64 <= allowed + 1.0 + taken as f64 * 1e-9, "{taken} of {allowed}");
                bucket.take(bytes, rate, now);
                taken += bytes;
            }
        }
    }
}
