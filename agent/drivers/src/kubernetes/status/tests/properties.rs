//! Whatever a server sends is judged, and nothing of it brings the agent down.

use proptest::prelude::*;

use super::super::{has_status, helm_job, helm_status};
use super::*;
use crate::kubernetes::pods;

/// Any JSON, with words in it that mean something here.
fn anything() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "",
        "True",
        "False",
        "Ready",
        "Available",
        "Progressing",
        "Stalled",
        "Failed",
        "Running",
        "Pending",
        "Never",
        "Always",
        "LoadBalancer",
        "CrashLoopBackOff",
        "NewReplicaSetAvailable",
        "helm-install-one",
        "In",
        "2001:db8::1",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "spec",
        "status",
        "metadata",
        "conditions",
        "type",
        "reason",
        "message",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "generation",
        "phase",
        "containerStatuses",
        "initContainerStatuses",
        "state",
        "lastState",
        "waiting",
        "terminated",
        "exitCode",
        "signal",
        "restartCount",
        "name",
        "partition",
        "rollingUpdate",
        "updateStrategy",
        "selector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "loadBalancer",
        "ingress",
        "ports",
        "port",
        "error",
        "annotations",
        "podIP",
        "jobName",
        "containers",
        "initContainers",
        "restartPolicy",
        "deletionTimestamp",
        "finalizers",
        "completions",
        "suspend",
    ]);
    leaf.prop_recursive(6, 96, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone(), inner, 0..8)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

fn kind() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(vec![
        ("apps/v1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
        ("v1", "Pod"),
        ("v1", "PersistentVolumeClaim"),
        ("v1", "Service"),
        ("v1", "Namespace"),
        ("networking.k8s.io/v1", "Ingress"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("apiregistration.k8s.io/v1", "APIService"),
        ("policy/v1", "PodDisruptionBudget"),
        ("helm.cattle.io/v1", "HelmChart"),
        ("space.example/v1", "Rocket"),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_object_of_any_shape_is_judged((version, kind) in kind(), spec in anything(), state in anything(), metadata in anything()) {
        let object = json!({ "apiVersion": version, "kind": kind, "spec": spec, "status": state, "metadata": metadata });
        let seen = status(&object);
        prop_assert_eq!(&seen, &status(&object));
        if let Status::InProgress { reason } | Status::Failed { reason } | Status::Terminating { reason } = seen {
            prop_assert!(!reason.is_empty() && reason.chars().count() <= 401);
        }
        let _ = (helm_job(&object), helm_status(&object, Some(&state)), has_status(version, kind));
    }

    #[test]
    fn pods_of_any_shape_are_read(first in anything(), second in anything(), spec in anything(), state in anything()) {
        let whole = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "one", "namespace": "shop" }, "spec": spec, "status": state });
        let all = [first, second, whole];
        let _ = (pods::trouble(&all), pods::restarts(&all), pods::ready_address(&all, 80), pods::log_sources(&all));
        let _ = (pods::pod_for_exec(&all, None), pods::pod_for_exec(&all, Some("app")));
        for one in &all {
            let _ = (pods::container_names(one), status(one));
            let selector = pods::selector_of(one);
            prop_assert!(selector.is_none_or(|selector| !selector.is_empty()));
        }
    }
}
