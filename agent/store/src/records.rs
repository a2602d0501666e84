//! The records that are kept: the apps, the inventory, and how far the source was followed.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::app::App;
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::digest::{Digest, Revision};
use holdfast_core::generation::OwnedObjects;
use holdfast_core::image::ImageReference;
use holdfast_core::network::{DownloadLimits, Usage};
use serde::{Deserialize, Serialize};

use crate::db::Record;

/// How far the source was followed. When it was last asked is not kept: a pass with nothing to do writes
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revisions {
    /// The newest that was fetched.
    #[serde(default)]
    pub fetched: Option<Revision>,
    /// The newest that was accepted.
    #[serde(default)]
    pub accepted: Option<Revision>,
    /// The newest that was applied in full.
    #[serde(default)]
    pub applied: Option<Revision>,
}

/// What the tags of an app's images mean for it. As long as the app asks for the same, they mean the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tags {
    /// The digest of what the app asks for; none for no app.
    pub asked: Option<Digest>,
    /// Each image with its digest.
    pub images: BTreeMap<ImageReference, Digest>,
}

/// What was used of the box's link, and the limits that hold until a revision is resolved again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkUsage {
    /// What downloads may use.
    #[serde(default)]
    pub limits: DownloadLimits,
    /// What was used of the budget; none without one.
    #[serde(default)]
    pub used: Option<Usage>,
    /// What the documents of one revision used beyond it, by the day.
    #[serde(default)]
    pub extra: Option<Usage>,
    /// Which revision that is.
    #[serde(default)]
    pub extra_of: Option<String>,
    /// What the manifests of images used beyond it, by the day.
    #[serde(default)]
    pub manifests: Option<Usage>,
}

/// For how long gates have held the change that waits for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateHold {
    pub(crate) held: Duration,
}

/// How much time the box has seen while it knew what time it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenTime {
    pub(crate) seen: Duration,
}

impl Record for SeenTime {}
impl Record for GateHold {}
impl Record for App {}
impl Record for LinkUsage {}
impl Record for Diagnosis {}
impl Record for Tags {}
impl Record for OwnedObjects {}
impl Record for Revisions {}
