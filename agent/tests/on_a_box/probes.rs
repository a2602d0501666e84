//! Health as probe components see it: WebAssembly that the agent runs beside the app.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_core::digest::Digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::boxes::{TestBox, document, of, pos};
use crate::component::ask;
use crate::support::git_repo::objects;
use crate::support::middleman::{Deed, Middleman};
use crate::support::ports::free_port;

/// How long something may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// A component that answers HTTP.
const HELLO: &str = include_str!("../../../examples/hello/hello.wat");

/// A module that says something and ends with this code.
fn says(words: &str, code: u8) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\{:02x}\00\00\00") ;; where the words are, and how many
  (data (i32.const 16) "{words}")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const {code}))))"#,
        words.len()
    )
}

/// A box with the WebAssembly runtime. Its workloads end with it.
struct ProbeBox(TestBox);

impl std::ops::Deref for ProbeBox {
    type Target = TestBox;

    fn deref(&self) -> &TestBox {
        &self.0
    }
}

impl Drop for ProbeBox {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let name = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if name.contains(&*self.path("run").to_string_lossy()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl ProbeBox {
    fn new() -> Self {
        let test_box = ProbeBox(TestBox::new());
        test_box.switch_engine(true);
        test_box
    }

    fn switch_engine(&self, on: bool) {
        let text = fs::read_to_string(self.path("agent.toml")).unwrap();
        let (head, _) = text.split_once("[drivers.wasm]").unwrap();
        let wasm = format!("[drivers.wasm]\nenabled = {on}\nuser = \"\"\nrun_dir = \"run\"\n");
        let rest = "[drivers.simulated]\ndir = \"runtime\"\n";
        fs::write(self.path("agent.toml"), head.to_owned() + &wasm + rest).unwrap();
    }

    /// The process of the app `hello`.
    fn pid(&self) -> Option<i32> {
        let record: Value =
            serde_json::from_slice(&fs::read(self.path("run/hello/workload.json")).ok()?).ok()?;
        i32::try_from(record["pid"].as_i64()?).ok()
    }

    /// Commits `pos` in a version, judged by `probe` with these further fields.
    fn commit_pos(&self, version: &str, probe: &[u8], fields: &str) -> String {
        let mut files = pos(version, "");
        let check = format!(", checks: [ {{ wasm: {{ component: files/ask.wasm{fields} }} }} ] }}");
        let usual = "soak: 200ms }";
        assert!(files[0].1.contains(usual));
        files[0].1 = files[0].1.replace(usual, &format!("soak: 200ms{check}"));
        self.write_probe("pos", probe);
        self.commit(&files)
    }

    fn write_probe(&self, app: &str, probe: &[u8]) {
        let folder = self.repo.path().join(format!("apps/{app}/files"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ask.wasm"), probe).unwrap();
    }

    /// Commits the wasm app `hello`, which answers /healthz with `status`, judged by a probe that asks it there.
    fn commit_hello(&self, port: u16, status: u16, probe: &[u8]) -> String {
        let health = "$health i32 (i32.const 200)";
        assert!(HELLO.contains(health));
        let code = HELLO.replace(health, &format!("$health i32 (i32.const {status})"));
        let spec = format!(
            "spec:\n  placement: {{}}\n  wasm:\n    component: files/hello.wat\n    \
             http: {{ listen: \"127.0.0.1:{port}\" }}\n  \
             health:\n    startup: 1s\n    deadline: 1m\n    soak: 200ms\n    checks:\n      \
             - wasm: {{ component: files/ask.wasm, args: [get, /healthz], target: Wasm/hello, port: {port} }}\n"
        );
        self.write_probe("hello", probe);
        self.commit(&[
            ("apps/hello/app.yaml".into(), document("App", "hello", &spec)),
            ("apps/hello/files/hello.wat".into(), code),
        ])
    }

    fn why_it_failed(&self) -> String {
        let events = self.events();
        let failed = events.iter().rfind(|event| event["kind"] == "app.failed").expect("it failed");
        failed["message"].as_str().unwrap().to_owned()
    }

    /// Where content of the box is kept.
    fn pinned(&self, content: &[u8]) -> PathBuf {
        self.path("state/content/sha256").join(Digest::of(content).to_hex())
    }

    /// One pass, after which `app` is in this phase.
    fn once_to(&self, app: &str, phase: &str) -> Value {
        let (code, status) = self.once();
        let wanted = (if phase == "Good" { 0 } else { 2 }, &json!(phase));
        assert_eq!((code, &of(&status, app)["phase"]), wanted, "{status:#}");
        status
    }
}

/// What is answered at a path of the loopback.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_wasm_app_is_good_by_its_probes_word_and_a_version_that_the_probe_finds_ill_goes_back() {
    let (test_box, port) = (ProbeBox::new(), free_port());
    test_box.commit_hello(port, 200, ask());
    let good = test_box.once_to("hello", "Good");
    test_box.commit_hello(port, 503, ask());
    let status = test_box.once_to("hello", "RolledBack");
    let said = format!(
        "probe files/ask.wasm: exited with code 1: 127.0.0.1:{port} said \"HTTP/1.1 503 Service Unavailable\""
    );
    let why = test_box.why_it_failed();
    assert!(why.contains(&said), "{why}");
    let cause = of(&status, "hello")["held"]["cause"].as_str().unwrap();
    assert!(cause.contains(&said), "{cause}");
    assert_eq!(of(&status, "hello")["good"], of(&good, "hello")["release"]);
    assert!(get(port, "/healthz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn another_probe_alone_restarts_nothing_and_counts_from_the_next_verdict() {
    let (test_box, port) = (ProbeBox::new(), free_port());
    test_box.commit_hello(port, 200, ask());
    let before = test_box.once_to("hello", "Good");
    let pid = test_box.pid().unwrap();
    let strict = says("nothing is good enough", 1);
    let commit = test_box.commit_hello(port, 200, strict.as_bytes());
    // Where it is asked already its word is told: that is no verdict.
    let (_, after) = test_box.once();
    assert_eq!(of(&after, "hello")["phase"], "Good", "{after:#}");
    assert_eq!((&after["revision"]["applied"], test_box.pid()), (&json!(commit), Some(pid)));
    assert_eq!(of(&after, "hello")["release"], of(&before, "hello")["release"]);
    assert!(test_box.pinned(strict.as_bytes()).exists());
    assert!(!test_box.pinned(ask()).exists(), "nothing names the old one any more");

    test_box.commit_hello(port, 201, strict.as_bytes());
    test_box.once_to("hello", "RolledBack");
    let why = test_box.why_it_failed();
    assert!(why.contains("probe files/ask.wasm: exited with code 1: nothing is good enough"), "{why}");
}

#[test]
fn probes_that_loop_or_leave_the_box_or_want_too_much_take_their_release_back() {
    let test_box = ProbeBox::new();
    test_box.commit_pos("1", says("all is well", 0).as_bytes(), "");
    test_box.once_to("pos", "Good");
    for (version, fields, said) in [
        ("2", "args: [spin], timeout: 400ms", "did not end within 400ms, and was killed: it goes round"),
        ("3", "args: [connect, '192.0.2.1:80']", "exited with code 1: PermissionDenied"),
        ("4", "args: [say, x], memory: 64Ki", "it tried to exceed its memory limit of 65536 bytes"),
        (
            "5",
            "target: Deployment/pos, port: 80",
            "port 80 of Deployment/pos has no address that the agent can reach",
        ),
    ] {
        test_box.commit_pos(version, ask(), &format!(", {fields}"));
        test_box.once_to("pos", "RolledBack");
        assert_eq!(test_box.runs("pos").unwrap(), "1");
        let why = test_box.why_it_failed();
        assert!(why.contains("probe files/ask.wasm: ") && why.contains(said), "{why}");
    }
}

#[test]
fn the_probe_of_every_version_that_may_come_back_stays_on_the_box() {
    let test_box = ProbeBox::new();
    let probes = ["one", "two", "three"].map(|name| says(name, 0));
    for (version, probe) in ["1", "2", "3"].into_iter().zip(&probes) {
        test_box.commit_pos(version, probe.as_bytes(), "");
        test_box.once_to("pos", "Good");
    }
    let there = probes.each_ref().map(|probe| test_box.pinned(probe.as_bytes()).exists());
    assert_eq!(there, [false, true, true], "the good one and the one before");
}

#[test]
fn a_probe_that_cannot_be_compiled_disturbs_nothing_and_the_next_commit_mends_it() {
    let test_box = ProbeBox::new();
    let first = test_box.commit_pos("1", says("all is well", 0).as_bytes(), "");
    let agent = test_box.start();
    agent.wait_for(&first);
    test_box.commit_pos("2", b"(module (func (export \"_start\") (call $nowhere)))", "");
    agent.signal("HUP");
    let status = agent.wait("the probe's error", |status| of(status, "pos")["held"]["cause"].is_string());
    let cause = of(&status, "pos")["held"]["cause"].as_str().unwrap();
    assert!(cause.contains("the probe files/ask.wasm: ") && cause.contains("nowhere"), "{cause}");
    assert_eq!((test_box.runs("pos").as_deref(), test_box.count("app.failed")), (Some("1"), 0));
    let mended = test_box.commit_pos("2", says("all is well", 0).as_bytes(), "");
    agent.signal("HUP");
    agent.wait_for(&mended);
    assert_eq!(test_box.runs("pos").unwrap(), "2");
}

#[test]
fn an_agent_without_an_engine_holds_the_app_and_leaves_what_runs() {
    let test_box = ProbeBox::new();
    test_box.switch_engine(false);
    test_box.commit(&pos("1", ""));
    test_box.once_to("pos", "Good");
    test_box.commit_pos("2", says("all is well", 0).as_bytes(), "");
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    let held = &of(&status, "pos")["held"];
    assert!(held["cause"].as_str().unwrap().contains("this agent has no WebAssembly engine"), "{status:#}");
    assert!(held["unblock"].as_str().unwrap().contains("drivers.wasm.enabled"), "{status:#}");
    assert_eq!(test_box.runs("pos").unwrap(), "1");
}

#[test]
fn a_probe_whose_agent_is_killed_ends_by_itself() {
    let test_box = ProbeBox::new();
    test_box.commit_pos("1", ask(), ", args: [spin], timeout: 2s");
    let agent = test_box.start();
    let began = Instant::now();
    let probe = loop {
        if let Some(probe) = child_of(agent.pid(), "wasm-probe\0pos\0") {
            break probe;
        }
        assert!(began.elapsed() < PATIENCE, "no probe was seen");
        std::thread::sleep(Duration::from_millis(5));
    };
    drop(agent);
    while runs(&probe) {
        assert!(began.elapsed() < PATIENCE, "it goes on without its agent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The folder in /proc of a process with this parent and these words in its command line.
fn child_of(parent: u32, words: &str) -> Option<PathBuf> {
    let parent = format!("PPid:\t{parent}");
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let read = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let mut found = all.filter(|folder| read(folder, "cmdline").contains(words));
    found.find(|folder| read(folder, "status").lines().any(|line| line == parent))
}

/// Whether it is more than the remains that nobody has collected.
fn runs(process: &Path) -> bool {
    fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_box_fetches_the_probes_of_its_own_apps_and_no_others() {
    let test_box = ProbeBox::new();
    let other = document(
        "App",
        "other",
        "spec:\n  placement: { matchLabels: { tier: none } }\n  wasm: { component: files/x.wat }\n  health: { checks: [ { wasm: { component: files/ask.wasm } } ] }\n",
    );
    test_box.repo.write(&[("apps/other/app.yaml", &other), ("apps/other/files/x.wat", "(module)")]);
    test_box.write_probe("other", says("not here", 0).as_bytes());
    test_box.commit_pos("1", says("all is well", 0).as_bytes(), "");
    let way = Middleman::start(&test_box.repo, |_, _| Deed::Pass);
    test_box.follow(&format!("url = \"{}\"", way.url()));
    test_box.switch_engine(true);
    test_box.once_to("pos", "Good");
    let here = objects(&test_box.path("state/mirror"));
    let id = |path: &str| test_box.repo.git(&["rev-parse", &format!("HEAD:{path}")]);
    assert!(here.contains(&id("apps/pos/files/ask.wasm")));
    assert!(!here.contains(&id("apps/other/files/ask.wasm")));
}

#[test]
fn a_way_back_whose_port_somebody_else_has_does_not_keep_the_next_commit_from_being_tried() {
    let (test_box, before, after) = (ProbeBox::new(), free_port(), free_port());
    let first = test_box.commit_hello(before, 200, ask());
    let agent = test_box.start();
    agent.wait_for(&first);
    test_box.commit_hello(after, 503, ask());
    agent.signal("HUP");
    let began = Instant::now();
    let squatter = loop {
        match TcpListener::bind(("127.0.0.1", before)) {
            Ok(squatter) => break squatter,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let is_stuck = |status: &Value| {
        let hello = of(status, "hello");
        let cause = hello["held"]["cause"].as_str().unwrap_or_default();
        hello["phase"] == "RollingBack" && cause.contains("cannot listen")
    };
    agent.wait("a way back that can't end", is_stuck);
    let mended = test_box.commit_hello(after, 200, ask());
    agent.signal("HUP");
    agent.wait_for(&mended);
    assert!(get(after, "/healthz").starts_with("HTTP/1.1 200 "));
    drop(squatter);
}
