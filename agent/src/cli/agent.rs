//! Where the command line meets the daemon's own code: all of its call sites, in one place.

use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_core::event::Event;
use holdfast_core::report::{PlanReport, Status};
use holdfast_drivers::Fingerprint;

use crate::config::Config;

/// Runs the agent until it is told to stop, and gives `None`. With `once`, makes one pass, waits for every
/// verdict (so long at most), and gives the status that it ended with.
pub(super) fn run(_config: &Config, _once: Option<Duration>) -> Result<Option<Status>> {
    bail!("the agent's loop is not built into this holdfast yet")
}

/// The status, read from the state folder under its lock.
pub(super) fn offline_status(config: &Config) -> Result<Status> {
    no_daemon(config)
}

/// The plan, made from the state folder under its lock.
pub(super) fn offline_plan(config: &Config) -> Result<PlanReport> {
    no_daemon(config)
}

/// Events after `since`, oldest first, read from the state folder.
pub(super) fn offline_events(config: &Config, _since: u64) -> Result<Vec<Event>> {
    no_daemon(config)
}

/// What the drivers that are switched on find on this box; `None` if they can't be asked.
pub(super) fn fingerprints(_config: &Config) -> Option<Vec<Fingerprint>> {
    None
}

fn no_daemon<T>(config: &Config) -> Result<T> {
    bail!(
        "no holdfast answers at {}, and looking without one is not built in yet",
        config.api.socket.display()
    )
}
