//! Work: calls to runtimes, which may take as long as they like. The keeper hands it out; whoever drives the keeper
//! runs it beside its loop and brings back what came of it ([`super::Keeper::done`]).
//!
//! Nothing in here touches the keeper: a piece of work has all that it needs, and is never about more than one app,
//! but for the search for apps that nobody knows of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use holdfast_core::diagnosis::LOG_LINES;
use holdfast_core::digest::ReleaseId;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observations};
use holdfast_core::plan::Action;
use holdfast_core::release::{Release, Strategy, Target};
use holdfast_core::runtime::DriverName;
use holdfast_drivers::{ApplyStep, CALL_LIMIT, Driver, DriverError};

/// How long a runtime may take over the last lines of a log: an app that failed goes back without them. Nothing but that
/// app waits for them, and a busy box with a few containers takes seconds.
const LOG_LIMIT: Duration = Duration::from_secs(20);

/// How many apps are asked about at once where nothing else bounds it.
pub(super) const AT_ONCE: usize = 16;

/// A piece of work.
pub struct Work {
    pub(super) ticket: Ticket,
    pub(super) calls: Calls,
}

/// What tells a piece of work from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) id: u64,
    /// The app that it is for; none for the search.
    pub(super) app: Option<AppName>,
}

/// What is called.
pub(super) enum Calls {
    /// Asks what there is of an app, and for what is kept of it if it failed.
    Observe(Vec<Question>, Option<Box<EvidenceCall>>),
    /// Walks steps that don't depend on each other.
    Walk(Vec<StepCall>),
    /// Searches for apps that nobody knows of.
    Search(Vec<Arc<dyn Driver>>, BTreeSet<AppName>),
}

/// What came of a piece of work.
pub struct Done {
    pub(super) ticket: Ticket,
    pub(super) came: Came,
}

impl Done {
    /// The app, if something of it was changed: what was seen of it before is no longer so.
    pub fn changed(&self) -> Option<&AppName> {
        self.ticket.app.as_ref().filter(|_| matches!(self.came, Came::Walked(_) | Came::Lost(_)))
    }
}

pub(super) enum Came {
    Seen(Answers, Option<Box<Evidence>>),
    Walked(Vec<Result<(), DriverError>>),
    Found(Finds),
    /// The task that ran it ended without a result.
    Lost(String),
}

/// What each runtime was found to have.
pub(super) type Finds = Vec<(DriverName, SearchResult)>;

type SearchResult = Result<Vec<(AppName, AppObservation)>, DriverError>;

/// What each runtime said of an app.
pub(super) type Answers = Vec<(DriverName, Result<AppObservation, DriverError>)>;

/// What one runtime is asked about one app.
pub(super) struct Question {
    pub(super) app: AppName,
    pub(super) kind: DriverName,
    /// None where this box hasn't it.
    pub(super) driver: Option<Arc<dyn Driver>>,
    /// What it is compared with, if that is a release for it.
    pub(super) desired: Option<Arc<Release>>,
}

/// What is gathered of an app that failed, before anything of it is taken back.
pub(super) struct EvidenceCall {
    pub(super) driver: Option<Arc<dyn Driver>>,
    pub(super) target: Target,
    /// What there is, compared with what failed.
    pub(super) question: Option<Question>,
}

/// What could be had of it.
pub(super) struct Evidence {
    pub(super) target: Target,
    pub(super) logs: Result<Vec<String>, String>,
    pub(super) seen: Option<AppObservation>,
}

/// One step.
pub(super) struct StepCall {
    pub(super) app: AppName,
    pub(super) kind: DriverName,
    pub(super) driver: Option<Arc<dyn Driver>>,
    pub(super) action: Action,
    pub(super) object: ObjectKey,
    pub(super) release: Option<Arc<Release>>,
    pub(super) id: Option<ReleaseId>,
    pub(super) strategy: Strategy,
    pub(super) from: Option<AppName>,
}

impl Ticket {
    /// For a piece of work whose task ended without a result, for this reason.
    pub fn lost(self, why: impl Into<String>) -> Done {
        Done { ticket: self, came: Came::Lost(why.into()) }
    }
}

impl Work {
    /// What tells it from all others.
    pub fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }

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

/// Questions about many apps, for somebody who wants to see a plan.
pub struct Asking {
    pub(super) apps: Vec<Question>,
    /// About what holds data and is to go.
    pub(super) orphans: Vec<Question>,
}

/// What was answered; who didn't answer is left out.
#[derive(Debug, Default)]
pub struct Answered {
    pub(super) apps: Observations,
    pub(super) orphans: Observations,
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
