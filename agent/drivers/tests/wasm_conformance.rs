//! The WebAssembly driver against what every driver must do.

#![cfg(feature = "wasm")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

// Each test program uses its part of it.
#[allow(dead_code, unreachable_pub)]
#[path = "wasm/bench.rs"]
mod bench;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::plan::Action;
use holdfast_core::release::{Object, Release, Strategy, WasmHttp, WasmWorkload};
use holdfast_drivers::conformance::Runtime;
use holdfast_drivers::{ApplyStep, Driver};

use bench::{Bench, free_address, hello};

struct Box_ {
    bench: Bench,
    address: SocketAddr,
}

impl Box_ {
    fn new() -> Self {
        Box_ { bench: Bench::new(), address: free_address() }
    }

    fn pid(&self, app: &str) -> Option<i32> {
        let record = std::fs::read(self.bench.run_dir().join(app).join("workload.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        i32::try_from(record["pid"].as_i64().unwrap()).ok()
    }

    fn kill(&self, app: &str) {
        let Some(pid) = self.pid(app) else { return };
        let name = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if name.contains(&*self.bench.run_dir().to_string_lossy()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
        }
    }
}

impl Drop for Box_ {
    fn drop(&mut self) {
        self.kill("conformance");
    }
}

#[async_trait]
impl Runtime for Box_ {
    async fn driver(&self) -> Arc<dyn Driver> {
        self.bench.driver()
    }

    fn release(&self, app: &AppName, version: u32) -> Release {
        let http = Some(WasmHttp { listen: self.address });
        let workload = WasmWorkload { http, ..self.bench.command(&hello(&format!("version {version}"))) };
        let key = ObjectKey::new("Wasm", app.as_str());
        Release {
            app: app.clone(),
            objects: vec![Object { key, spec: serde_json::to_value(&workload).unwrap() }],
            ..bench::release(&workload)
        }
    }

    async fn plant(&self, key: &ObjectKey) -> bool {
        let app: AppName = key.name.parse().unwrap();
        let release = self.release(&app, 7);
        let other = self.bench.driver_of("another/device");
        let step = ApplyStep {
            app: &app,
            action: Action::Create,
            object: key,
            release: Some(&release),
            id: None,
            strategy: Strategy::StopStart,
            from: None,
        };
        other.apply(step).await.unwrap();
        true
    }

    async fn take_away(&self, key: &ObjectKey) {
        self.kill(&key.name);
    }

    /// Nobody can change a workload that runs, short of taking it away.
    async fn tamper(&self, _key: &ObjectKey) -> bool {
        false
    }
}

holdfast_drivers::conformance_tests!(Box_::new());
