//! A box for one test: folders of its own, workloads that end with it, and the few words that tests are
//! written in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::Observed;
use holdfast_core::plan::Action;
use holdfast_core::release::{Object, Release, Restart, Strategy, WasmHttp, WasmLimits, WasmWorkload};
use holdfast_core::runtime::DriverName;
use holdfast_drivers::wasm::{RunAs, WasmConfig, WasmDriver};
use holdfast_drivers::{ApplyStep, Driver, DriverError, Owner};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "../../../tests/support/ports.rs"]
mod ports;

/// How long something may take that is only waited for. Only a failure takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The text of one of the workloads beside this file.
pub fn workload(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workloads").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The component of the example, with another body.
pub fn hello(body: &str) -> String {
    let text = include_str!("../../../../examples/hello/hello.wat");
    assert!(text.contains("Hello from Holdfast\\n"));
    text.replace("Hello from Holdfast\\n", body)
}

/// The example, with `first` done before anything else for every path but /healthz.
pub fn hello_that(first: &str) -> String {
    let text = hello("hello");
    let begin = "(local.set $response (call $response (call $fields)))";
    assert!(text.contains(begin));
    let guarded = format!("(if (i32.eqz (call $is-health (local.get $request))) (then {first})) {begin}");
    text.replace(begin, &guarded)
}

pub fn app() -> AppName {
    "hello".parse().unwrap()
}

pub fn key() -> ObjectKey {
    ObjectKey::new("Wasm", "hello")
}

pub struct Bench {
    pub dir: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Bench { dir: TempDir::new().unwrap() }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn driver_of(&self, device: &str) -> Arc<WasmDriver> {
        self.make_driver(device, RunAs::Agent)
    }

    pub fn driver_as(&self, user: RunAs) -> Arc<WasmDriver> {
        self.make_driver("shop/till-1", user)
    }

    fn make_driver(&self, device: &str, user: RunAs) -> Arc<WasmDriver> {
        Arc::new(WasmDriver::new(WasmConfig {
            program: env!("CARGO_BIN_EXE_holdfast-wasm-child").into(),
            content_dir: self.dir.path().join("content"),
            state_dir: self.state_dir(),
            run_dir: self.run_dir(),
            owner: Owner { device: device.parse().unwrap() },
            mac_key: [7; 32],
            user,
        }))
    }

    pub fn driver(&self) -> Arc<WasmDriver> {
        self.driver_of("shop/till-1")
    }

    /// Pins content.
    pub fn pin(&self, text: &str) -> Digest {
        self.pin_bytes(text.as_bytes())
    }

    pub fn pin_bytes(&self, text: &[u8]) -> Digest {
        let digest = Digest::of(text);
        let folder = self.dir.path().join("content/sha256");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(digest.to_hex()), text).unwrap();
        digest
    }

    /// A command that runs once.
    pub fn job(&self, text: &str) -> WasmWorkload<Digest> {
        WasmWorkload { restart: Restart::Never, ..self.command(text) }
    }

    /// A command that runs on.
    pub fn command(&self, text: &str) -> WasmWorkload<Digest> {
        WasmWorkload {
            component: self.pin(text),
            args: Vec::new(),
            env: BTreeMap::new(),
            http: None,
            dirs: Vec::new(),
            limits: WasmLimits { memory: 16 << 20, cpu_millis: None },
            restart: Restart::Always,
        }
    }

    /// A component that serves on a port that is free now.
    pub fn service(&self, text: &str) -> WasmWorkload<Digest> {
        WasmWorkload { http: Some(WasmHttp { listen: free_address() }), ..self.command(text) }
    }

    /// The process of the app, by its record.
    pub fn pid(&self) -> Option<i32> {
        let record = std::fs::read(self.run_dir().join("hello/workload.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        i32::try_from(record["pid"].as_i64().unwrap()).ok()
    }

    pub fn compiled(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.state_dir().join("wasm/compiled")) else {
            return Vec::new();
        };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let name = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if name.contains(&*self.run_dir().to_string_lossy()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

pub fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free_port()))
}

pub fn release(workload: &WasmWorkload<Digest>) -> Release {
    Release {
        app: app(),
        driver: DriverName::WASM,
        objects: vec![Object { key: key(), spec: serde_json::to_value(workload).unwrap() }],
        artifacts: BTreeSet::from([workload.component]),
        secrets: BTreeMap::new(),
        account: None,
    }
}

pub async fn act(driver: &WasmDriver, action: Action, release: Option<&Release>) -> Result<(), DriverError> {
    act_on(driver, action, &key(), release).await
}

pub async fn act_on(
    driver: &WasmDriver,
    action: Action,
    object: &ObjectKey,
    release: Option<&Release>,
) -> Result<(), DriverError> {
    driver
        .apply(ApplyStep {
            app: &app(),
            action,
            object,
            release,
            id: None,
            strategy: Strategy::StopStart,
            from: None,
        })
        .await
}

pub async fn create(driver: &WasmDriver, workload: &WasmWorkload<Digest>) -> Release {
    let release = release(workload);
    driver.prepare(&release).await.unwrap();
    act(driver, Action::Create, Some(&release)).await.unwrap();
    release
}

pub async fn observed(driver: &WasmDriver, release: &Release) -> Observed {
    driver.observe(&app(), Some(release)).await.unwrap().remove(&key()).unwrap()
}

/// Waits for a health that `is` what is waited for.
pub async fn wait_for_health(driver: &WasmDriver, release: &Release, is: impl Fn(&Health) -> bool) -> Health {
    let mut last = None;
    let wait = async {
        loop {
            let health = driver.health(release).await;
            if is(&health) {
                return health;
            }
            last = Some(health);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(health) => health,
        Err(_) => panic!("the last health was {last:?}"),
    }
}

/// Waits until the process of the app is gone.
pub async fn wait_for_end(pid: i32) {
    let wait = async {
        while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

/// Sends a request as text, and returns all that comes back until the connection ends.
pub async fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")).await
}
