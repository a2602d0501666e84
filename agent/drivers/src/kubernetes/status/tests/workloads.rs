//! Deployment, ReplicaSet, StatefulSet, DaemonSet, Job and Pod.

use super::*;

/// A status of a Deployment whose counts are these: made, updated, available, ready.
fn counts(counts: [u32; 4], conditions: &[Value]) -> Value {
    let [made, updated, available, ready] = counts;
    json!({
        "observedGeneration": 3, "replicas": made, "updatedReplicas": updated, "availableReplicas": available,
        "readyReplicas": ready, "conditions": conditions,
    })
}

fn available(status: &str) -> Value {
    condition("Available", status, "MinimumReplicas", "as many as it needs")
}

fn rolled_out() -> Value {
    condition(
        "Progressing",
        "True",
        "NewReplicaSetAvailable",
        "ReplicaSet \"one-5\" has successfully progressed.",
    )
}

fn stuck() -> Value {
    condition(
        "Progressing",
        "False",
        "ProgressDeadlineExceeded",
        "ReplicaSet \"one-5\" has timed out progressing.",
    )
}

fn forbidden() -> Value {
    condition("ReplicaFailure", "True", "FailedCreate", "pods \"one-5-\" is forbidden: exceeded quota: small")
}

#[test]
fn a_deployment_is_well_once_every_replica_of_its_version_is_available_and_none_before_is_left() {
    let two = json!({ "replicas": 2, "progressDeadlineSeconds": 600 });
    let well = [available("True"), rolled_out()];
    let on_the_way =
        [available("True"), condition("Progressing", "True", "ReplicaSetUpdated", "is progressing")];
    table(
        "apps/v1",
        "Deployment",
        &[
            ("all is there", two.clone(), counts([2, 2, 2, 2], &well), Current),
            ("none exist", two.clone(), counts([0, 0, 0, 0], &[]), InProgress("0 of 2 replicas exist")),
            (
                "old ones only",
                two.clone(),
                counts([2, 0, 2, 2], &well),
                InProgress("0 of 2 replicas are of this version"),
            ),
            (
                "an old one is left",
                two.clone(),
                counts([3, 2, 3, 3], &well),
                InProgress("1 surplus replicas have not been terminated yet"),
            ),
            (
                "one is not available",
                two.clone(),
                counts([2, 2, 1, 2], &well),
                InProgress("1 of 2 replicas are available"),
            ),
            (
                "one is not ready",
                two.clone(),
                counts([2, 2, 2, 1], &well),
                InProgress("1 of 2 replicas are ready"),
            ),
            (
                "the rollout goes on",
                two.clone(),
                counts([2, 2, 2, 2], &on_the_way),
                InProgress("has not finished yet"),
            ),
            (
                "not available as a whole",
                two.clone(),
                counts([2, 2, 2, 2], &[available("False"), rolled_out()]),
                InProgress("MinimumReplicas"),
            ),
            (
                "availability unknown",
                two.clone(),
                counts([2, 2, 2, 2], &[rolled_out()]),
                InProgress("isn't available"),
            ),
            (
                "no deadline, no account of progress",
                json!({ "replicas": 1 }),
                counts([1, 1, 1, 1], &[available("True")]),
                Current,
            ),
            (
                "the longest deadline is none",
                json!({ "replicas": 1, "progressDeadlineSeconds": 2147483647 }),
                counts([1, 1, 1, 1], &[available("True")]),
                Current,
            ),
            (
                "no replicas wanted",
                json!({ "replicas": 0, "progressDeadlineSeconds": 600 }),
                counts([0, 0, 0, 0], &well),
                Current,
            ),
            (
                "no count given is one",
                json!({}),
                counts([0, 0, 0, 0], &well),
                InProgress("0 of 1 replicas exist"),
            ),
        ],
    );
}

#[test]
fn a_deployment_whose_replicas_fell_ill_after_it_was_well_is_in_progress_again() {
    let spec = json!({ "replicas": 2, "progressDeadlineSeconds": 600 });
    let state = counts([2, 2, 0, 0], &[available("False"), rolled_out()]);
    table(
        "apps/v1",
        "Deployment",
        &[("it was well", spec, state, InProgress("0 of 2 replicas are available"))],
    );
}

#[test]
fn a_deployment_that_nobody_has_looked_at_is_not_well_even_if_it_wants_nothing() {
    let none = json!({ "replicas": 0 });
    let mut old = counts([0, 0, 0, 0], &[available("True"), rolled_out()]);
    old["observedGeneration"] = json!(2);
    table(
        "apps/v1",
        "Deployment",
        &[
            ("no status", none.clone(), json!(null), InProgress("has not observed it yet")),
            ("an empty status", none.clone(), json!({}), InProgress("has not observed it yet")),
            ("a status of the version before", none, old, InProgress("generation 3; it saw 2")),
        ],
    );
}

#[test]
fn a_rollout_past_its_deadline_has_failed_and_says_why_no_pod_was_made() {
    let spec = json!({ "replicas": 2, "progressDeadlineSeconds": 600 });
    table(
        "apps/v1",
        "Deployment",
        &[
            ("stuck", spec.clone(), counts([2, 1, 1, 1], &[stuck()]), Failed("has timed out progressing")),
            (
                "stuck at a quota",
                spec.clone(),
                counts([0, 0, 0, 0], &[stuck(), forbidden()]),
                Failed("exceeded quota"),
            ),
            (
                "a quota, in time",
                spec,
                counts([0, 0, 0, 0], &[forbidden()]),
                InProgress("0 of 2 replicas exist: FailedCreate: pods"),
            ),
        ],
    );
}

#[test]
fn a_paused_rollout_is_judged_by_what_is_there() {
    let spec = json!({ "replicas": 1, "paused": true, "progressDeadlineSeconds": 600 });
    let paused = condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
    table(
        "apps/v1",
        "Deployment",
        &[
            (
                "all is of this version",
                spec.clone(),
                counts([1, 1, 1, 1], &[available("True"), paused.clone()]),
                Current,
            ),
            (
                "it isn't",
                spec,
                counts([1, 0, 1, 1], &[available("True"), paused]),
                InProgress("its rollout is paused"),
            ),
        ],
    );
}

#[test]
fn a_replica_set_is_well_once_its_replicas_are() {
    let state = |made: u32, well: u32, conditions: &[Value]| {
        json!({ "observedGeneration": 3, "replicas": made, "fullyLabeledReplicas": made, "availableReplicas": well,
            "readyReplicas": well, "conditions": conditions })
    };
    let two = json!({ "replicas": 2 });
    table(
        "apps/v1",
        "ReplicaSet",
        &[
            ("all is there", two.clone(), state(2, 2, &[]), Current),
            ("one is ill", two.clone(), state(2, 1, &[]), InProgress("1 of 2 replicas are available")),
            (
                "one too many",
                two.clone(),
                state(3, 3, &[]),
                InProgress("1 surplus replicas have not been terminated yet"),
            ),
            ("a pod is refused", two.clone(), state(0, 0, &[forbidden()]), InProgress("exceeded quota")),
            ("one can't be deleted", two, state(2, 2, &[forbidden()]), InProgress("exceeded quota")),
            ("none wanted", json!({ "replicas": 0 }), state(0, 0, &[]), Current),
            ("nobody looked", json!({ "replicas": 0 }), json!(null), InProgress("has not observed")),
        ],
    );
}

#[test]
fn a_stateful_set_is_well_once_its_replicas_above_the_partition_are_of_its_version() {
    let state = |made: u32, ready: u32, updated: u32| {
        json!({ "observedGeneration": 3, "replicas": made, "readyReplicas": ready, "updatedReplicas": updated,
            "currentRevision": "one-1", "updateRevision": "one-2" })
    };
    let rolling = |partition: i64| json!({ "replicas": 3, "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": partition } } });
    let on_delete = json!({ "replicas": 3, "updateStrategy": { "type": "OnDelete" } });
    let slow = json!({ "replicas": 1, "minReadySeconds": 30 });
    table(
        "apps/v1",
        "StatefulSet",
        &[
            ("all is there", rolling(0), state(3, 3, 3), Current),
            ("one is missing", rolling(0), state(2, 2, 2), InProgress("2 of 3 replicas exist")),
            ("one isn't ready", rolling(0), state(3, 2, 3), InProgress("2 of 3 replicas are ready")),
            ("one is old", rolling(0), state(3, 3, 2), InProgress("2 of 3 replicas are of this version")),
            (
                "one too many",
                rolling(0),
                state(4, 4, 3),
                InProgress("1 surplus replicas have not been terminated yet"),
            ),
            ("the old ones are below the partition", rolling(2), state(3, 3, 1), Current),
            (
                "one above it is old",
                rolling(1),
                state(3, 3, 1),
                InProgress("1 of 2 replicas are of this version"),
            ),
            ("a partition above all", rolling(9), state(3, 3, 0), Current),
            ("a partition that is none", rolling(i64::MIN), state(3, 3, 3), Current),
            (
                "no strategy given",
                json!({ "replicas": 3 }),
                state(3, 3, 0),
                InProgress("0 of 3 replicas are of this version"),
            ),
            ("old ones that somebody will delete", on_delete.clone(), state(3, 3, 0), Current),
            ("those must be ready, too", on_delete, state(3, 1, 0), InProgress("1 of 3 replicas are ready")),
            ("ready, not for long enough", slow, state(1, 1, 1), InProgress("0 of 1 replicas are available")),
            ("none wanted", json!({ "replicas": 0 }), state(0, 0, 0), Current),
            ("nobody looked", json!({ "replicas": 0 }), json!({}), InProgress("has not observed")),
        ],
    );
}

#[test]
fn a_daemon_set_is_well_once_every_node_that_it_wants_has_its_pod() {
    let state = |wanted: u32, made: u32, updated: u32, well: u32| {
        json!({ "observedGeneration": 3, "desiredNumberScheduled": wanted, "currentNumberScheduled": made,
            "updatedNumberScheduled": updated, "numberAvailable": well, "numberReady": well })
    };
    let (rolling, on_delete) = (json!({}), json!({ "updateStrategy": { "type": "OnDelete" } }));
    table(
        "apps/v1",
        "DaemonSet",
        &[
            ("all is there", rolling.clone(), state(2, 2, 2, 2), Current),
            ("no node is wanted", rolling.clone(), state(0, 0, 0, 0), Current),
            ("a node has none", rolling.clone(), state(2, 1, 1, 1), InProgress("1 of 2 nodes have its pod")),
            ("one is old", rolling.clone(), state(2, 2, 1, 2), InProgress("1 of 2 pods are of this version")),
            ("one is ill", rolling.clone(), state(2, 2, 2, 1), InProgress("1 of 2 pods are available")),
            (
                "nobody counted",
                rolling.clone(),
                json!({ "observedGeneration": 3 }),
                InProgress("not counted"),
            ),
            ("nobody looked", rolling, json!(null), InProgress("has not observed")),
            ("old ones that somebody will delete", on_delete, state(2, 2, 0, 2), Current),
        ],
    );
}

#[test]
fn a_job_is_well_once_it_is_complete_and_not_while_it_runs() {
    let spec = json!({ "completions": 3, "parallelism": 2 });
    let state = |conditions: &[Value]| json!({ "startTime": "2026-01-01T00:00:00Z", "active": 2, "succeeded": 1, "failed": 4, "conditions": conditions });
    let limit =
        condition("Failed", "True", "BackoffLimitExceeded", "Job has reached the specified backoff limit");
    let late =
        condition("Failed", "True", "DeadlineExceeded", "Job was active longer than specified deadline");
    let doomed = condition(
        "FailureTarget",
        "True",
        "BackoffLimitExceeded",
        "Job has reached the specified backoff limit",
    );
    let complete =
        condition("Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods");
    let enough = condition(
        "SuccessCriteriaMet",
        "True",
        "CompletionsReached",
        "Reached expected number of succeeded pods",
    );
    table(
        "batch/v1",
        "Job",
        &[
            ("complete", spec.clone(), state(std::slice::from_ref(&complete)), Current),
            ("not started", spec.clone(), json!({}), InProgress("not started")),
            ("no status", spec.clone(), json!(null), InProgress("not started")),
            ("running", spec.clone(), state(&[]), InProgress("1 of 3 completions, 2 pods active, 4 failed")),
            ("done, its pods still end", spec.clone(), state(&[enough]), InProgress("still runs")),
            (
                "failed too often",
                spec.clone(),
                state(&[limit]),
                Failed("BackoffLimitExceeded: Job has reached"),
            ),
            ("took too long", spec.clone(), state(&[late]), Failed("DeadlineExceeded")),
            ("about to fail", spec.clone(), state(&[doomed]), Failed("BackoffLimitExceeded")),
            ("not failed", spec, state(&[condition("Failed", "False", "", "")]), InProgress("still runs")),
            ("not meant to run", json!({ "suspend": true }), json!(null), Current),
            (
                "let run a moment ago",
                json!({ "suspend": false }),
                state(&[condition("Suspended", "True", "JobSuspended", "Job suspended")]),
                InProgress("has not been resumed yet"),
            ),
            ("complete before it was suspended", json!({ "suspend": true }), state(&[complete]), Current),
        ],
    );
}

#[test]
fn a_cron_job_is_well_as_soon_as_it_is_there() {
    table("batch/v1", "CronJob", &[("new", json!({ "schedule": "@daily" }), json!(null), Current)]);
}

#[test]
fn a_pod_is_well_while_it_is_ready_or_when_it_has_run_to_an_end_that_it_may_have() {
    let ready = |status: &str| {
        condition("Ready", status, "ContainersNotReady", "containers with unready status: [app]")
    };
    let unschedulable = condition(
        "PodScheduled",
        "False",
        "Unschedulable",
        "0/1 nodes are available: 1 Insufficient memory.",
    );
    let once = json!({ "restartPolicy": "Never", "containers": [{ "name": "app" }, { "name": "side" }] });
    let always = json!({ "restartPolicy": "Always" });
    let with = |phase: &str, state: Value, conditions: &[Value]| {
        json!({ "phase": phase, "conditions": conditions, "containerStatuses": [{ "name": "app", "restartCount": 7, "state": state,
            "lastState": { "terminated": { "exitCode": 1, "reason": "Error" } } }] })
    };
    let crashing = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s" } });
    let no_image = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image \"no/such\"" } });
    let dead = json!({ "terminated": { "exitCode": 3, "reason": "Error" } });
    table(
        "v1",
        "Pod",
        &[
            ("ready", always.clone(), with("Running", json!({ "running": {} }), &[ready("True")]), Current),
            (
                "not ready",
                always.clone(),
                json!({ "phase": "Running", "conditions": [ready("False")] }),
                InProgress("unready status: [app]"),
            ),
            (
                "crashing",
                always.clone(),
                with("Running", crashing.clone(), &[ready("False")]),
                Failed("CrashLoopBackOff"),
            ),
            (
                "a container before it crashes",
                always.clone(),
                json!({ "phase": "Pending", "initContainerStatuses": [{ "name": "wait", "state": crashing }] }),
                Failed("container wait"),
            ),
            ("no image", always.clone(), with("Pending", no_image, &[]), InProgress("ImagePullBackOff")),
            (
                "no room",
                always.clone(),
                json!({ "phase": "Pending", "conditions": [unschedulable] }),
                InProgress("Insufficient memory"),
            ),
            ("coming up", always.clone(), json!({ "phase": "Pending" }), InProgress("isn't ready yet")),
            ("nobody looked", always.clone(), json!(null), InProgress("no kubelet")),
            ("a lost node", always.clone(), json!({ "phase": "Unknown" }), InProgress("node")),
            (
                "evicted",
                always.clone(),
                json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." }),
                Failed("low on resource"),
            ),
            (
                "ended, and must not",
                always,
                json!({ "phase": "Succeeded", "reason": "Terminated" }),
                Failed("is not restarted"),
            ),
            ("ended, as it may", once.clone(), json!({ "phase": "Succeeded" }), Current),
            ("failed", once.clone(), with("Failed", dead.clone(), &[]), Failed("with code 3 (Error)")),
            (
                "failed in part",
                once,
                with("Running", dead, &[ready("False")]),
                Failed("container app failed"),
            ),
        ],
    );
}
