//! The Kubernetes driver against what every driver must do, on a real API server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use holdfast_core::digest::Digest;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::plan::Action;
use holdfast_core::release::{Object, Release, Strategy};
use holdfast_core::runtime::DriverName;
use holdfast_core::secret::SecretBytes;
use holdfast_drivers::conformance::Runtime;
use holdfast_drivers::kubernetes::{KubernetesConfig, KubernetesDriver};
use holdfast_drivers::secret::SecretSource;
use holdfast_drivers::{ApplyStep, Driver, Owner};
use serde_json::{Value, json};

use crate::support::kubernetes::{BEHAVIOUR, ControlPlane};

/// A namespace of the tests' cluster, and two devices that keep something there.
struct Bench {
    plane: Helper,
    kubeconfig: PathBuf,
    namespace: String,
}

/// There are no secrets.
struct Nothing;

impl SecretSource for Nothing {
    fn open(&self, digest: &Digest) -> Result<SecretBytes, String> {
        Err(format!("there is no secret {digest}"))
    }
}

type Request = Box<dyn FnOnce(&ControlPlane) + Send>;

/// Does what is asked of the tests' cluster. Who uses it beside others is known by the thread, and the suite's futures
/// go from one thread to another: so one thread does all.
struct Helper {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// None if the tests are to be skipped.
    fn new() -> Option<Self> {
        let (requests, asked) = mpsc::channel::<Request>();
        let (ready, is_ready) = mpsc::channel();
        // What is skipped is told by the thread's name, which is the test's.
        let name = thread::current().name().unwrap_or("a test").to_owned();
        let helper = thread::Builder::new().name(name).spawn(move || {
            let plane = ControlPlane::shared();
            let _ = ready.send(plane.is_some());
            if let Some(plane) = plane {
                asked.into_iter().for_each(|request| request(&plane));
            }
        });
        let helper = Helper { requests: Mutex::new(Some(requests)), thread: Some(helper.unwrap()) };
        is_ready.recv().expect("no cluster").then_some(helper)
    }

    fn ask<T: Send + 'static>(&self, request: impl FnOnce(&ControlPlane) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let request: Request = Box::new(move |plane| drop(answer.send(request(plane))));
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.as_ref().unwrap().send(request).unwrap();
        answered.recv().expect("the cluster did not do what it was asked for")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Bench {
    fn new() -> Option<Self> {
        let plane = Helper::new()?;
        let (namespace, kubeconfig) = plane.ask(|plane| {
            (plane.namespace("conformance"), plane.kubeconfig_for("suite", &["system:masters"]))
        });
        Some(Bench { plane, kubeconfig, namespace })
    }

    fn driver_of(&self, device: &str) -> KubernetesDriver {
        KubernetesDriver::new(KubernetesConfig {
            kubeconfig: self.kubeconfig.clone(),
            context: None,
            cluster: None,
            owner: Owner { device: format!("{}/{device}", self.namespace).parse().unwrap() },
            secrets: Arc::new(Nothing),
            archives: None,
        })
    }

    fn object(&self, api_version: &str, kind: &str, name: &str, mut more: Value) -> Object {
        more["apiVersion"] = json!(api_version);
        more["kind"] = json!(kind);
        more["metadata"] = json!({ "name": name, "namespace": self.namespace });
        let key = ObjectKey {
            kind: kind.to_owned(),
            namespace: Some(self.namespace.clone()),
            name: name.to_owned(),
        };
        Object { key, spec: more }
    }
}

fn path(key: &ObjectKey) -> String {
    let namespace = key.namespace.as_deref().unwrap();
    assert_eq!(key.kind, "ConfigMap", "the suite disturbs the first object");
    format!("/api/v1/namespaces/{namespace}/configmaps/{}", key.name)
}

#[async_trait]
impl Runtime for Bench {
    async fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(self.driver_of("box-1"))
    }

    fn shares_names(&self) -> bool {
        true
    }

    fn release(&self, app: &AppName, version: u32) -> Release {
        let version = version.to_string();
        let settings = self.object("v1", "ConfigMap", "settings", json!({ "data": { "version": version } }));
        let template = json!({
            "metadata": { "labels": { "app": "web" }, "annotations": { BEHAVIOUR: "ready" } },
            "spec": { "containers": [{ "name": "web", "image": format!("registry.example/web:{version}") }] },
        });
        let spec = json!({ "selector": { "matchLabels": { "app": "web" } }, "template": template });
        let web = self.object("apps/v1", "Deployment", "web", json!({ "spec": spec }));
        Release {
            app: app.clone(),
            driver: DriverName::KUBERNETES,
            objects: vec![settings, web],
            artifacts: BTreeSet::new(),
            secrets: BTreeMap::new(),
            account: None,
        }
    }

    /// Another agent's driver makes it.
    async fn plant(&self, key: &ObjectKey) -> bool {
        let other = self.driver_of("box-2");
        let release = self.release(&"conformance".parse().unwrap(), 7);
        let step = ApplyStep {
            app: &release.app,
            action: Action::Create,
            object: key,
            release: Some(&release),
            id: None,
            strategy: Strategy::StopStart,
            from: None,
        };
        other.apply(step).await.unwrap();
        true
    }

    async fn take_away(&self, key: &ObjectKey) {
        let path = path(key);
        assert!(self.plane.ask(move |plane| plane.delete(&path)));
    }

    async fn tamper(&self, key: &ObjectKey) -> bool {
        let path = path(key);
        self.plane.ask(move |plane| plane.patch(&path, &json!({ "data": { "version": "by hand" } })));
        true
    }
}

holdfast_drivers::conformance_tests!(match Bench::new() {
    Some(bench) => bench,
    None => return,
});
