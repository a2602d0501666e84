//! Where the command line meets the daemon's own code: all of its call sites, in one place.

use std::time::Duration;

use anyhow::Result;
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::event::Event;
use holdfast_core::event::segment::Seal;
use holdfast_core::name::AppName;
use holdfast_core::report::{PlanReport, Status};

use super::block_on;
use crate::config::Config;
use crate::daemon;

/// Runs the agent until it is told to stop, and gives `None`. With `once`, makes one pass, waits for every
/// verdict (so long at most), and gives the status that it ended with.
pub(super) fn run(config: &Config, once: Option<Duration>) -> Result<Option<Status>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(daemon::run(config.clone(), once));
    // A job that still waits for a server must not keep the agent from stopping.
    runtime.shutdown_background();
    end
}

/// The status, read from the state folder under its lock.
pub(super) fn offline_status(config: &Config) -> Result<Status> {
    block_on(daemon::offline_status(config))?
}

/// The plan, made from the state folder under its lock.
pub(super) fn offline_plan(config: &Config) -> Result<PlanReport> {
    block_on(daemon::offline_plan(config))?
}

/// What was kept of an app when it last failed, read from the state folder.
pub(super) fn offline_diagnosis(config: &Config, app: &AppName) -> Result<Diagnosis> {
    daemon::offline_diagnosis(config, app)
}

/// Events after `since`, oldest first, read from the state folder.
pub(super) fn offline_events(config: &Config, since: u64) -> Result<Vec<Event>> {
    daemon::offline_events(config, since)
}

/// The events that are there and what they are checked by, read from the state folder.
pub(super) fn offline_audit(config: &Config) -> Result<(Vec<Event>, Seal)> {
    daemon::offline_audit(config)
}
