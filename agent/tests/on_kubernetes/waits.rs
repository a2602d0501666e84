//! What isn't ready is waited for, with what runs left as it is: webhooks that nobody answers, namespaces that aren't
//! there or are on their way out.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster_box::{APP, ClusterBox, config_map, deployment};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;
use crate::support::ports::free_port;

/// More than the API server takes to hear of a webhook.
const PATIENCE: Duration = Duration::from_secs(60);

/// A webhook for all ConfigMaps of a namespace that nobody answers for.
struct Webhook<'p> {
    plane: &'p ControlPlane,
    namespace: String,
    path: String,
}

impl<'p> Webhook<'p> {
    fn put(plane: &'p ControlPlane, namespace: &str) -> Self {
        let group = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
        let name = format!("{namespace}-guard");
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": name },
            "webhooks": [{
                "name": "guard.example.com", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 2,
                "admissionReviewVersions": ["v1"],
                "clientConfig": { "url": format!("https://127.0.0.1:{}/guard", free_port()) },
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                            "operations": ["CREATE", "UPDATE"] }],
            }],
        });
        plane.create(group, &webhook);
        let webhook = Webhook { plane, namespace: namespace.to_owned(), path: format!("{group}/{name}") };
        webhook.until("asked", |code| code == 500);
        webhook
    }

    /// Nobody asks for it any more.
    fn remove(self) {
        self.plane.delete(&self.path);
        self.until("forgotten", |code| code == 201);
    }

    /// The API server hears of its webhooks by a watch of its own.
    fn until(&self, what: &str, wanted: impl Fn(u16) -> bool) {
        let map =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "generateName": "tried-" } });
        let path = format!("/api/v1/namespaces/{}/configmaps?dryRun=All", self.namespace);
        let began = Instant::now();
        loop {
            let answer = self.plane.ask("POST", &path, "application/json", map.to_string().as_bytes());
            if wanted(answer.status) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the webhook is never {what}: {}", answer.body);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_webhook_that_nobody_answers_is_waited_for_and_what_ran_stays() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "webhook");
    let manifests = |version: &str| config_map("config", version) + &deployment("web", version, "ready");
    // Shorter than it has to wait: nothing was applied, so no deadline runs.
    let health = "health: { startup: 1s, deadline: 2s, soak: 300ms }";
    shop.write("", &manifests("1"));
    shop.start(&[]);
    shop.converge();
    let before = (shop.get("deployments/web"), shop.get("configmaps/config"));
    let webhook = Webhook::put(&plane, &shop.namespace);
    for version in ["2", "3"] {
        shop.write(health, &manifests(version));
        let commit = shop.push();
        shop.wait_until("held on the webhook", |_, status| {
            status.revision.accepted.as_ref().is_some_and(|revision| revision.0 == commit)
                && app(status, APP).is_some_and(|app| {
                    app.phase == "Preparing"
                        && app.held.as_ref().is_some_and(|held| {
                            held.cause.contains("guard.example.com") && held.next.is_some()
                        })
                })
        });
        thread::sleep(Duration::from_secs(3));
        let status = shop.status().unwrap();
        let pos = app(&status, APP).unwrap();
        assert_eq!((pos.phase.as_str(), pos.health.as_str()), ("Preparing", "Healthy"), "{pos:?}");
        assert!(!status.converged);
        assert_eq!(shop.get("deployments/web")["spec"], before.0["spec"], "what ran was touched");
        assert_eq!(shop.get("configmaps/config")["data"], before.1["data"]);
    }
    shop.write("", &manifests("3"));
    let commit = shop.push();
    webhook.remove();
    shop.wait_converged(&commit);
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "3");
}

#[test]
fn what_a_webhook_keeps_from_being_put_right_is_told_and_the_app_is_not_taken_down() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "webhook-drift");
    shop.write("", &config_map("config", "1"));
    shop.start(&[]);
    shop.converge();
    plane.delete(&shop.path("configmaps/config"));
    plane.until(&shop.path("configmaps/config"), |map| map["data"]["value"] == "1");
    let webhook = Webhook::put(&plane, &shop.namespace);
    plane.delete(&shop.path("configmaps/config"));
    shop.wait_held("guard.example.com");
    webhook.remove();
    plane.until(&shop.path("configmaps/config"), |map| map["data"]["value"] == "1");
    shop.wait_until("converged again", |_, status| status.converged);
}

#[test]
fn a_namespace_that_is_not_there_is_made_and_one_that_somebody_removes_comes_back() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "made");
    shop.namespace = format!("{}-later", shop.namespace);
    let namespace = format!("/api/v1/namespaces/{}", shop.namespace);
    shop.write("", &(config_map("config", "1") + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    assert!(shop.find("configmaps/config").is_some());
    let first = plane.get(&namespace)["metadata"]["uid"].clone();

    plane.delete(&namespace);
    plane.until(&namespace, |namespace| namespace["metadata"]["uid"] != first);
    plane.until(&shop.path("configmaps/config"), |map| map["data"]["value"] == "1");
    plane.until(&shop.path("deployments/web"), |web| web["status"]["availableReplicas"] == 1);
    shop.wait_until("converged again", |_, status| status.converged);
}

#[test]
fn a_namespace_on_its_way_out_is_waited_for() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "leaving");
    let namespace = format!("/api/v1/namespaces/{}", shop.namespace);
    let stays = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "stays", "finalizers": ["example.com/stays"] },
    });
    plane.create(&format!("{namespace}/configmaps"), &stays);
    let first = plane.get(&namespace)["metadata"]["uid"].clone();
    plane.delete(&namespace);
    plane.until(&namespace, |namespace| namespace["status"]["phase"] == "Terminating");

    shop.write("", &config_map("config", "1"));
    shop.start(&[]);
    let commit = shop.push();
    shop.wait_held("being terminated");
    plane.patch(&shop.path("configmaps/stays"), &json!({ "metadata": { "finalizers": Value::Null } }));
    shop.wait_converged(&commit);
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "1");
    assert_ne!(plane.get(&namespace)["metadata"]["uid"], first);
}
