//! Time as a value. The clock on the wall may jump; what is measured is measured on the boot clock.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
}

/// What the time is, read once for a pass and handed to every pure function that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// The clock on the wall, for people and for signatures. May be wrong, may jump.
    pub wall: Timestamp,
    /// The boot clock, for every duration.
    pub moment: Moment,
}

impl Now {
    /// The wall time `after` from now, for people; saturates at the end of time.
    pub fn wall_in(&self, after: Duration) -> Timestamp {
        self.wall.saturating_add(after).unwrap_or(Timestamp::MAX)
    }
}
