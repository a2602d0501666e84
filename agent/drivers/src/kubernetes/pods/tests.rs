//! Pods as a kubelet writes them, and what is made of them.

use serde_json::json;

use super::*;

/// A pod with one container `app` in this state.
fn pod(name: &str, created: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("app");
    json!({
        "metadata": { "name": name, "namespace": "shop", "creationTimestamp": created },
        "spec": { "containers": [{ "name": "app" }] },
        "status": { "phase": "Running", "containerStatuses": [container] },
    })
}

fn ready(name: &str, created: &str, ip: &str) -> Value {
    let mut pod = pod(name, created, json!({ "ready": true, "state": { "running": {} } }));
    pod["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
    pod["status"]["podIP"] = json!(ip);
    pod
}

fn going(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
    pod
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-01T00:00:09Z";

fn crashed() -> Value {
    json!({
        "restartCount": 5, "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 2m40s" } },
        "lastState": { "terminated": { "exitCode": 42, "reason": "Error", "message": "no database" } },
    })
}

fn reason(pods: &[Value]) -> String {
    trouble(pods).map(|trouble| trouble.reason).unwrap_or_default()
}

#[test]
fn a_container_that_crashes_is_told_with_its_last_exit_code() {
    let seen = trouble(&[pod("web-1", NEW, crashed())]).unwrap();
    assert!(seen.crashes);
    for part in
        ["pod web-1", "container app", "CrashLoopBackOff", "with code 42 (Error): no database", "5 restarts"]
    {
        assert!(seen.reason.contains(part), "{} doesn't say {part}", seen.reason);
    }
}

#[test]
fn lines_of_a_containers_log_are_no_part_of_why_it_failed() {
    let reason_with = |policy: &str, why: &str| {
        let mut status = crashed();
        status["lastState"]["terminated"]["reason"] = json!(why);
        let mut pod = pod("web-1", NEW, status);
        pod["spec"]["containers"] = json!([{ "name": "app", "terminationMessagePolicy": policy }]);
        reason(&[pod])
    };
    assert!(!reason_with("FallbackToLogsOnError", "Error").contains("no database"));
    assert!(
        reason_with("FallbackToLogsOnError", "StartError").contains("no database"),
        "the runtime's words"
    );
    assert!(reason_with("File", "Error").contains("no database"), "what the program wrote there to be told");
}

#[test]
fn what_a_container_waits_for_is_told_in_the_kubelets_words() {
    for why in [
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "RunContainerError",
        "SomethingNewOfNextYear",
    ] {
        let state =
            json!({ "state": { "waiting": { "reason": why, "message": "secret \"db\" not found" } } });
        let seen = trouble(&[pod("web-1", NEW, state)]).unwrap();
        assert!(seen.reason.contains(&format!("{why}: secret")) && !seen.crashes, "{seen:?}");
    }
}

#[test]
fn a_container_that_comes_up_is_no_trouble() {
    for why in ["ContainerCreating", "PodInitializing"] {
        assert_eq!(trouble(&[pod("web-1", NEW, json!({ "state": { "waiting": { "reason": why } } }))]), None);
    }
    assert_eq!(trouble(&[pod("web-1", NEW, json!({ "state": { "running": {} } }))]), None);
    assert_eq!(trouble(&[]), None);
}

#[test]
fn a_kill_for_memory_is_told_until_the_container_is_ready_again() {
    let mut state = json!({
        "ready": false, "restartCount": 1, "state": { "running": {} },
        "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
    });
    let seen = reason(&[pod("web-1", NEW, state.clone())]);
    assert!(seen.contains("with code 137 (OOMKilled: it exceeded its memory limit)"), "{seen}");
    state["ready"] = json!(true);
    assert_eq!(trouble(&[pod("web-1", NEW, state)]), None);
}

#[test]
fn a_container_that_failed_is_trouble_and_one_that_is_done_is_not() {
    let ended = |code: i64| json!({ "state": { "terminated": { "exitCode": code, "reason": "Done" } } });
    assert!(reason(&[pod("job-1", NEW, ended(1))]).contains("container app exited with code 1"));
    let once = |state: Value| {
        let mut pod = pod("job-1", NEW, state);
        pod["spec"]["restartPolicy"] = json!("OnFailure");
        pod
    };
    assert_eq!(trouble(&[once(ended(0))]), None);
    let killed = json!({ "state": { "terminated": { "exitCode": 139, "signal": 11 } } });
    assert!(reason(&[pod("job-1", NEW, killed)]).contains("by signal 11"));
}

#[test]
fn a_container_that_fails_before_the_others_start_is_named() {
    let mut one = pod("web-1", NEW, json!({ "state": { "waiting": { "reason": "PodInitializing" } } }));
    let mut wait = crashed();
    wait["name"] = json!("migrate");
    one["status"]["initContainerStatuses"] = json!([wait]);
    assert!(reason(&[one]).contains("container migrate"));
}

#[test]
fn a_pod_that_no_node_takes_is_told_with_the_schedulers_words() {
    let message = "0/1 nodes are available: 1 Insufficient cpu.";
    let one = json!({ "metadata": { "name": "web-1" }, "status": { "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message },
    ] } });
    assert_eq!(reason(&[one]), format!("pod web-1: it can't be scheduled: Unschedulable: {message}"));
}

#[test]
fn an_evicted_pod_says_so() {
    let one = json!({ "metadata": { "name": "web-1" }, "status": {
        "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
    } });
    assert!(reason(&[one]).contains("Evicted: The node was low"));
}

#[test]
fn the_newest_pod_that_stays_is_asked_first() {
    let image =
        |name: &str, when| pod(name, when, json!({ "state": { "waiting": { "reason": "ErrImagePull" } } }));
    assert!(reason(&[pod("old", OLD, crashed()), image("new", NEW)]).contains("pod new"));
    assert!(reason(&[pod("old", OLD, crashed()), going(image("new", NEW))]).contains("pod old"));
    // One that is well says nothing of another that isn't.
    assert!(reason(&[pod("old", OLD, crashed()), ready("new", NEW, "10.42.0.9")]).contains("pod old"));
}

#[test]
fn a_crash_tells_more_than_what_waits_for_it() {
    let mut one = pod("web-1", NEW, crashed());
    let other = json!({ "name": "side", "state": { "waiting": { "reason": "CreateContainerConfigError" } } });
    one["status"]["containerStatuses"] = json!([other, one["status"]["containerStatuses"][0]]);
    assert!(trouble(&[one]).unwrap().crashes);
}

#[test]
fn restarts_are_those_of_all_containers_of_the_pods_that_stay() {
    let mut one = pod("a", NEW, json!({ "restartCount": 2 }));
    one["status"]["initContainerStatuses"] = json!([{ "name": "migrate", "restartCount": 3 }]);
    let other = pod("b", NEW, json!({ "restartCount": 4 }));
    let odd = pod("c", NEW, json!({ "restartCount": -7 }));
    assert_eq!(restarts(&[one, other, odd, going(pod("d", NEW, json!({ "restartCount": 90 })))]), 9);
    assert_eq!(
        restarts(&[
            pod("a", NEW, json!({ "restartCount": i64::MAX })),
            pod("b", NEW, json!({ "restartCount": i64::MAX })),
            pod("c", NEW, json!({ "restartCount": i64::MAX }))
        ]),
        u64::MAX
    );
}

#[test]
fn a_check_goes_to_the_newest_ready_pod_that_stays() {
    let pods = [
        ready("old", OLD, "10.42.0.7"),
        ready("new", NEW, "2001:db8::9"),
        going(ready("gone", "2026-01-03T00:00:00Z", "10.42.0.1")),
        pod("ill", "2026-01-03T00:00:00Z", json!({ "state": { "running": {} } })),
        ready("odd", "2026-01-04T00:00:00Z", "example.org/../.."),
    ];
    assert_eq!(ready_address(&pods, 8080).unwrap().to_string(), "[2001:db8::9]:8080");
    assert_eq!(ready_address(&pods[..1], 80).unwrap().to_string(), "10.42.0.7:80");
    assert_eq!(ready_address(&pods[2..], 80), None);
}

#[test]
fn a_program_runs_in_a_ready_pod_before_one_that_only_runs() {
    let running = |name: &str| pod(name, NEW, json!({ "state": { "running": {} } }));
    let name = |pod: Option<&Value>| pod.and_then(|pod| text(pod, "/metadata/name")).map(str::to_owned);
    let pods = [pod("crashed", NEW, crashed()), running("runs"), ready("ready", OLD, "10.42.0.7")];
    assert_eq!(name(pod_for_exec(&pods, None)).as_deref(), Some("ready"));
    assert_eq!(name(pod_for_exec(&pods[..2], Some("app"))).as_deref(), Some("runs"));
    assert_eq!(name(pod_for_exec(&pods[..1], None)), None);
    assert_eq!(name(pod_for_exec(&pods, Some("other"))), None);
    assert_eq!(name(pod_for_exec(&[going(running("runs"))], None)), None);
}

#[test]
fn logs_are_of_the_containers_that_ever_ran_the_newest_pods_first() {
    let mut new = pod("new", NEW, json!({ "state": { "waiting": { "reason": "PodInitializing" } } }));
    new["spec"]["initContainers"] = json!([{ "name": "migrate" }]);
    new["status"]["initContainerStatuses"] = json!([{ "name": "migrate", "state": { "running": {} } }]);
    let pods = [pod("old", OLD, crashed()), new, going(ready("gone", OLD, "10.42.0.1"))];
    let seen: Vec<_> =
        log_sources(&pods).iter().map(|one| format!("{}/{}", one.pod, one.container)).collect();
    assert_eq!(seen, ["new/migrate", "old/app", "gone/app"]);
}

#[test]
fn a_log_is_asked_for_of_each_run_once_and_first_of_what_is_in_trouble() {
    let mut one = pod("one", NEW, json!({ "state": { "running": {} } }));
    one["spec"]["containers"] = json!([{ "name": "app" }, { "name": "side" }, { "name": "back" }]);
    let ended = json!({ "terminated": { "exitCode": 1 } });
    one["status"]["containerStatuses"] = json!([
        { "name": "app", "ready": true, "state": { "running": {} } },
        { "name": "side", "restartCount": 1, "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": ended },
        { "name": "back", "ready": true, "restartCount": 1, "state": { "running": {} }, "lastState": ended },
    ]);
    let pods = [one];
    let sources = log_sources(&pods);
    let seen: Vec<_> =
        sources.iter().map(|source| (source.container, source.runs().collect::<Vec<_>>())).collect();
    assert_eq!(seen, [("side", vec![true]), ("app", vec![false]), ("back", vec![false, true])]);
}

#[test]
fn of_pods_of_one_second_the_one_that_is_not_ready_is_taken_for_the_newer() {
    let pods = [ready("a", NEW, "10.42.0.1"), pod("b", NEW, json!({ "state": { "running": {} } }))];
    let seen: Vec<_> = log_sources(&pods).iter().map(|one| one.pod.to_owned()).collect();
    assert_eq!(seen, ["b", "a"]);
}

#[test]
fn the_container_that_kubectl_would_take_is_the_first_and_sidecars_are_the_last() {
    let mut one = json!({ "spec": {
        "initContainers": [{ "name": "migrate" }, { "name": "proxy", "restartPolicy": "Always" }],
        "containers": [{ "name": "app" }, { "name": "metrics" }],
    } });
    assert_eq!(container_names(&one), ["app", "metrics", "proxy"]);
    one["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/default-container": "metrics" });
    assert_eq!(container_names(&one), ["metrics", "app", "proxy"]);
}

#[test]
fn a_workloads_pods_are_found_by_its_selector() {
    let selected = |kind: &str, version: &str, selector: Value| {
        let object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "one" }, "spec": { "selector": selector } });
        selector_of(&object)
    };
    let labels = json!({ "matchLabels": { "app": "web", "empty": "" } });
    assert_eq!(selected("Deployment", "apps/v1", labels).as_deref(), Some("app=web,empty="));
    let expressions = json!({ "matchLabels": { "app": "web" }, "matchExpressions": [
        { "key": "tier", "operator": "In", "values": ["front", "back"] },
        { "key": "example.org/zone", "operator": "NotIn", "values": ["c"] },
        { "key": "release", "operator": "Exists" },
        { "key": "canary", "operator": "DoesNotExist" },
    ] });
    let wanted = "app=web,tier in (front,back),example.org/zone notin (c),release,!canary";
    assert_eq!(selected("StatefulSet", "apps/v1", expressions).as_deref(), Some(wanted));
    assert_eq!(selected("Service", "v1", json!({ "app": "web" })).as_deref(), Some("app=web"));
    assert_eq!(selected("Job", "batch/v1", Value::Null).as_deref(), Some("batch.kubernetes.io/job-name=one"));
    let uid = json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": "6f1a" } });
    assert_eq!(selected("Job", "batch/v1", uid).as_deref(), Some("batch.kubernetes.io/controller-uid=6f1a"));
}

#[test]
fn a_selector_never_finds_more_than_it_should() {
    let selected = |kind: &str, version: &str, selector: Value| {
        selector_of(
            &json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "a,b" }, "spec": { "selector": selector } }),
        )
    };
    for selector in [
        json!(null),
        json!({}),
        json!([]),
        json!({ "matchLabels": {} }),
        json!({ "matchLabels": [] }),
        json!({ "matchLabels": { "app": 1 } }),
        json!({ "matchLabels": { "app": "web,x" } }),
        json!({ "matchLabels": { "": "web" } }),
        json!({ "matchLabels": { "app": "web" }, "matchExpressions": [{ "key": "tier", "operator": "In", "values": [] }] }),
        json!({ "matchLabels": { "app": "web" }, "matchExpressions": [{ "key": "tier", "operator": "Near", "values": ["a"] }] }),
        json!({ "matchLabels": { "app": "web" }, "matchExpressions": ["tier"] }),
    ] {
        assert_eq!(selected("Deployment", "apps/v1", selector.clone()), None, "{selector}");
        assert_eq!(selected("Job", "batch/v1", selector.clone()), None, "{selector}");
    }
    assert_eq!(selected("Service", "v1", json!({})), None);
    assert_eq!(selected("Service", "v1", json!(null)), None);
    assert_eq!(selected("Pod", "v1", json!(null)), None);
}

#[test]
fn a_program_that_is_to_run_on_and_ends_with_0_is_trouble() {
    let ended = |count: u32| json!({ "restartCount": count, "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } });
    let first = trouble(&[pod("web-1", NEW, ended(0))]).unwrap();
    assert!(
        first.reason.contains("container app exited with code 0 (Completed), but must keep running"),
        "{first:?}"
    );
    assert!(!first.crashes);
    // In the pause before its next start the kubelet tells nothing of a back-off.
    let again = trouble(&[pod("web-1", NEW, ended(4))]).unwrap();
    assert!(again.reason.contains("keeps exiting, the last time with code 0") && again.crashes, "{again:?}");
    assert!(again.reason.contains("4 restarts"), "{again:?}");
    // An init container's work is done then.
    let mut pod = pod("web-1", NEW, json!({ "state": { "waiting": { "reason": "PodInitializing" } } }));
    pod["spec"]["initContainers"] = json!([{ "name": "setup" }]);
    pod["status"]["initContainerStatuses"] =
        json!([{ "name": "setup", "restartCount": 1, "state": { "terminated": { "exitCode": 0 } } }]);
    assert_eq!(trouble(&[pod]), None);
}

#[test]
fn a_node_that_is_not_ready_is_told_with_its_own_words() {
    let node = |status: &str| {
        json!({ "metadata": { "name": "edge" }, "status": { "conditions": [
            { "type": "Ready", "status": status, "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting" } ] } })
    };
    assert_eq!(trouble_at_node(&node("True")), None);
    let told = trouble_at_node(&node("Unknown")).unwrap();
    assert!(told.contains("node edge is not ready: NodeStatusUnknown: Kubelet stopped posting"), "{told}");
}
