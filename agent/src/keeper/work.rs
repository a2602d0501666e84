//! Work: calls to runtimes, which may take as long as they like, as values. The keeper hands it out; whoever drives the
//! keeper runs it beside its loop (`agent/src/work.rs`) and brings back what came of it ([`super::Keeper::done`]).
//!
//! A piece of work has all that it needs, and is never about more than one app, but for the search for apps that nobody
//! knows of.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_core::digest::ReleaseId;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observations};
use holdfast_core::plan::Action;
use holdfast_core::release::{Release, Strategy, Target};
use holdfast_core::runtime::DriverName;
use holdfast_drivers::{Driver, DriverError};

/// How many apps are asked about at once where nothing else bounds it.
pub(crate) const AT_ONCE: usize = 16;

/// A piece of work.
pub struct Work {
    pub(crate) ticket: Ticket,
    pub(crate) calls: Calls,
}

/// What tells a piece of work from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) id: u64,
    /// The app that it is for; none for the search.
    pub(crate) app: Option<AppName>,
}

/// What is called.
pub(crate) enum Calls {
    /// Asks what there is of an app, and for what is kept of it if it failed.
    Observe(Vec<Question>, Option<Box<EvidenceCall>>),
    /// Walks steps that don't depend on each other.
    Walk(Vec<StepCall>),
    /// Searches for apps that nobody knows of.
    Search(Vec<Arc<dyn Driver>>, BTreeSet<AppName>),
}

/// What came of a piece of work.
pub struct Done {
    pub(crate) ticket: Ticket,
    pub(crate) came: Came,
}

impl Done {
    /// The app, if something of it was changed: what was seen of it before is no longer so.
    pub fn changed(&self) -> Option<&AppName> {
        self.ticket.app.as_ref().filter(|_| matches!(self.came, Came::Walked(_) | Came::Lost(_)))
    }
}

pub(crate) enum Came {
    Seen(Answers, Option<Box<Evidence>>),
    Walked(Vec<Result<(), DriverError>>),
    Found(Finds),
    /// The task that ran it ended without a result.
    Lost(String),
}

/// What each runtime was found to have.
pub(crate) type Finds = Vec<(DriverName, SearchResult)>;

pub(crate) type SearchResult = Result<Vec<(AppName, AppObservation)>, DriverError>;

/// What each runtime said of an app.
pub(crate) type Answers = Vec<(DriverName, Result<AppObservation, DriverError>)>;

/// What one runtime is asked about one app.
pub(crate) struct Question {
    pub(crate) app: AppName,
    pub(crate) kind: DriverName,
    /// None where this box hasn't it.
    pub(crate) driver: Option<Arc<dyn Driver>>,
    /// What it is compared with, if that is a release for it.
    pub(crate) desired: Option<Arc<Release>>,
}

/// What is gathered of an app that failed, before anything of it is taken back.
pub(crate) struct EvidenceCall {
    pub(crate) driver: Option<Arc<dyn Driver>>,
    pub(crate) target: Target,
    /// What there is, compared with what failed.
    pub(crate) question: Option<Question>,
}

/// What could be had of it.
pub(crate) struct Evidence {
    pub(crate) target: Target,
    pub(crate) logs: Result<Vec<String>, String>,
    pub(crate) seen: Option<AppObservation>,
}

/// One step.
pub(crate) struct StepCall {
    pub(crate) app: AppName,
    pub(crate) kind: DriverName,
    pub(crate) driver: Option<Arc<dyn Driver>>,
    pub(crate) action: Action,
    pub(crate) object: ObjectKey,
    pub(crate) release: Option<Arc<Release>>,
    pub(crate) id: Option<ReleaseId>,
    pub(crate) strategy: Strategy,
    pub(crate) from: Option<AppName>,
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
}

/// Questions about many apps, for somebody who wants to see a plan.
pub struct Asking {
    pub(crate) apps: Vec<Question>,
    /// About what holds data and is to go.
    pub(crate) orphans: Vec<Question>,
}

/// What was answered; who didn't answer is left out.
#[derive(Debug, Default)]
pub struct Answered {
    pub(crate) apps: Observations,
    pub(crate) orphans: Observations,
}
