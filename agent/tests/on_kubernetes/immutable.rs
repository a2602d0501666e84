//! Fields that the server doesn't let anybody change: such a change is held, or the object is recreated where the app
//! allows it; an object with data never is.

use crate::cluster_box::{APP, ClusterBox, config_map, deployment};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

const RECREATE: &str = "update: { immutable: recreate }";

/// A Deployment that finds its pods by another label.
fn relabelled(version: &str) -> String {
    deployment("web", version, "ready").replace("{ app: web }", "{ app: web, tier: shop }")
}

#[test]
fn another_selector_of_a_deployment_is_held_or_made_anew_where_the_app_says_so() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "selector");
    shop.write("", &(config_map("config", "1") + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    let before = shop.get("deployments/web");

    shop.write("", &(config_map("config", "2") + &relabelled("2")));
    shop.push();
    shop.wait_held("immutable");
    let status = shop.status().unwrap();
    let pos = app(&status, APP).unwrap();
    let held = pos.held.clone().unwrap();
    assert!(held.cause.contains("Deployment") && held.cause.contains("selector"), "{held:?}");
    assert!(held.unblock.contains("recreate"), "{held:?}");
    assert_eq!(shop.get("deployments/web")["spec"], before["spec"], "what ran was touched");
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "1", "an app is changed whole or not at all");

    shop.write(RECREATE, &(config_map("config", "2") + &relabelled("2")));
    shop.converge();
    let after = shop.get("deployments/web");
    assert_eq!(after["spec"]["selector"]["matchLabels"]["tier"], "shop");
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["status"]["availableReplicas"], 1);
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "2");
}

#[test]
fn a_claim_is_never_made_anew_whatever_the_app_says() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "claim");
    let claim = |class: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{ name: data }}\nspec: {{ accessModes: [ReadWriteOnce], \
             storageClassName: {class}, resources: {{ requests: {{ storage: 1Mi }} }} }}\n---\n"
        )
    };
    let manifests = |class: &str, version: &str| config_map("config", version) + &claim(class);
    shop.write(RECREATE, &manifests("local-path", "1"));
    shop.start(&[]);
    shop.converge();
    let before = shop.get("persistentvolumeclaims/data");

    shop.write(RECREATE, &manifests("other", "2"));
    shop.push();
    shop.wait_held("PersistentVolumeClaim");
    let status = shop.status().unwrap();
    let held = app(&status, APP).unwrap().held.clone().unwrap();
    assert!(held.cause.contains("immutable"), "{held:?}");
    let after = shop.get("persistentvolumeclaims/data");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(after["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "1");

    shop.write(RECREATE, &manifests("local-path", "3"));
    shop.converge();
    assert_eq!(shop.get("persistentvolumeclaims/data")["metadata"]["uid"], before["metadata"]["uid"]);
}

#[test]
fn a_claim_that_has_grown_stays_so_when_the_release_that_grew_it_is_taken_back() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "grown");
    let class = format!("grows-{}", shop.namespace);
    plane.apply(
        &shop.namespace,
        &format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{ name: {class} }}\nprovisioner: test.holdfast.dev/none\n\
             allowVolumeExpansion: true\n"
        ),
    );
    let claim = |size: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{ name: data }}\nspec: {{ accessModes: [ReadWriteOnce], \
             storageClassName: {class}, resources: {{ requests: {{ storage: {size} }} }} }}\n---\n"
        )
    };
    let manifests = |version: &str, size: &str, behaviour: &str| {
        config_map("config", version) + &claim(size) + &deployment("web", version, behaviour)
    };
    let health = "health: { startup: 1s, deadline: 15s, soak: 300ms }";
    let first = manifests("1", "1Mi", "ready");
    shop.write(health, &first);
    shop.start(&[]);
    shop.converge();
    plane.until(&shop.path("persistentvolumeclaims/data"), |data| data["status"]["phase"] == "Bound");

    shop.write(health, &manifests("2", "2Mi", "crash-loop"));
    shop.push();
    shop.wait_app("taken back", |app| app.phase == "RolledBack");
    let size = |shop: &ClusterBox<'_>| {
        shop.get("persistentvolumeclaims/data")["spec"]["resources"]["requests"]["storage"].clone()
    };
    assert_eq!(
        (size(&shop), shop.get("configmaps/config")["data"]["value"].clone()),
        ("2Mi".into(), "1".into())
    );

    // The commit is taken back as well: the app is kept as ever.
    shop.write(health, &first);
    shop.converge();
    plane.delete(&shop.path("configmaps/config"));
    plane.until(&shop.path("configmaps/config"), |config| config["data"]["value"] == "1");
    assert!(shop.status().unwrap().converged);
    assert_eq!(size(&shop), "2Mi");
}
