//! Hooks of containers, as the kubelet has them: what is done after a start and before a stop.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::shop::{Shop, wait_for};
use crate::support::agent_box::app;
use crate::support::image::Image;

/// Writes down that it was asked to stop, and ends.
const PROGRAM: &str =
    "trap 'echo term >> /end/log; exit 0' TERM; while true; do /bin/busybox sleep 0.1; done";

/// A box with an app of one pod, whose programs write to a file what happens to them.
struct Hooked {
    shop: Shop,
    image: String,
    end: TempDir,
}

impl Hooked {
    fn new() -> Self {
        let shop = Shop::new();
        let shell = fs::read("/bin/busybox").expect("/bin/busybox is missing: run scripts/setup-tests.sh");
        let image = Image::new().layer(&[("bin/busybox", 0o755, &shell), ("bin/sh", 0o755, &shell)]);
        let image = format!("{}/hooked@{}", shop.registry.host(), shop.registry.push("hooked", "1", &image));
        Hooked { shop, image, end: tempfile::tempdir().unwrap() }
    }

    /// A container that runs `program`, with these beside it.
    fn container(&self, name: &str, program: &str, more: Value) -> Value {
        let mut container = json!({
            "name": name, "image": self.image, "command": ["/bin/sh", "-c", program],
            "volumeMounts": [{ "name": "end", "mountPath": "/end" }],
        });
        if let (Some(container), Value::Object(more)) = (container.as_object_mut(), more) {
            container.extend(more);
        }
        container
    }

    fn write(&self, app: &str, grace: u32, containers: &[Value]) {
        let end = self.end.path();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "hooked" },
            "spec": {
                "terminationGracePeriodSeconds": grace, "containers": containers,
                "volumes": [{ "name": "end", "hostPath": { "path": end } }],
            },
        });
        self.shop.write("hooked", app, &pod.to_string());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.end.path().join("log")).unwrap_or_default()
    }

    fn wait_log(&self, wanted: &str) {
        let what = || format!("{wanted:?}, but {:?}\n{}", self.log(), self.shop.agent.log_tail());
        wait_for(&what(), || (self.log() == wanted).then_some(()));
    }

    fn touch(&self, file: &str) {
        fs::write(self.end.path().join(file), "").unwrap();
    }
}

fn shell(script: &str) -> Value {
    json!({ "exec": { "command": ["/bin/sh", "-c", script] } })
}

#[test]
fn a_container_is_asked_to_stop_when_its_pre_stop_hook_is_done_whyever_it_is_stopped() {
    let mut it = Hooked::new();
    let container = |it: &Hooked, mark: &str| {
        let hook = shell("/bin/busybox sleep 1; echo hook >> /end/log");
        let more = json!({
            "env": [{ "name": "MARK", "value": mark }], "lifecycle": { "preStop": hook },
            "livenessProbe": { "exec": { "command": ["/bin/sh", "-c", "[ ! -e /end/ill ]"] }, "periodSeconds": 1, "failureThreshold": 1 },
        });
        it.container("hooked", PROGRAM, more)
    };
    it.write("", 30, &[container(&it, "1")]);
    it.shop.agent.start(&[]);
    it.shop.converge();
    assert_eq!(it.log(), "");

    // Another version takes its place.
    it.write("", 30, &[container(&it, "2")]);
    it.shop.converge();
    assert_eq!(it.log(), "hook\nterm\n");

    // One takes its place that was started beside it.
    it.write("  update: { strategy: start-stop }\n", 30, &[container(&it, "3")]);
    it.shop.converge();
    assert_eq!(it.log(), "hook\nterm\n".repeat(2));

    // Its liveness is given up; by now the agent is another one.
    it.shop.agent.stop();
    it.shop.agent.start(&[]);
    it.touch("ill");
    it.wait_log(&"hook\nterm\n".repeat(3));
    fs::remove_file(it.end.path().join("ill")).unwrap();
    it.shop.converge();

    it.shop.agent.repo.git(&["rm", "-rq", "apps/hooked"]);
    it.shop.converge();
    assert_eq!(it.log(), "hook\nterm\n".repeat(4));
    assert!(it.shop.containers_of("hooked").is_empty());
}

#[test]
fn a_pre_stop_hook_that_hangs_or_is_not_there_never_prevents_the_stop() {
    let mut it = Hooked::new();
    let hanging = shell("echo hook >> /end/log; exec /bin/busybox sleep 1000");
    let lost = json!({ "exec": { "command": ["/bin/nowhere"] } });
    let container =
        |name: &str, hook: &Value| it.container(name, PROGRAM, json!({ "lifecycle": { "preStop": hook } }));
    it.write("", 3, &[container("hanging", &hanging), container("lost", &lost)]);
    it.shop.agent.start(&[]);
    it.shop.converge();
    it.shop.agent.repo.git(&["rm", "-rq", "apps/hooked"]);
    it.shop.converge();
    // The second one is asked at once; the first one has its program's answer to SIGTERM left when the grace is over.
    let log = it.log();
    assert_eq!(log.matches("term").count(), 2, "{log}");
    assert!(log.ends_with("term\n"), "{log}");
    let said = it.shop.agent.log();
    let failures: Vec<&str> = said.lines().filter(|line| line.contains("the preStop hook failed")).collect();
    assert_eq!(failures.len(), 2, "{}", it.shop.agent.log_tail());
    assert!(failures.iter().any(|line| line.contains("sleep 1000 did not end within 3s")), "{failures:?}");
    assert!(failures.iter().any(|line| line.contains("/bin/nowhere")), "{failures:?}");
}

#[test]
fn containers_that_go_with_the_first_one_of_their_pod_have_their_hooks_done() {
    let mut it = Hooked::new();
    let more = json!({ "lifecycle": { "preStop": shell("echo side >> /end/log") } });
    let first = it.container("first", "while true; do /bin/busybox sleep 0.1; done", json!({}));
    it.write("", 30, &[first, it.container("side", PROGRAM, more)]);
    it.shop.agent.start(&[]);
    it.shop.converge();
    let first = it.shop.containers_of("hooked").into_iter().find(|one| one.name.contains("first")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    it.wait_log("side\nterm\n");
}

#[test]
fn a_pod_is_ready_when_its_post_start_hook_has_succeeded_and_an_agent_that_dies_meanwhile_has_it_run_again() {
    let mut it = Hooked::new();
    let hook = shell(
        "echo begun >> /end/log; while [ ! -e /end/go ]; do /bin/busybox sleep 0.1; done; echo done >> /end/done",
    );
    let container = it.container("hooked", PROGRAM, json!({ "lifecycle": { "postStart": hook } }));
    it.write("  health: { startup: 2m, deadline: 2m, soak: 300ms }\n", 30, &[container]);
    it.shop.agent.start(&[]);
    let commit = it.shop.commit();
    it.wait_log("begun\n");
    let starting = |_: &_, status: &holdfast_core::report::Status| {
        app(status, "hooked").is_some_and(|app| app.health == "Starting")
    };
    it.shop.agent.wait_until("starting", starting);
    it.shop.agent.kill();
    it.shop.agent.start(&[]);
    it.wait_log("begun\nbegun\n");
    it.shop.agent.wait_until("starting", starting);
    let before = it.shop.containers_of("hooked");
    it.touch("go");
    it.shop.agent.wait_converged(&commit);

    // It has succeeded, and a later agent knows.
    it.shop.agent.kill();
    it.shop.agent.start(&[]);
    it.shop.agent.repo.write(&[("README.md", "x")]);
    it.shop.converge();
    let after = it.shop.containers_of("hooked");
    assert_eq!((&before[0].id, before[0].pid), (&after[0].id, after[0].pid));
    assert_eq!(it.log(), "begun\nbegun\n");

    // Another start, another hook.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(after[0].pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    it.wait_log("begun\nbegun\nbegun\n");
}

#[test]
fn a_container_whose_post_start_hook_fails_is_started_again_and_the_hook_is_named() {
    let mut it = Hooked::new();
    let hook = shell("echo begun >> /end/log; [ -e /end/go ] || exit 3");
    let container = it.container("hooked", PROGRAM, json!({ "lifecycle": { "postStart": hook } }));
    it.write("  health: { startup: 2m, deadline: 2m, soak: 300ms }\n", 30, &[container]);
    it.shop.agent.start(&[]);
    let commit = it.shop.commit();
    it.wait_log("begun\nterm\nbegun\n");
    it.touch("go");
    it.shop.agent.wait_converged(&commit);
    let said = it.shop.agent.log();
    let named = "hooked: its postStart hook failed: /bin/sh -c echo begun >> /end/log; [ -e /end/go ] || exit 3 exited with code 3";
    assert!(said.contains(named), "{}", it.shop.agent.log_tail());
}
