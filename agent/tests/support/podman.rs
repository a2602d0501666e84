//! A podman of the tests' own: a service with its own store, and nothing left of it afterwards.
//!
//! Netavark keeps addresses, DNS and firewall rules for the whole machine, so one such podman is there at a time:
//! `Podman::start` waits for the others, also those of other test programs. Two in one test would wait for ever.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::podman_image::Image;
use super::podman_traces::{self as traces, Before};
use super::tools::missing;

/// Who waits for whom. It says which folder and traces a killed test may have left.
const LOCK: &str = "/tmp/holdfast-podman-tests.lock";
/// More than any call takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A podman service. Dropped, it takes its containers, mounts, interfaces and rules with it.
pub struct Podman {
    service: Option<Child>,
    before: Before,
    store: PathBuf,
    dir: TempDir,
    _lock: File,
}

/// What a test may want otherwise.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `file`, or `none`: then podman's event stream never begins.
    pub events_logger: String,
    /// Where the images and containers are; else in the private folder. For a small or read-only file system.
    pub store: Option<PathBuf>,
    /// Lines for the `[engine]` section of containers.conf.
    pub engine: String,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { events_logger: "file".into(), store: None, engine: String::new() }
    }
}

/// A container, as `GET /containers/json` has it.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: String,
    pub name: String,
    /// `created`, `initialized`, `running`, `stopping`, `exited`, …
    pub state: String,
    /// 0 when none runs.
    pub pid: i32,
    pub image_id: String,
    pub labels: serde_json::Map<String, Value>,
}

impl Podman {
    pub fn start() -> Self {
        Self::start_with(&Setup::default())
    }

    /// Waits for its turn, clears what a killed test left, and starts the service.
    pub fn start_with(setup: &Setup) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the tests with podman need root");
        let mut lock =
            File::options().read(true).write(true).create(true).truncate(false).open(LOCK).unwrap();
        lock.lock().unwrap();
        let mut last = String::new();
        lock.read_to_string(&mut last).unwrap();
        if let Some((dir, before)) = last.split_once('\n') {
            traces::clear(Path::new(dir), &Before::parse(before));
            let _ = fs::remove_dir_all(dir);
        }
        let dir = tempfile::Builder::new().prefix("hf-podman-").tempdir().unwrap();
        let before = Before::look();
        note(&lock, &format!("{}\n{}", dir.path().display(), before.text()));
        for folder in ["run", "tmp", "net", "copy"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let store = setup.store.clone().unwrap_or_else(|| dir.path().join("root"));
        fs::create_dir_all(&store).unwrap();
        fs::write(dir.path().join("containers.conf"), conf(dir.path(), setup)).unwrap();
        let mut podman = Podman { service: None, before, store, dir, _lock: lock };
        podman.restart_service();
        podman
    }

    /// The service's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("podman.sock")
    }

    /// The folder of this podman.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The service's process.
    pub fn service_pid(&self) -> i32 {
        self.service.as_ref().expect("the service was killed").id().try_into().unwrap()
    }

    /// Kills the service as nothing can refuse; containers go on.
    pub fn kill_service(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }

    /// Sends the service a signal: SIGSTOP makes it hang, SIGCONT go on.
    pub fn signal_service(&self, signal: Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.service_pid()), signal).unwrap();
    }

    /// Starts the service, killing one that runs, and waits until it answers.
    pub fn restart_service(&mut self) {
        self.kill_service();
        let _ = fs::remove_file(self.socket());
        // A file, not our own output: conmon inherits it, and would keep a pipe open for ever.
        let log = File::options().create(true).append(true).open(self.dir().join("service.log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "podman"]);
        self.prepare(&mut command);
        command.args(["system", "service", "--time", "0"]);
        command.arg(format!("unix://{}", self.socket().display()));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.service =
            Some(command.spawn().unwrap_or_else(|error| panic!("{} ({error})", missing("setpriv"))));
        let began = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.service.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "no podman service ({ended:?}): {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// As after a loss of power: no process, mount or interface of this podman is there, nor what is in /run, and a
    /// new service. What is on disk stays.
    pub fn reboot(&mut self) {
        self.kill_service();
        traces::clear_but_disk(self.dir(), &self.store, &self.before);
        for folder in ["run", "tmp"] {
            fs::remove_dir_all(self.dir().join(folder)).unwrap();
            fs::create_dir(self.dir().join(folder)).unwrap();
        }
        self.restart_service();
    }

    /// Runs podman's command line on the same store, for the test's own view and as somebody who meddles.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "60", "podman"]);
        self.prepare(&mut command);
        command.args(arguments).stdin(Stdio::null());
        // Files, as a conmon that is started here lives on.
        let mut out = tempfile::tempfile_in(self.dir()).unwrap();
        let mut err = tempfile::tempfile_in(self.dir()).unwrap();
        let status = command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap()).status();
        let status = status.unwrap_or_else(|error| panic!("{} ({error})", missing("podman")));
        Output { status, stdout: content(&mut out), stderr: content(&mut err) }
    }

    /// One request, `path` as in `/containers/json?all=true`; gives the status, and the body as JSON or as text.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        self.api_bytes(method, path, "application/json", &bytes)
    }

    /// The same with a body of any type.
    pub fn api_bytes(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0: the answer ends with the connection and comes in one piece.
        let head = format!(
            "{method} /v4.0.0/libpod{path} HTTP/1.0\r\nHost: podman\r\nContent-Type: {content_type}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n").expect("an HTTP answer");
        let head = String::from_utf8_lossy(&answer[..end]);
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let body = &answer[end + 4..];
        let text = || Value::String(String::from_utf8_lossy(body).into_owned());
        (status, serde_json::from_slice(body).unwrap_or_else(|_| text()))
    }

    /// Puts an image into the store under this name.
    pub fn load(&self, image: &Image, name: &str) {
        let archive = image.oci_archive(Some(name));
        let (status, answer) = self.api_bytes("POST", "/images/load", "application/x-tar", &archive);
        assert_eq!(status, 200, "{answer}");
    }

    /// The containers with this label, as `NAME` or `NAME=VALUE`; all for an empty one.
    pub fn containers(&self, label: &str) -> Vec<Container> {
        let (status, list) = self.api("GET", "/containers/json?all=true", None);
        assert_eq!(status, 200, "{list}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, value) = label.split_once('=').map_or((label, None), |(name, value)| (name, Some(value)));
        let mut found = Vec::new();
        for container in list.as_array().into_iter().flatten() {
            let labels = container["Labels"].as_object().cloned().unwrap_or_default();
            let has = labels.get(name).is_some_and(|have| value.is_none_or(|wanted| have == wanted));
            if label.is_empty() || has {
                found.push(Container {
                    id: text(&container["Id"]),
                    name: text(&container["Names"][0]),
                    state: text(&container["State"]),
                    pid: container["Pid"].as_i64().unwrap_or(0).try_into().unwrap(),
                    image_id: text(&container["ImageID"]),
                    labels,
                });
            }
        }
        found
    }

    /// All that podman says of a container; none if there is none.
    pub fn inspect(&self, name: &str) -> Option<Value> {
        let (status, answer) = self.api("GET", &format!("/containers/{name}/json"), None);
        (status == 200).then_some(answer)
    }

    /// Every process of this podman: services, conmons, and what runs in its containers.
    pub fn processes(&self) -> Vec<i32> {
        traces::processes(self.dir(), &traces::containers(&self.store))
    }

    /// What the service wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("service.log")).unwrap_or_default()
    }

    fn prepare(&self, command: &mut Command) {
        let flag = |name: &str, folder: &Path| format!("--{name}={}", folder.display());
        let dir = self.dir();
        command.arg(flag("root", &self.store));
        for (name, folder) in [("runroot", "run"), ("tmpdir", "tmp"), ("network-config-dir", "net")] {
            command.arg(flag(name, &dir.join(folder)));
        }
        command.env("CONTAINERS_CONF", dir.join("containers.conf")).env("TMPDIR", dir.join("copy"));
        command.env_remove("CONTAINER_HOST").env_remove("XDG_RUNTIME_DIR");
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.kill_service();
        if thread::panicking() {
            let _ = writeln!(std::io::stderr(), "podman's service said:\n{}", self.log());
        }
        // Podman itself knows best how to take a container's network down; what it can't, is done by hand. The first
        // removal of a container whose conmon is dead fails, the second doesn't.
        for _ in 0..2 {
            if !traces::containers(&self.store).is_empty() {
                let _ = self.cli(&["rm", "--all", "--force", "--volumes", "--time", "0"]);
            }
        }
        traces::clear_but_disk(self.dir(), &self.store, &self.before);
        traces::unmount(&self.store);
        note(&self._lock, "");
    }
}

fn note(mut lock: &File, text: &str) {
    use std::io::Seek as _;
    let _ = lock.set_len(0);
    let _ = lock.rewind();
    let _ = lock.write_all(text.as_bytes());
}

fn content(file: &mut File) -> Vec<u8> {
    use std::io::Seek as _;
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

/// No default of the machine matters, and none of the machine's cgroups.
fn conf(dir: &Path, setup: &Setup) -> String {
    format!(
        r#"[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "{}"
runtime = "{}"
image_copy_tmp_dir = "{}"
{}
[network]
network_backend = "netavark"
network_config_dir = "{}"
"#,
        setup.events_logger,
        traces::runtime(),
        dir.join("copy").display(),
        setup.engine,
        dir.join("net").display(),
    )
}
