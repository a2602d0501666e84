//! What a box concludes from its clocks within one boot: which time is proven, and whether the wall clock can be
//! trusted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{AHEAD, Doubt, RELEASED, SLACK, Suspicion, Time, minus, plus};

/// The boot clock may be slow by one part in so many, and fast: no crystal is worse.
const WANDERS: u32 = 1000;

/// One look at the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the clock on the wall shows.
    pub shown: Timestamp,
    /// Time since the boot.
    pub uptime: Duration,
    /// The system says that something synchronizes the clock on the wall.
    pub synchronized: bool,
    /// The box has a clock that goes on while it is off.
    pub kept: bool,
}

/// The state of it.
#[derive(Clone, Debug)]
pub struct Timekeeper {
    /// At this uptime it was at least this late.
    proven: (Duration, Timestamp),
    /// At this uptime the clock was last synchronized, and showed this.
    synchronized: Option<(Duration, Timestamp)>,
    /// How much time was seen, and up to which uptime that was counted: none while it isn't known what time it is.
    seen: (Duration, Option<Duration>),
}

impl Timekeeper {
    /// Nothing is proven but that this software exists.
    pub fn new(uptime: Duration) -> Self {
        Timekeeper { proven: (uptime, RELEASED), synchronized: None, seen: (Duration::ZERO, None) }
    }

    /// From here on it is proven that it is at least as late as `at`.
    pub fn prove(&mut self, at: Timestamp, uptime: Duration) {
        if at > self.proven(uptime) {
            self.proven = (uptime, at);
        }
    }

    /// What is proven: at least this late is it.
    pub fn proven(&self, uptime: Duration) -> Timestamp {
        let (since, at) = self.proven;
        let elapsed = uptime.saturating_sub(since);
        plus(at, signed(elapsed.saturating_sub(elapsed / WANDERS)))
    }

    /// Goes on with the time that was seen before this start.
    pub fn saw(&mut self, before: Duration) {
        self.seen.0 = self.seen.0.saturating_add(before);
    }

    /// How much time was seen.
    pub fn seen(&self) -> Duration {
        self.seen.0
    }

    /// Takes in a look at the clocks; gives what is known of the time.
    pub fn read(&mut self, reading: &Reading) -> Time {
        let time = self.judge(reading);
        // What went by while nobody knew the time at its beginning or its end wasn't seen.
        let counted = time.known().map(|_| reading.uptime);
        if let (Some(before), Some(now)) = (self.seen.1, counted) {
            self.seen.0 = self.seen.0.saturating_add(now.saturating_sub(before));
        }
        self.seen.1 = counted;
        time
    }

    fn judge(&mut self, reading: &Reading) -> Time {
        let Reading { shown, uptime, .. } = *reading;
        let proven = self.proven(uptime);
        let doubt = |why| Time::Unknown(Doubt { shown, proven, why });
        let is_over = shown < minus(proven, SLACK);
        if reading.synchronized && !is_over {
            self.synchronized = Some((uptime, shown));
            return Time::Known(shown.max(proven));
        }
        if let Some((since, at)) = self.synchronized {
            // It was right in this boot, and the boot clock has gone on since: whatever somebody set it to.
            let elapsed = uptime.saturating_sub(since);
            let expected = plus(at, signed(elapsed));
            let tolerance = signed(elapsed / WANDERS + Duration::from_secs(2));
            let is_close = shown.duration_since(expected).abs() <= tolerance;
            return Time::Known(if is_close { shown } else { expected }.max(proven));
        }
        if is_over {
            doubt(Suspicion::Behind)
        } else if !reading.kept {
            doubt(Suspicion::Stood)
        } else if shown > plus(proven, AHEAD) {
            doubt(Suspicion::Ahead)
        } else {
            Time::Known(shown.max(proven))
        }
    }

    /// The best guess of the time, for people.
    pub fn guess(&self, time: &Time, uptime: Duration) -> Timestamp {
        let proven = self.proven(uptime);
        match time {
            Time::Known(now) => *now,
            Time::Unknown(doubt) if doubt.why == Suspicion::Stood && doubt.shown <= plus(proven, AHEAD) => {
                doubt.shown.max(proven)
            }
            Time::Unknown(_) => proven,
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn seconds(uptime: u64) -> Duration {
        Duration::from_secs(uptime)
    }

    fn reading(shown: &str, uptime: u64) -> Reading {
        Reading { shown: at(shown), uptime: seconds(uptime), synchronized: false, kept: true }
    }

    fn synchronized(shown: &str, uptime: u64) -> Reading {
        Reading { synchronized: true, ..reading(shown, uptime) }
    }

    /// A box that has proof of 2026-11-21T10:00 at its start.
    fn keeper() -> Timekeeper {
        let mut keeper = Timekeeper::new(seconds(5));
        keeper.prove(at("2026-11-21T10:00:00Z"), seconds(5));
        keeper
    }

    fn why(time: &Time) -> Option<Suspicion> {
        time.doubt().map(|doubt| doubt.why)
    }

    #[test]
    fn a_clock_that_shows_what_is_over_or_far_ahead_is_unknown_and_not_what_it_shows() {
        let mut keeper = keeper();
        assert_eq!(why(&keeper.read(&reading("1970-01-01T00:01:05Z", 65))), Some(Suspicion::Behind));
        assert_eq!(why(&keeper.read(&reading("2099-01-01T00:00:00Z", 70))), Some(Suspicion::Ahead));
        let unknown = keeper.read(&reading("2099-01-01T00:00:00Z", 1005));
        assert_eq!(
            keeper.guess(&unknown, seconds(1005)),
            at("2026-11-21T10:16:39Z"),
            "what is proven goes on"
        );
        let known = keeper.read(&reading("2026-11-21T11:00:00Z", 1010));
        assert_eq!(known, Time::Known(at("2026-11-21T11:00:00Z")));
    }

    #[test]
    fn a_clock_that_stood_while_the_box_was_off_is_unknown_until_it_is_synchronized() {
        let mut keeper = keeper();
        let stood = Reading { kept: false, ..reading("2026-11-21T10:00:30Z", 35) };
        assert_eq!(why(&keeper.read(&stood)), Some(Suspicion::Stood));
        let right = Reading { synchronized: true, ..stood };
        assert_eq!(keeper.read(&right).known(), Some(at("2026-11-21T10:00:30Z")));
        let later = Reading { shown: at("2026-11-21T10:01:30Z"), uptime: seconds(95), ..stood };
        assert_eq!(
            keeper.read(&later).known(),
            Some(at("2026-11-21T10:01:30Z")),
            "the boot clock has gone on"
        );
    }

    #[test]
    fn what_was_synchronized_stays_known_whatever_the_clock_is_set_to_afterwards() {
        let mut keeper = keeper();
        keeper.read(&synchronized("2027-05-01T00:00:00Z", 100));
        for wrong in ["2099-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2027-05-01T06:00:00Z"] {
            assert_eq!(
                keeper.read(&reading(wrong, 160)).known(),
                Some(at("2027-05-01T00:01:00Z")),
                "{wrong}"
            );
        }
        let slow = keeper.read(&reading("2027-05-02T00:00:30Z", 86_500));
        assert_eq!(slow.known(), Some(at("2027-05-02T00:00:30Z")), "clocks wander");
    }

    #[test]
    fn a_synchronized_clock_proves_nothing_for_longer_than_this_boot() {
        let mut keeper = keeper();
        assert_eq!(
            keeper.read(&synchronized("2099-01-01T00:00:00Z", 10)).known(),
            Some(at("2099-01-01T00:00:00Z"))
        );
        assert!(keeper.proven(seconds(10)) < at("2026-11-21T10:00:10Z"));
    }

    #[test]
    fn synchronized_with_what_is_over_is_not_believed() {
        let mut keeper = keeper();
        assert_eq!(why(&keeper.read(&synchronized("2026-11-20T10:00:00Z", 10))), Some(Suspicion::Behind));
        // A few seconds are nothing.
        assert!(keeper.read(&reading("2026-11-21T09:59:58Z", 6)).known().is_some());
    }

    #[test]
    fn time_is_seen_while_it_is_known_and_stands_still_otherwise() {
        let mut keeper = keeper();
        keeper.saw(seconds(1000));
        keeper.read(&reading("2026-11-21T10:00:00Z", 10));
        keeper.read(&reading("2026-11-21T10:01:40Z", 110));
        assert_eq!(keeper.seen(), seconds(1100));
        keeper.read(&reading("2099-01-01T00:00:00Z", 210));
        keeper.read(&reading("2099-01-01T00:01:40Z", 310));
        assert_eq!(keeper.seen(), seconds(1100));
        keeper.read(&reading("2026-11-21T10:05:00Z", 320));
        // A jump of the clock is no time that went by.
        keeper.read(&reading("2026-11-25T10:05:00Z", 330));
        assert_eq!(keeper.seen(), seconds(1110));
    }

    proptest! {
        #[test]
        fn what_is_proven_never_goes_back_and_no_clock_moves_it(
            looks in proptest::collection::vec((0i64..4_000_000_000, 0u64..100_000, any::<bool>(), any::<bool>()), 1..50)
        ) {
            let mut keeper = keeper();
            let (mut uptime, mut before) = (5, keeper.proven(seconds(5)));
            for (shown, more, synchronized, kept) in looks {
                uptime += more;
                let shown = Timestamp::from_second(shown).unwrap();
                let time = keeper.read(&Reading { shown, uptime: seconds(uptime), synchronized, kept });
                let proven = keeper.proven(seconds(uptime));
                prop_assert!(proven >= before);
                prop_assert!(proven <= plus(at("2026-11-21T10:00:00Z"), SignedDuration::from_secs(uptime as i64)));
                prop_assert!(time.known().is_none_or(|now| now >= proven));
                prop_assert!(keeper.seen() <= seconds(uptime));
                before = proven;
            }
        }
    }
}
