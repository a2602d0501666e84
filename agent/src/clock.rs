//! The box's clocks, read here and nowhere else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::clock::{BootId, Moment, Now};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// A clock that shows less than this was never set: there was no Holdfast before 2025.
const NEVER_SET: i64 = 1_735_689_600;

/// The clocks of this boot.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: BootId,
    /// What the wall's clock can't have been before, and the uptime at which that was known. Shared by all clones.
    surely: Arc<Mutex<Option<(Duration, Timestamp)>>>,
}

impl Clock {
    /// Reads which boot this is.
    pub fn new() -> Self {
        // Without /proc every start of the agent counts as a boot: soaks begin anew, and nothing worse.
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_else(|_| format!("unknown-{}", Timestamp::now().as_nanosecond()));
        Clock { boot: BootId(id.trim().to_owned()), surely: Arc::default() }
    }

    /// From here on a clock on the wall that shows less than `floor`, and than the time since, is taken to be wrong: a
    /// box without a battery begins in 1970. What is known then is the floor and the time since.
    pub fn not_before(&self, floor: Timestamp) {
        let mut surely = self.surely();
        let uptime = uptime();
        if surely.is_none() || floor > trusted(Timestamp::UNIX_EPOCH, uptime, surely.as_ref()) {
            *surely = Some((uptime, floor));
        }
    }

    /// Whether the clock on the wall is surely wrong, or was never set: then others know better.
    pub fn is_surely_wrong(&self) -> bool {
        let wall = Timestamp::now();
        wall.as_second() < NEVER_SET || self.surely().is_some_and(|(_, floor)| wall < floor)
    }

    fn surely(&self) -> MutexGuard<'_, Option<(Duration, Timestamp)>> {
        // It is replaced as a whole.
        self.surely.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the time is.
    pub fn now(&self) -> Now {
        let uptime = uptime();
        let wall = trusted(Timestamp::now(), uptime, self.surely().as_ref());
        Now { wall, moment: Moment { boot: self.boot.clone(), uptime } }
    }

    /// How long it is until `moment`; nothing when it has passed or is of another boot.
    pub fn until(&self, moment: &Moment) -> Duration {
        if moment.boot == self.boot { moment.uptime.saturating_sub(uptime()) } else { Duration::ZERO }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

/// What the wall's clock shows, unless that is surely wrong.
fn trusted(wall: Timestamp, uptime: Duration, surely: Option<&(Duration, Timestamp)>) -> Timestamp {
    let Some((since, floor)) = surely.filter(|(_, floor)| wall < *floor) else { return wall };
    floor.saturating_add(uptime.saturating_sub(*since)).unwrap_or(Timestamp::MAX)
}

/// Time since the box was started, suspend included.
fn uptime() -> Duration {
    // CLOCK_BOOTTIME is there since Linux 2.6.39, so it is only refused by a sandbox; what is left then is
    // a clock that stands, under which deadlines end with the next restart.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_surely_wrong_goes_on_from_where_the_box_was_last_sure() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let surely = (Duration::from_secs(5), at("2026-11-21T10:00:00Z"));
        let now = |wall: &str, uptime| trusted(at(wall), Duration::from_secs(uptime), Some(&surely));
        assert_eq!(now("1970-01-01T00:01:05Z", 65), at("2026-11-21T10:01:00Z"));
        assert_eq!(now("2026-11-21T10:00:01Z", 65), at("2026-11-21T10:00:01Z"), "it may be right");
        let unknown = trusted(at("1970-01-01T00:00:00Z"), Duration::ZERO, None);
        assert_eq!(unknown, at("1970-01-01T00:00:00Z"));
    }
}
