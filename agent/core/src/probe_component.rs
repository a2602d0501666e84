//! Health checks by probe components: a WebAssembly program of the app that the agent runs beside it, and whose exit
//! says whether the app is healthy.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::ObjectKey;

/// The environment variables that begin with this are the agent's own.
pub const RESERVED_PREFIX: &str = "HOLDFAST_";
/// Tells a probe which app it judges.
pub const APP_VARIABLE: &str = "HOLDFAST_APP";
/// Tells a probe where its target is reached, as `host:port`.
pub const TARGET_VARIABLE: &str = "HOLDFAST_TARGET";

/// A program that must end with 0. `A` is how its component is named: an artifact's place in the source while it is
/// desired, a [`Digest`](crate::digest::Digest) once it is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmCheck<A> {
    /// The component as the document names it, for people.
    pub name: String,
    /// A module, a component, or either as text (.wat).
    pub component: A,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// The environment. Nothing of the agent's own is passed on but the two variables above.
    pub env: BTreeMap<String, String>,
    /// What it asks, if it is told where that is.
    pub target: Option<TargetPort>,
    /// How long it may take; then it is killed.
    pub timeout: Duration,
    /// Bytes of linear memory, tables included.
    pub memory: u64,
}

/// A port of an object of the app; the driver says where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetPort {
    /// Such as `Deployment/pos`.
    pub object: ObjectKey,
    /// The port in the workload.
    pub port: u16,
}

impl<A> WasmCheck<A> {
    /// The same check with its component called otherwise.
    ///
    /// # Errors
    /// What `name` says.
    pub fn try_map<B, E>(self, name: impl FnOnce(A) -> Result<B, E>) -> Result<WasmCheck<B>, E> {
        let WasmCheck { name: called, component, args, env, target, timeout, memory } = self;
        Ok(WasmCheck { name: called, component: name(component)?, args, env, target, timeout, memory })
    }
}
