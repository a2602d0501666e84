//! A clock that a test moves: nobody waits for a rate or for the next month.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast::http::allowance::{Allowance, Nowhere, Time};
use holdfast_core::network::{BudgetPeriod, ByteBudget, DownloadLimits};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// All clones are the same clock.
#[derive(Clone, Debug)]
pub struct MovedClock(Arc<Mutex<(Timestamp, Duration)>>);

impl MovedClock {
    /// It is noon of the tenth of February.
    pub fn new() -> Self {
        let noon = "2026-02-10T12:00:00Z".parse().unwrap();
        // A moment long after the start, at which a whole burst is saved up.
        MovedClock(Arc::new(Mutex::new((noon, Duration::from_secs(1000)))))
    }

    pub fn set(&self, wall: &str) {
        self.0.lock().unwrap().0 = wall.parse().unwrap();
    }

    /// An allowance that is kept nowhere.
    pub fn allowance(&self, rate: Option<u64>, budget: Option<u64>) -> Allowance {
        let allowance = Allowance::open(Nowhere, self.clone());
        allowance.set(limits(rate, budget), false, TimeZone::UTC);
        allowance
    }
}

impl Time for MovedClock {
    fn wall(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }

    fn uptime(&self) -> Duration {
        self.0.lock().unwrap().1
    }

    fn sleep(&self, wait: Duration) {
        self.0.lock().unwrap().1 += wait;
    }
}

/// A budget is for a month.
pub fn limits(rate: Option<u64>, budget: Option<u64>) -> DownloadLimits {
    DownloadLimits { rate, budget: budget.map(|bytes| ByteBudget { bytes, per: BudgetPeriod::Month }) }
}
