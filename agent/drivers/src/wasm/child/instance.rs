//! Makes instances of the workload's code: each with a store of its own, under the workload's limits.

use std::sync::Arc;

use holdfast_core::digest::Digest;
use holdfast_core::release::{EnvValue, WasmWorkload};
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

use super::super::guest::{ComponentGuest, ModuleGuest, NoRequests};
use super::cpu::Cpu;
use super::log::{LogStream, Ring};
use super::memory::{Account, Usage};

/// What all instances have in common.
pub(super) struct Maker {
    pub(super) engine: Engine,
    pub(super) workload: WasmWorkload<Digest>,
    pub(super) memory: Arc<Account>,
    pub(super) cpu: Arc<Cpu>,
    pub(super) log: Arc<Ring>,
}

impl Maker {
    /// A store for a component.
    pub(super) fn component_store(&self) -> wasmtime::Result<Store<ComponentGuest>> {
        let guest = ComponentGuest {
            wasi: self.wasi()?.build(),
            http: WasiHttpCtx::new(),
            hooks: NoRequests,
            table: ResourceTable::new(),
            usage: Usage::of(&self.memory),
        };
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.usage);
        self.cpu.govern(&mut store);
        Ok(store)
    }

    /// A store for a core module.
    pub(super) fn module_store(&self) -> wasmtime::Result<Store<ModuleGuest>> {
        let guest = ModuleGuest { wasi: self.wasi()?.build_p1(), usage: Usage::of(&self.memory) };
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.usage);
        self.cpu.govern(&mut store);
        Ok(store)
    }

    /// Arguments, environment, folders and streams. Nothing of the host's own is passed on, and there is no
    /// network.
    fn wasi(&self) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.arg("workload").args(&self.workload.args);
        for (name, value) in &self.workload.env {
            if let EnvValue::Plain(value) = value {
                wasi.env(name, value);
            }
        }
        wasi.stdout(LogStream::to(&self.log)).stderr(LogStream::to(&self.log));
        for dir in &self.workload.dirs {
            // The process stands in the folder of the app's volumes: as another user it may not be able to
            // walk there from the root.
            wasi.preopened_dir(dir.volume.as_str(), &dir.guest, FsPerms::ReadWrite)?;
        }
        Ok(wasi)
    }
}
