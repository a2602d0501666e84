//! What was used of a budget, under a clock that may be wrong and may jump.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::period::BudgetPeriod;

/// So many periods are remembered. A clock would have to be wrong in more ways than these to have a budget given
/// twice.
const REMEMBERED: usize = 16;

/// What was used in the present period.
///
/// A period's budget is given once: when the clock moves *forward* into a period that it wasn't in before. A clock that
/// goes back takes what was used along; so does one that comes back to where it was, such as that of a box without a
/// battery, which begins in 1970 at every start. And with a clock that was far ahead and was put right, all is in
/// order again with the next period that it hadn't seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    per: BudgetPeriod,
    /// The present period, by its first day: another time zone alone makes no other period.
    period: Date,
    /// Used in it.
    bytes: u64,
    /// The periods that the clock was in before, the latest last.
    before: Vec<Date>,
}

impl Usage {
    /// Nothing was used yet.
    pub fn new(per: BudgetPeriod, now: Timestamp, zone: &TimeZone) -> Self {
        Usage { per, period: per.first_day(now, zone), bytes: 0, before: Vec::new() }
    }

    /// Bytes used in the present period.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first day of the present period.
    pub fn period(&self) -> Date {
        self.period
    }

    /// Books `bytes` that were used.
    pub fn book(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Takes in what the time is; gives whether a new period began, in which nothing is used yet. A budget that is for
    /// another kind of period from now on keeps what was used until the next one of these begins.
    pub fn advance(&mut self, per: BudgetPeriod, now: Timestamp, zone: &TimeZone) -> bool {
        let period = per.first_day(now, zone);
        if per != self.per {
            (self.per, self.period) = (per, period);
            self.before.clear();
            return false;
        }
        if period == self.period {
            return false;
        }
        let is_new = period > self.period && !self.before.contains(&period);
        let left = std::mem::replace(&mut self.period, period);
        self.before.retain(|seen| *seen != left && *seen != period);
        self.before.push(left);
        if self.before.len() > REMEMBERED {
            self.before.remove(0);
        }
        if is_new {
            self.bytes = 0;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::network::BudgetPeriod::{Day, Month, Week};

    const UTC: TimeZone = TimeZone::UTC;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn used(bytes: u64, now: &str) -> Usage {
        let mut usage = Usage::new(Month, at(now), &UTC);
        usage.book(bytes);
        usage
    }

    #[test]
    fn a_new_period_begins_with_nothing_used() {
        let mut usage = used(7, "2026-01-20T00:00:00Z");
        assert!(!usage.advance(Month, at("2026-01-31T23:59:59Z"), &UTC));
        assert_eq!(usage.bytes(), 7);
        assert!(usage.advance(Month, at("2026-02-01T00:00:00Z"), &UTC));
        assert_eq!(usage.bytes(), 0);
    }

    #[test]
    fn a_clock_that_goes_back_keeps_what_was_used() {
        let mut usage = used(7, "2026-02-20T00:00:00Z");
        for wrong in ["2026-01-31T23:59:59Z", "1970-01-01T00:00:00Z", "2026-02-21T00:00:00Z"] {
            assert!(!usage.advance(Month, at(wrong), &UTC), "{wrong}");
            assert_eq!(usage.bytes(), 7, "{wrong}");
        }
    }

    #[test]
    fn a_box_without_a_battery_gets_its_budget_once_however_often_it_starts() {
        let mut usage = Usage::new(Month, at("1970-01-01T00:00:00Z"), &UTC);
        assert!(usage.advance(Month, at("2026-02-20T00:00:00Z"), &UTC));
        usage.book(7);
        for _ in 0..100 {
            usage.advance(Month, at("1970-01-01T00:00:00Z"), &UTC);
            usage.advance(Month, at("2026-02-21T00:00:00Z"), &UTC);
        }
        assert_eq!(usage.bytes(), 7);
        assert!(usage.advance(Month, at("2026-03-01T00:00:00Z"), &UTC));
    }

    #[test]
    fn a_clock_that_was_decades_ahead_holds_nobody_up_for_decades() {
        let mut usage = used(7, "2026-02-20T00:00:00Z");
        assert!(usage.advance(Month, at("2099-01-01T00:00:00Z"), &UTC));
        usage.book(9);
        assert!(!usage.advance(Month, at("2026-02-20T00:00:00Z"), &UTC));
        assert_eq!(usage.bytes(), 9, "there and back gives nothing");
        assert!(usage.advance(Month, at("2026-03-01T00:00:00Z"), &UTC));
    }

    #[test]
    fn another_kind_of_period_or_another_time_zone_gives_nothing() {
        let mut usage = used(7, "2026-02-20T00:00:00Z");
        assert!(!usage.advance(Week, at("2026-02-20T00:00:00Z"), &UTC));
        assert!(!usage.advance(Month, at("2026-02-20T00:00:00Z"), &UTC));
        for zone in ["CET-1CEST,M3.5.0,M10.5.0/3", "EST5", "<+14>-14"] {
            let zone = TimeZone::posix(zone).unwrap();
            assert!(!usage.advance(Month, at("2026-02-20T00:00:00Z"), &zone));
        }
        assert_eq!(usage.bytes(), 7);
    }

    #[test]
    fn a_usage_is_read_as_it_was_written() {
        let mut usage = used(7, "2026-02-20T00:00:00Z");
        usage.advance(Month, at("1970-01-01T00:00:00Z"), &UTC);
        let text = serde_json::to_string(&usage).unwrap();
        assert_eq!(text, r#"{"per":"month","period":"1970-01-01","bytes":7,"before":["2026-02-01"]}"#);
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), usage);
    }

    proptest! {
        /// Each period of a clock that jumps about gives its budget at most once.
        #[test]
        fn no_jumps_of_the_clock_give_a_periods_budget_twice(
            jumps in proptest::collection::vec(0u8..(REMEMBERED as u8), 1..200),
        ) {
            let day = |jump: u8| Timestamp::from_second(i64::from(jump) * 86_400).unwrap();
            let mut usage = Usage::new(Day, day(jumps[0]), &UTC);
            let mut given = BTreeSet::from([usage.period()]);
            for pair in jumps.windows(2) {
                usage.book(1);
                let before = usage.bytes();
                let is_new = usage.advance(Day, day(pair[1]), &UTC);
                if is_new {
                    prop_assert!(pair[1] > pair[0], "given by going back");
                    prop_assert!(given.insert(usage.period()), "given twice");
                }
                prop_assert_eq!(usage.bytes(), if is_new { 0 } else { before });
            }
        }

        /// A clock that only moves forward gives each budget in full, whatever it did before.
        #[test]
        fn a_clock_in_order_gives_each_new_period_its_budget(
            wrong in proptest::collection::vec(-60_000i64..60_000, 0..50),
            steps in proptest::collection::vec(1i64..40, 1..30),
        ) {
            let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
            let mut usage = Usage::new(Day, day(0), &UTC);
            for wrong in wrong {
                usage.advance(Day, day(wrong), &UTC);
            }
            let mut now = 70_000;
            usage.advance(Day, day(now), &UTC);
            for step in steps {
                usage.book(1);
                now += step;
                prop_assert!(usage.advance(Day, day(now), &UTC));
                prop_assert_eq!(usage.bytes(), 0);
            }
        }
    }
}
