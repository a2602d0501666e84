//! What the agent says about itself: the types of `status --json` and `plan --json`. `text` renders them, and
//! events, for people.
//!
//! Names and meanings are fixed (docs/operations.md); fields may be added, so readers ignore unknown ones.

pub mod text;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::digest::{ReleaseId, Revision};
use crate::held::Held;
use crate::name::{AppName, DeviceName, ObjectKey};
use crate::network::BudgetPeriod;
use crate::plan::{Action, Orphan, Step};
use crate::release::WorkloadKind;
use crate::runtime::{DriverName, Fingerprint};

/// How the box is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The Device document's name.
    pub device: DeviceName,
    /// The agent's version.
    pub agent: String,
    /// Whether an agent runs and answered. If not, this is what the command found by itself.
    #[serde(default = "yes")]
    pub running: bool,
    /// `signed` or `none`.
    pub trust: String,
    /// Whether everything that the newest revision asks for runs and is good.
    pub converged: bool,
    /// Where the state comes from.
    pub source: SourceStatus,
    /// How far which revision came.
    pub revision: RevisionStatus,
    /// What people know the accepted revision by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeStatus>,
    /// Why the box doesn't know what time it is, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockStatus>,
    /// The runtimes that are switched on, as they are now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<Fingerprint>,
    /// Sorted by name.
    pub apps: Vec<AppStatus>,
    /// What is held beyond one app: a revision, a removal, the source's trust. An app's own is with the app.
    pub held: Vec<Held>,
    /// What downloads may use of the link, where that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downloads: Option<DownloadStatus>,
    /// What holds data and what no app wants any more. It stays until a Purge document asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<Orphan>,
}

/// Whoever answers runs.
fn yes() -> bool {
    true
}

/// A clock that isn't trusted: windows are closed and grace times stand still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockStatus {
    /// Always false: a clock that is trusted isn't mentioned.
    pub trusted: bool,
    /// Why it isn't.
    pub doubt: String,
    /// What would end that.
    pub unblock: String,
}

impl ClockStatus {
    /// What is said of the time: nothing while it is known.
    pub fn of(time: &Time) -> Option<Self> {
        let doubt = time.doubt()?;
        Some(ClockStatus { trusted: false, doubt: doubt.to_string(), unblock: doubt.unblock() })
    }
}

/// What downloads may use of the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadStatus {
    /// Bytes a second.
    pub rate: Option<u64>,
    /// How much in a period.
    pub budget: Option<BudgetStatus>,
    /// The limits don't count now: the revision is urgent.
    pub urgent: bool,
}

/// A byte budget, and what was used of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// How many bytes.
    pub bytes: u64,
    /// For how long.
    pub per: BudgetPeriod,
    /// How many were used in this period.
    pub used: u64,
    /// When the next period begins.
    pub next: Timestamp,
}

/// Where the state comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// As configured; never with a password.
    pub url: String,
    /// When the source last answered.
    pub last_poll: Option<Timestamp>,
    /// When it is asked next.
    pub next_poll: Option<Timestamp>,
    /// Why the last poll failed, and what can be done.
    pub error: Option<String>,
}

/// How far which revision came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// The newest that the source showed.
    pub fetched: Option<Revision>,
    /// The newest that is trusted: nothing older is taken from here on.
    pub accepted: Option<Revision>,
    /// The one that the box was last brought to.
    pub applied: Option<Revision>,
}

/// What people know a change by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeStatus {
    /// The first line of the commit's message.
    pub subject: String,
    /// Its author's name, as the commit has it.
    pub author: String,
    /// Who signed it, as allowed_signers names them; none where signatures aren't checked, and where the revision isn't
    /// trusted any more.
    pub signer: Option<String>,
}

/// How one app is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The app.
    pub name: AppName,
    /// What kind of workload; unknown while its first documents can't be read.
    pub kind: Option<WorkloadKind>,
    /// What runs it.
    pub driver: Option<DriverName>,
    /// The state machine's word: Pending, Preparing, Applying, Judging, Good, RollingBack, RolledBack, Held,
    /// Removing.
    pub phase: String,
    /// Unknown, Starting, Healthy or Unhealthy.
    pub health: String,
    /// Why it isn't healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What runs, or is on its way.
    pub release: Option<ReleaseId>,
    /// The last known good.
    pub good: Option<ReleaseId>,
    /// What `release` was rendered from.
    pub revision: Option<Revision>,
    /// Since when it is in this phase.
    pub since: Option<Timestamp>,
    /// Why it waits, if it does.
    pub held: Option<Held>,
}

/// What would be done now. No step is no difference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// What it leads to.
    pub revision: Option<Revision>,
    /// In order.
    pub steps: Vec<StepReport>,
    /// What is left undone on purpose.
    pub held: Vec<HeldReport>,
    /// What holds data and what no app wants any more, and what becomes of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<Orphan>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// The app.
    pub app: AppName,
    /// What does it.
    pub driver: DriverName,
    /// What is done.
    pub action: Action,
    /// To what.
    pub object: ObjectKey,
    /// Why, for people.
    pub reason: String,
}

/// Something that a plan leaves undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldReport {
    /// The app; none if it concerns more than one.
    pub app: Option<AppName>,
    /// Why, until when, and what would unblock it.
    #[serde(flatten)]
    pub held: Held,
}

impl From<&Step> for StepReport {
    fn from(step: &Step) -> Self {
        StepReport {
            app: step.app.clone(),
            driver: step.driver,
            action: match step.action {
                Action::Purge | Action::Forget => Action::Remove,
                action => action,
            },
            object: step.object.clone(),
            reason: step.reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
