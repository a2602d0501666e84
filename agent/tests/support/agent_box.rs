//! A box in a temporary folder: a signed repository, the simulated runtime, and the real agent on it, which a
//! test starts and kills.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use holdfast::api::{Client, ClientError};
use holdfast_core::event::Event;
use holdfast_core::report::{AppStatus, Status};
use holdfast_drivers::simulated::log::{creates_without_absence, parse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::git_repo::{SignedRepo, Signer};
use super::process::wait_until_gone;
use super::tools::missing;

/// The device that the box is.
pub const DEVICE: &str = "test/box-1";
/// A component that answers HTTP.
const COMPONENT: &str = include_str!("../../../examples/hello/hello.wat");
/// More than any step takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// A box. Dropped, it takes its agent and every workload with it.
pub struct AgentBox {
    dir: TempDir,
    /// Where its state comes from.
    pub repo: SignedRepo,
    agent: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

/// How a release of an app is to turn out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Healthy.
    Good,
    /// Applied, and then unhealthy.
    Ill,
    /// Its document has a word that nobody knows.
    Broken,
}

impl AgentBox {
    /// A box that was never started. Its repository has the fleet and the device, not committed yet.
    pub fn new() -> Self {
        AgentBox::with("")
    }

    /// The same with more in its agent.toml, in which `{dir}` is the box's folder.
    pub fn with(more: &str) -> Self {
        AgentBox::called(DEVICE, more)
    }

    /// The same as another device.
    pub fn called(device: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = SignedRepo::new();
        let fleet = "spec: { policy: { prune: { maxApps: 100, maxShare: 100% } } }\n";
        repo.write(&[
            ("holdfast.yaml", &document("Fleet", "test", fleet)),
            (&format!("devices/{device}.yaml"), &document("Device", device, "spec: {}\n")),
        ]);
        let more = more.replace("{dir}", dir.path().to_str().unwrap());
        let config = agent_toml(device, dir.path(), &repo) + &more;
        fs::write(dir.path().join("agent.toml"), config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        AgentBox { dir, repo, agent: None, runtime }
    }

    /// Adds these lines to agent.toml, for the next start.
    pub fn configure(&self, more: &str) {
        let path = self.dir().join("agent.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text + more).unwrap();
    }

    /// The folder that everything but the repository is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Writes an app of two objects, which `version` tells from others: one is changed by an update, the other is
    /// replaced by one of another name. It is in the next commit.
    pub fn write_app(&self, name: &str, after: &[&str], version: usize, kind: Kind) {
        let soak = if kind == Kind::Broken { "soaked" } else { "soak" };
        self.write_app_judged(
            name,
            after,
            version,
            kind,
            &format!("startup: 1s, deadline: 30s, {soak}: 300ms"),
        );
    }

    /// The same with its times of health.
    pub fn write_app_judged(&self, name: &str, after: &[&str], version: usize, kind: Kind, times: &str) {
        let app = format!(
            "spec:\n  placement: {{}}\n  dependsOn: [{}]\n  container: {{ driver: simulated }}\n  \
             health: {{ {times} }}\n",
            after.join(", ")
        );
        let health = if kind == Kind::Ill { "unhealthy" } else { "healthy" };
        let manifest = |kind: &str, name: &str, more: &str| {
            format!(
                "apiVersion: v1\nkind: {kind}\nmetadata:\n  name: {name}\n  annotations:\n    \
                 version: \"{version}\"\n    simulated.holdfast.dev/health: {health}\n{more}"
            )
        };
        let config = manifest("ConfigMap", &format!("{name}-{version}"), "data: { made: once }\n");
        let service = manifest("Service", name, "spec: { ports: [ { port: 80 } ] }\n");
        self.repo.write(&[
            (&format!("apps/{name}/app.yaml"), &document("App", name, &app)),
            (&format!("apps/{name}/manifests/config.yaml"), &config),
            (&format!("apps/{name}/manifests/service.yaml"), &service),
        ]);
    }

    /// Writes a WASM app that answers at this port of the loopback. It is in the next commit.
    pub fn write_wasm_app(&self, name: &str, port: u16) {
        let spec = format!(
            "spec:\n  placement: {{}}\n  wasm:\n    component: files/{name}.wat\n    \
             http: {{ listen: \"127.0.0.1:{port}\" }}\n    limits: {{ memory: 16Mi, cpu: 500m }}\n  \
             health:\n    startup: 10s\n    deadline: 1m\n    soak: 300ms\n    \
             checks: [ {{ http: {{ url: \"http://127.0.0.1:{port}/healthz\" }} }} ]\n"
        );
        self.repo.write(&[
            (&format!("apps/{name}/files/{name}.wat"), COMPONENT),
            (&format!("apps/{name}/app.yaml"), &document("App", name, &spec)),
        ]);
    }

    /// Commits what was written, signed.
    pub fn commit(&self) -> String {
        self.repo.commit(&[], Signer::Ops)
    }

    /// Starts the agent; it is killed when this thread ends, however that ends.
    pub fn start(&mut self, environment: &[(&str, &str)]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir().join("agent.log"));
        let log = log.unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_holdfast"), "run", "--config"])
            .arg(self.dir().join("agent.toml"))
            .env_remove("HOLDFAST_FAULT")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let agent = command.spawn().unwrap_or_else(|error| panic!("{} ({error})", missing("setpriv")));
        self.agent = Some(agent);
    }

    /// Sends the agent a signal. One that has ended meanwhile is still ours to wait for.
    pub fn signal(&self, signal: Signal) {
        let agent = self.agent.as_ref().unwrap();
        kill(Pid::from_raw(agent.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends the agent as nothing can refuse, and gives how it ended: maybe it did so before.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.agent.take().unwrap().wait().unwrap()
    }

    /// Lets the agent end by itself, which must be in order.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.agent.take().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(0), "the agent ended with {status}\n{}", self.log_tail());
    }

    /// How the agent ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.agent.as_mut()?.try_wait().unwrap()?;
        self.agent = None;
        Some(status)
    }

    /// What the agent says of the box; none while it doesn't answer.
    pub fn status(&self) -> Option<Status> {
        let client = Client::new(&self.dir().join("api.sock"));
        self.runtime.block_on(client.status()).ok()
    }

    /// What happened, as the agent tells it.
    pub fn events(&self) -> Vec<Event> {
        self.try_events().unwrap()
    }

    /// The same, where it may not be able to.
    pub fn try_events(&self) -> Result<Vec<Event>, ClientError> {
        let client = Client::new(&self.dir().join("api.sock"));
        let mut events = Vec::new();
        let keep = |event| {
            events.push(event);
            true
        };
        self.runtime.block_on(client.events(0, false, keep))?;
        Ok(events)
    }

    /// Waits until the agent says what `wanted` wants, or has ended; gives how it ended.
    pub fn wait_or_end(&mut self, what: &str, wanted: impl Fn(&Self, &Status) -> bool) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            let status = self.status();
            if status.as_ref().is_some_and(|status| wanted(self, status)) {
                return None;
            }
            assert!(began.elapsed() < PATIENCE, "never {what}: {status:#?}\n{}", self.log_tail());
            thread::sleep(Duration::from_millis(25));
        }
    }

    /// Waits until the agent says what `wanted` wants; it must not end meanwhile.
    pub fn wait_until(&mut self, what: &str, wanted: impl Fn(&Self, &Status) -> bool) {
        if let Some(status) = self.wait_or_end(what, wanted) {
            panic!("the agent ended with {status} before it was {what}\n{}", self.log_tail());
        }
    }

    /// Waits until everything of `commit` is good.
    pub fn wait_converged(&mut self, commit: &str) {
        self.wait_until(&format!("converged on {commit}"), |_, status| converged_on(status, commit));
    }

    /// The version of each object of `app` that the runtime holds.
    pub fn versions_of(&self, app: &str) -> Vec<String> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(self.dir().join("sim/objects")).into_iter().flatten() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let object: serde_json::Value = serde_json::from_str(&text).unwrap();
            if object["app"] == app {
                let version = object["spec"]["metadata"]["annotations"]["version"].as_str();
                versions.push(version.unwrap_or("none").to_owned());
            }
        }
        versions
    }

    /// The runtime's log must show no create on the strength of what the agent remembered.
    pub fn assert_nothing_made_twice(&self) -> usize {
        let text = fs::read_to_string(self.dir().join("sim/log.jsonl")).unwrap();
        let lines = parse(&text).unwrap();
        let guilty = creates_without_absence(&lines);
        assert!(guilty.is_empty(), "created without having seen that it is absent: {guilty:#?}");
        lines.iter().filter(|line| line.op == "create").count()
    }

    /// The processes whose command line names this box: agents and workloads.
    pub fn processes(&self) -> Vec<i32> {
        let mark = self.dir().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // A process that has gone meanwhile can't be read.
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if let Some(pid) = pid
                && String::from_utf8_lossy(&line).contains(mark)
            {
                found.push(pid);
            }
        }
        found.sort_unstable();
        found
    }

    /// Ends every process of the box that isn't the agent, as a restart of the box does.
    pub fn end_workloads(&self) {
        let agent = self.agent.as_ref().map(|agent| agent.id() as i32);
        for pid in self.processes().into_iter().filter(|pid| Some(*pid) != agent) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            // Gone is gone: what it had open is closed.
            wait_until_gone(pid);
        }
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("agent.log")).unwrap_or_default()
    }

    /// The end of the agent's log, for a failure's message.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for AgentBox {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // What is left has this box's folder in its command line: it is ours.
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if thread::panicking()
            && let Ok(to) = std::env::var("HOLDFAST_KEEP")
        {
            // For a look at what a failing test left behind.
            let _ = Command::new("cp").arg("-a").arg(self.dir()).arg(to).status();
        }
    }
}

/// Whether everything of `commit` is good.
pub fn converged_on(status: &Status, commit: &str) -> bool {
    status.converged && status.revision.applied.as_ref().is_some_and(|revision| revision.0 == commit)
}

/// What is said of one app.
pub fn app<'a>(status: &'a Status, name: &str) -> Option<&'a AppStatus> {
    status.apps.iter().find(|app| app.name.as_str() == name)
}

/// Whether the process was ended from outside, or aborted, as `signal` does it.
pub fn died_of(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

fn document(kind: &str, name: &str, rest: &str) -> String {
    format!("apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\n{rest}")
}

fn agent_toml(device: &str, dir: &Path, repo: &SignedRepo) -> String {
    let (dir, url) = (dir.display(), repo.url());
    let signers = repo.allowed_signers();
    let signers = signers.display();
    format!(
        r#"[device]
name = "{device}"
[source]
url = "{url}"
branch = "main"
interval = "5m"
[trust]
mode = "signed"
allowed_signers = "{signers}"
[state]
dir = "{dir}/state"
[api]
socket = "{dir}/api.sock"
[drivers.simulated]
dir = "{dir}/sim"
[drivers.wasm]
enabled = true
run_dir = "{dir}/run"
user = ""
"#
    )
}
