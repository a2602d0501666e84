//! What the runtimes of the box are and can do, as their drivers say: for the log, `status` and `doctor`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
#[cfg(not(all(feature = "wasm", feature = "podman", feature = "kubernetes")))]
use holdfast_core::runtime::DriverName;
use holdfast_core::runtime::Fingerprint;
use holdfast_drivers::{CALL_LIMIT, Driver, simulated};

use crate::config::{self, Config};

/// How long a runtime may take to say what it is where somebody waits for an answer. One that hangs keeps nobody from the rest
/// of it; podman's socket may have to start its service first.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Asks all of them what they are now.
pub(super) async fn ask(drivers: Vec<Arc<dyn Driver>>, limit: Duration) -> Vec<Fingerprint> {
    join_all(drivers.into_iter().map(|driver| async move {
        let asked = tokio::time::timeout(limit, driver.fingerprint()).await;
        asked.unwrap_or_else(|_| {
            let detail = format!("it did not answer within {} s", limit.as_secs());
            Fingerprint::unusable(driver.name(), driver.abilities(), detail)
        })
    }))
    .await
}

/// Says in the log what they are, beside whatever else goes on.
pub(super) fn log(drivers: Vec<Arc<dyn Driver>>) {
    tokio::spawn(async move {
        for found in ask(drivers, CALL_LIMIT).await {
            match found.usable {
                true => tracing::info!(driver = %found.driver, "{}: {}", found.title(), found.detail),
                false => {
                    tracing::warn!(driver = %found.driver, "{} can't be used: {}", found.title(), found.detail)
                }
            }
        }
    });
}

/// The same of those that are switched on, without opening what a running agent holds.
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
