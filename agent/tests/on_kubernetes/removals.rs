//! Removals that the cluster refuses, or that never come to an end: they are the cluster's matter, and hold up nothing else.

use serde_json::{Value, json};

use crate::cluster_box::{APP, ClusterBox, config_map};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

/// Has nobody remove ConfigMaps of the box's namespace that are called `guarded`.
fn guard(shop: &ClusterBox<'_>) -> (String, String) {
    let name = format!("{}-guard", shop.namespace);
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": shop.namespace } },
                "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                                    "operations": ["DELETE"] }],
            },
            "validations": [{ "expression": "oldObject.metadata.name != \"guarded\"",
                              "message": "the books are not closed" }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name }, "spec": { "policyName": name, "validationActions": ["Deny"] },
    });
    let (policies, bindings) = (
        format!("{ADMISSION}/validatingadmissionpolicies"),
        format!("{ADMISSION}/validatingadmissionpolicybindings"),
    );
    shop.plane.create(&policies, &policy);
    shop.plane.create(&bindings, &binding);
    // The API server hears of its policies by a watch of its own.
    let path = format!("{}?dryRun=All", shop.path("configmaps/guarded"));
    loop {
        if shop.plane.ask("DELETE", &path, "application/json", b"{}").status != 200 {
            return (format!("{policies}/{name}"), format!("{bindings}/{name}"));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn cause(shop: &ClusterBox<'_>) -> String {
    let status = shop.status().unwrap();
    app(&status, APP).unwrap().held.clone().map(|held| held.cause).unwrap_or_default()
}

#[test]
fn a_removal_that_a_policy_refuses_holds_neither_its_release_nor_the_next_and_is_made_once_it_may_be() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "refused");
    shop.write("", &(config_map("config", "1") + &config_map("guarded", "1")));
    shop.start(&[]);
    shop.converge();
    let (policy, binding) = guard(&shop);
    for version in ["2", "3"] {
        shop.write("", &(config_map("config", version) + &config_map(&format!("new-{version}"), "1")));
        shop.push();
        plane.until(&shop.path("configmaps/config"), |map| map["data"]["value"] == version);
        shop.wait_app("good, with what stays named", |app| {
            app.phase == "Good"
                && app.held.as_ref().is_some_and(|held| {
                    held.cause.contains("guarded")
                        && held.cause.contains("the books are not closed")
                        && held.next.is_some()
                })
        });
        assert!(shop.find(&format!("configmaps/new-{version}")).is_some());
        assert!(!shop.status().unwrap().converged);
    }
    assert!(shop.find("configmaps/new-2").is_none(), "what may be removed is");
    assert!(shop.find("configmaps/guarded").is_some());
    let said = shop.events().into_iter().filter(|event| event.kind == "app.leftover").count();
    assert_eq!(said, 1, "it is told once");

    plane.delete(&binding);
    plane.delete(&policy);
    plane.until_gone(&shop.path("configmaps/guarded"));
    shop.wait_until("converged", |_, status| status.converged);
}

#[test]
fn an_object_with_a_finalizer_that_nobody_takes_off_holds_up_no_update() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "finalizer");
    shop.write("", &(config_map("config", "1") + &config_map("guarded", "1")));
    shop.write_app("other", "", &config_map("other", "1"));
    shop.start(&[]);
    shop.converge();
    let finalizers = |names: Value| json!({ "metadata": { "finalizers": names } });
    plane.patch(&shop.path("configmaps/guarded"), &finalizers(json!(["example.com/never"])));
    for version in ["2", "3"] {
        shop.write("", &config_map("config", version));
        shop.write_app("other", "", &config_map("other", version));
        shop.push();
        plane.until(&shop.path("configmaps/config"), |map| map["data"]["value"] == version);
        plane.until(&shop.path("configmaps/other"), |map| map["data"]["value"] == version);
        shop.wait_app("good", |app| app.phase == "Good" && app.held.is_some());
        shop.wait_until("the other good", |_, status| {
            app(status, "other").is_some_and(|other| other.phase == "Good" && other.held.is_none())
        });
    }
    assert!(cause(&shop).contains("example.com/never"), "{}", cause(&shop));
    // Somebody who wants it again while it goes gets it once it is gone.
    shop.write("", &(config_map("config", "4") + &config_map("guarded", "4")));
    shop.push();
    shop.wait_held("example.com/never");
    plane.patch(&shop.path("configmaps/guarded"), &finalizers(Value::Null));
    plane.until(&shop.path("configmaps/guarded"), |map| map["data"]["value"] == "4");
    shop.wait_until("converged", |_, status| status.converged);
}
