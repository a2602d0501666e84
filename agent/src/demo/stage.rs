//! The demo's box: a temporary folder with a repository, a configuration, and the agent on it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_core::report::{AppStatus, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Runtime;
#[cfg(feature = "podman")]
use super::containers::Containers;
use super::repository::Repository;
use crate::api::Client;

/// The device that the demo is.
const DEVICE: &str = "demo/box-1";

/// The text of the component: a wasi:http service in WebAssembly text.
const COMPONENT: &str = include_str!("../../../examples/hello/hello.wat");
const COMPONENT_BODY: &str = "Hello from Holdfast\\n";
const COMPONENT_HEALTH: &str = "(global $health i32 (i32.const 200))";

/// What the demo's apps are.
enum Workloads {
    /// WebAssembly text.
    Wasm,
    /// Containers on podman.
    #[cfg(feature = "podman")]
    Podman(Containers),
}

/// The box.
pub(super) struct Stage {
    pub(super) dir: PathBuf,
    pub(super) repository: Repository,
    pub(super) hello: u16,
    pub(super) menu: u16,
    workloads: Workloads,
    agent: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    /// Makes the folder, the repository and agent.toml; starts nothing.
    pub(super) fn build(dir: &Path, runtime: &Runtime) -> Result<Self> {
        let workloads = match runtime {
            Runtime::Wasm => Workloads::Wasm,
            #[cfg(feature = "podman")]
            Runtime::Podman(socket) => Workloads::Podman(Containers::find(socket.as_deref(), dir)?),
        };
        let mut repository = Repository::init(&dir.join("edge.git"))?;
        fs::write(dir.join("allowed_signers"), repository.allowed_signers()?)?;
        fs::write(dir.join("agent.toml"), agent_toml(dir, &workloads))?;
        let (hello, menu) = free_ports()?;
        repository
            .put("holdfast.yaml", document("Fleet", "demo", "spec: { policy: { prune: { maxApps: 2 } } }\n"));
        repository.put(&format!("devices/{DEVICE}.yaml"), document("Device", DEVICE, "spec: {}\n"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Stage { dir: dir.to_owned(), repository, hello, menu, workloads, agent: None, runtime })
    }

    /// Puts an app into the next commit: its text, and what it answers when asked for its health.
    pub(super) fn app(&mut self, name: &str, port: u16, text: &str, health: u16) -> Result<()> {
        let spec = match &self.workloads {
            Workloads::Wasm => {
                let component = COMPONENT
                    .replace(COMPONENT_BODY, &format!("{text}\\n"))
                    .replace(COMPONENT_HEALTH, &format!("(global $health i32 (i32.const {health}))"));
                self.repository.put(&format!("apps/{name}/files/{name}.wat"), component);
                wasm_spec(name, port)
            }
            #[cfg(feature = "podman")]
            Workloads::Podman(containers) => {
                let manifests = containers.manifests(name, port, text, health)?;
                self.repository.put(&format!("apps/{name}/manifests/{name}.yaml"), manifests);
                // The new version is started beside the old one, so that somebody answers all the time.
                let workload = "  container: { driver: podman }\n  update: { strategy: start-stop }\n";
                app_spec(workload, port)
            }
        };
        self.repository.put(&format!("apps/{name}/app.yaml"), document("App", name, &spec));
        Ok(())
    }

    /// Puts an app's document into the next commit with a word in it that nobody knows.
    pub(super) fn app_with_typo(&mut self, name: &str) {
        self.repository.edit(&format!("apps/{name}/app.yaml"), "health:", "heath:");
    }

    /// What the apps are, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self.workloads {
            Workloads::Wasm => "in WebAssembly",
            #[cfg(feature = "podman")]
            Workloads::Podman(_) => "in containers on podman",
        }
    }

    /// The commands that end the agent and its workloads, and leave nothing.
    pub(super) fn ends_it(&self) -> Vec<String> {
        let dir = self.dir.display();
        let mut commands = vec![format!("pkill -f {dir}; rm -r {dir}    # ends the agent and its workloads")];
        #[cfg(feature = "podman")]
        if let Workloads::Podman(containers) = &self.workloads {
            let podman = format!("podman --url unix://{}", containers.socket().display());
            let label = format!("label=dev.holdfast.device={DEVICE}");
            commands[0] = format!("pkill -f {dir}/agent.toml; rm -r {dir}    # ends the agent");
            commands.push(format!("{podman} rm --force $({podman} ps --all --quiet --filter {label})"));
        }
        commands
    }

    /// Starts the agent.
    pub(super) fn start(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("agent.log"))?;
        let agent = Command::new("/proc/self/exe")
            .args(["run", "--config"])
            .arg(self.dir.join("agent.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the agent")?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Tells the agent to poll now, as `kill -HUP` does.
    pub(super) fn poll(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Ends the agent as a power cut would.
    pub(super) fn kill_agent(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL);
        if let Some(mut agent) = self.agent.take() {
            agent.wait()?;
        }
        Ok(())
    }

    /// Lets the agent end by itself; its workloads run on.
    pub(super) fn stop_agent(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM);
        if let Some(mut agent) = self.agent.take() {
            agent.wait()?;
        }
        Ok(())
    }

    /// The agent runs on when the demo ends.
    pub(super) fn leave_running(&mut self) {
        #[cfg(feature = "podman")]
        if let Workloads::Podman(containers) = &mut self.workloads {
            containers.leave_running();
        }
        self.agent = None;
    }

    fn signal(&self, signal: Signal) {
        let pid = self.agent.as_ref().and_then(|agent| i32::try_from(agent.id()).ok());
        if let Some(pid) = pid {
            // It is our child and not waited for yet, so the number is its own; if it ended, that shows.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// What the agent says of the box; `None` while it doesn't answer.
    pub(super) fn status(&self) -> Option<Status> {
        let client = Client::new(&self.dir.join("api.sock"));
        self.runtime.block_on(client.status()).ok()
    }

    /// What the agent says of one app.
    pub(super) fn app_status(&self, name: &str) -> Option<AppStatus> {
        self.status()?.apps.into_iter().find(|app| app.name.as_str() == name)
    }
}

impl Drop for Stage {
    /// A demo that failed half way leaves no agent behind.
    fn drop(&mut self) {
        let _ = self.stop_agent();
    }
}

/// What answers at this port of the loopback.
pub(super) fn ask(port: u16) -> Option<String> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build().into();
    let mut answer = agent.get(format!("http://127.0.0.1:{port}/")).call().ok()?;
    Some(answer.body_mut().read_to_string().ok()?.trim_end().to_owned())
}

fn document(kind: &str, name: &str, rest: &str) -> String {
    format!("apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\n{rest}")
}

fn wasm_spec(name: &str, port: u16) -> String {
    let wasm = format!(
        r#"  wasm:
    component: files/{name}.wat
    http: {{ listen: "127.0.0.1:{port}" }}
    limits: {{ memory: 16Mi, cpu: 500m }}
"#
    );
    app_spec(&wasm, port)
}

fn app_spec(workload: &str, port: u16) -> String {
    format!(
        r#"spec:
  placement: {{}}
{workload}  health:
    startup: 2s
    deadline: 30s
    soak: 1s
    checks: [ {{ http: {{ url: "http://127.0.0.1:{port}/healthz" }} }} ]
"#
    )
}

fn agent_toml(dir: &Path, workloads: &Workloads) -> String {
    let drivers = match workloads {
        Workloads::Wasm => "[drivers.wasm]\nenabled = true\nrun_dir = \"run\"\nuser = \"\"\n".to_owned(),
        #[cfg(feature = "podman")]
        Workloads::Podman(containers) => {
            let wasm = if cfg!(feature = "wasm") { "[drivers.wasm]\nenabled = false\n" } else { "" };
            containers.agent_toml(dir) + wasm
        }
    };
    let dir = dir.display();
    format!(
        r#"# Made by `holdfast demo`.
[device]
name = "{DEVICE}"
[source]
url = "file://{dir}/edge.git"
branch = "main"
interval = "5m"
[trust]
mode = "signed"
allowed_signers = "allowed_signers"
[state]
dir = "state"
[api]
socket = "api.sock"
{drivers}"#
    )
}

/// Two ports of the loopback that nobody listens at now.
fn free_ports() -> Result<(u16, u16)> {
    let one = TcpListener::bind(("127.0.0.1", 0))?;
    let two = TcpListener::bind(("127.0.0.1", 0))?;
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_has_what_the_demo_changes_in_it() {
        assert!(COMPONENT.contains(COMPONENT_BODY) && COMPONENT.contains(COMPONENT_HEALTH));
    }
}
