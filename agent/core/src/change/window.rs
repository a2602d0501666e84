//! Maintenance windows: parts of days in a time zone, across midnight and daylight-saving changes.
//!
//! A window begins at its `from` on each of its days and ends at the next `to`, both as clocks on the wall there
//! show them. What clocks skip in spring begins and ends when they go on; what they show twice in autumn begins with
//! the first and ends with the first, unless the window is longer (RFC 5545, section 3.3.5, has the same rule).

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Serialize, Serializer};

/// How many days ahead an opening is looked for: a week, and one more for a day on which the clocks skip it.
const DAYS_AHEAD: i64 = 15;

/// A time zone by its name in the IANA database, such as `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Zone(TimeZone::UTC)
    }

    /// The zone itself.
    pub fn time_zone(&self) -> &TimeZone {
        &self.0
    }
}

impl Default for Zone {
    fn default() -> Self {
        Zone::utc()
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        TimeZone::get(text).map(Zone).map_err(|_| {
            format!(
                "{text:?} is not a time zone of the IANA database; write UTC or a name like Europe/Berlin"
            )
        })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

/// A time of day, to the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(Time);

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a time of day; write 22:00");
        let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
        let two = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse::<i8>().ok()).flatten().ok_or_else(wrong)
        };
        // `24:00` would be another day's `00:00`, which can be written.
        Time::new(two(hours)?, two(minutes)?, 0, 0).map(TimeOfDay).map_err(|_| wrong())
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

/// A window that comes again on its days.
#[derive(Clone, Debug, PartialEq)]
pub struct DailyWindow {
    /// The days on which it begins; none is every day.
    pub days: Vec<Weekday>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends: on the next day if that isn't later than `from`.
    pub to: TimeOfDay,
}

impl DailyWindow {
    /// For tests and examples: as documents write it.
    pub fn new(days: &[Weekday], from: &str, to: &str) -> Result<Self, String> {
        Ok(DailyWindow { days: days.to_vec(), from: from.parse()?, to: to.parse()? })
    }

    /// The window that begins on `date`; `None` if none does, or if clocks skip all of it.
    fn on(&self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        if !self.days.is_empty() && !self.days.contains(&date.weekday()) {
            return None;
        }
        let last = if self.to > self.from { date } else { date.tomorrow().ok()? };
        let moment = |date: Date, time: TimeOfDay| {
            zone.to_ambiguous_zoned(date.to_datetime(time.0)).compatible().ok().map(|zoned| zoned.timestamp())
        };
        let (begins, ends) = (moment(date, self.from)?, moment(last, self.to)?);
        (begins < ends).then_some((begins, ends))
    }
}

impl fmt::Display for DailyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = self.days.iter().map(|day| short(*day)).collect();
        if !days.is_empty() {
            write!(f, "{} ", days.join(","))?;
        }
        write!(f, "{}-{}", self.from, self.to)
    }
}

fn short(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "mon",
        Weekday::Tuesday => "tue",
        Weekday::Wednesday => "wed",
        Weekday::Thursday => "thu",
        Weekday::Friday => "fri",
        Weekday::Saturday => "sat",
        Weekday::Sunday => "sun",
    }
}

/// Windows of one time zone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Windows {
    /// Where the clocks hang.
    pub zone: Zone,
    /// The windows; none is always open.
    pub daily: Vec<DailyWindow>,
}

impl Windows {
    /// Whether there are none: then it doesn't matter what time it is.
    pub fn are_always_open(&self) -> bool {
        self.daily.is_empty()
    }

    /// Whether one of them is open.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.daily.is_empty() || self.around(now, -1, 0).any(|(begins, ends)| begins <= now && now < ends)
    }

    /// When the next one opens after `now`; `None` if none ever does.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        self.around(now, 0, DAYS_AHEAD).map(|(begins, _)| begins).filter(|begins| *begins > now).min()
    }

    /// The windows that begin on the days from `first` to `last`, counted from today.
    fn around(&self, now: Timestamp, first: i64, last: i64) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = now.to_zoned(self.zone.0.clone()).date();
        // At the ends of time there is no day before or after.
        let days = (first..=last).filter_map(move |days| today.checked_add(Span::new().days(days)).ok());
        days.flat_map(move |date| self.daily.iter().filter_map(move |window| window.on(date, &self.zone.0)))
    }
}

/// Its name.
impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As the text of messages.
impl Serialize for Windows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.daily.is_empty() {
            return f.write_str("at any time");
        }
        let daily: Vec<String> = self.daily.iter().map(ToString::to_string).collect();
        write!(f, "{} {}", daily.join(", "), self.zone)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;

    fn berlin(days: &[Weekday], from: &str, to: &str) -> Windows {
        let zone = "Europe/Berlin".parse().unwrap();
        Windows { zone, daily: vec![DailyWindow::new(days, from, to).unwrap()] }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_follows_the_clocks_of_its_zone() {
        let night = berlin(&[], "01:00", "04:00");
        assert!(!night.is_open(at("2026-01-10T23:59:59Z")));
        assert!(night.is_open(at("2026-01-11T00:00:00Z")), "01:00 in winter");
        assert!(night.is_open(at("2026-07-10T23:00:00Z")), "01:00 in summer");
        assert!(!night.is_open(at("2026-07-11T02:00:00Z")), "its end doesn't belong to it");
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let friday = berlin(&[Weekday::Friday], "22:00", "04:00");
        // 2026-11-20 is a Friday.
        assert!(friday.is_open(at("2026-11-20T21:00:00Z")));
        assert!(friday.is_open(at("2026-11-21T02:59:59Z")));
        assert!(!friday.is_open(at("2026-11-21T03:00:00Z")));
        assert!(!friday.is_open(at("2026-11-20T02:00:00Z")), "the night before");
        assert_eq!(friday.next_opening(at("2026-11-21T12:00:00Z")), Some(at("2026-11-27T21:00:00Z")));
        assert_eq!(friday.next_opening(at("2026-11-20T21:30:00Z")), Some(at("2026-11-27T21:00:00Z")));
    }

    #[test]
    fn from_and_to_the_same_is_a_whole_day() {
        let sunday = berlin(&[Weekday::Sunday], "00:00", "00:00");
        assert!(sunday.is_open(at("2026-11-21T23:00:00Z")) && sunday.is_open(at("2026-11-22T22:59:59Z")));
        assert!(!sunday.is_open(at("2026-11-22T23:00:00Z")));
    }

    #[test]
    fn what_clocks_skip_in_spring_is_no_window_and_what_is_left_of_it_is() {
        // On 2026-03-29 in Berlin 02:00 is followed by 03:00, at 01:00 UTC.
        let all = berlin(&[], "02:00", "03:00");
        assert!(!all.is_open(at("2026-03-29T00:59:59Z")) && !all.is_open(at("2026-03-29T01:00:00Z")));
        assert_eq!(all.next_opening(at("2026-03-28T12:00:00Z")), Some(at("2026-03-30T00:00:00Z")));
        let longer = berlin(&[], "01:30", "03:30");
        assert!(longer.is_open(at("2026-03-29T00:30:00Z")) && longer.is_open(at("2026-03-29T01:29:59Z")));
        assert!(!longer.is_open(at("2026-03-29T01:30:00Z")));
    }

    #[test]
    fn what_clocks_show_twice_in_autumn_is_one_window() {
        // On 2026-10-25 in Berlin 03:00 is followed by 02:00, at 01:00 UTC.
        let night = berlin(&[], "01:00", "04:00");
        let open = |text: &str| night.is_open(at(text));
        assert!(open("2026-10-24T23:00:00Z") && open("2026-10-25T01:30:00Z") && open("2026-10-25T02:59:59Z"));
        assert!(!open("2026-10-24T22:59:59Z") && !open("2026-10-25T03:00:00Z"));
        let within = berlin(&[], "02:15", "02:45");
        assert!(within.is_open(at("2026-10-25T00:20:00Z")) && !within.is_open(at("2026-10-25T01:20:00Z")));
    }

    #[test]
    fn zones_and_times_that_there_are_not_are_refused() {
        for zone in ["Europe/Atlantis", "", "CEST2"] {
            assert!(zone.parse::<Zone>().is_err(), "{zone}");
        }
        for time in ["24:00", "7:00", "07:60", "0700", "07:00:00", "-1:00", "+1:00"] {
            assert!(time.parse::<TimeOfDay>().is_err(), "{time}");
        }
        assert_eq!("07:05".parse::<TimeOfDay>().unwrap().to_string(), "07:05");
    }

    #[test]
    fn without_windows_it_is_always_open() {
        assert!(Windows::default().is_open(Timestamp::UNIX_EPOCH));
        assert_eq!(Windows::default().next_opening(Timestamp::UNIX_EPOCH), None);
    }

    const ZONES: [&str; 6] =
        ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"];

    proptest! {
        /// At its opening a window is open, just before it isn't unless another one is, and until then nothing opens.
        #[test]
        fn the_next_opening_is_the_first_moment_that_is_open(
            zone in prop::sample::select(&ZONES[..]),
            starts in prop::collection::vec((0..24u8, 0..60u8, 1..1440u16, 0..8u8), 1..3),
            now in 1_600_000_000i64..2_000_000_000,
        ) {
            let daily = starts.iter().map(|(hour, minute, length, day)| {
                let end = (u16::from(*hour) * 60 + u16::from(*minute) + length) % 1440;
                let days = match day {
                    7 => vec![],
                    day => vec![Weekday::from_monday_zero_offset(*day as i8).unwrap()],
                };
                DailyWindow::new(&days, &format!("{hour:02}:{minute:02}"), &format!("{:02}:{:02}", end / 60, end % 60))
            });
            let windows = Windows { zone: zone.parse().unwrap(), daily: daily.collect::<Result<_, _>>().unwrap() };
            let now = Timestamp::from_second(now).unwrap();
            let opening = windows.next_opening(now).unwrap();
            prop_assert!(opening > now && windows.is_open(opening));
            if !windows.is_open(now) {
                let minute = SignedDuration::from_mins(1);
                let mut look = now;
                while look < opening {
                    prop_assert!(!windows.is_open(look), "{} is open before {}", look, opening);
                    look = look.saturating_add(minute * 17).unwrap();
                }
                prop_assert!(!windows.is_open(opening - SignedDuration::from_secs(1)));
            }
        }

        /// Nothing that is written here makes it panic, at any time.
        #[test]
        fn windows_are_asked_at_any_time(seconds in any::<i64>(), zone in prop::sample::select(&ZONES[..])) {
            let windows = Windows {
                zone: zone.parse().unwrap(),
                daily: vec![DailyWindow::new(&[], "23:30", "00:15").unwrap()],
            };
            let range = Timestamp::MAX.as_second() - Timestamp::MIN.as_second();
            let now = Timestamp::from_second(Timestamp::MIN.as_second() + seconds.rem_euclid(range)).unwrap();
            windows.is_open(now);
            windows.next_opening(now);
        }
    }
}
