//! The periods of a budget: calendar days, weeks and months of a time zone.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// How long a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetPeriod {
    /// A calendar day.
    Day,
    /// A week from Monday on (ISO 8601).
    Week,
    /// A calendar month.
    Month,
}

impl BudgetPeriod {
    /// The word that documents and messages use.
    pub fn word(self) -> &'static str {
        match self {
            BudgetPeriod::Day => "day",
            BudgetPeriod::Week => "week",
            BudgetPeriod::Month => "month",
        }
    }

    /// The first day of the period that `at` lies in, in `zone`. A period is called by it.
    pub fn first_day(self, at: Timestamp, zone: &TimeZone) -> Date {
        let day = zone.to_datetime(at).date();
        match self {
            BudgetPeriod::Day => day,
            // The first week of the calendar's first year is the only one that may lack its Monday.
            BudgetPeriod::Week => {
                day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).unwrap_or(Date::MIN)
            }
            BudgetPeriod::Month => day.first_of_month(),
        }
    }

    /// When the period that `at` lies in began.
    pub fn begin(self, at: Timestamp, zone: &TimeZone) -> Timestamp {
        midnight(self.first_day(at, zone), zone).unwrap_or(Timestamp::MIN)
    }

    /// When the one after it begins; [`Timestamp::MAX`] at the end of the calendar.
    pub fn next(self, at: Timestamp, zone: &TimeZone) -> Timestamp {
        let length = match self {
            BudgetPeriod::Day => 1.day(),
            BudgetPeriod::Week => 1.week(),
            BudgetPeriod::Month => 1.month(),
        };
        let next = self.first_day(at, zone).checked_add(length).ok();
        next.and_then(|day| midnight(day, zone)).unwrap_or(Timestamp::MAX)
    }
}

/// When a day begins: at its first moment, where a change of the clocks leaves midnight out.
fn midnight(day: Date, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_timestamp(day.at(0, 0, 0, 0)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn a_period_begins_at_midnight_of_the_zone_and_ends_where_the_next_begins() {
        use BudgetPeriod::{Day, Month, Week};
        let now = at("2026-02-12T23:30:00Z");
        for (per, zone, begin, next) in [
            (Day, TimeZone::UTC, "2026-02-12T00:00:00Z", "2026-02-13T00:00:00Z"),
            (Day, berlin(), "2026-02-12T23:00:00Z", "2026-02-13T23:00:00Z"),
            (Week, TimeZone::UTC, "2026-02-09T00:00:00Z", "2026-02-16T00:00:00Z"),
            (Month, TimeZone::UTC, "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            (Month, berlin(), "2026-01-31T23:00:00Z", "2026-02-28T23:00:00Z"),
        ] {
            assert_eq!((per.begin(now, &zone), per.next(now, &zone)), (at(begin), at(next)), "{per:?}");
        }
    }

    #[test]
    fn a_day_on_which_the_clocks_change_has_23_or_25_hours() {
        for (day, hours) in [("2026-03-29T12:00:00Z", 23), ("2026-10-25T12:00:00Z", 25)] {
            let (begin, next) =
                (BudgetPeriod::Day.begin(at(day), &berlin()), BudgetPeriod::Day.next(at(day), &berlin()));
            assert_eq!((next - begin).get_seconds(), hours * 3600, "{day}");
        }
    }

    #[test]
    fn the_ends_of_the_calendar_are_no_panic() {
        for per in [BudgetPeriod::Day, BudgetPeriod::Week, BudgetPeriod::Month] {
            for zone in [TimeZone::UTC, berlin()] {
                let _ = (per.begin(Timestamp::MIN, &zone), per.next(Timestamp::MIN, &zone));
                assert!(per.begin(Timestamp::MAX, &zone) < Timestamp::MAX);
                assert!(per.next(Timestamp::MAX, &zone) <= Timestamp::MAX);
            }
        }
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_exactly_one_period(
            second in -3_000_000_000i64..8_000_000_000,
            zone in prop_oneof![Just(TimeZone::UTC), Just(berlin())],
            per in prop_oneof![Just(BudgetPeriod::Day), Just(BudgetPeriod::Week), Just(BudgetPeriod::Month)],
        ) {
            let now = Timestamp::from_second(second).unwrap();
            let (begin, next) = (per.begin(now, &zone), per.next(now, &zone));
            prop_assert!(begin <= now && now < next);
            prop_assert_eq!(per.begin(begin, &zone), begin);
            prop_assert_eq!(per.begin(next, &zone), next);
            let last = Timestamp::from_second(next.as_second() - 1).unwrap();
            prop_assert_eq!(per.begin(last, &zone), begin);
        }
    }
}
