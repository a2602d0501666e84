//! The box's clocks, read here and nowhere else.

use std::time::Duration;

use holdfast_core::clock::{BootId, Moment, Now};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// The clocks of this boot.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: BootId,
}

impl Clock {
    /// Reads which boot this is.
    pub fn new() -> Self {
        // Without /proc every start of the agent counts as a boot: soaks begin anew, and nothing worse.
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_else(|_| format!("unknown-{}", Timestamp::now().as_nanosecond()));
        Clock { boot: BootId(id.trim().to_owned()) }
    }

    /// What the time is.
    pub fn now(&self) -> Now {
        Now { wall: Timestamp::now(), moment: Moment { boot: self.boot.clone(), uptime: uptime() } }
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

/// Time since the box was started, suspend included.
fn uptime() -> Duration {
    // CLOCK_BOOTTIME is there since Linux 2.6.39, so it is only refused by a sandbox; what is left then is
    // a clock that stands, under which deadlines end with the next restart.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
