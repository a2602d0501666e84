//! One app folder, on a box with podman and on a box with Kubernetes: the box decides, and seen from outside the
//! result is the same.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Weak};
use std::thread;

use holdfast_core::report::Status;
use nix::sys::signal::Signal;

use crate::shop::{Shop, wait_for, web_server};
use crate::support::agent_box::{AgentBox, app};
use crate::support::git_repo::Signer;
use crate::support::kubernetes::{ControlPlane, Options, POD_IP};
use crate::support::ports::free_port;

/// Where the pods of the cluster claim to be; podman's are where podman says.
const POD: Ipv4Addr = Ipv4Addr::new(127, 0, 87, 43);
const NAMESPACE: &str = "/api/v1/namespaces/pos";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/pos/deployments/pos";

/// As CONTRACT.md has it; the values differ from version to version.
const DOCUMENT: &str = r#"apiVersion: holdfast.dev/v1alpha1
kind: App
metadata: { name: pos }
spec:
  placement: {}
  requires: { agent: ">=0.1" }
  values: { replicas: 1, <values> }
  container: { namespace: pos, driver: any }
  health:
    startup: 2s
    deadline: 1m
    soak: 300ms
    checks:
      - http: { target: Deployment/pos, port: <port>, path: /healthz }
  onFailure: rollback
  update: { strategy: stop-start, irreversible: false }
"#;

const TEMPLATE: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { log: "{{ values.log }}" }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { password: hunter2 }
---
apiVersion: v1
kind: Service
metadata: { name: pos }
spec: { selector: { app: pos }, ports: [ { port: <port> } ] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: pos, labels: { app: pos } }
spec:
  replicas: {{ values.replicas }}
  selector: { matchLabels: { app: pos } }
  template:
    metadata:
      labels: { app: pos }
      annotations: { <pod-ip>: <address> }
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: pos
          image: {{ values.image }}
          ports: [ { containerPort: <port> } ]
          env:
            - { name: PORT, value: "<port>" }
            - { name: HEALTH, value: "{{ values.health }}" }
            - { name: LOG, valueFrom: { configMapKeyRef: { name: settings, key: log } } }
            - { name: PASSWORD, valueFrom: { secretKeyRef: { name: keys, key: password } } }
          readinessProbe: { tcpSocket: { port: <port> }, periodSeconds: 1 }
"#;

/// Both boxes.
struct Pair {
    podman: Shop,
    kubernetes: AgentBox,
    plane: Arc<ControlPlane>,
    port: u16,
}

/// What is seen of a box, apart from times, and from digests and words that have the runtime in them.
#[derive(Debug, PartialEq)]
struct Seen {
    converged: bool,
    held: usize,
    orphans: usize,
    app: Option<SeenApp>,
    /// What was told of the app up to now.
    events: Vec<String>,
}

#[derive(Debug, PartialEq)]
struct SeenApp {
    kind: String,
    phase: String,
    health: String,
    has_reason: bool,
    runs_good: bool,
    of_newest_commit: bool,
    /// Whether it is tried again by itself, and what a person can do.
    held: Option<(bool, String)>,
}

impl Pair {
    fn new(plane: ControlPlane) -> Self {
        let podman = Shop::new();
        let plane = Arc::new(plane);
        let more = format!(
            "[drivers.kubernetes]\nkubeconfig = \"{}\"\n[registries.\"{}\"]\nplain_http = true\n",
            plane.kubeconfig().display(),
            podman.registry.host()
        );
        let port = free_port();
        answer_for_pods(port, Arc::downgrade(&plane));
        Pair { podman, kubernetes: AgentBox::with(&more), plane, port }
    }

    fn boxes(&mut self) -> [&mut AgentBox; 2] {
        [&mut self.podman.agent, &mut self.kubernetes]
    }

    /// Writes the folder with these values into both repositories, commits it, and has both agents look.
    fn push(&mut self, values: &str) {
        let port = self.port.to_string();
        let document = DOCUMENT.replace("<values>", values).replace("<port>", &port);
        let template = TEMPLATE
            .replace("<pod-ip>", POD_IP)
            .replace("<address>", &POD.to_string())
            .replace("<port>", &port);
        for agent in self.boxes() {
            agent
                .repo
                .write(&[("apps/pos/app.yaml", &document), ("apps/pos/manifests/all.yaml.j2", &template)]);
        }
        self.commit();
    }

    fn commit(&mut self) {
        for agent in self.boxes() {
            agent.repo.commit(&[], Signer::Ops);
            wait_for("the agent is up", || agent.status());
            agent.signal(Signal::SIGHUP);
        }
    }

    /// Waits until both boxes have come there with what was pushed, and gives what both of them show.
    fn both(&mut self, what: &str, there: impl Fn(&Status) -> bool) -> Seen {
        let [podman, kubernetes] = self.boxes().map(|agent| {
            let newest = agent.repo.head();
            agent.wait_until(what, |_, status| {
                let accepted = status.revision.accepted.as_ref();
                accepted.is_some_and(|revision| revision.0 == newest) && there(status)
            });
            seen(agent, &newest)
        });
        assert_eq!(podman, kubernetes, "{what}: on podman, and on Kubernetes");
        podman
    }

    /// Why the app is held: on podman, and on Kubernetes.
    fn causes(&self) -> [String; 2] {
        [&self.podman.agent, &self.kubernetes].map(|agent| {
            let status = agent.status().unwrap();
            app(&status, "pos").unwrap().held.as_ref().unwrap().cause.clone()
        })
    }
}

fn seen(agent: &AgentBox, newest: &str) -> Seen {
    let status = agent.status().unwrap();
    let of_app = app(&status, "pos").map(|app| SeenApp {
        kind: format!("{:?}", app.kind),
        phase: app.phase.clone(),
        health: app.health.clone(),
        has_reason: app.reason.is_some(),
        runs_good: app.release.is_some() && app.release == app.good,
        of_newest_commit: app.revision.as_ref().is_some_and(|revision| revision.0 == newest),
        held: app.held.as_ref().map(|held| (held.next.is_some(), held.unblock.clone())),
    });
    let mut events: Vec<String> = agent
        .events()
        .into_iter()
        .filter(|event| event.app.as_ref().is_some_and(|app| app.as_str() == "pos"))
        .map(|event| event.kind)
        // A container that ends is started again by the agent on podman, and by the kubelet on Kubernetes.
        .filter(|kind| kind != "app.drift")
        .collect();
    events.dedup();
    Seen {
        converged: status.converged,
        held: status.held.len(),
        orphans: status.orphans.len(),
        app: of_app,
        events,
    }
}

/// Answers in the stead of the cluster's pods what the Deployment has them answer.
fn answer_for_pods(port: u16, plane: Weak<ControlPlane>) {
    let listener = TcpListener::bind((POD, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Some(plane) = plane.upgrade() else { return };
            let deployment = plane.find(DEPLOYMENT).unwrap_or_default();
            let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
            let set = env.as_array().into_iter().flatten().find(|variable| variable["name"] == "HEALTH");
            let code = set.and_then(|variable| variable["value"].as_str()).unwrap_or("404").to_owned();
            answer(stream, &code);
        }
    });
}

fn answer(stream: TcpStream, code: &str) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
        line.clear();
    }
    let text = format!("HTTP/1.1 {code} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = reader.into_inner().write_all(text.as_bytes());
}

fn in_phase(phase: &'static str) -> impl Fn(&Status) -> bool {
    move |status| app(status, "pos").is_some_and(|app| app.phase == phase && app.health == "Healthy")
}

#[test]
fn the_same_app_folder_comes_changes_fails_and_goes_alike_on_podman_and_on_kubernetes() {
    let Some(plane) = ControlPlane::own(&Options::default()) else { return };
    let mut pair = Pair::new(plane);
    let (first, second) = (pair.podman.push("1"), pair.podman.push("2"));
    let registry = &pair.podman.registry;
    let ending = web_server("3").entrypoint(&["/webapp", "exit", "3"]);
    let ending = registry.push("pos", "3", &ending);
    let ends = format!("{}/pos@{ending}", registry.host());
    let values = |image: &str, more: &str| format!("image: \"{image}\", {more}");
    let well = "log: info, health: 200";
    for agent in pair.boxes() {
        agent.start(&[]);
    }

    pair.push(&values(&first, well));
    let good = pair.both("good", |status| status.converged);
    let pos = good.app.unwrap();
    assert_eq!((pos.phase.as_str(), pos.health.as_str(), pos.held), ("Good", "Healthy", None));
    let runtime =
        |agent: &AgentBox| app(&agent.status().unwrap(), "pos").unwrap().driver.unwrap().to_string();
    assert_eq!(
        (runtime(&pair.podman.agent), runtime(&pair.kubernetes)),
        ("podman".to_owned(), "kubernetes".to_owned())
    );
    let made = pair.plane.get(DEPLOYMENT);
    assert_eq!(made["status"]["availableReplicas"], 1);
    assert_eq!(pair.podman.containers_of("pos").len(), 1);

    pair.push(&values(&second, well));
    let updated = pair.both("updated", |status| status.converged);
    assert!(updated.app.unwrap().of_newest_commit);

    // One whose program says that it is ill.
    pair.push(&values(&second, "log: info, health: 500"));
    let ill = pair.both("taken back", in_phase("RolledBack"));
    assert!(!ill.converged && ill.app.as_ref().unwrap().held.is_some() && ill.app.unwrap().runs_good);
    for cause in pair.causes() {
        assert!(cause.contains("500") && cause.contains("/healthz"), "{cause}");
    }

    // One that can't be rendered.
    pair.push(&values(&second, "health: 200"));
    pair.both("held", |status| {
        app(status, "pos").is_some_and(|app| {
            app.health == "Healthy"
                && app.held.as_ref().is_some_and(|held| held.cause.contains("undefined value"))
        })
    });
    let [podman, kubernetes] = pair.causes();
    assert_eq!(podman, kubernetes);

    // One whose program ends again and again.
    pair.plane.script("pos", &[(&ending.to_hex(), "crash-loop")]);
    pair.push(&values(&ends, well));
    pair.both("taken back again", in_phase("RolledBack"));
    for cause in pair.causes() {
        assert!(cause.contains("pos"), "{cause}");
    }

    pair.push(&values(&first, well));
    pair.both("good again", |status| status.converged);

    for agent in pair.boxes() {
        agent.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    }
    pair.commit();
    let gone = pair.both("gone", |status| status.converged && status.apps.is_empty());
    assert_eq!((gone.held, gone.orphans, gone.app), (0, 0, None));
    assert!(pair.podman.containers_of("pos").is_empty());
    pair.plane.until_gone(DEPLOYMENT);
    assert!(pair.plane.find(NAMESPACE).is_some(), "the namespace may hold what is others'");
}
