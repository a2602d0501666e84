//! Time as a value. The clock on the wall may be wrong by years and may jump; what is measured is measured on the boot
//! clock. Why so, and what it means for keys, windows and grace times: docs/adr/0013-time.md.

mod timekeeper;

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use timekeeper::{Reading, Timekeeper};

/// It is later than this: no box that runs this was made before 2026-11-01. A release raises it.
pub const RELEASED: Timestamp = Timestamp::constant(1_793_491_200, 0);

/// So far ahead of all that the box has proof of a clock may be that nothing has synchronized since the boot. The
/// hardware's clock goes on while a box is off, and whoever keeps one longer has it synchronized or signs something.
pub const AHEAD: SignedDuration = SignedDuration::from_hours(31 * 24);

/// So far behind a clock may be that nothing has synchronized since the boot: the hardware's counts whole seconds, and
/// wanders.
pub const SLACK: SignedDuration = SignedDuration::from_mins(5);

/// One signed date that no clock agrees with moves what the box has proof of by no more than this.
pub const STEP: SignedDuration = SignedDuration::from_hours(24);

/// And one that an untrusted clock agrees with by no more than this.
pub const LEAP: SignedDuration = SignedDuration::from_hours(366 * 24);

/// One boot of the box (Linux: `/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// A moment on the boot clock (`CLOCK_BOOTTIME`): it never jumps, goes on in suspend, and means nothing in
/// another boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The boot in which it was read.
    pub boot: BootId,
    /// Time since that boot.
    pub uptime: Duration,
}

impl Moment {
    /// Time from `earlier` to `self`; `None` when they are of different boots. A moment that lies ahead
    /// counts as now.
    pub fn since(&self, earlier: &Moment) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| self.uptime.saturating_sub(earlier.uptime))
    }

    /// Whether `later` is still to come. A moment of another boot isn't.
    pub fn is_before(&self, later: &Moment) -> bool {
        self.boot == later.boot && self.uptime < later.uptime
    }
}

/// What the box knows of the time. What depends on the time of the day or the date asks this and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Time {
    /// It is this.
    Known(Timestamp),
    /// The clock can't be trusted: whatever needs the time waits.
    Unknown(Doubt),
}

impl Time {
    /// The time, if it is known.
    pub fn known(&self) -> Option<Timestamp> {
        match self {
            Time::Known(now) => Some(*now),
            Time::Unknown(_) => None,
        }
    }

    /// Why it isn't known, if so.
    pub fn doubt(&self) -> Option<&Doubt> {
        match self {
            Time::Known(_) => None,
            Time::Unknown(doubt) => Some(doubt),
        }
    }
}

/// Why a clock isn't trusted, and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What it shows.
    pub shown: Timestamp,
    /// What the box has proof of: it is at least this late.
    pub proven: Timestamp,
    /// What speaks against it.
    pub why: Suspicion,
}

/// What speaks against a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// It shows a time that is over.
    Behind,
    /// It shows a time far after everything that the box has proof of, and nothing has synchronized it since the boot.
    Ahead,
    /// The box has no clock that goes on while it is off, and nothing has synchronized the system's since the boot.
    Stood,
}

impl Doubt {
    /// What a person can do to end it.
    pub fn unblock(&self) -> String {
        let set = "synchronize the clock (timedatectl set-ntp true; timedatectl timesync-status)";
        match self.why {
            Suspicion::Behind => format!(
                "{set}, or set it by hand and check its battery; if the clock is right, {} was accepted as proof \
                 by mistake: see \"Time\" in operations.md",
                second(self.proven)
            ),
            Suspicion::Ahead => format!(
                "{set}; without a network, set it by hand and check its battery; a newly signed commit also proves \
                 the time"
            ),
            Suspicion::Stood => set.to_owned(),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, proven) = (second(self.shown), second(self.proven));
        match self.why {
            Suspicion::Behind => {
                write!(
                    f,
                    "the clock is not trusted: it shows {shown}, but the time is proven to be {proven} or later"
                )
            }
            Suspicion::Ahead => write!(
                f,
                "the clock is not trusted: it shows {shown}, {} days after the last proven time ({proven}), and it \
                 has not been synchronized since boot",
                self.shown.duration_since(self.proven).as_hours() / 24
            ),
            Suspicion::Stood => write!(
                f,
                "the clock is not trusted: it shows {shown}, but this box has no clock that keeps running while it \
                 is off, and the time has not been synchronized since boot"
            ),
        }
    }
}

/// A time for people, to the second.
fn second(at: Timestamp) -> impl fmt::Display {
    at.strftime("%Y-%m-%dT%H:%M:%SZ")
}

/// What the time is, read once for a pass and handed to every pure function that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// The best guess, for people: what is shown and written down. Nothing is decided by it.
    pub wall: Timestamp,
    /// What is known of the time, for whatever is decided by it.
    pub time: Time,
    /// What the box has proof of: it is at least this late. Goes on with the boot clock, over restarts never back.
    pub proven: Timestamp,
    /// How much time the box has seen go by, in all its boots, while it knew what time it was. Grace times are of this.
    pub seen: Duration,
    /// The boot clock, for every duration.
    pub moment: Moment,
}

impl Now {
    /// With a clock that is known to be right.
    pub fn certain(wall: Timestamp, moment: Moment) -> Self {
        Now { wall, time: Time::Known(wall), proven: wall, seen: moment.uptime, moment }
    }

    /// The moment `after` from now, in this boot; saturates at the end of time.
    pub fn moment_in(&self, after: Duration) -> Moment {
        Moment { boot: self.moment.boot.clone(), uptime: self.moment.uptime.saturating_add(after) }
    }

    /// The wall time `after` from now, for people; saturates at the end of time.
    pub fn wall_in(&self, after: Duration) -> Timestamp {
        self.wall.saturating_add(after).unwrap_or(Timestamp::MAX)
    }

    /// What a date that somebody signed counts for: it can't be later than now. Where it isn't known what time it is, it
    /// is proof only as far as the clock agrees with it, and of no more than a small step where that doesn't.
    pub fn credible(&self, signed: Timestamp) -> Timestamp {
        let no_later = match &self.time {
            Time::Known(now) => *now,
            Time::Unknown(doubt) => {
                let agree = signed <= doubt.shown && doubt.shown.duration_since(signed) <= AHEAD;
                plus(self.proven, if agree { LEAP } else { STEP })
            }
        };
        signed.min(no_later)
    }
}

fn plus(at: Timestamp, more: SignedDuration) -> Timestamp {
    at.saturating_add(more).unwrap_or(Timestamp::MAX)
}

fn minus(at: Timestamp, less: SignedDuration) -> Timestamp {
    at.saturating_sub(less).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn now(time: Time) -> Now {
        let moment = Moment { boot: BootId("b".into()), uptime: Duration::ZERO };
        let proven = at("2026-06-01T00:00:00Z");
        Now { wall: proven, time, proven, seen: Duration::ZERO, moment }
    }

    fn doubt(shown: &str, why: Suspicion) -> Time {
        Time::Unknown(Doubt { shown: at(shown), proven: at("2026-06-01T00:00:00Z"), why })
    }

    #[test]
    fn a_signed_date_counts_for_no_more_than_the_box_can_know() {
        let known = now(Time::Known(at("2026-11-30T12:00:00Z")));
        assert_eq!(known.credible(at("2026-11-30T11:00:00Z")), at("2026-11-30T11:00:00Z"));
        assert_eq!(known.credible(at("2099-01-01T00:00:00Z")), at("2026-11-30T12:00:00Z"));
        assert_eq!(known.credible(at("2019-01-01T00:00:00Z")), at("2019-01-01T00:00:00Z"));
        let dead = now(doubt("1970-01-01T00:00:00Z", Suspicion::Behind));
        assert_eq!(dead.credible(at("2099-01-01T00:00:00Z")), at("2026-06-02T00:00:00Z"));
        let ahead = now(doubt("2099-01-01T00:00:00Z", Suspicion::Ahead));
        assert_eq!(
            ahead.credible(at("2026-11-30T11:00:00Z")),
            at("2026-06-02T00:00:00Z"),
            "they don't agree"
        );
        assert_eq!(ahead.credible(at("2099-01-01T00:00:00Z")), at("2027-06-02T00:00:00Z"), "both wrong");
        let agreeing = now(doubt("2026-11-30T12:00:00Z", Suspicion::Ahead));
        assert_eq!(agreeing.credible(at("2026-11-30T11:00:00Z")), at("2026-11-30T11:00:00Z"));
    }

    /// A limit would leave the floor of dates where ended keys could still sign (docs/adr/0013-time.md).
    #[test]
    fn a_box_that_was_off_for_years_comes_up_to_a_signed_date_at_once_when_it_knows_the_time() {
        let known = now(Time::Known(at("2031-03-01T00:00:00Z")));
        assert_eq!(known.credible(at("2031-02-28T00:00:00Z")), at("2031-02-28T00:00:00Z"));
        let untold = now(doubt("2031-03-01T00:00:00Z", Suspicion::Ahead));
        assert_eq!(untold.credible(at("2031-02-28T00:00:00Z")), at("2027-06-02T00:00:00Z"), "a year at most");
    }

    #[test]
    fn a_doubt_says_what_the_clock_shows_and_what_to_do() {
        let time = doubt("2099-01-01T00:00:00Z", Suspicion::Ahead);
        let text = time.doubt().unwrap().to_string();
        assert!(text.contains("not trusted: it shows 2099-01-01T00:00:00Z"), "{text}");
        assert!(time.doubt().unwrap().unblock().contains("timedatectl"));
        assert_eq!(time.known(), None);
    }
}
