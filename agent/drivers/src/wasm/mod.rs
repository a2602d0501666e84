//! WebAssembly: each workload in a process of its own, which is this same program started again.
//!
//! The agent's process never loads the engine. It compiles in a child ([`compile_main`]), runs probe components in
//! others ([`probe_main`]), starts workloads ([`run_main`]) with one JSON line, and finds them again by the folder that each app has in the run
//! directory: a record of the process, and a socket on which it answers. A workload needs no agent to go on:
//! the agent's stop, upgrade or crash isn't seen by it.
//!
//! Where things are:
//! `<run>/<app>/` has `workload.json`, `control.sock`, `life.lock` (held by the process while it lives),
//! `agent.lock` (held by an agent while it changes something) and `stderr`.
//! `<state>/wasm/compiled/` has compiled code, each file with a keyed digest beside it;
//! `<state>/wasm/volumes/<app>/<volume>/` has the data, and goes only by a Purge document;
//! `<state>/wasm/ended/<app>.json` says how a job ended.
//!
//! In the unit file of a systemd service `KillMode=process` is needed, else systemd ends the workloads with
//! the agent; with `holdfast-workloads.service` beside it each has a cgroup.

mod apply;
mod cache;
mod cgroup;
mod child;
mod client;
mod compile;
mod engine;
mod files;
mod guest;
mod handover;
mod launch;
mod look;
mod probe_component;
mod process;
mod protocol;
mod spec;
mod user;
mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use holdfast_core::digest::Digest;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::AppObservation;
use holdfast_core::probe_component::WasmCheck;
use holdfast_core::release::Release;
use holdfast_core::runtime::{Abilities, DriverName, Fingerprint, Form, Names};
use tokio::sync::{Semaphore, mpsc};

use self::cache::Cache;
use self::cgroup::Groups;
use self::watch::Watchers;
use crate::{ApplyStep, Driver, DriverError, DriverEvent, Owner};

pub use self::child::{probe_main, run_main};
pub use self::compile::compile_main;
pub use self::user::{RunAs, User};

/// The program's subcommand that is a workload's process ([`run_main`]).
pub const RUN_COMMAND: &str = "wasm-run";
/// The one that is a probe component's ([`probe_main`]).
pub const PROBE_COMMAND: &str = "wasm-probe";
/// The one that compiles ([`compile_main`]).
pub const COMPILE_COMMAND: &str = "wasm-compile";

/// The engine's name and version. Compiled code of another one is compiled again.
const ENGINE: &str = "wasmtime-48.0.8";
/// Each is a process with memory of its own.
const PROBES_AT_ONCE: usize = 4;
/// The compiler's exit code for code that it refuses.
const COMPILE_REFUSED: u8 = 2;

/// What the driver needs to know of its box.
#[derive(Clone)]
pub struct WasmConfig {
    /// The program with the subcommands `wasm-compile`, `wasm-run` and `wasm-probe`. The agent gives `/proc/self/exe`: it
    /// works even when the file has been replaced, and is then the same version as the agent.
    pub program: PathBuf,
    /// Pinned content; a file is `<content_dir>/sha256/<hex>`.
    pub content_dir: PathBuf,
    /// The agent's state. Compiled code and volumes are under `<state_dir>/wasm/`.
    pub state_dir: PathBuf,
    /// For what dies with the boot, such as `/run/holdfast/wasm`. Its path is short (a socket's path has 107
    /// bytes), and only the agent's user can write there.
    pub run_dir: PathBuf,
    /// Whose workloads these are.
    pub owner: Owner,
    /// The key of the digests beside compiled code. Made by the box, and known to nobody else.
    pub mac_key: [u8; 32],
    /// Who workloads run as, where the agent is root.
    pub user: RunAs,
}

/// Whether workloads that this process starts get cgroups of their own; if not, why.
///
/// # Errors
/// Why they get none.
pub fn cgroups() -> Result<(), String> {
    Groups::open().ready()
}

/// See the module.
pub struct WasmDriver {
    config: WasmConfig,
    cache: Arc<Cache>,
    watchers: Watchers,
    /// Probes that may run at once.
    probes: Semaphore,
}

impl WasmDriver {
    /// A driver for this box. Touches nothing.
    pub fn new(mut config: WasmConfig) -> Self {
        if !nix::unistd::Uid::effective().is_root() {
            // Nobody but root can become another.
            config.user = RunAs::Agent;
        }
        let cache = Cache::new(
            config.program.clone(),
            config.content_dir.clone(),
            config.state_dir.join("wasm/compiled"),
            config.mac_key,
            config.user.clone(),
        );
        WasmDriver { config, cache, watchers: Watchers::default(), probes: Semaphore::new(PROBES_AT_ONCE) }
    }

    /// The folder of an app in the run directory.
    fn dir_of(&self, app: &AppName) -> PathBuf {
        self.config.run_dir.join(app.as_str())
    }

    fn outcome_of(&self, app: &AppName) -> PathBuf {
        self.config.state_dir.join("wasm/ended").join(format!("{app}.json"))
    }
}

/// What takes WebAssembly, and what it can do.
pub const ABILITIES: Abilities = Abilities {
    takes: Form::Component,
    rank: 0,
    names: Names::PerApp,
    start_stop: false,
    exec: false,
    addresses: true,
    holds_data: true,
    accounts: false,
    stages_images: false,
    engine: true,
};

/// What runs WebAssembly on this box, where workloads run as this user.
pub fn fingerprint(user: &RunAs) -> Fingerprint {
    match user.user() {
        Ok(_) => Fingerprint {
            driver: DriverName::WASM,
            usable: true,
            version: Some(ENGINE.to_owned()),
            detail: "runs in a child process".to_owned(),
            abilities: Some(ABILITIES),
        },
        Err(why) => Fingerprint::unusable(DriverName::WASM, ABILITIES, why),
    }
}

#[async_trait]
impl Driver for WasmDriver {
    async fn collect(&self, keep: &BTreeSet<Digest>) {
        if let Err(error) = self.cache.collect(keep).await {
            tracing::warn!(%error, "compiled code that is no longer needed can't be removed");
        }
    }

    fn name(&self) -> DriverName {
        DriverName::WASM
    }

    fn abilities(&self) -> Abilities {
        ABILITIES
    }

    async fn fingerprint(&self) -> Fingerprint {
        let mut found = fingerprint(&self.config.user);
        if found.usable
            && let Err(why) = Groups::open().ready()
        {
            found.detail = format!("{}; without cgroups of their own: {why}", found.detail);
        }
        found
    }

    fn check(&self, release: &Release) -> Result<(), DriverError> {
        spec::read(release, &self.config.owner).map(|_| ())
    }

    async fn prepare(&self, release: &Release) -> Result<(), DriverError> {
        let (_, workload) = spec::read(release, &self.config.owner)?;
        self.cache.ensure(&workload).await.map(|_| ())
    }

    async fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, DriverError> {
        self.observe_app(app, desired).await
    }

    async fn apps(&self) -> Result<Vec<AppName>, DriverError> {
        self.find_apps()
    }

    async fn apply(&self, step: ApplyStep<'_>) -> Result<(), DriverError> {
        self.take_step(step).await
    }

    async fn health(&self, release: &Release) -> Health {
        self.probe_app(release).await
    }

    async fn address_of(&self, release: &Release, target: &ObjectKey, _port: u16) -> Option<SocketAddr> {
        let (_, workload) = spec::read(release, &self.config.owner).ok()?;
        if *target != spec::key_of(&release.app) {
            return None;
        }
        let mut listen = workload.http?.listen;
        if listen.ip().is_unspecified() {
            listen.set_ip(if listen.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        Some(listen)
    }

    async fn prepare_probe_component(&self, check: &WasmCheck<Digest>) -> Result<(), DriverError> {
        self.compile_probe(check).await
    }

    async fn run_probe_component(
        &self,
        app: &AppName,
        check: &WasmCheck<Digest>,
        target: Option<SocketAddr>,
    ) -> Result<(), String> {
        self.ask_probe(app, check, target).await
    }

    async fn restarts(&self, release: &Release) -> Option<u64> {
        self.restarts_of(&release.app).await
    }

    async fn logs(&self, app: &AppName, lines: usize) -> Result<Vec<String>, DriverError> {
        self.logs_of(app, lines).await
    }

    fn watch(self: Arc<Self>, events: mpsc::Sender<DriverEvent>) {
        self.watchers.begin(events);
        match self.find_apps() {
            Ok(apps) => apps.into_iter().for_each(|app| self.watchers.follow(&app, &self.dir_of(&app))),
            Err(e) => tracing::warn!("workloads that run are not watched: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_one_that_is_linked() {
        let lock = include_str!("../../../../Cargo.lock");
        let version = ENGINE.strip_prefix("wasmtime-").unwrap();
        assert!(lock.contains(&format!("name = \"wasmtime\"\nversion = \"{version}\"\n")));
    }
}
