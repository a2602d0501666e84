//! The parts of a control plane: starting, stopping and hanging them.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use ureq::http::Method;

use super::super::go_program;
use super::super::podman_image::Image;
use super::audit;
use super::certificates::{Certificates, User};
use super::client::Client;
use super::node::{Inside, Node};
use super::process::{Janitor, Process};
use super::view::has_condition;

/// More than the slowest start takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(180);
/// The controllers that are needed: those that a workload's status comes from, and those that clean up. Cron jobs,
/// autoscalers, nodes and certificates are not among them.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,\
    job-controller,namespace-controller,garbage-collector-controller,serviceaccount-controller,\
    root-ca-certificate-publisher-controller,endpointslice-controller,disruption-controller,\
    persistentvolume-binder-controller,persistentvolumeclaim-protection-controller,\
    persistentvolume-protection-controller,clusterrole-aggregation-controller,ttl-after-finished-controller";
/// And those that a real node needs.
const NODE_CONTROLLERS: &str =
    "node-lifecycle-controller,taint-eviction-controller,pod-garbage-collector-controller";

/// What a test may want otherwise in a control plane of its own.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Flags for the API server, which win over the usual ones.
    pub api_flags: Vec<String>,
    /// Start neither controllers nor the stand-in for the kubelet: no status is ever written.
    pub api_only: bool,
    /// Have a real node in the stand-in's place, and a scheduler: what pods say runs. Who asks for this must [enter] its
    /// network.
    ///
    /// [enter]: ControlPlane::enter
    pub real_node: bool,
}

/// A control plane. Dropped, nothing of it is left.
pub struct ControlPlane {
    parts: Mutex<Parts>,
    options: Options,
    program: PathBuf,
    api_port: u16,
    etcd_port: u16,
    kubeconfig: PathBuf,
    pub(super) certificates: Certificates,
    pub(super) client: Client,
    pub(super) counter: AtomicU32,
    // In this order: the folder goes last.
    node: Option<Mutex<Node>>,
    _janitor: Janitor,
    dir: TempDir,
}

/// The processes that run. Dropped in this order: an API server without its store may hang.
#[derive(Default)]
struct Parts {
    scheduler: Option<Process>,
    kubelet: Option<Process>,
    controllers: Option<Process>,
    api: Option<Process>,
    etcd: Option<Process>,
}

impl ControlPlane {
    /// Starts one for this test alone; none if the test is to be skipped.
    pub fn own(options: &Options) -> Option<Self> {
        let program = go_program::control_plane()?;
        let dir = tempfile::Builder::new().prefix("hf-plane-").tempdir().unwrap();
        // Two kubelets that share one end each other's pods.
        static NODES: AtomicU32 = AtomicU32::new(0);
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        let cgroup = match options.real_node {
            true => format!("hf-node-{}-{number}", std::process::id()),
            false => String::new(),
        };
        let janitor = Janitor::of(dir.path(), &program, &cgroup);
        let mut node = options.real_node.then(|| Node::start(&program, dir.path(), &cgroup));
        let inside = node.as_ref().map(Node::enter);
        let certificates = Certificates::make(dir.path());
        let (api_port, etcd_port) = (lasting_port(), lasting_port());
        let client_of = |user: &str| certificates.client(user, &["system:masters"]);
        let tester = client_of("tester");
        let base = format!("https://127.0.0.1:{api_port}");
        let client = Client::new(&base, &certificates, &tester);
        let kubeconfig = |user: &str| dir.path().join(format!("{user}.kubeconfig"));
        for user in [&["admin"], &audit::OWN[..]].concat() {
            let pair = if user == "tester" { tester.clone() } else { client_of(user) };
            std::fs::write(kubeconfig(user), certificates.kubeconfig(&base, &User::Certificate(pair)))
                .unwrap();
        }
        if options.real_node {
            let pair = certificates.client("system:node:edge", &["system:nodes"]);
            std::fs::write(kubeconfig("node"), certificates.kubeconfig(&base, &User::Certificate(pair)))
                .unwrap();
        }
        if let Some(node) = &mut node {
            node.wait_for_runtime();
        }
        let plane = ControlPlane {
            parts: Mutex::default(),
            options: options.clone(),
            program,
            api_port,
            etcd_port,
            kubeconfig: kubeconfig("admin"),
            certificates,
            client,
            counter: AtomicU32::new(0),
            node: node.map(Mutex::new),
            _janitor: janitor,
            dir,
        };
        plane.mend();
        drop(inside);
        Some(plane)
    }

    /// The administrator's kubeconfig, in the shape of k3s's. Neither the test's own requests nor kubectl are of this
    /// user.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The kubeconfig of a part, or of the test.
    pub(super) fn own_kubeconfig(&self, user: &str) -> PathBuf {
        self.dir().join(format!("{user}.kubeconfig"))
    }

    /// Where the API server is: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// The API server's port on the loopback; the same after a restart.
    pub fn port(&self) -> u16 {
        self.api_port
    }

    /// The folder of this control plane: certificates, kubeconfigs, and what each part says, as
    /// `kube-apiserver.log`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The program that all parts are, and kubectl.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The API server's process.
    pub fn api_pid(&self) -> i32 {
        self.parts().api.as_ref().expect("the API server doesn't run").pid()
    }

    /// Has the API server end as for an update of k3s: it no longer listens, gives running requests two seconds, and is
    /// gone.
    pub fn stop_api(&self) {
        if let Some(api) = self.parts().api.take() {
            api.stop();
        }
    }

    /// Kills the API server as nothing can refuse.
    pub fn kill_api(&self) {
        drop(self.parts().api.take());
    }

    /// Starts the API server unless it runs, and waits until it is ready.
    pub fn start_api(&self) {
        self.begin_api();
        self.wait_for_api();
    }

    /// Starts the API server unless it runs, and doesn't wait: for a cluster that is still starting.
    pub fn begin_api(&self) {
        let flags = self.api_flags();
        self.begin(flags, |parts| &mut parts.api);
    }

    /// `stop_api` and `start_api`.
    pub fn restart_api(&self) {
        self.stop_api();
        self.start_api();
    }

    /// Has the API server do nothing from now on: it takes connections and answers none. Until `resume_api`.
    pub fn hang_api(&self) {
        self.parts().api.as_ref().expect("the API server doesn't run").hang();
    }

    /// Lets it go on.
    pub fn resume_api(&self) {
        self.parts().api.as_ref().expect("the API server doesn't run").signal(Signal::SIGCONT);
    }

    /// Kills the controllers: status is no longer written, and nothing is made from a Deployment.
    pub fn stop_controllers(&self) {
        drop(self.parts().controllers.take());
    }

    /// Starts them again.
    pub fn start_controllers(&self) {
        let flag = |name: &str, file: &Path| format!("--{name}={}", file.display());
        let flags = vec![
            "kube-controller-manager".to_owned(),
            flag("kubeconfig", &self.own_kubeconfig("controllers")),
            flag("service-account-private-key-file", &self.certificates.file("service-account.key")),
            flag("root-ca-file", &self.certificates.file("server-ca.pem")),
            match self.options.real_node {
                true => format!("--controllers={CONTROLLERS},{NODE_CONTROLLERS}"),
                false => format!("--controllers={CONTROLLERS}"),
            },
            // After so long a node that says nothing is not ready.
            "--node-monitor-grace-period=15s".into(),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            // The default of 20 requests in a second has 500 objects wait.
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
        ];
        self.begin(flags, |parts| &mut parts.controllers);
    }

    /// Kills the stand-in for the kubelet: as a node that hangs.
    pub fn stop_kubelet(&self) {
        drop(self.parts().kubelet.take());
    }

    /// Starts it again.
    pub fn start_kubelet(&self) {
        let kubeconfig = format!("--kubeconfig={}", self.own_kubeconfig("kubelet").display());
        self.begin(vec!["kubelet".into(), kubeconfig, "--node=edge".into()], |parts| &mut parts.kubelet);
    }

    /// Has this thread be in the real node's network, with all that it starts from here on.
    pub fn enter(&self) -> Inside {
        self.node().enter()
    }

    /// Puts an image on the real node, under this name.
    pub fn import(&self, image: &Image, name: &str) {
        self.node().import(image, name);
    }

    /// Puts what an archive has on the real node.
    pub fn import_archive(&self, archive: &Path) {
        self.node().import_archive(archive);
    }

    /// The names of the real node's images, a line each.
    pub fn images(&self) -> String {
        self.node().images()
    }

    /// Has the real node's kubelet do nothing from now on.
    pub fn hang_node(&self) {
        self.node().hang_kubelet();
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        let node = self.node.as_ref().expect("this cluster has no real node");
        node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_scheduler(&self) {
        let kubeconfig = format!("--kubeconfig={}", self.own_kubeconfig("scheduler").display());
        let flags = vec![
            "kube-scheduler".into(),
            kubeconfig,
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
        ];
        self.begin(flags, |parts| &mut parts.scheduler);
    }

    /// Starts all that doesn't run, has what hangs go on, and waits until the cluster is ready.
    pub fn mend(&self) {
        let etcd = self.etcd_flags();
        self.begin(etcd, |parts| &mut parts.etcd);
        self.wait_for("etcd", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.etcd_port)).is_ok());
        self.begin_api();
        self.resume_api();
        self.wait_for_api();
        if self.options.api_only {
            return;
        }
        self.start_controllers();
        match self.options.real_node {
            true => self.start_scheduler(),
            false => self.start_kubelet(),
        }
        let exists = |path: &str| {
            self.client.ask(Method::GET, path, None, &[]).is_ok_and(|answer| answer.status == 200)
        };
        self.wait_for("the node", || exists("/api/v1/nodes/edge"));
        if self.options.real_node {
            self.wait_for("the node's kubelet", || has_condition(&self.get("/api/v1/nodes/edge"), "Ready"));
        }
        self.wait_for("the service accounts", || {
            exists("/api/v1/namespaces/default/serviceaccounts/default")
        });
    }

    /// What a part says, as `kube-apiserver`.
    pub fn log(&self, part: &str) -> String {
        std::fs::read_to_string(self.dir().join(format!("{part}.log"))).unwrap_or_default()
    }

    fn wait_for_api(&self) {
        self.wait_for("the API server", || {
            let answer = self.client.ask(Method::GET, "/readyz", None, &[]);
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Waits, and fails when a part ends meanwhile.
    fn wait_for(&self, what: &str, ready: impl Fn() -> bool) {
        let began = Instant::now();
        while !ready() {
            let parts = &mut *self.parts();
            for part in [
                &mut parts.etcd,
                &mut parts.api,
                &mut parts.controllers,
                &mut parts.kubelet,
                &mut parts.scheduler,
            ] {
                if let Some(status) = part.as_mut().and_then(Process::ended) {
                    let name = part.as_ref().map(Process::name).unwrap_or_default();
                    panic!("{name} ended ({status}) before {what} was ready:\n{}", self.end_of_log(name));
                }
            }
            let late =
                format!("not ready: {what}; the API server said:\n{}", self.end_of_log("kube-apiserver"));
            assert!(began.elapsed() < PATIENCE, "{late}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn end_of_log(&self, part: &str) -> String {
        let log = self.log(part);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn begin(&self, arguments: Vec<String>, part: impl Fn(&mut Parts) -> &mut Option<Process>) {
        let mut parts = self.parts();
        let part = part(&mut parts);
        if part.as_mut().is_none_or(|process| process.ended().is_some()) {
            let network = self.node.as_ref().map(|_| self.node().network());
            *part = Some(Process::start(&self.program, self.dir(), &arguments, network.as_deref()));
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn etcd_flags(&self) -> Vec<String> {
        vec![
            "etcd".into(),
            format!("--data-dir={}", self.dir().join("etcd").display()),
            format!("--listen-client-url=http://127.0.0.1:{}", self.etcd_port),
            // Nobody is ever there: any free port.
            "--listen-peer-url=http://127.0.0.1:0".into(),
        ]
    }

    fn api_flags(&self) -> Vec<String> {
        let file = |name: &str, file: &str| format!("--{name}={}", self.certificates.file(file).display());
        let mut flags = vec![
            "kube-apiserver".to_owned(),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            format!("--secure-port={}", self.api_port),
            "--endpoint-reconciler-type=none".into(),
            file("tls-cert-file", "server.pem"),
            file("tls-private-key-file", "server.key"),
            file("client-ca-file", "client-ca.pem"),
            "--authorization-mode=Node,RBAC".into(),
            // As k3s has them.
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            file("service-account-key-file", "service-account.key"),
            file("service-account-signing-key-file", "service-account.key"),
            "--service-cluster-ip-range=10.43.0.0/16".into(),
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".into(),
            "--profiling=false".into(),
        ];
        flags.extend(audit::flags(self.dir()));
        flags.extend(self.options.api_flags.iter().cloned());
        flags
    }
}

/// A port of the loopback that is free, and that nobody is given by chance while the API server restarts: it lies below
/// those that the kernel gives away.
fn lasting_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Test programs that run at the same time begin at other places.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(7919).wrapping_add(step) % COUNT;
        let port = u16::try_from(FIRST + offset).unwrap();
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free && given.get_or_insert_default().insert(port) {
            return port;
        }
    }
}
