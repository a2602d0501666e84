//! Pauses between the starts of a container that ends again and again: podman itself would start it at once, for
//! ever.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The first pause, which doubles, and the longest (kubelet's).
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// After so long without an end it begins anew.
const FORGIVEN: Duration = Duration::from_secs(600);

/// How often a container was started again.
#[derive(Clone, Debug)]
struct Count {
    times: u32,
    last: Instant,
    /// Somebody was told when the pause ends.
    told: bool,
}

/// The containers that ended, by their names.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    counts: Mutex<BTreeMap<String, Count>>,
}

impl Restarts {
    /// How long a container that ended must still wait; nothing if it may be started now.
    pub(super) fn wait(&self, name: &str) -> Duration {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(name).map_or(Duration::ZERO, Count::left)
    }

    /// When the pause ends, for the first who asks after each start.
    pub(super) fn end_of_pause(&self, name: &str) -> Option<Duration> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get_mut(name).filter(|count| !count.told)?;
        count.told = true;
        Some(count.left())
    }

    /// How often a container was started again of late.
    pub(super) fn times(&self, name: &str) -> u32 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(name).map_or(0, |count| count.times)
    }

    /// A container is started again.
    pub(super) fn note(&self, name: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let before = counts.get(name).filter(|count| now - count.last < FORGIVEN + count.pause());
        let times = before.map_or(1, |count| count.times.saturating_add(1));
        counts.insert(name.to_owned(), Count { times, last: now, told: false });
    }

    /// A container is gone for good.
    pub(super) fn forget(&self, name: &str) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl Count {
    /// The pause before the next start: none before the first.
    fn pause(&self) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.times.saturating_sub(1).min(10));
        doubled.min(LONGEST)
    }

    fn left(&self) -> Duration {
        self.pause().saturating_sub(self.last.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pauses_grow_to_a_limit_and_are_forgiven() {
        let restarts = Restarts::default();
        assert_eq!(restarts.wait("web"), Duration::ZERO, "the first start is at once");
        let mut pauses = Vec::new();
        for _ in 0..7 {
            restarts.note("web");
            let pause = restarts.wait("web");
            pauses.push(pause.as_secs());
            tokio::time::advance(pause).await;
            assert_eq!(restarts.wait("web"), Duration::ZERO);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        tokio::time::advance(FORGIVEN + LONGEST).await;
        restarts.note("web");
        assert_eq!(restarts.times("web"), 1);
    }
}
