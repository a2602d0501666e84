//! Looking at an app: which of its objects exist, and its health.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use holdfast_core::health::Health;
use holdfast_core::name::AppName;
use holdfast_core::observe::{AppObservation, Observed};
use holdfast_core::release::Release;

use super::client::Client;
use super::files::{RECORD, read_json};
use super::protocol::{Answer, Mark, Outcome, Record, Request, State, Status};
use super::{WasmDriver, spec};
use crate::DriverError;

/// A command that was started again must run for that long before it counts as well.
const STEADY: Duration = Duration::from_secs(5);

/// What there is of an app.
pub(super) enum ProcessState {
    /// Nothing that lives.
    Nothing,
    /// It ended for good.
    Ended(Outcome),
    /// A process.
    Alive {
        record: Record,
        /// What it says of itself, or why it says nothing.
        status: Result<Status, String>,
    },
}

impl ProcessState {
    /// Whose it is.
    pub(super) fn mark(&self) -> Option<&Mark> {
        match self {
            ProcessState::Nothing => None,
            ProcessState::Ended(outcome) => Some(&outcome.mark),
            ProcessState::Alive { record, .. } => Some(&record.mark),
        }
    }
}

/// Asks the process of `record` how it is.
async fn ask_status(dir: &Path, record: &Record) -> Result<Status, String> {
    let asked = async {
        let mut client = Client::ask(dir, record, &Request::Status).await?;
        client.answer().await
    };
    match asked.await {
        Ok(Some(Answer::Status(status))) if status.mark == record.mark => Ok(status),
        Ok(Some(Answer::Status(_))) => {
            Err("the running process reports a release other than the one in its record".into())
        }
        Ok(Some(Answer::Refused { why })) => Err(format!("it refuses to report its status: {why}")),
        Ok(_) => Err("it closed the connection without an answer".into()),
        Err(e) => Err(format!("it doesn't answer on its socket: {e}")),
    }
}

impl WasmDriver {
    /// What there is of an app now.
    pub(super) async fn find(&self, app: &AppName) -> ProcessState {
        let dir = self.dir_of(app);
        if let Some(record) = read_json::<Record>(&dir.join(RECORD)).filter(Record::is_alive) {
            let mut status = ask_status(&dir, &record).await;
            if status.is_err() {
                // It may be between its record and its socket, or just ending.
                tokio::time::sleep(Duration::from_millis(50)).await;
                status = ask_status(&dir, &record).await;
            }
            if record.is_alive() {
                return ProcessState::Alive { record, status };
            }
        }
        match read_json::<Outcome>(&self.outcome_of(app)) {
            Some(outcome) => ProcessState::Ended(outcome),
            None => ProcessState::Nothing,
        }
    }

    pub(super) async fn observe_app(
        &self,
        app: &AppName,
        desired: Option<&Release>,
    ) -> Result<AppObservation, DriverError> {
        let found = self.find(app).await;
        let wanted = desired.map(|release| spec::read(release, &self.config.owner)).transpose()?;
        let mut seen = self.observe_volumes(app, desired)?;
        let observed = match (wanted, found) {
            (None, ProcessState::Nothing) => return Ok(seen),
            (None, found) => match found.mark() {
                Some(mark) if mark.device == self.config.owner.device => {
                    Observed::Extra { release: Some(mark.release) }
                }
                // It isn't ours, and nobody asked for it.
                _ => return Ok(seen),
            },
            (Some((mark, _)), found) => compare(&mark, &found),
        };
        seen.insert(spec::key_of(app), observed);
        Ok(seen)
    }

    /// The app's volumes: those that are wanted, and those that are there. They are ours by where they are.
    fn observe_volumes(
        &self,
        app: &AppName,
        desired: Option<&Release>,
    ) -> Result<AppObservation, DriverError> {
        let there = self.volumes_there(app)?;
        let extra = there.iter().map(|volume| (spec::volume_key(volume), Observed::Extra { release: None }));
        let mut seen: AppObservation = extra.collect();
        for object in desired.into_iter().flat_map(|release| &release.objects) {
            if let Some(volume) = spec::volume_of(&object.key) {
                let observed = if there.contains(&volume) { Observed::Same } else { Observed::Absent };
                seen.insert(object.key.clone(), observed);
            }
        }
        Ok(seen)
    }

    fn volumes_there(&self, app: &AppName) -> Result<Vec<AppName>, DriverError> {
        let dir = self.volumes_of(app);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => {
                entries.map_err(|e| DriverError::Runtime(format!("cannot list {}: {e}", dir.display())))?
            }
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Every app with something of ours: a process, or the end of a job. What a process that died left behind
    /// is nothing, and goes with the boot or with the next process.
    pub(super) fn find_apps(&self) -> Result<Vec<AppName>, DriverError> {
        let mut apps = Vec::new();
        for (dir, suffix) in
            [(self.config.run_dir.clone(), ""), (self.config.state_dir.join("wasm/ended"), ".json")]
        {
            let entries = match fs::read_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries
                    .map_err(|e| DriverError::Runtime(format!("cannot list {}: {e}", dir.display())))?,
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(app) = name.to_str().and_then(|name| name.strip_suffix(suffix)?.parse().ok()) else {
                    continue;
                };
                if self.is_ours(&app) {
                    apps.push(app);
                }
            }
        }
        for entry in fs::read_dir(self.config.state_dir.join("wasm/volumes")).into_iter().flatten().flatten()
        {
            apps.extend(entry.file_name().to_str().and_then(|name| name.parse::<AppName>().ok()));
        }
        apps.sort();
        apps.dedup();
        Ok(apps)
    }

    fn is_ours(&self, app: &AppName) -> bool {
        let record = read_json::<Record>(&self.dir_of(app).join(RECORD));
        let record = record.filter(Record::is_alive).map(|record| record.mark);
        let outcome = || read_json::<Outcome>(&self.outcome_of(app)).map(|outcome| outcome.mark);
        record.or_else(outcome).is_some_and(|mark| mark.device == self.config.owner.device)
    }

    pub(super) async fn probe_app(&self, release: &Release) -> Health {
        let wanted = match spec::read(release, &self.config.owner) {
            Ok((mark, _)) => mark,
            Err(e) => return Health::Unhealthy { reason: e.to_string() },
        };
        match self.find(&release.app).await {
            ProcessState::Nothing => Health::Unhealthy { reason: "it is not running".into() },
            ProcessState::Ended(outcome) if outcome.mark != wanted => {
                Health::Unhealthy { reason: "it is not running".into() }
            }
            ProcessState::Alive { record, .. } if record.mark != wanted => {
                Health::Unhealthy { reason: format!("release {} is running instead", record.mark.release) }
            }
            ProcessState::Ended(outcome) if outcome.ok => Health::Healthy,
            ProcessState::Ended(outcome) => Health::Unhealthy { reason: format!("it {}", outcome.what) },
            ProcessState::Alive { status: Ok(status), .. } => health(&status),
            ProcessState::Alive { status: Err(why), .. } => Health::Unhealthy { reason: why },
        }
    }

    pub(super) async fn restarts_of(&self, app: &AppName) -> Option<u64> {
        match self.find(app).await {
            ProcessState::Alive { status: Ok(status), .. } => Some(u64::from(status.restarts)),
            _ => None,
        }
    }

    pub(super) async fn logs_of(&self, app: &AppName, lines: usize) -> Result<Vec<String>, DriverError> {
        let dir = self.dir_of(app);
        let Some(record) = read_json::<Record>(&dir.join(RECORD)).filter(Record::is_alive) else {
            let outcome = read_json::<Outcome>(&self.outcome_of(app));
            let mut log = outcome.map(|outcome| outcome.log).unwrap_or_default();
            let words = super::launch::last_words(&dir);
            if !words.is_empty() {
                log.push(format!("holdfast: the process ended with: {words}"));
            }
            log.drain(..log.len().saturating_sub(lines));
            return Ok(log);
        };
        let asked = async {
            let mut client = Client::ask(&dir, &record, &Request::Logs { lines }).await?;
            client.answer().await
        };
        match asked.await {
            Ok(Some(Answer::Logs { lines })) => Ok(lines),
            Ok(other) => {
                Err(DriverError::Runtime(format!("{app} does not return its log, but answers {other:?}")))
            }
            Err(e) => Err(DriverError::Runtime(format!("{app} doesn't give its log: {e}"))),
        }
    }
}

/// What is found against what is wanted.
fn compare(wanted: &Mark, found: &ProcessState) -> Observed {
    let Some(mark) = found.mark() else { return Observed::Absent };
    if mark.device != wanted.device {
        // A job of another device's that ended is nothing that stands in the way.
        return match found {
            ProcessState::Alive { .. } => Observed::Foreign { owner: format!("the device {}", mark.device) },
            _ => Observed::Absent,
        };
    }
    let drift = |difference: String| Observed::Drift { difference, recreate: true };
    match found {
        ProcessState::Ended(_) if mark != wanted => Observed::Absent,
        _ if mark.spec != wanted.spec || mark.release != wanted.release => {
            drift(format!("release {} is running instead", mark.release))
        }
        ProcessState::Alive { status: Err(why), .. } => drift(why.clone()),
        _ => Observed::Same,
    }
}

/// How a workload is by its own word.
fn health(status: &Status) -> Health {
    let last = status.last_exit.as_deref().unwrap_or("ended");
    match status.state {
        State::Starting => Health::Starting { reason: "it is being started".into() },
        State::Running if status.restarts > 0 && status.for_millis < STEADY.as_millis() as u64 => {
            Health::Starting { reason: format!("it {last} and was restarted ({} times)", status.restarts) }
        }
        State::Running | State::Exited => Health::Healthy,
        State::Backoff => Health::Unhealthy {
            reason: format!(
                "it {last} and is restarted after a pause (restarted {} times so far)",
                status.restarts
            ),
        },
        State::Failed => Health::Unhealthy { reason: format!("it {last}") },
        State::Stopping => Health::Unhealthy { reason: "it is being stopped".into() },
    }
}
