//! HelmCharts for k3s' own controller, which the test stands in for, with the status that it writes
//! (github.com/k3s-io/helm-controller, pkg/controllers/chart/chart.go, v0.17).

use std::sync::Once;

use serde_json::{Value, json};

use crate::cluster_box::{APP, ClusterBox};
use crate::support::agent_box::app;
use crate::support::kubernetes::{BEHAVIOUR, ControlPlane};

/// As much of k3s' definition as matters: the group, the kind, that there is a status of its own, and which of the
/// fields of a spec the server knows.
const DEFINITION: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: helmcharts.helm.cattle.io }
spec:
  group: helm.cattle.io
  scope: Namespaced
  names: { plural: helmcharts, singular: helmchart, kind: HelmChart }
  versions:
  - name: v1
    served: true
    storage: true
    subresources: { status: {} }
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              chart: { type: string }
              repo: { type: string }
              version: { type: string }
              targetNamespace: { type: string }
              createNamespace: { type: boolean }
              bootstrap: { type: boolean }
              timeout: { type: string }
              valuesContent: { type: string }
              backOffLimit: { type: integer }
              set: { type: object, additionalProperties: { x-kubernetes-int-or-string: true } }
          status: { type: object, x-kubernetes-preserve-unknown-fields: true }
";

const HEALTH: &str = "health: { startup: 5s, deadline: 90s, soak: 300ms }";

/// The definition is one for the whole cluster, as k3s brings it.
fn define(plane: &ControlPlane) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        plane.apply("default", DEFINITION);
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/helmcharts.helm.cattle.io";
        plane.until(path, |definition| crate::support::kubernetes::has_condition(definition, "Established"));
    });
}

/// What k3s' controller would do for the chart `traefik` of a box.
struct Controller<'p> {
    plane: &'p ControlPlane,
    namespace: String,
}

const JOB: &str = "helm-install-traefik";

impl Controller<'_> {
    fn chart_path(&self) -> String {
        format!("/apis/helm.cattle.io/v1/namespaces/{}/helmcharts/traefik", self.namespace)
    }

    fn job_path(&self) -> String {
        format!("/apis/batch/v1/namespaces/{}/jobs/{JOB}", self.namespace)
    }

    fn chart(&self) -> Value {
        self.plane.get(&self.chart_path())
    }

    fn write_status(&self, status: &Value) {
        self.plane.patch(&format!("{}/status", self.chart_path()), &json!({ "status": status }));
    }

    /// Takes up the chart as it is now: a Job that isn't let run yet, and the chart's word of it.
    fn take_up(&self, behaviour: &str) {
        let chart = self.chart();
        let spec = |name: &str| chart["spec"][name].as_str().unwrap_or_default();
        let before = self.plane.find(&self.job_path());
        if before.is_some() {
            let path = format!("{}?propagationPolicy=Background", self.job_path());
            self.plane.delete(&path);
            self.plane.until_gone(&self.job_path());
        }
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": JOB, "namespace": self.namespace },
            "spec": { "suspend": true, "backoffLimit": 0, "template": {
                "metadata": { "annotations": { BEHAVIOUR: behaviour } },
                "spec": { "restartPolicy": "Never", "containers": [{
                    "name": "helm", "image": "rancher/klipper-helm:v0.9.8-build20250709", "args": ["install"],
                    "env": [
                        { "name": "NAME", "value": "traefik" },
                        { "name": "VERSION", "value": spec("version") },
                        { "name": "REPO", "value": spec("repo") },
                        { "name": "CHART", "value": format!("traefik/{}", spec("chart")) },
                        { "name": "TARGET_NAMESPACE", "value": spec("targetNamespace") },
                    ],
                }] },
            } },
        });
        self.plane.create(&format!("/apis/batch/v1/namespaces/{}/jobs", self.namespace), &job);
        self.write_status(&json!({ "jobName": JOB, "conditions": [
            { "type": "JobCreated", "status": "True", "reason": "Job created",
              "message": format!("Applying HelmChart using Job {}/{JOB}", self.namespace) },
            { "type": "Failed", "status": "False" },
        ] }));
    }

    fn let_run(&self) {
        self.plane.patch(&self.job_path(), &json!({ "spec": { "suspend": false } }));
    }

    /// Waits until the chart's spec is that of this version.
    fn until_version(&self, version: &str) -> Value {
        self.plane.until(&self.chart_path(), |chart| chart["spec"]["version"] == version)
    }
}

fn spec(version: &str) -> Value {
    json!({
        "chart": "traefik", "repo": "https://charts.example", "version": version, "targetNamespace": "web",
        "createNamespace": true, "backOffLimit": 3, "set": { "replicas": 2, "name": "{{ .Release.Name }}" },
        "valuesContent": "ports:\n  web: { port: 80 }\nname: \"{{ .Values.name }}\"\n",
    })
}

fn manifest(version: &str) -> String {
    let chart = json!({
        "apiVersion": "helm.cattle.io/v1", "kind": "HelmChart", "metadata": { "name": "traefik" }, "spec": spec(version),
    });
    // JSON is YAML.
    format!("{chart}\n")
}

#[test]
fn a_chart_arrives_untouched_and_is_good_once_its_job_is_complete() {
    let Some(plane) = ControlPlane::shared() else { return };
    define(&plane);
    let mut shop = ClusterBox::new(&plane, "chart");
    let helm = Controller { plane: &plane, namespace: shop.namespace.clone() };
    shop.write(HEALTH, &manifest("27.0.2"));
    shop.start(&[]);
    let commit = shop.push();
    shop.wait_app("waiting for the controller", |app| {
        (app.phase.as_str(), app.health.as_str()) == ("Judging", "Starting")
            && app.reason.as_ref().is_some_and(|why| why.contains("has not created a Job"))
    });
    assert_eq!(helm.chart()["spec"], spec("27.0.2"), "the chart's spec was touched");

    helm.take_up("exit-0");
    shop.wait_app("waiting for the Job", |app| {
        app.health == "Starting" && app.reason.as_ref().is_some_and(|why| why.contains("unsuspended its Job"))
    });
    helm.let_run();
    shop.wait_converged(&commit);

    // The complete Job of the version before proves nothing of the next one.
    shop.write(HEALTH, &manifest("27.0.3"));
    let commit = shop.push();
    helm.until_version("27.0.3");
    shop.wait_app("waiting for the next Job", |app| {
        (app.phase.as_str(), app.health.as_str()) == ("Judging", "Starting")
            && app.reason.as_ref().is_some_and(|why| why.contains("has not processed this version"))
    });
    helm.take_up("exit-0");
    helm.let_run();
    shop.wait_converged(&commit);
    assert_eq!(helm.chart()["spec"], spec("27.0.3"));
}

#[test]
fn a_chart_that_can_not_be_installed_goes_back_to_the_version_before() {
    let Some(plane) = ControlPlane::shared() else { return };
    define(&plane);
    let mut shop = ClusterBox::new(&plane, "chart-ill");
    let helm = Controller { plane: &plane, namespace: shop.namespace.clone() };
    shop.write(HEALTH, &manifest("1.0.0"));
    shop.start(&[]);
    let commit = shop.push();
    helm.until_version("1.0.0");
    helm.take_up("exit-0");
    helm.let_run();
    shop.wait_converged(&commit);

    // Told by the Job alone, and by the controller's own word.
    for (version, said) in [("2.0.0", "BackoffLimitExceeded"), ("3.0.0", "configured number of retries")] {
        shop.write(HEALTH, &manifest(version));
        shop.push();
        helm.until_version(version);
        if version == "2.0.0" {
            helm.take_up("exit-1");
            helm.let_run();
        } else {
            helm.write_status(&json!({ "jobName": JOB, "conditions": [
                { "type": "JobCreated", "status": "True", "reason": "Job created", "message": "" },
                { "type": "Failed", "status": "True", "reason": "Job failed",
                  "message": "Job has reached configured number of retries without succeeding" },
            ] }));
        }
        shop.wait_app("rolled back", |app| {
            app.phase == "RolledBack" && app.held.as_ref().is_some_and(|held| held.cause.contains(said))
        });
        assert_eq!(helm.until_version("1.0.0")["spec"], spec("1.0.0"));
        helm.take_up("exit-0");
        helm.let_run();
        shop.wait_app("well again", |app| app.phase == "RolledBack" && app.health == "Healthy");
    }
    let status = shop.status().unwrap();
    assert!(!status.converged && app(&status, APP).unwrap().release == app(&status, APP).unwrap().good);
}
