//! What other tools see of what is ours: ApplySets, as kubectl's own prune understands them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cluster_box::{ClusterBox, config_map, deployment};
use crate::support::kubernetes::ControlPlane;

const ID: &str = "applyset.kubernetes.io/id";

/// The parent of the box's ApplySet.
fn parent(plane: &ControlPlane, shop: &ClusterBox<'_>) -> Value {
    let parents = plane.get("/api/v1/namespaces/holdfast-system/configmaps");
    let is_ours = |parent: &&Value| {
        let owner = parent["metadata"]["annotations"]["holdfast.dev/owner-name"].as_str();
        owner == Some(&format!("test/{}", shop.namespace))
    };
    parents["items"].as_array().unwrap().iter().find(is_ours).expect("a parent").clone()
}

#[test]
fn kubectl_finds_by_the_label_all_that_is_ours_and_nothing_else() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "found");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: key }\nstringData: { word: x }\n---\n";
    let role =
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: { name: role }\nrules: []\n---\n";
    shop.write("", &(config_map("config", "1") + secret + role + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    plane.apply(&shop.namespace, &config_map("theirs", "1"));
    let parent = parent(&plane, &shop);
    let notes = &parent["metadata"]["annotations"];
    let kinds = notes["applyset.kubernetes.io/contains-group-kinds"].as_str().unwrap();
    assert_eq!(kinds, "ConfigMap,Deployment.apps,Role.rbac.authorization.k8s.io,Secret");
    assert_eq!(notes["applyset.kubernetes.io/additional-namespaces"], shop.namespace.as_str());
    assert!(notes["applyset.kubernetes.io/tooling"].as_str().unwrap().starts_with("holdfast/v"));
    let id = parent["metadata"]["labels"][ID].as_str().unwrap();
    let found = plane.kubectl(&[
        "get",
        kinds,
        "--all-namespaces",
        "--selector",
        &format!("applyset.kubernetes.io/part-of={id}"),
        "--output",
        "name",
    ]);
    let found: BTreeSet<&str> = found.lines().collect();
    let ours =
        ["configmap/config", "deployment.apps/web", "role.rbac.authorization.k8s.io/role", "secret/key"];
    assert_eq!(found, BTreeSet::from(ours));
}

#[test]
fn kubectl_takes_the_parent_for_an_apply_set_and_refuses_to_touch_another_tools() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "tooling");
    shop.write("", &config_map("config", "1"));
    shop.start(&[]);
    shop.converge();
    let parent = parent(&plane, &shop);
    let name = format!("configmaps/{}", parent["metadata"]["name"].as_str().unwrap());
    // kubectl checks the id against its own computation, and then whose it is.
    let arguments =
        ["apply", "--namespace", "holdfast-system", "--prune", "--applyset", &name, "--filename", "-"];
    let output = plane.kubectl_with(
        &arguments,
        &config_map("other", "1").replace("name: other", "name: other, namespace: holdfast-system"),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "kubectl took our ApplySet for its own");
    assert!(said.contains("tooling"), "{said}");
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "1");
}

#[test]
fn an_agent_whose_store_is_lost_finds_its_own_by_the_parents_and_removes_what_left_the_repository() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "lost");
    shop.write("", &(config_map("one", "1") + &config_map("two", "1")));
    shop.start(&[]);
    shop.converge();
    shop.stop();
    std::fs::remove_dir_all(shop.state()).unwrap();
    shop.write("", &config_map("one", "1"));
    let commit = shop.commit();
    shop.start(&[]);
    shop.wait_converged(&commit);
    plane.until_gone(&shop.path("configmaps/two"));
    // The last object takes the parent with it.
    shop.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    shop.push();
    plane.until_gone(&shop.path("configmaps/one"));
    shop.wait_until("without apps", |_, status| status.apps.is_empty());
    let parents = plane.get("/api/v1/namespaces/holdfast-system/configmaps");
    let left = parents["items"].as_array().unwrap().iter();
    let owner = format!("test/{}", shop.namespace);
    assert!(
        left.into_iter()
            .all(|parent| parent["metadata"]["annotations"]["holdfast.dev/owner-name"] != owner.as_str())
    );
}

#[test]
fn a_parent_that_somebody_removed_comes_back() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "parent");
    shop.write("", &config_map("config", "1"));
    shop.start(&[]);
    let commit = shop.converge();
    let gone = parent(&plane, &shop);
    let name = gone["metadata"]["name"].as_str().unwrap();
    let path = format!("/api/v1/namespaces/holdfast-system/configmaps/{name}");
    plane.delete(&path);
    let back = plane.until(&path, |parent| parent["metadata"]["uid"] != gone["metadata"]["uid"]);
    assert_eq!(back["metadata"]["labels"][ID], gone["metadata"]["labels"][ID]);
    shop.wait_converged(&commit);
}
