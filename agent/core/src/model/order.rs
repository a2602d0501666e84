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
    /// Holds boxes at what runs: nothing is changed, added or removed, until the document is.
    pub struct StopSpec, "spec" {
        /// Which boxes; `{}` is every box.
        "placement" => placement: Selector;
        /// Why, for people.
        "reason" => reason: Reason;
    }
}

/// Leave to remove what holds data: `purges/<name>.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Purge {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: PurgeSpec,
}

record! {
    /// Removes what holds data and what no app wants any more, once its grace time is over.
    pub struct PurgeSpec, "spec" {
        /// Which boxes; `{}` is every box.
        "placement" => placement: Selector;
        /// Why, for people.
        "reason" => reason: Reason;
        /// What goes.
        "objects" => objects: Vec<PurgedObject>;
    }
}

record! {
    /// An object that goes, with the data in it.
    pub struct PurgedObject, "the object" {
        /// The app that it was made for.
        "app" => app: AppName;
        /// What it is called, such as PersistentVolumeClaim/shop/db, as `holdfast status` lists it.
        "object" => object: Placed<ObjectKey>;
    }
}
