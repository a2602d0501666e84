//! HelmChart: in the shapes that k3s's helm-controller writes (v0.17, pkg/controllers/chart/chart.go, OnChange).

use super::super::{helm_job, helm_status};
use super::*;

fn chart(state: Value) -> Value {
    json!({
        "apiVersion": "helm.cattle.io/v1", "kind": "HelmChart",
        "metadata": { "name": "traefik", "namespace": "kube-system", "generation": 2,
            "annotations": { "helmcharts.cattle.io/managed-by": "helm-controller" } },
        "spec": { "chart": "traefik", "repo": "https://charts.example", "version": "27.0.2", "targetNamespace": "web" },
        "status": state,
    })
}

/// What the controller writes when it has made the Job.
fn made() -> Value {
    json!({ "jobName": "helm-install-traefik", "conditions": [
        condition("JobCreated", "True", "Job created", "Applying HelmChart using Job kube-system/helm-install-traefik"),
        { "type": "Failed", "status": "False" },
    ] })
}

fn job(suspend: bool, version: &str, state: Value) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "helm-install-traefik", "namespace": "kube-system", "generation": 2 },
        "spec": { "suspend": suspend, "backoffLimit": 1000, "template": { "spec": { "containers": [{ "name": "helm", "env": [
            { "name": "NAME", "value": "traefik" }, { "name": "VERSION", "value": version },
            { "name": "REPO", "value": "https://charts.example" }, { "name": "CHART", "value": "traefik/traefik" },
            { "name": "TARGET_NAMESPACE", "value": "web" },
        ] }] } } },
        "status": state,
    })
}

fn complete() -> Value {
    json!({ "startTime": "2026-01-01T00:00:00Z", "succeeded": 1, "conditions": [condition("Complete", "True", "", "")] })
}

#[test]
fn a_chart_is_well_once_the_job_of_its_version_is_complete() {
    check("installed", &helm_status(&chart(made()), Some(&job(false, "27.0.2", complete()))), Current);
    let running = json!({ "startTime": "2026-01-01T00:00:00Z", "active": 1 });
    let seen = helm_status(&chart(made()), Some(&job(false, "27.0.2", running)));
    check("being installed", &seen, InProgress("being installed: the job still runs"));
    let suspended =
        json!({ "conditions": [condition("Suspended", "True", "JobSuspended", "Job suspended")] });
    let seen = helm_status(&chart(made()), Some(&job(true, "27.0.2", suspended.clone())));
    check("not let run yet", &seen, InProgress("not unsuspended its Job"));
    let seen = helm_status(&chart(made()), Some(&job(false, "27.0.2", suspended)));
    check("let run, and nobody has seen it", &seen, InProgress("has not been resumed yet"));
    check(
        "the Job isn't seen",
        &helm_status(&chart(made()), None),
        InProgress("kube-system/helm-install-traefik"),
    );
    check("nobody looked", &helm_status(&chart(json!(null)), None), InProgress("has not created a Job"));
    check("judged without the Job", &status(&chart(made())), InProgress("has not been seen yet"));
}

#[test]
fn the_finished_job_of_the_version_before_proves_nothing() {
    let seen = helm_status(&chart(made()), Some(&job(false, "26.0.0", complete())));
    check("an older version", &seen, InProgress("has not processed this version yet"));
    let mut replaced = job(false, "27.0.2", complete());
    replaced["metadata"]["annotations"] = json!({ "helmcharts.helm.cattle.io/replace-wait": "true" });
    check("to be replaced", &helm_status(&chart(made()), Some(&replaced)), InProgress("has not processed"));
    let mut going = job(false, "27.0.2", complete());
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    check("being deleted", &helm_status(&chart(made()), Some(&going)), InProgress("has not processed"));
}

#[test]
fn a_chart_without_repository_or_target_is_told_from_its_job_all_the_same() {
    let mut own = chart(made());
    own["spec"] = json!({ "chart": "https://charts.example/traefik.tgz" });
    let mut its = job(false, "", complete());
    its["spec"]["template"]["spec"]["containers"][0]["env"] = json!([
        { "name": "VERSION" }, { "name": "REPO", "value": "" },
        { "name": "CHART", "value": "https://charts.example/traefik.tgz" }, { "name": "TARGET_NAMESPACE", "value": "kube-system" },
    ]);
    check("installed", &helm_status(&own, Some(&its)), Current);
    own["spec"]["chart"] = json!("https://charts.example/traefik-2.tgz");
    check("another archive", &helm_status(&own, Some(&its)), InProgress("has not processed"));
    let bare = json!({ "status": complete() });
    check("a Job that shows nothing of it", &helm_status(&own, Some(&bare)), Current);
}

#[test]
fn a_chart_that_could_not_be_installed_has_failed_and_says_why() {
    let failed = |reason: &str, message: &str| {
        json!({ "jobName": "helm-install-traefik", "conditions": [
        condition("JobCreated", "True", "Job created", ""), condition("Failed", "True", reason, message),
    ] })
    };
    let given_up = failed("Job failed", "Job has reached configured number of retries without succeeding");
    check("too often", &helm_status(&chart(given_up), None), Failed("configured number of retries"));
    let no_job =
        failed("Job create failed", "Failed to generate Job: failed to get latest chart release revision");
    check("no Job", &helm_status(&chart(no_job), None), Failed("Failed to generate Job"));
    let late = json!({ "startTime": "2026-01-01T00:00:00Z", "conditions": [condition("Failed", "True", "BackoffLimitExceeded", "limit")] });
    let seen = helm_status(&chart(made()), Some(&job(false, "27.0.2", late)));
    check("the Job failed, nobody has said so yet", &seen, Failed("BackoffLimitExceeded"));
}

#[test]
fn a_chart_that_its_controller_leaves_alone_is_not_waited_for() {
    let mut own = chart(json!(null));
    own["metadata"]["annotations"] = json!({ "helmcharts.helm.cattle.io/unmanaged": "true" });
    check("unmanaged", &helm_status(&own, None), Current);
    own["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    check("going", &helm_status(&own, None), Terminating("being deleted"));
}

#[test]
fn the_job_of_a_chart_is_named_by_its_status_alone() {
    let named = Some(("kube-system".to_owned(), "helm-install-traefik".to_owned()));
    assert_eq!(helm_job(&chart(made())), named);
    assert_eq!(helm_job(&chart(json!({}))), None);
    assert_eq!(helm_job(&chart(json!({ "jobName": "helm-delete-traefik" }))), None);
    let mut another = chart(made());
    another["apiVersion"] = json!("charts.example/v1");
    assert_eq!(helm_job(&another), None);
}
