//! Documents that tell the boxes that they select to do something: a Stop, a Purge.

use super::decode::{Placed, record};
use super::document::Metadata;
use super::policy::Reason;
use super::selector::Selector;
use crate::name::{AppName, ObjectKey};

/// An emergency stop: `stops/<name>.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: StopSpec,
}

record! {
    /// Stops all changes: nothing is changed, added or removed on these boxes until the document is removed.
    pub struct StopSpec, "spec" {
        /// Which boxes it applies to; `{}` is every box.
        "placement" => placement: Selector;
        /// The reason, for people.
        "reason" => reason: Reason;
    }
}

/// Permission to remove objects with data: `purges/<name>.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Purge {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: PurgeSpec,
}

record! {
    /// Removes objects with data that no app wants any more, once their grace time is over.
    pub struct PurgeSpec, "spec" {
        /// Which boxes it applies to; `{}` is every box.
        "placement" => placement: Selector;
        /// The reason, for people.
        "reason" => reason: Reason;
        /// The objects to remove.
        "objects" => objects: Vec<PurgedObject>;
    }
}

record! {
    /// An object to remove, with the data in it.
    pub struct PurgedObject, "the object" {
        /// The app that it belonged to.
        "app" => app: AppName;
        /// Its name as `holdfast status` lists it, such as PersistentVolumeClaim/shop/db.
        "object" => object: Placed<ObjectKey>;
    }
}
