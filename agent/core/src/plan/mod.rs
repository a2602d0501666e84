//! The plan: a readable value that says everything that will be done, and why. The executor only walks it.

use serde::{Deserialize, Serialize};

use crate::digest::ReleaseId;
use crate::name::{AppName, ObjectKey};
use crate::release::DriverKind;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Fetch and stage what the release needs. Disturbs nothing.
    Prepare,
    /// Make what is absent.
    Create,
    /// Change in place.
    Update,
    /// Remove and make again.
    Recreate,
    /// Remove what is ours and no longer wanted.
    Remove,
    /// Leave it where it is, and list it as nobody's: it holds data.
    Orphan,
    /// Take into the inventory what carries our mark.
    Adopt,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The app that it is for.
    pub app: AppName,
    /// The runtime that does it.
    pub driver: DriverKind,
    /// What is done.
    pub action: Action,
    /// To what.
    pub object: ObjectKey,
    /// Why, for people.
    pub reason: String,
    /// The release that it leads to; none for a removal.
    pub release: Option<ReleaseId>,
}
