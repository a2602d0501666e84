//! Runs the keeper's pieces of work: the calls to runtimes, each cut off after its limit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use holdfast_core::diagnosis::LOG_LINES;
use holdfast_core::name::AppName;
use holdfast_core::observe::{AppObservation, Observations};
use holdfast_core::runtime::DriverName;
use holdfast_drivers::{ApplyStep, CALL_LIMIT, Driver, DriverError};

use crate::keeper::work::{
    AT_ONCE, Answered, Asking, Calls, Came, Done, Evidence, EvidenceCall, Question, SearchResult, StepCall,
    Work,
};

/// How long a runtime may take over the last lines of a log: an app that failed goes back without them. Nothing but that
/// app waits for them, and a busy box with a few containers takes seconds.
const LOG_LIMIT: Duration = Duration::from_secs(20);

impl Work {
    /// Does it.
    pub async fn run(self) -> Done {
        let came = match self.calls {
            Calls::Observe(questions, evidence) => {
                let evidence = match evidence {
                    Some(evidence) => Some(Box::new(evidence.gather(self.ticket.app.as_ref()).await)),
                    None => None,
                };
                Came::Seen(join_all(questions.into_iter().map(Question::ask)).await, evidence)
            }
            Calls::Walk(steps) => Came::Walked(join_all(steps.iter().map(StepCall::walk)).await),
            Calls::Search(drivers, known) => {
                Came::Found(join_all(drivers.iter().map(|driver| search(driver, &known))).await)
            }
        };
        Done { ticket: self.ticket, came }
    }
}

impl Question {
    async fn ask(self) -> (DriverName, Result<AppObservation, DriverError>) {
        let Some(driver) = &self.driver else { return (self.kind, Err(not_enabled(self.kind))) };
        let desired = self.desired.filter(|release| release.driver == self.kind);
        let seen = limited(CALL_LIMIT, driver.observe(&self.app, desired.as_deref())).await;
        (self.kind, seen)
    }
}

impl EvidenceCall {
    async fn gather(self, app: Option<&AppName>) -> Evidence {
        let logs = match (&self.driver, app) {
            (Some(driver), Some(app)) => {
                limited(LOG_LIMIT, driver.logs(app, LOG_LINES)).await.map_err(|error| error.to_string())
            }
            _ => Err("its driver is not enabled on this box".to_owned()),
        };
        let seen = match self.question {
            Some(question) => question.ask().await.1.ok(),
            None => None,
        };
        Evidence { target: self.target, logs, seen }
    }
}

impl StepCall {
    async fn walk(&self) -> Result<(), DriverError> {
        let driver = self.driver.as_ref().ok_or_else(|| not_enabled(self.kind))?;
        let step = ApplyStep {
            app: &self.app,
            action: self.action,
            object: &self.object,
            release: self.release.as_deref(),
            id: self.id,
            strategy: self.strategy,
            from: self.from.as_ref(),
        };
        limited(driver.step_limit(&step), driver.apply(step)).await
    }
}

/// What a runtime has of apps that aren't `known`. It says all of it or nothing.
async fn search(driver: &Arc<dyn Driver>, known: &BTreeSet<AppName>) -> (DriverName, SearchResult) {
    let found = async {
        let mut found = Vec::new();
        let names = limited(CALL_LIMIT, driver.apps()).await?;
        for name in names.into_iter().filter(|name| !known.contains(name)) {
            let seen = limited(CALL_LIMIT, driver.observe(&name, None)).await?;
            found.push((name, seen));
        }
        Ok(found)
    };
    (driver.name(), found.await)
}

impl Asking {
    /// Asks all of them.
    pub async fn run(self) -> Answered {
        Answered { apps: ask_all(self.apps).await, orphans: ask_all(self.orphans).await }
    }
}

async fn ask_all(questions: Vec<Question>) -> Observations {
    let asked = questions.into_iter().map(|question| async {
        let app = question.app.clone();
        (app, question.ask().await)
    });
    let answers: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    let mut observed = Observations::new();
    for (app, (kind, seen)) in answers {
        let by_driver: &mut BTreeMap<_, _> = observed.entry(app).or_default();
        if let Ok(seen) = seen {
            by_driver.insert(kind, seen);
        }
    }
    observed
}

fn not_enabled(kind: DriverName) -> DriverError {
    DriverError::Runtime(format!("the driver {kind} is not enabled on this box"))
}

/// A driver's call, cut off after `limit`: an app of a runtime that hangs is tried again.
async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(DriverError::Runtime(format!("the runtime did not answer within {limit:?}"))),
    }
}
