//! Removals that the cluster refuses, or that never come to an end: they are left to the cluster, and delay nothing
//! else.

use serde_json::{Value, json};

use crate::cluster_box::{APP, ClusterBox, config_map, finalizers};
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
        if matches!(shop.plane.ask("DELETE", &path, "application/json", b"{}").status, 403 | 422) {
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
    let said = |shop: &ClusterBox<'_>| {
        shop.events().into_iter().filter(|event| event.kind == "app.leftover").collect::<Vec<_>>()
    };
    assert_eq!(said(&shop).len(), 1, "it is told once");
    assert!(said(&shop)[0].message.contains("the books are not closed"));
    // An agent that starts knows of it.
    shop.stop();
    shop.start(&[]);
    shop.wait_held("the books are not closed");

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

#[test]
fn an_app_whose_object_does_not_go_is_named_until_it_does_and_comes_back_without_a_new_commit_to_it() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "leaves");
    let whole = config_map("config", "1") + &config_map("guarded", "1");
    shop.write("", &whole);
    shop.write_app("other", "", &config_map("other", "1"));
    shop.start(&[]);
    shop.converge();
    plane.patch(&shop.path("configmaps/guarded"), &finalizers(json!(["example.com/never"])));
    shop.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    shop.write_app("other", "", &config_map("other", "2"));
    shop.push();
    plane.until(&shop.path("configmaps/other"), |map| map["data"]["value"] == "2");
    plane.until_gone(&shop.path("configmaps/config"));
    shop.wait_app("going, with what stays named", |app| {
        let held = app.held.as_ref();
        app.phase == "Removing" && held.is_some_and(|held| held.cause.contains("example.com/never"))
    });

    shop.write("", &whole);
    let commit = shop.push();
    shop.wait_held("example.com/never");
    plane.patch(&shop.path("configmaps/guarded"), &finalizers(Value::Null));
    shop.wait_converged(&commit);
    plane.until(&shop.path("configmaps/guarded"), |map| map["metadata"]["deletionTimestamp"].is_null());

    // And once more, to its end.
    plane.patch(&shop.path("configmaps/guarded"), &finalizers(json!(["example.com/never"])));
    shop.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    shop.push();
    shop.wait_held("example.com/never");
    plane.patch(&shop.path("configmaps/guarded"), &finalizers(Value::Null));
    shop.wait_until("without the app", |_, status| app(status, APP).is_none() && status.converged);
}

#[test]
fn what_is_to_be_made_anew_and_may_not_be_removed_fails_at_the_deadline_only() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "anew");
    let fixed = |value: &str| config_map("guarded", value).replace("\ndata:", "\nimmutable: true\ndata:");
    let spec = "update: { immutable: recreate }";
    shop.write(spec, &fixed("1"));
    shop.start(&[]);
    shop.converge();
    let (policy, binding) = guard(&shop);
    shop.write(spec, &fixed("2"));
    let commit = shop.push();
    shop.wait_app("applying, and held", |app| {
        let held = app.held.as_ref();
        app.phase == "Applying" && held.is_some_and(|held| held.cause.contains("the books are not closed"))
    });
    plane.delete(&binding);
    plane.delete(&policy);
    shop.wait_converged(&commit);
    assert_eq!(shop.get("configmaps/guarded")["data"]["value"], "2");
}
