//! The health of kinds that have pods: Deployment, ReplicaSet, StatefulSet, DaemonSet and Job.

use serde_json::Value;

use super::Status;
use super::fields::{Condition, count, flag, number, text};

/// How a Deployment is.
pub(super) fn deployment(object: &Value) -> Status {
    if let Some(status) = unseen(object) {
        return status;
    }
    let progressing = Condition::of(object, "Progressing");
    if let Some(stuck) = progressing.filter(|one| one.reason() == Some("ProgressDeadlineExceeded")) {
        let why = refusal(object).unwrap_or_else(|| stuck.says());
        return Status::failed(format!("its rollout made no progress within its deadline: {why}"));
    }
    let paused = flag(object, "/spec/paused");
    let wanted = count(object, "/spec/replicas").unwrap_or(1);
    let made = status_count(object, "replicas");
    let updated = status_count(object, "updatedReplicas");
    let missing = short(made, wanted, "replicas exist")
        .or_else(|| short(updated, wanted, "replicas are of this version"))
        .or_else(|| surplus(made, wanted))
        .or_else(|| short(status_count(object, "availableReplicas"), updated, "replicas are available"))
        .or_else(|| short(status_count(object, "readyReplicas"), wanted, "replicas are ready"));
    if let Some(missing) = missing {
        return incomplete(
            object,
            if paused { format!("{missing} (its rollout is paused)") } else { missing },
        );
    }
    // Without a deadline, and while it is paused, the controller keeps no account of its progress.
    let limit = number(object, "/spec/progressDeadlineSeconds").filter(|limit| *limit < i32::MAX.into());
    let done =
        progressing.is_some_and(|one| one.is("True") && one.reason() == Some("NewReplicaSetAvailable"));
    if limit.is_some() && !paused && !done {
        return Status::in_progress("its rollout has not finished yet");
    }
    match Condition::of(object, "Available") {
        Some(available) if available.is("True") => Status::Current,
        Some(available) => Status::in_progress(available.says()),
        None => Status::in_progress("it isn't available yet"),
    }
}

/// How a ReplicaSet is.
pub(super) fn replica_set(object: &Value) -> Status {
    if let Some(status) = unseen(object) {
        return status;
    }
    let wanted = count(object, "/spec/replicas").unwrap_or(1);
    let missing = short(status_count(object, "fullyLabeledReplicas"), wanted, "replicas carry its labels")
        .or_else(|| short(status_count(object, "availableReplicas"), wanted, "replicas are available"))
        .or_else(|| short(status_count(object, "readyReplicas"), wanted, "replicas are ready"))
        .or_else(|| surplus(status_count(object, "replicas"), wanted));
    match (missing, refusal(object)) {
        (Some(missing), _) => incomplete(object, missing),
        (None, Some(refusal)) => Status::in_progress(refusal),
        (None, None) => Status::Current,
    }
}

/// How a StatefulSet is. Its controller never says that it failed.
///
/// kstatus calls one whose updates wait for somebody to delete pods (`OnDelete`) current without a look. Here
/// only the version of its pods is left out of account: that they are ready is wanted of it too.
pub(super) fn stateful_set(object: &Value) -> Status {
    if let Some(status) = unseen(object) {
        return status;
    }
    let wanted = count(object, "/spec/replicas").unwrap_or(1);
    let made = status_count(object, "replicas");
    let mut missing = short(made, wanted, "replicas exist")
        .or_else(|| short(status_count(object, "readyReplicas"), wanted, "replicas are ready"))
        .or_else(|| surplus(made, wanted));
    if count(object, "/spec/minReadySeconds").is_some_and(|seconds| seconds > 0) {
        missing = missing
            .or_else(|| short(status_count(object, "availableReplicas"), wanted, "replicas are available"));
    }
    if text(object, "/spec/updateStrategy/type") != Some("OnDelete") {
        // Those below the partition stay as they are.
        let partition = count(object, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
        let updated = status_count(object, "updatedReplicas");
        missing = missing.or_else(|| short(updated, wanted - partition, "replicas are of this version"));
    }
    missing.map_or(Status::Current, |missing| incomplete(object, missing))
}

/// How a DaemonSet is.
///
/// kstatus wants all pods of this version even where updates wait for somebody to delete pods (`OnDelete`), which
/// may never be; as with a StatefulSet, that isn't wanted here.
pub(super) fn daemon_set(object: &Value) -> Status {
    if let Some(status) = unseen(object) {
        return status;
    }
    let Some(wanted) = count(object, "/status/desiredNumberScheduled") else {
        return Status::in_progress("its controller has not counted the nodes yet");
    };
    let mut missing = short(status_count(object, "currentNumberScheduled"), wanted, "nodes have its pod");
    if text(object, "/spec/updateStrategy/type") != Some("OnDelete") {
        let updated = status_count(object, "updatedNumberScheduled");
        missing = missing.or_else(|| short(updated, wanted, "pods are of this version"));
    }
    missing
        .or_else(|| short(status_count(object, "numberAvailable"), wanted, "pods are available"))
        .or_else(|| short(status_count(object, "numberReady"), wanted, "pods are ready"))
        .map_or(Status::Current, |missing| incomplete(object, missing))
}

/// How a Job is.
///
/// kstatus calls a Job current as soon as it has started. Here it is once it is complete: an app with a Job (a
/// migration, an import) is as it should be when that is done, as it is with podman, and a failure after the start
/// must not come after the verdict.
pub(super) fn job(object: &Value) -> Status {
    if Condition::that_is_true(object, "Complete").is_some() {
        return Status::Current;
    }
    // `FailureTarget` comes first: the verdict is in, and pods are still being ended.
    let failed = ["Failed", "FailureTarget"].iter().find_map(|kind| Condition::that_is_true(object, kind));
    if let Some(failed) = failed {
        return Status::failed(format!("the job failed: {}", failed.says()));
    }
    // As in kstatus: it isn't meant to run now, and would otherwise never be as it should be.
    if flag(object, "/spec/suspend") {
        return Status::Current;
    }
    // kstatus calls it current by this condition, too. But it stays until the controller has seen that the Job may run.
    if Condition::that_is_true(object, "Suspended").is_some() {
        return Status::in_progress("the job is no longer suspended, but has not been resumed yet");
    }
    if text(object, "/status/startTime").is_none() {
        return Status::in_progress("the job has not started yet");
    }
    let parallel = count(object, "/spec/parallelism").unwrap_or(1);
    let wanted = count(object, "/spec/completions").unwrap_or(parallel);
    let (succeeded, failures) = (status_count(object, "succeeded"), status_count(object, "failed"));
    let active = status_count(object, "active");
    let mut reason = format!("the job still runs: {succeeded} of {wanted} completions, {active} pods active");
    if failures > 0 {
        reason.push_str(&format!(", {failures} failed"));
    }
    Status::in_progress(reason)
}

/// Whether this is a Job that has ended well.
pub(in crate::kubernetes) fn has_ended(object: &Value) -> bool {
    text(object, "/kind") == Some("Job")
        && text(object, "/apiVersion").is_some_and(|version| version.starts_with("batch/"))
        && Condition::that_is_true(object, "Complete").is_some()
}

/// The controllers of these kinds always say which generation they saw: without it nobody has looked yet, and counts
/// that are absent aren't zeros.
fn unseen(object: &Value) -> Option<Status> {
    let seen = number(object, "/status/observedGeneration");
    seen.is_none().then(|| Status::in_progress("its controller has not observed it yet"))
}

/// A count in the status; what is absent is none.
fn status_count(object: &Value, name: &str) -> i64 {
    object.get("status").and_then(|status| count(status, &format!("/{name}"))).unwrap_or(0)
}

fn short(have: i64, want: i64, what: &str) -> Option<String> {
    (have < want).then(|| format!("{have} of {want} {what}"))
}

fn surplus(have: i64, want: i64) -> Option<String> {
    (have > want).then(|| format!("{} surplus replicas have not been terminated yet", have - want))
}

/// What is missing, and the reason for it where the controller knows one.
fn incomplete(object: &Value, missing: String) -> Status {
    match refusal(object) {
        Some(refusal) => Status::in_progress(format!("{missing}: {refusal}")),
        None => Status::in_progress(missing),
    }
}

/// Why pods can't even be made: a quota, an admission webhook, a missing account. Tried again by the controller.
fn refusal(object: &Value) -> Option<String> {
    let failure = Condition::that_is_true(object, "ReplicaFailure").map(|failure| failure.says());
    // A Deployment that can't make its ReplicaSet.
    failure.or_else(|| {
        let progressing = Condition::of(object, "Progressing")?;
        progressing.is("False").then(|| progressing.says())
    })
}
