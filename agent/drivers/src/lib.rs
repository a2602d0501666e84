//! What Holdfast runs workloads with. One trait for all runtimes; a module for each of them.
//!
//! Drivers have no opinion: they say what is there, and do what a step says. What should be there is decided
//! in `holdfast_core::plan`.

#[cfg(any(feature = "podman", feature = "wasm"))]
#[cfg_attr(not(feature = "podman"), allow(dead_code, reason = "only podman mounts by path"))]
mod beneath;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod diff;
#[cfg(any(feature = "podman", feature = "wasm"))]
mod durable_file;
#[cfg(any(feature = "podman", feature = "kubernetes"))]
pub mod image;
#[cfg(any(feature = "podman", feature = "kubernetes"))]
mod keyed_locks;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "podman")]
pub mod podman;
pub mod request;
#[cfg(any(feature = "podman", feature = "kubernetes"))]
pub mod secret;
pub mod simulated;
#[cfg(feature = "wasm")]
pub mod wasm;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, DeviceName, ObjectKey};
use holdfast_core::observe::AppObservation;
use holdfast_core::plan::Action;
use holdfast_core::probe_component::WasmCheck;
use holdfast_core::release::{ExecCheck, Release, Strategy};
use holdfast_core::runtime::{Abilities, DriverName, Fingerprint};
use tokio::sync::mpsc;

/// Why a driver could not do something, sorted by what follows from it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriverError {
    /// The release itself is the reason: trying it again would fail again.
    #[error("{0}")]
    Release(String),
    /// The box or the runtime is the reason: it is worth another try later.
    #[error("{0}")]
    Runtime(String),
    /// The disk that the agent keeps its state on is the reason: as with [`DriverError::Runtime`], and once there is room
    /// again everything is tried at once.
    #[error("{cause}")]
    Disk {
        /// What was being done, and why it failed.
        cause: String,
        /// What the disk said.
        trouble: Trouble,
    },
    /// The runtime is there and does not take it yet, as with a webhook or a namespace that isn't ready: worth
    /// another try within the release's deadline. After that it is the release's failure.
    #[error("{0}")]
    NotYet(String),
    /// What is to be removed is still there: the runtime refuses to let it go, or something keeps it. That is nobody's
    /// release's fault: whatever else the app needs is done, and the removal is tried again.
    #[error("{0}")]
    Stays(String),
}

impl DriverError {
    /// A file of the agent's state couldn't be read or written: whether for the disk, `error` tells.
    pub fn of_file(cause: String, error: &std::io::Error) -> Self {
        match Trouble::of(error) {
            trouble if trouble.may_pass() => DriverError::Disk { cause, trouble },
            _ => DriverError::Runtime(cause),
        }
    }

    /// What the disk said, if it is the reason.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            DriverError::Disk { trouble, .. } => Some(*trouble),
            _ => None,
        }
    }
}

/// Why a program that was to be run in a workload didn't say that all is well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// The program's own verdict: it ended otherwise than with 0, took longer than it may, or isn't there.
    #[error("{0}")]
    Failed(String),
    /// The runtime didn't get to run it, or doesn't tell how it ended. That is no verdict about the workload.
    #[error("{0}")]
    NotRun(String),
}

/// Something happened to a workload that the loop should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverEvent {
    /// Who reports it.
    pub driver: DriverName,
    /// The app, if the driver can tell.
    pub app: Option<AppName>,
    /// What was seen, for people.
    pub what: String,
    /// The runtime was away and answers again: what failed meanwhile is worth another try now.
    pub back: bool,
}

/// A step as the driver gets it.
#[derive(Clone, Debug)]
pub struct ApplyStep<'a> {
    /// The app.
    pub app: &'a AppName,
    /// What to do; never `Prepare`.
    pub action: Action,
    /// To what.
    pub object: &'a ObjectKey,
    /// The release that it is part of; none when the object is removed.
    pub release: Option<&'a Release>,
    /// What that release is called, if that is known: it is a digest over all of it, too costly to be computed anew for
    /// each of many steps.
    pub id: Option<ReleaseId>,
    /// How it takes the place of what is there.
    pub strategy: Strategy,
    /// The app of this box that has it until now, where it is taken over: it stays what it is, but for what the release
    /// changes.
    pub from: Option<&'a AppName>,
}

/// A runtime.
///
/// Every method may be called again after a crash at any instruction, with the same arguments, and must then
/// come to the same end. Every method returns within a time of its own, even if the runtime hangs.
/// Whatever a driver makes carries device, app and release, so that ownership can be proved without the
/// agent's store.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Its name, by which it stands in releases, the inventory and agent.toml.
    fn name(&self) -> DriverName;

    /// What it takes and can do. Always the same for a driver: what changes with the runtime is in the fingerprint.
    fn abilities(&self) -> Abilities;

    /// What is here now. Never fails: what is missing is said in the fingerprint. Touches nothing.
    async fn fingerprint(&self) -> Fingerprint;

    /// Whether this release could run here at all, without touching anything.
    fn check(&self, release: &Release) -> Result<(), DriverError>;

    /// Fetches and stages what the release needs. Never disturbs what runs. Runs beside other calls.
    async fn prepare(&self, release: &Release) -> Result<(), DriverError>;

    /// Looks at every object of `app`: those of `desired` are `Same`, `Drift`, `Immutable`, `Absent` or `Foreign`, or
    /// `Another` where names are the same object whichever app has it; others that carry our mark for this app are
    /// `Extra`.
    async fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, DriverError>;

    /// The apps that something with our mark for this device exists for.
    async fn apps(&self) -> Result<Vec<AppName>, DriverError>;

    /// Does one step and returns once the runtime has taken it. Idempotent.
    async fn apply(&self, step: ApplyStep<'_>) -> Result<(), DriverError>;

    /// How many steps may be walked at once, where they make or change objects of one kind of one app: those don't
    /// depend on each other. At least 1.
    fn width(&self) -> usize {
        1
    }

    /// How long a step may take. What it is for waits so long, and nothing else does: one that stops a workload takes as
    /// long as that may take to stop.
    fn step_limit(&self, _step: &ApplyStep<'_>) -> Duration {
        CALL_LIMIT
    }

    /// How the app is, as the runtime sees it. Checks of the health policy are the agent's.
    async fn health(&self, release: &Release) -> Health;

    /// Where a port of an object of the app is reached from the agent; `None` if it can't be.
    async fn address_of(&self, release: &Release, target: &ObjectKey, port: u16) -> Option<SocketAddr>;

    /// Runs a check's program in the workload, and wants 0 of it; else what was seen instead, for people. The program has
    /// its time from its own start; the runtime may take [`EXEC_PATIENCE`] beside that.
    async fn exec(&self, _release: &Release, check: &ExecCheck) -> Result<(), ExecError> {
        Err(ExecError::Failed(format!("{} can't run {} in a workload", self.name(), check.command.join(" "))))
    }

    /// Stages a probe component, so that it can be run at once; only what has an engine can. Probes are of any
    /// runtime's apps.
    async fn prepare_probe_component(&self, _check: &WasmCheck<Digest>) -> Result<(), DriverError> {
        Err(DriverError::Runtime(NO_ENGINE.to_owned()))
    }

    /// Runs a probe component for `app`, and wants 0 of it; else what was seen instead, for people. It may connect
    /// to the loopback and to `target`, and to nothing else.
    async fn run_probe_component(
        &self,
        _app: &AppName,
        _check: &WasmCheck<Digest>,
        _target: Option<SocketAddr>,
    ) -> Result<(), String> {
        Err(NO_ENGINE.to_owned())
    }

    /// How often something of the release was started again up to now; `None` if the runtime doesn't count.
    async fn restarts(&self, _release: &Release) -> Option<u64> {
        None
    }

    /// The last lines of the app's log, at most `lines`.
    async fn logs(&self, app: &AppName, lines: usize) -> Result<Vec<String>, DriverError>;

    /// Sends an event whenever the loop should look, until the receiver is gone. Never polls.
    fn watch(self: Arc<Self>, events: mpsc::Sender<DriverEvent>);

    /// The agent is going: gives back what others wait for. Workloads go on.
    async fn stop(&self) {}

    /// Drops what was staged for content that isn't among `keep`.
    async fn collect(&self, _keep: &BTreeSet<Digest>) {}
}

/// Who this box is, as drivers mark what they make.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The device's name.
    pub device: DeviceName,
}

/// Why a probe component can't be run.
pub const NO_ENGINE: &str = "this agent has no WebAssembly engine";

/// How long a driver's call may take, if nothing else is said. Then it counts as not answered, and is made again later.
pub const CALL_LIMIT: Duration = Duration::from_secs(60);

/// How long a runtime may take to start a check's program, and to tell how it ended. A busy box takes its time, and what
/// has not run yet has not failed.
pub const EXEC_PATIENCE: Duration = Duration::from_secs(30);
