//! Desired: what this box is to hold, app by app, with every template rendered and nothing resolved yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diagnostic::Diagnostic;
use crate::digest::Revision;
use crate::name::{AppName, DeviceName};
use crate::release::{DriverKind, Object, Policy, WasmWorkload, WorkloadKind};

pub use crate::model::ArtifactRef;

/// How much may be removed without being held: at least one of the two must allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunePolicy {
    /// At most so many apps at once.
    pub max_apps: usize,
    /// At most this share of the box's apps at once.
    pub max_share_percent: u32,
}

/// What a box is to hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// The revision that it was rendered from.
    pub revision: Revision,
    /// The box.
    pub device: DeviceName,
    /// Every app that runs here and could be rendered.
    pub apps: BTreeMap<AppName, DesiredApp>,
    /// Every app that may run here and has an error. What ran of it before keeps running.
    pub faulty: BTreeMap<AppName, Vec<Diagnostic>>,
    /// How much may be removed at once.
    pub prune: PrunePolicy,
}

/// One app as it is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredApp {
    /// What kind of workload it is.
    pub kind: WorkloadKind,
    /// The workload.
    pub workload: Workload,
    /// How it is judged and changed.
    pub policy: Policy,
}

/// A workload whose artifacts are still called by their places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Workload {
    /// Kubernetes objects, in the order in which they are made.
    Container {
        /// The namespace of objects that name none.
        namespace: String,
        /// The runtime, if a certain one is asked for.
        driver: Option<DriverKind>,
        /// Every object; a key's namespace is filled in, its spec is as it was written.
        objects: Vec<Object>,
    },
    /// A WebAssembly workload.
    Wasm(WasmWorkload<ArtifactRef>),
    /// A virtual machine.
    Vm(Value),
    /// Whatever a plugin makes of it.
    Plugin(Value),
}
