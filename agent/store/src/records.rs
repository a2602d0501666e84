//! The records that the store itself knows: what runs here by our doing, and how far the source was followed.

use std::collections::BTreeMap;

use holdfast_core::digest::{ReleaseId, Revision};
use holdfast_core::name::ObjectKey;
use holdfast_core::release::DriverKind;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::db::Record;

/// The objects of one app that we made: only what stands here and carries our mark is ever removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// The objects.
    pub objects: BTreeMap<ObjectKey, Owned>,
}

/// Whose an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owned {
    /// The runtime that holds it.
    pub driver: DriverKind,
    /// The release that it was last applied for.
    pub release: ReleaseId,
}

/// The objects of one app that hold data, are no longer wanted, and stay until a signed Purge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphans {
    /// The objects.
    pub objects: BTreeMap<ObjectKey, Orphan>,
}

/// An object that nobody wants any more, and that holds data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// The runtime that holds it.
    pub driver: DriverKind,
    /// Since when.
    pub since: Timestamp,
}

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

impl Record for Inventory {}
impl Record for Orphans {}
impl Record for Revisions {}
