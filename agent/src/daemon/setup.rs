//! What the daemon is made of: the store, the runtimes, the source, as agent.toml says.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use holdfast_core::clock::Now;
use holdfast_drivers::simulated::SimulatedDriver;
use holdfast_drivers::{Driver, Owner};
use holdfast_store::content::Content;
use holdfast_store::{Options, Store, StoreError};

use super::images;
#[cfg(feature = "podman")]
use super::images::BoxImages;
#[cfg(any(feature = "podman", feature = "kubernetes"))]
use super::images::EncryptedSecrets;
use super::journal::{SharedStore, lock};
use crate::clock::Clock;
use crate::config::{self, Config, Place};
use crate::http::allowance::Allowance;
use crate::keeper::Drivers;
use crate::source::{GitConfig, GitSource, Reference, Source};

/// How long the agent waits for the state folder's lock, and how often it tries.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Has the clock go on from where the box was last sure of the time.
pub(super) fn resume(clock: &Clock, store: &Store) -> Result<(), StoreError> {
    clock.not_before(store.anchor().time_floor);
    clock.saw(store.seen_time()?);
    Ok(())
}

/// Opens the state folder under its lock, and says what was found there.
pub(super) fn open_store(config: &Config, now: &Now) -> Result<SharedStore> {
    let options = Options {
        disk_budget: config.state.disk_budget,
        beside: images::beside(config),
        ..Options::new(config.device.name.clone(), now.wall)
    };
    let (store, opened) = Store::open(&config.state.dir, &options)?;
    for report in opened {
        tracing::info!("{}", report.draft().message);
    }
    Ok(Arc::new(Mutex::new(store)))
}

/// The same, for the agent: a command that looks at the state folder, such as `holdfast status`, has it only
/// for a moment, and mustn't keep the agent from starting. Another agent has it for good.
pub(super) async fn wait_for_store(config: &Config, now: &Now) -> Result<SharedStore> {
    let began = Instant::now();
    loop {
        match open_store(config, now) {
            Err(error) if is_locked(&error) && began.elapsed() < LOCK_WAIT && !is_served(config) => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Whether another agent answers.
fn is_served(config: &Config) -> bool {
    UnixStream::connect(&config.api.socket).is_ok()
}

fn is_locked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Locked { .. }))
}

/// The runtimes that are switched on. One that can't be used now is among them: its fingerprint says why.
pub(super) fn open_drivers(config: &Config, shared: &SharedStore, allowance: &Allowance) -> Result<Drivers> {
    let store = &*lock(shared);
    let owner = Owner { device: config.device.name.clone() };
    let mut simulated: Option<Arc<dyn Driver>> = None;
    if let Some(settings) = &config.drivers.simulated {
        simulated = Some(Arc::new(SimulatedDriver::open(&settings.dir, &owner)?));
    }
    let all = [
        simulated,
        podman(config, shared, &owner, store.shared_content(), allowance),
        kubernetes(config, shared, &owner, &store.shared_content(), allowance),
        wasm(config, store, owner),
    ];
    Ok(all.into_iter().flatten().collect())
}

#[cfg(feature = "podman")]
fn podman(
    config: &Config,
    store: &SharedStore,
    owner: &Owner,
    content: Arc<Content>,
    allowance: &Allowance,
) -> Option<Arc<dyn Driver>> {
    use holdfast_drivers::podman::{PodmanConfig, PodmanDriver};

    let podman = config.drivers.podman.as_ref()?;
    Some(Arc::new(PodmanDriver::new(PodmanConfig {
        socket: podman.socket.clone(),
        run_dir: podman.run_dir.clone(),
        owner: owner.clone(),
        images: Arc::new(BoxImages::new(config, content, allowance)),
        secrets: Arc::new(EncryptedSecrets(Arc::clone(store))),
    })))
}

#[cfg(not(feature = "podman"))]
fn podman(_: &Config, _: &SharedStore, _: &Owner, _: Arc<Content>, _: &Allowance) -> Option<Arc<dyn Driver>> {
    None
}

#[cfg(feature = "kubernetes")]
fn kubernetes(
    config: &Config,
    store: &SharedStore,
    owner: &Owner,
    content: &Arc<Content>,
    allowance: &Allowance,
) -> Option<Arc<dyn Driver>> {
    use holdfast_drivers::kubernetes::{KubernetesConfig, KubernetesDriver};

    let kubernetes = config.drivers.kubernetes.as_ref()?;
    Some(Arc::new(KubernetesDriver::new(KubernetesConfig {
        kubeconfig: kubernetes.kubeconfig.clone(),
        context: kubernetes.context.clone(),
        cluster: kubernetes.cluster.as_ref().map(ToString::to_string),
        owner: owner.clone(),
        secrets: Arc::new(EncryptedSecrets(Arc::clone(store))),
        archives: images::archives(config, content, allowance),
    })))
}

#[cfg(not(feature = "kubernetes"))]
fn kubernetes(
    _: &Config,
    _: &SharedStore,
    _: &Owner,
    _: &Arc<Content>,
    _: &Allowance,
) -> Option<Arc<dyn Driver>> {
    None
}

#[cfg(feature = "wasm")]
fn wasm(config: &Config, store: &Store, owner: Owner) -> Option<Arc<dyn Driver>> {
    use holdfast_drivers::wasm::{WasmConfig, WasmDriver};
    use holdfast_store::keystore::Keystore;

    if !config.drivers.wasm.enabled {
        return None;
    }
    Some(Arc::new(WasmDriver::new(WasmConfig {
        program: "/proc/self/exe".into(),
        content_dir: store.dir().join("content"),
        state_dir: store.dir().to_owned(),
        run_dir: config.drivers.wasm.run_dir.clone(),
        owner,
        mac_key: *store.keys().keyed_digest("wasm compiled code", b"").as_bytes(),
        user: run_as(&config.drivers.wasm.user),
    })))
}

#[cfg(not(feature = "wasm"))]
fn wasm(_: &Config, _: &Store, _: Owner) -> Option<Arc<dyn Driver>> {
    None
}

#[cfg(feature = "wasm")]
pub(super) fn run_as(user: &str) -> holdfast_drivers::wasm::RunAs {
    match user {
        "" => holdfast_drivers::wasm::RunAs::Agent,
        name => holdfast_drivers::wasm::RunAs::Named(name.to_owned()),
    }
}

/// The source; what is fetched from there is in the state folder.
pub(super) fn open_source(config: &Config, allowance: &Allowance) -> Result<Box<dyn Source>> {
    let config::Source { url, path, timeout, place, .. } = &config.source;
    let git = |reference: &Reference| {
        let settings = GitConfig::new(url, reference.clone());
        GitConfig { path: path.clone(), timeout: *timeout, ..settings }
    };
    let settings = match place {
        Place::GitFolder(folder) => git(&folder.reference),
        Place::GitServer(server) => GitConfig {
            ca_file: server.ca_file.clone(),
            proxy: server.proxy.clone(),
            credentials: server.credentials.clone(),
            ..git(&server.reference)
        },
    };
    Ok(Box::new(GitSource::open_within(settings, &config.state.dir.join("mirror"), allowance)?))
}
