//! Claims, services, namespaces, definitions and custom resources; and what holds for all kinds.

use super::super::has_status;
use super::*;

fn with_annotation(key: &str, value: &str) -> Value {
    let mut claim = object("v1", "PersistentVolumeClaim", &json!({}), &json!({ "phase": "Pending" }));
    claim["metadata"]["annotations"] = json!({ key: value });
    claim
}

#[test]
fn a_claim_is_waited_for_while_somebody_works_on_it_and_not_while_nobody_uses_it() {
    table(
        "v1",
        "PersistentVolumeClaim",
        &[
            ("bound", json!({}), json!({ "phase": "Bound" }), Current),
            ("lost", json!({}), json!({ "phase": "Lost" }), Failed("gone")),
            ("unused", json!({ "storageClassName": "local-path" }), json!({ "phase": "Pending" }), Current),
            (
                "of one volume",
                json!({ "volumeName": "pv-1" }),
                json!({ "phase": "Pending" }),
                InProgress("pv-1"),
            ),
            ("of no phase", json!({}), json!(null), InProgress("isn't bound")),
            ("of a new phase", json!({}), json!({ "phase": "Dreaming" }), InProgress("Dreaming")),
        ],
    );
    let node = with_annotation("volume.kubernetes.io/selected-node", "box-1");
    check("a pod uses it", &status(&node), InProgress("box-1"));
    let provisioner = with_annotation("volume.kubernetes.io/storage-provisioner", "rancher.io/local-path");
    check("it is being made", &status(&provisioner), InProgress("rancher.io/local-path"));
}

#[test]
fn a_load_balancer_is_waited_for_until_it_has_an_address_and_no_other_service_is() {
    let balancer = json!({ "type": "LoadBalancer", "clusterIP": "10.43.0.9" });
    let at = |one: Value| json!({ "loadBalancer": { "ingress": [one] } });
    let broken = json!({ "ip": "192.0.2.1", "ports": [{ "port": 80, "error": "PortTaken" }] });
    table(
        "v1",
        "Service",
        &[
            ("of the cluster", json!({ "clusterIP": "10.43.0.9" }), json!({ "loadBalancer": {} }), Current),
            ("of nodes", json!({ "type": "NodePort" }), json!(null), Current),
            ("a name", json!({ "type": "ExternalName" }), json!(null), Current),
            ("new", json!({ "type": "LoadBalancer" }), json!({}), InProgress("cluster address")),
            ("nobody gives one", balancer.clone(), json!({ "loadBalancer": {} }), InProgress("no address")),
            ("an address", balancer.clone(), at(json!({ "ip": "192.0.2.1" })), Current),
            ("a name for one", balancer.clone(), at(json!({ "hostname": "lb.example" })), Current),
            ("an empty one", balancer.clone(), at(json!({ "ip": "" })), InProgress("no address")),
            (
                "a port is taken",
                balancer,
                at(broken.clone()),
                InProgress("port 80 of its load balancer doesn't work: PortTaken"),
            ),
        ],
    );
    table(
        "networking.k8s.io/v1",
        "Ingress",
        &[
            ("without an address", json!({}), json!({ "loadBalancer": {} }), Current),
            ("a port is taken", json!({}), at(broken), InProgress("PortTaken")),
        ],
    );
}

#[test]
fn a_definition_is_well_once_the_server_serves_it() {
    let names = |status: &str| {
        condition("NamesAccepted", status, "ListKindConflict", "\"Rockets\" is already in use")
    };
    let established = |status: &str, reason: &str| {
        condition("Established", status, reason, "the initial names have been accepted")
    };
    table(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &[
            (
                "served",
                json!({}),
                json!({ "conditions": [names("True"), established("True", "InitialNamesAccepted")] }),
                Current,
            ),
            ("new", json!({}), json!(null), InProgress("doesn't serve its kind yet")),
            (
                "soon",
                json!({}),
                json!({ "conditions": [names("True"), established("False", "Installing")] }),
                InProgress("doesn't serve its kind yet"),
            ),
            (
                "its names are taken",
                json!({}),
                json!({ "conditions": [established("False", "NotAccepted"), names("False")] }),
                Failed("already in use"),
            ),
            (
                "not accepted",
                json!({}),
                json!({ "conditions": [established("False", "NotAccepted")] }),
                Failed("NotAccepted"),
            ),
        ],
    );
}

#[test]
fn an_api_service_is_well_once_the_server_behind_it_answers() {
    let state = |status: &str| json!({ "conditions": [condition("Available", status, "MissingEndpoints", "endpoints for service/metrics have no addresses")] });
    table(
        "apiregistration.k8s.io/v1",
        "APIService",
        &[
            ("it answers", json!({}), state("True"), Current),
            ("it doesn't", json!({}), state("False"), InProgress("have no addresses")),
            ("nobody asked", json!({}), json!({}), InProgress("has not been checked yet")),
        ],
    );
}

#[test]
fn a_namespace_that_goes_says_what_it_still_holds() {
    let remains = condition(
        "NamespaceContentRemaining",
        "True",
        "SomeResourcesRemain",
        "pods. has 3 resource instances",
    );
    let broken = condition(
        "NamespaceDeletionDiscoveryFailure",
        "True",
        "DiscoveryFailed",
        "metrics.k8s.io/v1beta1: stale",
    );
    table(
        "v1",
        "Namespace",
        &[
            ("there", json!({}), json!({ "phase": "Active" }), Current),
            ("new", json!({}), json!(null), Current),
            ("going", json!({}), json!({ "phase": "Terminating" }), Terminating("being deleted")),
            (
                "holding pods",
                json!({}),
                json!({ "phase": "Terminating", "conditions": [remains.clone()] }),
                Terminating("3 resource instances"),
            ),
            (
                "at a broken API",
                json!({}),
                json!({ "phase": "Terminating", "conditions": [remains, broken] }),
                Terminating("stale"),
            ),
        ],
    );
}

#[test]
fn a_disruption_budget_is_well_once_its_controller_has_looked() {
    table(
        "policy/v1",
        "PodDisruptionBudget",
        &[
            ("looked at", json!({}), json!({ "observedGeneration": 3, "disruptionsAllowed": 0 }), Current),
            (
                "of the version before",
                json!({}),
                json!({ "observedGeneration": 2 }),
                InProgress("generation 3; it saw 2"),
            ),
        ],
    );
}

#[test]
fn a_custom_resource_is_judged_by_the_conditions_that_it_has() {
    let one = |conditions: &[Value]| json!({ "observedGeneration": 3, "conditions": conditions });
    let ready = |status: &str| condition("Ready", status, "Waiting", "the tank is empty");
    let mut stale = ready("True");
    stale["observedGeneration"] = json!(2);
    table(
        "space.example/v1",
        "Rocket",
        &[
            ("no status", json!({}), json!(null), Current),
            ("no conditions", json!({}), one(&[]), Current),
            ("others only", json!({}), one(&[condition("Painted", "False", "", "")]), Current),
            ("ready", json!({}), one(&[ready("True")]), Current),
            ("not ready", json!({}), one(&[ready("False")]), InProgress("Waiting: the tank is empty")),
            ("nobody knows", json!({}), one(&[ready("Unknown")]), InProgress("tank")),
            ("a status that is none", json!({}), one(&[ready("yes")]), InProgress("tank")),
            ("ready before", json!({}), one(&[stale]), InProgress("generation 3; it evaluated 2")),
            ("available", json!({}), one(&[condition("Available", "True", "", "")]), Current),
            (
                "not available",
                json!({}),
                one(&[condition("Available", "False", "Gone", "")]),
                InProgress("Gone"),
            ),
            (
                "ready counts before available",
                json!({}),
                one(&[condition("Available", "False", "", ""), ready("True")]),
                Current,
            ),
            (
                "at it",
                json!({}),
                one(&[ready("True"), condition("Reconciling", "True", "Filling", "the tank")]),
                InProgress("Filling: the tank"),
            ),
            (
                "done with it",
                json!({}),
                one(&[ready("True"), condition("Reconciling", "False", "", "")]),
                Current,
            ),
            (
                "stuck",
                json!({}),
                one(&[condition("Stalled", "True", "NoFuel", "none to be had")]),
                Failed("NoFuel: none"),
            ),
            (
                "at it, and stuck",
                json!({}),
                one(&[condition("Reconciling", "True", "", ""), condition("Stalled", "True", "NoFuel", "")]),
                Failed("NoFuel"),
            ),
            (
                "of the version before",
                json!({}),
                json!({ "observedGeneration": 1, "conditions": [ready("True")] }),
                InProgress("generation 3"),
            ),
            (
                "with a phase",
                json!({}),
                json!({ "phase": "Fuelling", "conditions": [ready("False")] }),
                InProgress("(phase Fuelling)"),
            ),
        ],
    );
}

#[test]
fn a_custom_kind_of_a_known_name_is_not_taken_for_the_known_one() {
    table(
        "serving.example/v1",
        "Deployment",
        &[("another's", json!({ "replicas": 3 }), json!(null), Current)],
    );
    table(
        "serving.example/v1",
        "Service",
        &[("another's", json!({ "type": "LoadBalancer" }), json!(null), Current)],
    );
}

#[test]
fn what_is_being_deleted_is_that_whatever_else_it_says() {
    let state = json!({ "observedGeneration": 2, "conditions": [condition("Ready", "True", "", "")] });
    for (version, kind) in [("v1", "ConfigMap"), ("apps/v1", "Deployment"), ("space.example/v1", "Rocket")] {
        let mut going = object(version, kind, &json!({}), &state);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        check(kind, &status(&going), Terminating("being deleted"));
        going["metadata"]["finalizers"] = json!(["space.example/fuel", "foregroundDeletion"]);
        check(kind, &status(&going), Terminating("space.example/fuel, foregroundDeletion"));
    }
}

#[test]
fn metadata_is_enough_of_kinds_without_a_status_and_of_no_others() {
    let without = [
        ("", "ConfigMap"),
        ("", "Secret"),
        ("", "ServiceAccount"),
        ("", "LimitRange"),
        ("", "Endpoints"),
        ("", "PodTemplate"),
        ("rbac.authorization.k8s.io", "Role"),
        ("rbac.authorization.k8s.io", "RoleBinding"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("networking.k8s.io", "IngressClass"),
        ("storage.k8s.io", "StorageClass"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("node.k8s.io", "RuntimeClass"),
        ("discovery.k8s.io", "EndpointSlice"),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ("batch", "CronJob"),
        ("helm.cattle.io", "HelmChartConfig"),
    ];
    for (group, kind) in without {
        assert!(!has_status(group, kind), "{group} {kind}");
        check(kind, &status(&object(&format!("{group}/v1"), kind, &json!({}), &json!(null))), Current);
    }
    let with = [
        ("", "Pod"),
        ("", "Service"),
        ("", "PersistentVolumeClaim"),
        ("", "Namespace"),
        ("apps", "Deployment"),
        ("batch", "Job"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("helm.cattle.io", "HelmChart"),
        ("networking.k8s.io", "Ingress"),
        ("space.example", "ConfigMap"),
        ("space.example", "Rocket"),
    ];
    for (group, kind) in with {
        assert!(has_status(group, kind), "{group} {kind}");
    }
}

#[test]
fn a_message_of_any_length_becomes_one_line_of_bounded_length() {
    let message = "fuel\n\tis\u{7} low; ".repeat(4000);
    let state = json!({ "conditions": [condition("Ready", "False", "Waiting", &message)] });
    let Status::InProgress { reason } = status(&object("space.example/v1", "Rocket", &json!({}), &state))
    else {
        panic!("a resource that isn't ready counts as something else")
    };
    assert!(reason.starts_with("Waiting: fuel is low; fuel"), "{reason}");
    assert!(reason.chars().count() <= 401 && !reason.contains('\n'), "{reason}");
}
