//! What the runtimes of the box are and can do, as their drivers report it, for the log, `status` and `doctor`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_core::runtime::{DriverName, Fingerprint};
use holdfast_drivers::{CALL_LIMIT, Driver, simulated};

use crate::config::{self, Config};

/// How long a runtime may take to say what it is where somebody waits for an answer. One that hangs keeps nobody from the rest
/// of it; podman's socket may have to start its service first.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// For how long it counts that a runtime could be used.
const FRESH: Duration = Duration::from_secs(300);

/// What the runtimes said when they were last asked. One that could be used isn't asked again for a while: whoever polls
/// `status` mustn't keep it awake. One that couldn't be used is asked each time.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<BTreeMap<DriverName, (Instant, Fingerprint)>>>);

impl Known {
    /// What they are now.
    pub(super) async fn ask(&self, drivers: Vec<Arc<dyn Driver>>, limit: Duration) -> Vec<Fingerprint> {
        join_all(drivers.iter().map(|driver| self.ask_one(driver, limit))).await
    }

    async fn ask_one(&self, driver: &Arc<dyn Driver>, limit: Duration) -> Fingerprint {
        let known = self.lock().get(&driver.name()).cloned();
        if let Some((asked, found)) = known.filter(|(_, found)| found.usable)
            && asked.elapsed() < FRESH
        {
            return found;
        }
        let found = tokio::time::timeout(limit, driver.fingerprint()).await.unwrap_or_else(|_| {
            let detail = format!("it did not answer within {} s", limit.as_secs());
            Fingerprint::unusable(driver.name(), driver.abilities(), detail)
        });
        self.lock().insert(driver.name(), (Instant::now(), found.clone()));
        found
    }

    /// A runtime reports that something of it changed: it is asked anew.
    pub(super) fn forget(&self, driver: DriverName) {
        self.lock().remove(&driver);
    }

    /// Says in the log what they are, beside whatever else goes on.
    pub(super) fn log(&self, drivers: Vec<Arc<dyn Driver>>) {
        let known = self.clone();
        tokio::spawn(async move {
            for found in known.ask(drivers, CALL_LIMIT).await {
                let (driver, title) = (found.driver, found.title());
                match found.usable {
                    true => tracing::info!(%driver, "{title}: {}", found.detail),
                    false => tracing::warn!(%driver, "{title} can't be used: {}", found.detail),
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DriverName, (Instant, Fingerprint)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What those are that are switched on, without opening what a running agent holds.
pub async fn fingerprints(config: &Config) -> Vec<Fingerprint> {
    let mut found = Vec::new();
    if let Some(simulated) = &config.drivers.simulated {
        found.push(simulated::fingerprint(&simulated.dir));
    }
    if config.drivers.wasm.enabled {
        found.push(wasm(config));
    }
    if let Some(of_podman) = &config.drivers.podman {
        found.push(podman(&of_podman.socket).await);
    }
    if let Some(of_kubernetes) = &config.drivers.kubernetes {
        found.push(kubernetes(of_kubernetes).await);
    }
    found
}

#[cfg(feature = "wasm")]
fn wasm(config: &Config) -> Fingerprint {
    holdfast_drivers::wasm::fingerprint(&super::setup::run_as(&config.drivers.wasm.user))
}

#[cfg(not(feature = "wasm"))]
fn wasm(_: &Config) -> Fingerprint {
    not_built(DriverName::WASM)
}

#[cfg(feature = "podman")]
async fn podman(socket: &Path) -> Fingerprint {
    holdfast_drivers::podman::fingerprint(socket).await
}

#[cfg(not(feature = "podman"))]
async fn podman(_: &Path) -> Fingerprint {
    not_built(DriverName::PODMAN)
}

#[cfg(feature = "kubernetes")]
async fn kubernetes(kubernetes: &config::Kubernetes) -> Fingerprint {
    let stages_images = kubernetes.images_dir.is_some();
    let context = kubernetes.context.as_deref();
    holdfast_drivers::kubernetes::fingerprint(&kubernetes.kubeconfig, context, stages_images).await
}

#[cfg(not(feature = "kubernetes"))]
async fn kubernetes(_: &config::Kubernetes) -> Fingerprint {
    not_built(DriverName::KUBERNETES)
}

#[cfg(not(all(feature = "wasm", feature = "podman", feature = "kubernetes")))]
fn not_built(driver: DriverName) -> Fingerprint {
    Fingerprint::unusable(driver, None, "this holdfast was built without this driver")
}
