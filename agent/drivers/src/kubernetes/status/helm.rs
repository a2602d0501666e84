//! The health of a HelmChart (helm.cattle.io/v1), which k3s's own controller installs by a Job
//! (github.com/k3s-io/helm-controller, pkg/controllers/chart/chart.go and pkg/apis/helm.cattle.io/v1/types.go, v0.17):
//! it writes the Job's name to `status.jobName`, and the conditions `JobCreated` and `Failed`. That the chart is
//! installed is told by the Job alone: there is no condition for it. Older ones write the name only.
//!
//! The status has no observed generation. After a change the Job of the version before may be there for a moment, and
//! complete: what of it can be compared with the chart is compared. Of the values nothing can be: they are in
//! Secrets, under a hash of Go's making.

use serde_json::Value;

use super::fields::{Condition, annotation, flag, list, text};
use super::{Status, deletion, workload};

/// On a Job that waits to be replaced.
const REPLACED: &str = "helmcharts.helm.cattle.io/replace-wait";
/// On a chart that its controller is to leave alone.
const UNMANAGED: &str = "helmcharts.helm.cattle.io/unmanaged";

/// The namespace and name of the Job that installs the chart, if `chart` is a HelmChart and its controller has
/// made one.
pub(crate) fn helm_job(chart: &Value) -> Option<(String, String)> {
    let group = text(chart, "/apiVersion")?.split_once('/')?.0;
    if group != "helm.cattle.io" || text(chart, "/kind")? != "HelmChart" {
        return None;
    }
    let (namespace, job) = (text(chart, "/metadata/namespace")?, text(chart, "/status/jobName")?);
    // What is left of a chart of this name that was deleted.
    (!job.starts_with("helm-delete-")).then(|| (namespace.to_owned(), job.to_owned()))
}

/// How a HelmChart is; `job` is the one that `helm_job` names, if it is there.
pub(crate) fn helm_status(chart: &Value, job: Option<&Value>) -> Status {
    if let Some(status) = deletion(chart) {
        return status;
    }
    if annotation(chart, UNMANAGED).is_some() {
        return Status::Current;
    }
    if let Some(failed) = Condition::that_is_true(chart, "Failed") {
        return Status::failed(format!("the chart was not installed: {}", failed.says()));
    }
    let Some(job) = job else {
        return Status::in_progress(match helm_job(chart) {
            Some((namespace, name)) => format!("the Job {namespace}/{name} has not been seen yet"),
            None => {
                "the Helm controller has not created a Job for it yet (does this cluster have a Helm controller?)".to_owned()
            }
        });
    };
    let is_leaving = deletion(job).is_some() || annotation(job, REPLACED).is_some();
    if is_leaving || !is_of(job, chart) {
        return Status::in_progress("the Helm controller has not processed this version yet");
    }
    // It makes Jobs suspended, and lets them run when it has seen the Job controller take note of them.
    if flag(job, "/spec/suspend") {
        return Status::in_progress("the Helm controller has not unsuspended its Job yet");
    }
    match workload::job(job) {
        Status::Failed { reason } => Status::failed(format!("the chart was not installed: {reason}")),
        Status::InProgress { reason } => {
            Status::in_progress(format!("the chart is being installed: {reason}"))
        }
        well => well,
    }
}

/// Whether a Job installs this version of the chart, as far as the Job shows.
fn is_of(job: &Value, chart: &Value) -> bool {
    let spec = |name: &str| text(chart, &format!("/spec/{name}")).unwrap_or_default();
    let says = |name: &str, wanted: &str| variable(job, name).is_none_or(|value| value == wanted);
    let target = match spec("targetNamespace") {
        "" => text(chart, "/metadata/namespace").unwrap_or_default(),
        given => given,
    };
    // With a repository, the chart's name is put behind one for the repository.
    let names = |value: &str| value == spec("chart") || value.ends_with(&format!("/{}", spec("chart")));
    says("VERSION", spec("version"))
        && says("REPO", spec("repo"))
        && says("TARGET_NAMESPACE", target)
        && variable(job, "CHART").is_none_or(names)
}

/// The value of a variable of the Job's container.
fn variable<'a>(job: &'a Value, name: &str) -> Option<&'a str> {
    let containers = list(job, "/spec/template/spec/containers");
    let mut variables = containers.iter().flat_map(|one| list(one, "/env"));
    let found = variables.find(|one| text(one, "/name") == Some(name))?;
    Some(text(found, "/value").unwrap_or_default())
}
