//! The box's clocks, read here and nowhere else. What is made of them is core's (`holdfast_core::clock`).

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::clock::{BootId, Moment, Now, Reading, Timekeeper};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// The clocks of this boot. All clones are the same.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: BootId,
    /// The box has a clock that goes on while it is off.
    kept: bool,
    keeper: Arc<Mutex<Timekeeper>>,
}

impl Clock {
    /// Reads which boot this is.
    pub fn new() -> Self {
        // Without /proc every start of the agent counts as a boot: soaks begin anew, and nothing worse.
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_else(|_| format!("unknown-{}", Timestamp::now().as_nanosecond()));
        let keeper = Arc::new(Mutex::new(Timekeeper::new(uptime())));
        Clock { boot: BootId(id.trim().to_owned()), kept: has_hardware_clock(), keeper }
    }

    /// From here on it is proven that it is at least as late as `floor`.
    pub fn not_before(&self, floor: Timestamp) {
        self.keeper().prove(floor, uptime());
    }

    /// Goes on with the time that the box has seen before this start.
    pub fn saw(&self, before: Duration) {
        self.keeper().saw(before);
    }

    fn keeper(&self) -> MutexGuard<'_, Timekeeper> {
        // Each change of it is one assignment.
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the time is.
    pub fn now(&self) -> Now {
        let mut keeper = self.keeper();
        let reading = self.read();
        let uptime = reading.uptime;
        let time = keeper.read(&reading);
        Now {
            wall: keeper.guess(&time, uptime),
            time,
            proven: keeper.proven(uptime),
            seen: keeper.seen(),
            moment: Moment { boot: self.boot.clone(), uptime },
        }
    }

    /// Whether something synchronizes the clock on the wall.
    pub fn is_synchronized() -> bool {
        is_synchronized()
    }

    fn read(&self) -> Reading {
        let (shown, synchronized) = (Timestamp::now(), is_synchronized());
        let reading = Reading { shown, uptime: uptime(), synchronized, kept: self.kept };
        #[cfg(feature = "faults")]
        let reading = moved(reading);
        reading
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

/// Whether the machine has a clock that goes on while it is off. A PC always has (where it is a virtual one, the host's);
/// many small boards have none, and begin with 1970 or with the time at which they were switched off.
fn has_hardware_clock() -> bool {
    let listed = || std::fs::read_dir("/sys/class/rtc").is_ok_and(|mut clocks| clocks.next().is_some());
    cfg!(any(target_arch = "x86_64", target_arch = "x86")) || listed()
}

/// Whether something synchronizes the clock on the wall: the kernel is told so by whoever does (chrony with `rtcsync`,
/// ntpd, systemd-timesyncd), and forgets it some hours after the last time, or when somebody sets the clock.
fn is_synchronized() -> bool {
    // systemd-timesyncd says so in this file as well, for whom the kernel may not be asked.
    kernel_is_synchronized().unwrap_or_else(|| Path::new("/run/systemd/timesync/synchronized").exists())
}

/// What the kernel says; none where a sandbox refuses the question.
// nix and rustix have no call for this. Sound: the structure is plain numbers, for which zero is a value, and its modes
// are zero, so the kernel only fills it in; the pointer is to a local of its own that lives through the call.
#[allow(unsafe_code)]
fn kernel_is_synchronized() -> Option<bool> {
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then_some(state.status & libc::STA_UNSYNC == 0)
}

/// What a test makes of the clock: the file that `HOLDFAST_CLOCK` names holds by how many seconds it is ahead, or
/// behind, and `synchronized` or `stood`, if it is to be that.
#[cfg(feature = "faults")]
fn moved(reading: Reading) -> Reading {
    let file = std::env::var_os("HOLDFAST_CLOCK").map(std::fs::read_to_string);
    let Some(Ok(text)) = file else { return reading };
    let mut words = text.split_whitespace();
    let seconds = words.next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    let shown = reading.shown.saturating_add(jiff::SignedDuration::from_secs(seconds));
    let word = words.next();
    let (synchronized, kept) = (word == Some("synchronized"), word != Some("stood"));
    Reading { shown: shown.unwrap_or(Timestamp::MAX), synchronized, kept, ..reading }
}

#[cfg(test)]
mod tests {
    use holdfast_core::clock::RELEASED;

    use super::*;

    #[test]
    fn the_kernel_says_whether_the_clock_is_synchronized() {
        assert!(kernel_is_synchronized().is_some());
    }

    #[test]
    fn what_is_proven_is_the_same_for_all_clones() {
        let clock = Clock::new();
        let later = RELEASED.saturating_add(jiff::SignedDuration::from_hours(1)).unwrap();
        clock.clone().not_before(later);
        assert!(clock.now().proven >= later);
        clock.not_before(RELEASED);
        assert!(clock.now().proven >= later, "it never goes back");
    }
}
