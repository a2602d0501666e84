//! Programs that are run in a container, for probes and health checks. What is judged is the program: how long podman
//! takes to start it, or to tell how it ended, says nothing about the container.

use std::pin::pin;
use std::time::Duration;

use holdfast_core::pod::{PinnedImage, Pod};
use holdfast_core::release::{ExecCheck, Release};

use tokio::time::{Instant, sleep, timeout};

use super::api::{Api, ExecState, Inspected};
use super::client::ApiError;
use super::instance::{Instance, Standing, standing};
use super::{PodmanDriver, process};
use crate::{EXEC_PATIENCE, ExecError};

/// How often a program that podman has not started yet is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long podman may take to write down how a program ended.
const SETTLING: Duration = Duration::from_secs(5);
/// The exit codes of what can't be run, or isn't there.
const NOT_RUNNABLE: [i32; 2] = [126, 127];

impl PodmanDriver {
    /// Runs a check's program in the container that it names, and wants 0 of it.
    pub(super) async fn run_in(&self, release: &Release, check: &ExecCheck) -> Result<(), ExecError> {
        let pods = self.pods(release).map_err(|error| ExecError::Failed(error.to_string()))?;
        let found = pods.iter().find(|wanted| wanted.is_named(&check.target));
        let none = || ExecError::Failed(format!("the app has no {} with containers", check.target));
        let wanted = found.ok_or_else(none)?;
        let name = container_of(check, &wanted.pod).map_err(ExecError::Failed)?;
        let there = self.there(&release.app).await;
        let there = there.map_err(|error| ExecError::NotRun(error.to_string()))?;
        let container = running(wanted.own(&there), name)
            .ok_or_else(|| ExecError::Failed(format!("the container {name} is not running")))?;
        run(&self.api, &container.id, &check.command, check.timeout).await
    }
}

/// Runs a program in a container, and wants 0 of it. It has `limit` from its own start.
pub(super) async fn run(
    api: &Api,
    container: &str,
    command: &[String],
    limit: Duration,
) -> Result<(), ExecError> {
    run_by(api, container, command, limit, None).await
}

/// As [`run`], and it is ended at `by` at the latest, however long podman took to start it.
pub(super) async fn run_by(
    api: &Api,
    container: &str,
    command: &[String],
    limit: Duration,
    by: Option<Instant>,
) -> Result<(), ExecError> {
    let words = command.join(" ");
    let not_run = |error: ApiError| ExecError::NotRun(format!("{words} could not be run: {error}"));
    let id = api.exec_create(container, command).await.map_err(not_run)?;
    let mut running = pin!(api.exec_start(&id, limit + EXEC_PATIENCE));
    let mut pause = limit;
    loop {
        let left = by.map(|by| by.saturating_duration_since(Instant::now()));
        if let Ok(ended) = timeout(left.map_or(pause, |left| left.min(pause)), &mut running).await {
            let state = settled(api, &id).await.map_err(not_run)?;
            return judged(&words, ended, &state);
        }
        let state = api.exec_state(&id).await.map_err(not_run)?;
        let is_late = by.is_some_and(|by| Instant::now() >= by);
        pause = match ran_for(&state) {
            Some(ran) if ran >= limit || is_late => {
                // podman has no call that ends it.
                process::end(state.pid);
                return Err(ExecError::Failed(format!("{words} did not end within {limit:?}")));
            }
            None if is_late => {
                return Err(ExecError::NotRun(format!("{words} was not started by podman within {limit:?}")));
            }
            Some(ran) => limit - ran,
            // podman has not started it yet, or is about to tell how it ended.
            None => LOOK,
        };
    }
}

/// How long a program has run by the kernel's word, if it runs.
fn ran_for(state: &ExecState) -> Option<Duration> {
    Some(state.pid).filter(|pid| state.running && *pid > 0).and_then(process::age)
}

/// The state of a program whose output has ended: podman writes its end down a little later.
async fn settled(api: &Api, id: &str) -> Result<ExecState, ApiError> {
    let since = Instant::now();
    loop {
        let state = api.exec_state(id).await?;
        if !state.running || since.elapsed() >= SETTLING {
            return Ok(state);
        }
        sleep(LOOK / 5).await;
    }
}

fn judged(words: &str, ended: Result<(), ApiError>, state: &ExecState) -> Result<(), ExecError> {
    match (ended, state.exit_code) {
        (_, _) if state.running => {
            Err(ExecError::NotRun(format!("podman doesn't report the exit code of {words}")))
        }
        (Ok(()), 0) => Ok(()),
        (Ok(()), code) => Err(ExecError::Failed(format!("{words} exited with code {code}"))),
        (Err(error @ ApiError::Refused { .. }), code) if NOT_RUNNABLE.contains(&code) => {
            Err(ExecError::Failed(format!("{words} can't be run in the container: {error}")))
        }
        (Err(error), _) => Err(ExecError::NotRun(format!("{words} could not be run: {error}"))),
    }
}

/// The container that a check means: the one that it names, else the first.
fn container_of<'a>(check: &ExecCheck, pod: &'a Pod<PinnedImage>) -> Result<&'a str, String> {
    let mut names = pod.containers.iter().map(|container| container.name.as_str());
    let found = match &check.container {
        Some(wanted) => names.find(|name| name == wanted),
        None => names.next(),
    };
    let wanted = check.container.as_deref().unwrap_or_default();
    found
        .ok_or_else(|| format!("{} has no container {wanted}; correct the check's `container`", check.target))
}

fn running<'a>(pod: Option<&'a Instance>, name: &str) -> Option<&'a Inspected> {
    let container = pod?.containers.get(name)?;
    (standing(container) == Standing::Running).then_some(container)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(running: bool, exit_code: i32) -> ExecState {
        ExecState { running, exit_code, pid: 0 }
    }

    fn refused() -> ApiError {
        ApiError::Refused {
            what: "POST /exec/x/start".into(),
            status: 500,
            message: "crun: exec failed".into(),
        }
    }

    fn silent() -> ApiError {
        ApiError::Silent { what: "POST /exec/x/start".into(), limit: Duration::from_secs(31) }
    }

    #[test]
    fn only_the_program_itself_says_that_it_failed() {
        let failed =
            |ended, state: &ExecState| matches!(judged("ask", ended, state), Err(ExecError::Failed(_)));
        let not_run =
            |ended, state: &ExecState| matches!(judged("ask", ended, state), Err(ExecError::NotRun(_)));
        assert_eq!(judged("ask", Ok(()), &state(false, 0)), Ok(()));
        assert!(failed(Ok(()), &state(false, 7)));
        assert!(failed(Err(refused()), &state(false, 127)), "it isn't in the container");
        assert!(not_run(Err(refused()), &state(false, 0)), "podman's own trouble");
        assert!(not_run(Err(silent()), &state(false, 0)), "podman did not come to it");
        assert!(not_run(Ok(()), &state(true, 0)), "podman doesn't report its exit code");
    }

    #[test]
    fn what_podman_has_not_started_has_not_run() {
        assert_eq!(ran_for(&state(false, 0)), None);
        assert_eq!(ran_for(&state(true, 0)), None);
        let pid = std::process::id().try_into().unwrap();
        assert!(ran_for(&ExecState { running: true, exit_code: 0, pid }).is_some());
    }
}
