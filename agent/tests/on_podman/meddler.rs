//! What goes wrong around the agent, for the tests of faults: apps on the box's own network, somebody else's container
//! and volume beside them, and looks at what the agent says.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::shop::{Shop, get, wait_for};
use crate::support::agent_box::app;
use crate::support::podman::Container;
use crate::support::podman_image::Image;
use crate::support::ports::free_port;
use crate::support::tools::printed;

/// An app of one container on the box's network.
pub(crate) struct HostApp {
    /// Its name.
    pub(crate) name: &'static str,
    /// Where it answers its version.
    pub(crate) port: u16,
}

impl HostApp {
    /// An app that isn't written yet.
    pub(crate) fn new(name: &'static str) -> Self {
        HostApp { name, port: free_port() }
    }

    /// Writes it with this image, and these lines in its container.
    pub(crate) fn write(&self, shop: &Shop, image: &str, container: &str) {
        self.write_after(shop, image, "", container);
    }

    /// The same with lines for app.yaml.
    pub(crate) fn write_after(&self, shop: &Shop, image: &str, app: &str, container: &str) {
        self.write_with(shop, image, app, "", container);
    }

    /// The same as [`HostApp::write`], and another release for each `mark`.
    pub(crate) fn write_marked(&self, shop: &Shop, image: &str, mark: u64, container: &str) {
        self.write_with(shop, image, "", &format!(", {{ name: MARK, value: \"{mark}\" }}"), container);
    }

    fn write_with(&self, shop: &Shop, image: &str, app: &str, env: &str, container: &str) {
        let port = self.port;
        let container = format!(
            "          env: [ {{ name: PORT, value: \"{port}\" }}, {{ name: HEALTH, value: /health }}{env} ]\n          \
             readinessProbe: {{ httpGet: {{ path: /healthz, port: {port} }}, periodSeconds: 1 }}\n{container}"
        );
        shop.write_app(self.name, image, app, "      hostNetwork: true\n", &container);
    }

    /// What it answers now.
    pub(crate) fn answer(&self) -> Result<String, String> {
        get(&format!("127.0.0.1:{}", self.port), "/")
    }

    /// Waits until it answers this.
    pub(crate) fn wait_answer(&self, shop: &Shop, wanted: &str) {
        let what = format!("{} answers {wanted}\n{}", self.name, shop.agent.log_tail());
        wait_for(&what, || (self.answer().as_deref() == Ok(wanted)).then_some(()));
    }

    /// Its only container.
    pub(crate) fn container(&self, shop: &Shop) -> Container {
        let mut all = shop.containers_of(self.name);
        assert_eq!(all.len(), 1, "{all:#?}\n{}", shop.agent.log_tail());
        all.remove(0)
    }

    /// Waits until it has one container, which runs and isn't the one with the id `before`, and it answers.
    pub(crate) fn wait_renewed(&self, shop: &Shop, before: &str, answer: &str) -> Container {
        let what = format!("{} runs anew", self.name);
        let found = wait_for(&what, || match &shop.containers_of(self.name)[..] {
            [only] if only.id != before && only.state == "running" => Some(only.clone()),
            _ => None,
        });
        self.wait_answer(shop, answer);
        found
    }
}

/// A container, a volume and a secret that somebody else has on the box.
pub(crate) struct Neighbour {
    id: String,
    pid: i32,
}

impl Neighbour {
    /// Makes them.
    pub(crate) fn start(shop: &Shop) -> Self {
        let podman = &shop.podman;
        podman.load(&Image::webapp("neighbour"), "localhost/neighbour:1");
        let (status, _) = podman.api("POST", "/volumes/create", Some(&json!({ "Name": "neighbours-data" })));
        assert_eq!(status, 201);
        let body = json!({
            "name": "neighbour", "image": "localhost/neighbour:1", "netns": { "nsmode": "host" },
            "env": { "PORT": free_port().to_string() },
            "volumes": [{ "Name": "neighbours-data", "Dest": "/data" }],
        });
        let (status, answer) = podman.api("POST", "/containers/create", Some(&body));
        assert_eq!(status, 201, "{answer}");
        assert_eq!(podman.api("POST", "/containers/neighbour/start", None).0, 204);
        let found = podman.inspect("neighbour").unwrap();
        Neighbour { id: text(&found["Id"]), pid: pid(&found, "Pid") }
    }

    /// Nothing of them is another than before.
    pub(crate) fn assert_untouched(&self, shop: &Shop) {
        let (status, found) = shop.podman.api("GET", "/containers/neighbour/json", None);
        assert_eq!(status, 200, "{found}\n{:#?}\n{}", shop.podman.containers(""), shop.agent.log_tail());
        assert_eq!((text(&found["Id"]), pid(&found, "Pid")), (self.id.clone(), self.pid), "{found}");
        assert_eq!(found["State"]["Status"], "running");
        assert_eq!(shop.podman.api("GET", "/volumes/neighbours-data/json", None).0, 200);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A process in a container's state: `Pid` or `ConmonPid`; 0 for none.
pub(crate) fn pid(inspected: &Value, which: &str) -> i32 {
    inspected["State"][which].as_i64().unwrap_or(0).try_into().unwrap()
}

/// Kills a process as nothing can refuse.
pub(crate) fn murder(pid: i32) {
    assert!(pid > 1);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

impl Shop {
    /// The agent's events of a kind, about an app.
    pub(crate) fn events(&self, kind: &str, app: &str) -> Vec<String> {
        let mut holdfast = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        let text =
            printed(holdfast.args(["events", "--json", "--config"]).arg(self.agent.dir().join("agent.toml")));
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let wanted = events.filter(|event| event["kind"] == kind && event["app"] == app);
        wanted.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until so many changes from outside were put right, and gives what was said of them.
    pub(crate) fn wait_drift(&self, app: &str, count: usize) -> Vec<String> {
        wait_for(&format!("{count} changes of {app} are told"), || {
            Some(self.events("app.drift", app)).filter(|said| said.len() >= count)
        })
    }

    /// Waits until an app is held, or its health has a reason, with these words; gives the whole of them.
    pub(crate) fn wait_said(&mut self, name: &str, words: &str) -> String {
        let said = std::cell::RefCell::new(String::new());
        self.agent.wait_until(&format!("that {name} says: {words}"), |_, status| {
            let Some(app) = app(status, name) else { return false };
            let cause = app.held.as_ref().map(|held| held.cause.clone());
            let all = [cause, app.reason.clone()];
            let found = all.into_iter().flatten().find(|said| said.contains(words));
            found.map(|found| *said.borrow_mut() = found).is_some()
        });
        said.into_inner()
    }

    /// Every process of podman's is the service, or one of the containers that it has.
    pub(crate) fn assert_no_strays(&self) {
        let left = wait_or_give(|| {
            let containers: Vec<String> = self.podman.containers("").into_iter().map(|it| it.id).collect();
            let mut left = Vec::new();
            for process in self.podman.processes() {
                let read = |file: &str| {
                    let bytes = fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
                    String::from_utf8_lossy(&bytes).replace('\0', " ")
                };
                let (line, cgroup) = (read("cmdline"), read("cgroup"));
                let known = containers.iter().any(|id| line.contains(id) || cgroup.contains(id));
                if !known && !line.contains("system service") && !line.is_empty() {
                    left.push(format!("{process}: {line}"));
                }
            }
            left
        });
        assert!(left.is_empty(), "{left:#?}\n{}", self.agent.log_tail());
    }
}

/// Asks until there is nothing left, or long enough.
fn wait_or_give<T>(look: impl Fn() -> Vec<T>) -> Vec<T> {
    let began = std::time::Instant::now();
    loop {
        let left = look();
        if left.is_empty() || began.elapsed().as_secs() > 20 {
            return left;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
