//! Claims that the cluster itself creates and would remove: data outlives whatever created it.

use serde_json::{Value, json};

use crate::cluster_box::{APP, ClusterBox, config_map};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

const RECREATE: &str = "update: { immutable: recreate }";
pub(crate) const CLAIM: &str = "persistentvolumeclaims/d-db-0";

/// A StatefulSet with a claim for each pod; `more` is added to its spec.
pub(crate) fn database(service: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{ name: db }}\nspec:\n  {more}\n  selector: {{ matchLabels: {{ a: \
         db }} }}\n  serviceName: {service}\n  template:\n    \
         metadata: {{ labels: {{ a: db }} }}\n    spec: {{ containers: [ {{ name: c, image: x, volumeMounts: [ {{ name: d, \
         mountPath: /d }} ] }} ] }}\n  volumeClaimTemplates:\n  - metadata: {{ name: d }}\n    spec: {{ accessModes: \
         [ReadWriteOnce], storageClassName: local-path, resources: {{ requests: {{ storage: 1Mi }} }} }}\n---\n"
    )
}

/// Has the cluster remove the claims with their StatefulSet. Its manifest doesn't speak of that, so that it stays so.
fn has_claims_go(shop: &ClusterBox<'_>) {
    let policy = json!({ "spec": { "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Delete" } } });
    shop.plane.patch(&shop.path("statefulsets/db"), &policy);
    shop.plane.until(&shop.path(CLAIM), is_owned);
}

fn is_owned(claim: &Value) -> bool {
    claim["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty())
}

#[test]
fn a_stateful_set_that_is_made_anew_or_removed_leaves_its_claims() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "template");
    shop.write(RECREATE, &database("one", ""));
    shop.write_app("other", "", &config_map("other", "1"));
    shop.start(&[]);
    shop.converge();
    has_claims_go(&shop);
    let before = (shop.get(CLAIM), shop.get("statefulsets/db"));
    assert!(shop.status().unwrap().orphans.is_empty(), "a claim in use is nobody's");

    shop.write(RECREATE, &database("two", ""));
    shop.converge();
    let after = (shop.get(CLAIM), shop.get("statefulsets/db"));
    assert_ne!(after.1["metadata"]["uid"], before.1["metadata"]["uid"], "it was not made anew");
    assert_eq!(after.0["metadata"]["uid"], before.0["metadata"]["uid"], "the claim is another one");
    assert!(after.0["metadata"]["deletionTimestamp"].is_null());

    has_claims_go(&shop);
    shop.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    let commit = shop.push();
    plane.until_gone(&shop.path("statefulsets/db"));
    shop.wait_until("without the app", |_, status| app(status, APP).is_none());
    shop.wait_converged(&commit);
    let left = shop.get(CLAIM);
    assert_eq!(left["metadata"]["uid"], before.0["metadata"]["uid"]);
    assert!(left["metadata"]["deletionTimestamp"].is_null() && !is_owned(&left), "{left:#}");
    let orphans = shop.status().unwrap().orphans;
    assert!(
        orphans
            .iter()
            .any(|orphan| orphan.object.kind == "PersistentVolumeClaim" && orphan.object.name == "d-db-0"),
        "{orphans:?}"
    );

    // It comes again, and finds its data.
    shop.write(RECREATE, &database("two", ""));
    shop.converge();
    assert_eq!(shop.get(CLAIM)["metadata"]["uid"], before.0["metadata"]["uid"]);
    shop.wait_until("no orphan", |_, status| status.orphans.is_empty());
}

#[test]
fn a_stateful_set_that_is_to_remove_its_claims_keeps_them_when_it_is_made_smaller() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "smaller");
    let policy = "persistentVolumeClaimRetentionPolicy: { whenScaled: Delete, whenDeleted: Delete }";
    shop.write("", &database("one", &format!("replicas: 2\n  {policy}")));
    shop.start(&[]);
    shop.converge();
    let retained = json!({ "whenScaled": "Retain", "whenDeleted": "Retain" });
    assert_eq!(shop.get("statefulsets/db")["spec"]["persistentVolumeClaimRetentionPolicy"], retained);
    let second = "persistentvolumeclaims/d-db-1";
    let uid = shop.get(second)["metadata"]["uid"].clone();

    shop.write("", &database("one", &format!("replicas: 1\n  {policy}")));
    shop.converge();
    plane.until_gone(&shop.path("pods/db-1"));
    // The cluster's controller removes what it removes once the pod is gone and it has seen that.
    plane.until(&shop.path("statefulsets/db"), |set| {
        set["status"]["replicas"] == 1 && set["status"]["observedGeneration"] == set["metadata"]["generation"]
    });
    let left = shop.get(second);
    assert_eq!(left["metadata"]["uid"], uid);
    assert!(left["metadata"]["deletionTimestamp"].is_null() && !is_owned(&left), "{left:#}");
}

#[test]
fn what_owns_claims_by_its_controller_is_not_removed_with_them() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "owner");
    let group = shop.define("Database");
    let database = format!("apiVersion: {group}/v1\nkind: Database\nmetadata: {{ name: main }}\n");
    shop.write("", &(config_map("config", "1") + &database));
    shop.start(&[]);
    shop.converge();
    // As an operator for databases makes it.
    let path = format!("/apis/{group}/v1/namespaces/{}/databases/main", shop.namespace);
    let uid = plane.get(&path)["metadata"]["uid"].clone();
    plane.create(
        &shop.path("persistentvolumeclaims"),
        &json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "main-1", "ownerReferences": [
                { "apiVersion": format!("{group}/v1"), "kind": "Database", "name": "main", "uid": uid, "controller": true },
            ] },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
                      "resources": { "requests": { "storage": "1Mi" } } },
        }),
    );
    shop.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    shop.push();
    shop.wait_held("PersistentVolumeClaim/main-1");
    assert!(plane.get(&path)["metadata"]["deletionTimestamp"].is_null());
    assert!(shop.get("persistentvolumeclaims/main-1")["metadata"]["deletionTimestamp"].is_null());

    let free = json!({ "metadata": { "ownerReferences": Value::Null } });
    plane.patch(&shop.path("persistentvolumeclaims/main-1"), &free);
    plane.until_gone(&path);
    shop.wait_until("without the app", |_, status| app(status, APP).is_none());
    assert!(shop.find("persistentvolumeclaims/main-1").is_some());
}
