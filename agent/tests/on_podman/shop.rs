//! A box with podman, a registry that has versions of a web server, and the app `pos` that runs them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::agent_box::AgentBox;
use crate::support::git_repo::Signer;
use crate::support::image::Image;
use crate::support::podman::{Container, Podman, Setup};
use crate::support::podman_image::webapp;
use crate::support::registry::Registry;

/// More than any step takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module. Dropped, the agent goes before its podman.
pub(crate) struct Shop {
    /// The box.
    pub(crate) agent: AgentBox,
    /// Its podman.
    pub(crate) podman: Podman,
    /// Where its images come from.
    pub(crate) registry: Registry,
}

impl Shop {
    /// A box that was never started.
    pub(crate) fn new() -> Self {
        Shop::with(&Setup::default())
    }

    /// The same with another podman.
    pub(crate) fn with(setup: &Setup) -> Self {
        let registry = Registry::start();
        let host = registry.host();
        Shop::with_registry(setup, registry, &host)
    }

    /// The same with a registry that the box reaches at `host`.
    pub(crate) fn with_registry(setup: &Setup, registry: Registry, host: &str) -> Self {
        let podman = Podman::start_with(setup);
        let more = format!(
            "[drivers.podman]\nsocket = \"{}\"\nrun_dir = \"{{dir}}/podman\"\n[registries.\"{}\"]\nplain_http = true\n",
            podman.socket().display(),
            host
        );
        Shop { agent: AgentBox::with(&more), podman, registry }
    }

    /// Pushes a version of the web server, and gives what a manifest calls it.
    pub(crate) fn push(&self, version: &str) -> String {
        let digest = self.registry.push("pos", version, &web_server(version));
        format!("{}/pos@{digest}", self.registry.host())
    }

    /// Writes an app of one Deployment; `app` goes into app.yaml's spec, `pod` into the pod's spec, `container` into
    /// its container. It is in the next commit.
    pub(crate) fn write_app(&self, name: &str, image: &str, app: &str, pod: &str, container: &str) {
        let manifest = format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name} }}\nspec:\n  selector: {{ matchLabels: {{ app: {name} }} }}\n  template:\n    metadata: {{ labels: {{ app: {name} }} }}\n    spec:\n      terminationGracePeriodSeconds: 5\n{pod}      containers:\n        - name: {name}\n          image: {image}\n{container}"
        );
        self.write(name, app, &manifest);
    }

    /// Writes an app with this in its spec, and these manifests.
    pub(crate) fn write(&self, name: &str, app: &str, manifests: &str) {
        let usual = "  health: { startup: 5s, deadline: 30s, soak: 300ms }\n";
        let health = if app.contains("health:") { "" } else { usual };
        let document = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: {{ name: {name} }}\nspec:\n  placement: {{}}\n  container: {{ driver: podman }}\n{health}{app}"
        );
        self.agent.repo.write(&[
            (&format!("apps/{name}/app.yaml"), &document),
            (&format!("apps/{name}/manifests/all.yaml"), manifests),
        ]);
    }

    /// Commits what was written, has the agent poll, and waits until all of it is good.
    pub(crate) fn converge(&mut self) -> String {
        let commit = self.commit();
        self.agent.wait_converged(&commit);
        commit
    }

    /// Commits what was written, and has the agent poll.
    pub(crate) fn commit(&self) -> String {
        let commit = self.agent.repo.commit(&[], Signer::Ops);
        // Before its first line of code a SIGHUP would end the agent.
        wait_for("the agent is up", || self.agent.status());
        self.agent.signal(Signal::SIGHUP);
        commit
    }

    /// The containers that the agent made for an app.
    pub(crate) fn containers_of(&self, app: &str) -> Vec<Container> {
        self.podman.containers(&format!("dev.holdfast.app={app}"))
    }
}

/// The web server as an image, which answers its version.
pub(crate) fn web_server(version: &str) -> Image {
    let program = std::fs::read(webapp()).unwrap();
    Image::new()
        .layer(&[("webapp", 0o755, &program)])
        .layer(&[("version", 0o644, version.as_bytes())])
        .entrypoint(&["/webapp"])
        .env(&["ANSWER_FILE=/version"])
}

/// The body of an answer with the status 200.
pub(crate) fn get(address: &str, path: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no whole answer")?;
    if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(head.to_owned()) }
}

/// Waits until `wanted` gives something.
pub(crate) fn wait_for<T>(what: &str, wanted: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
