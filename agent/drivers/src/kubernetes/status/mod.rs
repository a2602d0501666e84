//! The health of an object, from its own status alone: in the way of kstatus, which kubectl-like tools share
//! (sigs.k8s.io/cli-utils, pkg/kstatus/status: status.go, generic.go and core.go). Where this judges
//! otherwise than kstatus does, a comment at the place says why.
//!
//! Everything here is a function of one object: no clock, no request, no memory.

pub(crate) mod fields;
mod helm;
mod pod;
#[cfg(test)]
mod tests;
mod without_pods;
mod workload;

use serde_json::Value;

use self::fields::{Condition, clipped, list, number, text};
pub(super) use self::helm::{helm_job, helm_status};
pub(super) use self::workload::has_ended;

/// How an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// What its spec asks for is there, and works.
    Current,
    /// It is on its way there, or isn't well at this moment and may become so by itself.
    InProgress {
        /// What is still missing, for people.
        reason: String,
    },
    /// Whoever brings it about has given up.
    Failed {
        /// Why, for people.
        reason: String,
    },
    /// It is being deleted.
    Terminating {
        /// What it still waits for, for people.
        reason: String,
    },
}

impl Status {
    fn in_progress(reason: impl AsRef<str>) -> Self {
        Status::InProgress { reason: clipped(reason.as_ref()) }
    }

    fn failed(reason: impl AsRef<str>) -> Self {
        Status::Failed { reason: clipped(reason.as_ref()) }
    }

    fn terminating(reason: impl AsRef<str>) -> Self {
        Status::Terminating { reason: clipped(reason.as_ref()) }
    }
}

/// How `object` is, judged by the whole of it. What has no status at all is `Current`.
pub(super) fn status(object: &Value) -> Status {
    let (group, kind) = group_and_kind(object);
    if let Some(status) = deletion(object).or_else(|| generic(object)) {
        return status;
    }
    match (group, kind) {
        ("apps", "Deployment") => workload::deployment(object),
        ("apps", "ReplicaSet") => workload::replica_set(object),
        ("apps", "StatefulSet") => workload::stateful_set(object),
        ("apps", "DaemonSet") => workload::daemon_set(object),
        ("batch", "Job") => workload::job(object),
        // What a CronJob starts fails and succeeds on its own; the CronJob itself is there or not.
        ("batch", "CronJob") => Status::Current,
        ("", "Pod") => pod::pod(object),
        ("", "PersistentVolumeClaim") => without_pods::claim(object),
        ("", "Service") => without_pods::service(object),
        ("", "Namespace") => without_pods::namespace(object),
        ("networking.k8s.io", "Ingress") => without_pods::ingress(object),
        ("policy", "PodDisruptionBudget") => Status::Current,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => without_pods::definition(object),
        ("apiregistration.k8s.io", "APIService") => without_pods::api_service(object),
        ("helm.cattle.io", "HelmChart") => helm_status(object, None),
        _ => without_pods::custom(object),
    }
}

/// Whether objects of a kind have a status that `status` judges by, so that whole objects must be watched. Of the
/// others their metadata is enough. Custom resources count as having one.
pub(super) fn has_status(group: &str, kind: &str) -> bool {
    match group {
        "" => !matches!(
            kind,
            "ConfigMap" | "Secret" | "ServiceAccount" | "LimitRange" | "Endpoints" | "PodTemplate" | "Event"
        ),
        // A CronJob has a status, which changes with each run and says nothing of how it is.
        "batch" => kind != "CronJob",
        "apps" => kind != "ControllerRevision",
        "rbac.authorization.k8s.io" => false,
        "networking.k8s.io" => !matches!(kind, "NetworkPolicy" | "IngressClass" | "IPAddress"),
        "storage.k8s.io" => {
            !matches!(kind, "StorageClass" | "CSIDriver" | "CSINode" | "VolumeAttributesClass")
        }
        "scheduling.k8s.io" => kind != "PriorityClass",
        "node.k8s.io" => kind != "RuntimeClass",
        "discovery.k8s.io" => kind != "EndpointSlice",
        "coordination.k8s.io" => kind != "Lease",
        "admissionregistration.k8s.io" => kind == "ValidatingAdmissionPolicy",
        "helm.cattle.io" => kind != "HelmChartConfig",
        _ => true,
    }
}

/// The API group (empty for the core one) and the kind of an object.
fn group_and_kind(object: &Value) -> (&str, &str) {
    let version = text(object, "/apiVersion").unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    (group, text(object, "/kind").unwrap_or_default())
}

/// What is being deleted is nothing else any more.
fn deletion(object: &Value) -> Option<Status> {
    text(object, "/metadata/deletionTimestamp")?;
    let finalizers: Vec<&str> =
        list(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
    Some(match without_pods::namespace_remains(object) {
        Some(remains) => Status::terminating(format!("it is being deleted: {remains}")),
        None if finalizers.is_empty() => Status::terminating("it is being deleted"),
        None => Status::terminating(format!(
            "it is being deleted, and waits for its finalizers: {}",
            finalizers.join(", ")
        )),
    })
}

/// What holds for objects of every kind: whether the status is of this generation, and the two conditions that
/// kstatus defines.
///
/// `Stalled` counts before `Reconciling`: a controller that says both is at it, and gets nowhere.
fn generic(object: &Value) -> Option<Status> {
    let (wanted, seen) =
        (number(object, "/metadata/generation"), number(object, "/status/observedGeneration"));
    if let (Some(wanted), Some(seen)) = (wanted, seen)
        && wanted != seen
    {
        return Some(Status::in_progress(format!(
            "its controller has not observed this version yet (generation {wanted}; it saw {seen})"
        )));
    }
    if let Some(stalled) = Condition::that_is_true(object, "Stalled") {
        return Some(Status::failed(stalled.says()));
    }
    Condition::that_is_true(object, "Reconciling").map(|reconciling| Status::in_progress(reconciling.says()))
}
