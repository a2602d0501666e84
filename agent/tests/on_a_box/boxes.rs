//! A box: a folder with `agent.toml`, a repository that it follows, a simulated runtime, and the program.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::git_repo::{SignedRepo, Signer};
use crate::support::tools::missing;

/// The device that the box is.
pub(crate) const DEVICE: &str = "shops/till-1";

/// How long something may take before a test gives it up. No test depends on it being shorter.
const PATIENCE: Duration = Duration::from_secs(60);

/// The box, and the repository that it follows.
pub(crate) struct TestBox {
    dir: TempDir,
    pub(crate) repo: SignedRepo,
}

impl TestBox {
    /// A box that follows its repository by `file://`. The repository has a Fleet and a Device document.
    pub(crate) fn new() -> Self {
        let test_box = TestBox { dir: tempfile::tempdir().unwrap(), repo: SignedRepo::new() };
        let fleet = document("Fleet", "retail", "spec: {}\n");
        let device = document("Device", DEVICE, "spec: {}\n");
        test_box.repo.write(&[("holdfast.yaml", &fleet), (&format!("devices/{DEVICE}.yaml"), &device)]);
        test_box.follow(&format!("url = \"{}\"", test_box.repo.url()));
        test_box
    }

    /// A box with one app, `pos`, in version 1, on which it has converged.
    pub(crate) fn converged() -> Self {
        let test_box = TestBox::new();
        test_box.commit(&pos("1", ""));
        let (code, status) = test_box.once();
        assert_eq!((code, &status["converged"]), (0, &Value::Bool(true)), "{status:#}");
        test_box
    }

    /// Writes `agent.toml` anew, with other lines under `[source]`.
    pub(crate) fn follow(&self, source: &str) {
        let signers = self.repo.allowed_signers();
        self.configure(source, &format!("mode = \"signed\"\nallowed_signers = \"{}\"", signers.display()));
    }

    /// The same, with other lines under `[trust]` too.
    pub(crate) fn configure(&self, source: &str, trust: &str) {
        let text = format!(
            "[device]\nname = \"{DEVICE}\"\n[source]\n{source}\ninterval = \"1h\"\n[trust]\n{trust}\n\
             [state]\ndir = \"state\"\n[api]\nsocket = \"api.sock\"\n\
             [drivers.wasm]\nenabled = false\n[drivers.simulated]\ndir = \"runtime\"\n"
        );
        fs::write(self.path("agent.toml"), text).unwrap();
    }

    /// A path in the box's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Commits these files, signed as it should be; gives the commit's id.
    pub(crate) fn commit(&self, files: &[(String, String)]) -> String {
        self.commit_by(files, Signer::Ops)
    }

    /// The same, signed by somebody.
    pub(crate) fn commit_by(&self, files: &[(String, String)], signer: Signer<'_>) -> String {
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
        self.repo.commit(&files, signer)
    }

    /// Takes files out of the next commit.
    pub(crate) fn remove(&self, path: &str) {
        self.repo.git(&["rm", "-rq", path]);
    }

    /// The program with these arguments, and this box's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_holdfast")]);
        command.args(arguments).arg("--config").arg(self.path("agent.toml"));
        command.env_remove("HOLDFAST_LOG").env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        // What a test writes there moves the clock.
        command.env("HOLDFAST_CLOCK", self.path("clock"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn holdfast(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap_or_else(|_| panic!("{}", missing("setpriv (util-linux)")))
    }

    /// Runs a command that prints JSON; gives its exit code too.
    pub(crate) fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.holdfast(&[arguments, &["--json"]].concat());
        let code = output.status.code().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("{arguments:?} printed no JSON ({error}), exit {code}:\n{said}")
        });
        (code, value)
    }

    /// One pass, until every verdict is in: the exit code and the status that it ends with.
    pub(crate) fn once(&self) -> (i32, Value) {
        self.json(&["run", "--once", "--timeout", "3m", "--log", "error"])
    }

    /// What the box says of itself.
    pub(crate) fn status(&self) -> Value {
        self.json(&["status"]).1
    }

    /// The events, oldest first.
    pub(crate) fn events(&self) -> Vec<Value> {
        let output = self.holdfast(&["events", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many events of this kind there are.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events().iter().filter(|event| event["kind"] == kind).count()
    }

    /// Starts the daemon, and waits until it answers.
    pub(crate) fn start(&self) -> Agent<'_> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut command = self.command(&["run", "--log", "warn"]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        let child = child.unwrap_or_else(|_| panic!("{}", missing("setpriv (util-linux)")));
        let mut agent = Agent { test_box: self, child };
        let began = Instant::now();
        while !self.path("api.sock").exists() {
            if let Some(end) = agent.child.try_wait().unwrap() {
                panic!("the agent ended at once ({end}):\n{}", self.log());
            }
            assert!(began.elapsed() < PATIENCE, "the agent doesn't come up:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        agent
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// The file that stands for an app's object in the simulated runtime.
    pub(crate) fn object(&self, app: &str) -> PathBuf {
        self.path(&format!("runtime/objects/Deployment:{app}:{app}.json"))
    }

    /// The version of an app that the simulated runtime holds.
    pub(crate) fn runs(&self, app: &str) -> Option<String> {
        let object: Value = serde_json::from_slice(&fs::read(self.object(app)).ok()?).ok()?;
        Some(object.pointer("/spec/spec/version")?.as_str()?.to_owned())
    }

    /// How often the simulated runtime made or changed an object.
    pub(crate) fn changes(&self) -> usize {
        let log = fs::read_to_string(self.path("runtime/log.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| ["create", "update", "recreate"].contains(&line["op"].as_str().unwrap())).count()
    }
}

/// The daemon on a box. It is killed with its owner.
pub(crate) struct Agent<'a> {
    test_box: &'a TestBox,
    child: Child,
}

impl Agent<'_> {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it says what `wanted` wants to hear.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.test_box.status();
            if wanted(&status) {
                return status;
            }
            let log = || self.test_box.log();
            assert!(began.elapsed() < PATIENCE, "waited for {what}; it says {status:#}\n{}", log());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until it is converged on a revision.
    pub(crate) fn wait_for(&self, revision: &str) -> Value {
        self.wait(revision, |status| status["converged"] == true && status["revision"]["applied"] == revision)
    }

    /// Asks it to end, and gives its exit code; a death by a signal is none.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        let end = self.child.wait().unwrap();
        assert_eq!(end.signal(), None, "{}", self.test_box.log());
        end.code()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A document as a repository holds it.
pub(crate) fn document(kind: &str, name: &str, rest: &str) -> String {
    format!("apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\n{rest}")
}

/// The files of an app with one Deployment; `script` is a line of YAML for its annotations, see the
/// simulated driver.
pub(crate) fn app(name: &str, version: &str, script: &str) -> Vec<(String, String)> {
    let spec = format!(
        "spec:\n  placement: {{}}\n  container: {{ namespace: {name}, driver: any }}\n  \
         health: {{ startup: 1s, deadline: 1m, soak: 200ms }}\n"
    );
    let manifest = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {name}\n  annotations: {{ {script} }}\n\
         spec: {{ version: \"{version}\" }}\n"
    );
    vec![
        (format!("apps/{name}/app.yaml"), document("App", name, &spec)),
        (format!("apps/{name}/manifests/{name}.yaml"), manifest),
    ]
}

/// [`app`], of the app `pos`.
pub(crate) fn pos(version: &str, script: &str) -> Vec<(String, String)> {
    app("pos", version, script)
}

/// What a status says of one app; null if it doesn't know it.
pub(crate) fn of<'a>(status: &'a Value, app: &str) -> &'a Value {
    let apps = status["apps"].as_array().unwrap();
    apps.iter().find(|entry| entry["name"] == app).unwrap_or(&Value::Null)
}

/// The cause of the first thing that a status says is held beyond an app.
pub(crate) fn cause(status: &Value) -> &str {
    status["held"][0]["cause"].as_str().unwrap_or_else(|| panic!("nothing is held: {status:#}"))
}

/// The names of an object's fields, sorted.
pub(crate) fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}
