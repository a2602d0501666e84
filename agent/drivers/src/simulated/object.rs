//! The objects of the simulated runtime, and its answers.

use std::collections::BTreeMap;

use holdfast_core::clock::Moment;
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::name::{AppName, DeviceName};
use holdfast_core::observe::Observed;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object as the runtime holds it, with the mark of whoever made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredObject {
    /// The device that made it.
    pub device: DeviceName,
    /// The app that it belongs to.
    pub app: AppName,
    /// The release that it was last made or changed for.
    pub release: ReleaseId,
    /// What it is.
    pub spec: Value,
    /// The keyed digests of the release's secrets when it was made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Digest>,
    /// When it was made.
    pub created: Moment,
    /// When its workload was last started: when it was made or its spec changed.
    pub started: Moment,
    /// Whether making it was broken off half way.
    #[serde(default)]
    pub half_made: bool,
    /// Whether it was given up and is nobody's.
    #[serde(default)]
    pub orphaned: bool,
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// An object with its mark.
    Object(Box<StoredObject>),
    /// Something that the runtime cannot make sense of, and why.
    Unreadable(String),
}

/// Why the runtime did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The release is the reason.
    Release(String),
    /// The runtime is the reason.
    Runtime(String),
    /// The runtime is there and doesn't take it yet.
    NotYet(String),
    /// The runtime is there and doesn't let go of it.
    Stays(String),
    /// No answer ever comes.
    Hang,
    /// The agent's process dies here. What was done before stays done.
    Crash,
}

/// What the runtime saw before it did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// Nothing.
    Absent,
    /// What should be there.
    Same,
    /// Ours, but different.
    Drift,
    /// Not ours.
    Foreign,
    /// Ours, and not asked for.
    Extra,
}

impl From<&Observed> for Seen {
    fn from(observed: &Observed) -> Self {
        match observed {
            Observed::Same => Seen::Same,
            Observed::Drift { .. } | Observed::Immutable { .. } => Seen::Drift,
            Observed::Absent => Seen::Absent,
            Observed::Foreign { .. } | Observed::Another { .. } => Seen::Foreign,
            Observed::Extra { .. } => Seen::Extra,
        }
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What stood under the name before.
    pub seen: Seen,
    /// What was done, as the log has it: `ok`, `exists`, `absent`, `foreign`; or why it wasn't.
    pub result: Result<&'static str, Fault>,
}
