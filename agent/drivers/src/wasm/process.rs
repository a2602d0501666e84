//! Processes as `/proc` shows them: whether a process is still the same one.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::protocol::Record;

/// The number of this process.
pub(super) fn own_pid() -> i32 {
    Pid::this().as_raw()
}

/// This boot's name; empty where the kernel has none.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process was started, in clock ticks since the boot; `None` if there is none, or only its remains
/// that its parent hasn't collected.
pub(super) fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name, field 2, is in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Record {
    /// Whether the process that wrote this is still there.
    pub(super) fn is_alive(&self) -> bool {
        self.boot == boot_id() && started(self.pid) == Some(self.started)
    }

    /// Kills the process, if it is still the one.
    pub(super) fn kill(&self) {
        if self.is_alive() && self.pid > 1 {
            // It may have ended just now.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_and_an_impossible_one_has_none() {
        assert!(started(own_pid()).is_some());
        assert_eq!(started(i32::MAX), None);
    }
}
