//! Resolve: every artifact's name becomes a digest, once for a release. Nothing after it is mutable.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::digest::{ReleaseId, Revision};
use crate::generation::PruneLimit;
use crate::held::Held;
use crate::name::AppName;
use crate::release::{Release, Target};

/// What a revision makes of this box.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The revision.
    pub revision: Revision,
    /// Every app that it places here and that has no fault.
    pub apps: BTreeMap<AppName, Target>,
    /// The releases that those apps name.
    pub releases: BTreeMap<ReleaseId, Arc<Release>>,
    /// Apps that can't be rendered or resolved, and why. They stay as they are.
    pub held: BTreeMap<AppName, Held>,
    /// How much may be removed.
    pub prune: PruneLimit,
}
