//! Makes instances of the workload's code: each with a store of its own, under the workload's limits.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_core::digest::Digest;
use holdfast_core::release::{EnvValue, WasmWorkload};
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

use super::super::guest::{ComponentGuest, ModuleGuest, NoRequests};
use super::cpu::Cpu;
use super::log::{LogStream, Ring};
use super::memory::{Account, Usage};

/// Where a guest may connect to by TCP: the loopback, and one address beside it. It can't listen, there is no UDP, and
/// no name is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub(super) target: Option<SocketAddr>,
}

impl Network {
    fn allows(self, address: SocketAddr, what: SocketAddrUse) -> bool {
        match what {
            SocketAddrUse::TcpConnect => {
                address.ip().to_canonical().is_loopback() || self.target == Some(address)
            }
            // What connecting begins with: any free port.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            _ => false,
        }
    }
}

/// What all instances have in common.
pub(super) struct Maker {
    pub(super) engine: Engine,
    pub(super) workload: WasmWorkload<Digest>,
    /// None but for probes.
    pub(super) network: Option<Network>,
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
    /// network but what was allowed.
    fn wasi(&self) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.arg("workload").args(&self.workload.args);
        for (name, value) in &self.workload.env {
            if let EnvValue::Plain(value) = value {
                wasi.env(name, value);
            }
        }
        if let Some(network) = self.network {
            wasi.allow_tcp(true);
            wasi.socket_addr_check(move |address, what| {
                let allowed = network.allows(address, what);
                Box::pin(async move { allowed })
            });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(target: Option<&str>, address: &str, what: SocketAddrUse) -> bool {
        let target = target.map(|target| target.parse().unwrap());
        Network { target }.allows(address.parse().unwrap(), what)
    }

    #[test]
    fn a_probe_connects_to_the_loopback_and_to_its_target_and_to_nothing_else() {
        let connects = |target, address| allowed(target, address, SocketAddrUse::TcpConnect);
        for address in ["127.0.0.1:80", "127.9.9.9:1", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(connects(None, address), "{address}");
        }
        assert!(connects(Some("10.88.0.3:8080"), "10.88.0.3:8080"));
        for address in [
            "10.88.0.3:8081",
            "10.88.0.4:8080",
            "0.0.0.0:80",
            "169.254.169.254:80",
            "[::]:80",
            "[::ffff:10.88.0.4]:8080",
        ] {
            assert!(!connects(Some("10.88.0.3:8080"), address), "{address}");
            assert!(!connects(None, address), "{address}");
        }
    }

    #[test]
    fn a_probe_takes_no_port_and_listens_nowhere() {
        assert!(allowed(None, "0.0.0.0:0", SocketAddrUse::TcpBind));
        assert!(!allowed(None, "0.0.0.0:80", SocketAddrUse::TcpBind));
        assert!(!allowed(None, "127.0.0.1:0", SocketAddrUse::TcpBind));
        let others = [
            SocketAddrUse::TcpListen,
            SocketAddrUse::TcpAccept,
            SocketAddrUse::UdpBind,
            SocketAddrUse::UdpSend,
            SocketAddrUse::UdpReceive,
        ];
        for what in others {
            assert!(!allowed(Some("127.0.0.1:80"), "127.0.0.1:80", what), "{what:?}");
        }
    }
}
