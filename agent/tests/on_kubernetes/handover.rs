//! What moves from one app to another, what is renamed within one, and a kind that is misspelt: nothing is removed before
//! its replacement is there and healthy.

use holdfast_core::report::Status;
use serde_json::Value;

use crate::claims::{CLAIM, database};
use crate::cluster_box::{APP, ClusterBox, config_map, deployment};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

const DATA: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: [ReadWriteOnce], \
                     resources: { requests: { storage: 1Mi } } }\n---\n";

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// The Deployment, its pod and the claim, as one text that is another one if any was made anew.
fn uids(shop: &ClusterBox<'_>) -> Vec<String> {
    let pods = shop.get("pods");
    let pods = pods["items"].as_array().unwrap().iter().map(uid);
    let objects = ["deployments/web", "persistentvolumeclaims/data"];
    objects.map(|path| uid(&shop.get(path))).into_iter().chain(pods).collect()
}

fn phase<'s>(status: &'s Status, name: &str) -> Option<&'s str> {
    app(status, name).map(|app| app.phase.as_str())
}

#[test]
fn an_app_whose_folder_is_renamed_keeps_its_objects_its_pods_and_its_data() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "renamed");
    shop.write("", &(DATA.to_owned() + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    let before = uids(&shop);
    // First with something in it that never gets well.
    shop.repo.git(&["rm", "-rqf", "--ignore-unmatch", &format!("apps/{APP}")]);
    let ill = deployment("ill", "1", "never-ready");
    shop.write_app(
        "till",
        "health: { startup: 2s, deadline: 6s, soak: 300ms }",
        &(DATA.to_owned() + &deployment("web", "1", "ready") + &ill),
    );
    shop.push();
    shop.wait_until("taken back", |_, status| phase(status, "till") == Some("RolledBack"));
    let (web, labels) = (shop.path("deployments/web"), "/metadata/labels/holdfast.dev~1app");
    shop.wait_until("given back", |_, _| {
        plane.get(&web).pointer(labels).and_then(Value::as_str) == Some(APP)
    });
    assert_eq!(uids(&shop), before);
    assert_eq!(phase(&shop.status().unwrap(), APP), Some("Good"));
    shop.write_app("till", "", &(DATA.to_owned() + &deployment("web", "1", "ready")));
    shop.converge();
    assert_eq!(uids(&shop), before);
    assert_eq!(phase(&shop.status().unwrap(), APP), None);
    assert_eq!(shop.get("deployments/web")["metadata"]["labels"]["holdfast.dev/app"], "till");
    // Nothing says any more that there is an app of the old name.
    let of_the_old = |set: &&Value| {
        let metadata = &set["metadata"];
        metadata["labels"]["holdfast.dev/app"] == APP
            && metadata["annotations"]["holdfast.dev/owner-name"] == format!("test/{}", shop.namespace)
    };
    let sets = plane.get("/api/v1/namespaces/holdfast-system/configmaps");
    assert_eq!(sets["items"].as_array().unwrap().iter().find(of_the_old), None);
}

#[test]
fn a_stateful_set_that_moves_takes_the_claims_along_that_it_made() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "movedset");
    shop.write("", &database("one", ""));
    shop.start(&[]);
    shop.converge();
    let is_of = |claim: &Value, app: &str| claim["metadata"]["labels"]["holdfast.dev/app"] == app;
    plane.until(&shop.path(CLAIM), |claim| is_of(claim, APP));
    let before = uid(&shop.get(CLAIM));
    shop.repo.git(&["rm", "-rqf", &format!("apps/{APP}")]);
    shop.write_app("till", "", &database("one", ""));
    shop.converge();
    let claim = shop.path(CLAIM);
    shop.wait_until("without the old app, its claim taken over", |_, status| {
        phase(status, APP).is_none() && is_of(&plane.get(&claim), "till")
    });
    assert_eq!(uid(&shop.get(CLAIM)), before);
    assert!(shop.status().unwrap().orphans.is_empty(), "it is in use");
}

#[test]
fn a_deployment_that_is_renamed_goes_when_the_new_one_is_well_and_stays_if_that_fails() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "replaced");
    let health = "health: { startup: 2s, deadline: 6s, soak: 300ms }";
    shop.write(health, &deployment("old", "1", "ready"));
    shop.start(&[]);
    shop.converge();
    let before = uid(&shop.get("deployments/old"));
    shop.write(health, &deployment("new", "1", "never-ready"));
    shop.push();
    shop.wait_app("taken back", |app| app.phase == "RolledBack");
    assert_eq!(uid(&shop.get("deployments/old")), before);
    shop.write(health, &deployment("new", "1", "ready"));
    shop.converge();
    plane.until_gone(&shop.path("deployments/old"));
    assert_eq!(shop.get("deployments/new")["status"]["availableReplicas"], 1);
}

#[test]
fn a_kind_that_is_misspelt_touches_nothing_of_the_app() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "misspelt");
    shop.write("", &(config_map("config", "1") + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let before = (version(&shop.get("configmaps/config")), uid(&shop.get("deployments/web")));
    let misspelt = deployment("web", "2", "ready").replace("kind: Deployment", "kind: Deploymnt");
    shop.write("", &(config_map("config", "2") + &misspelt));
    shop.push();
    shop.wait_app("held", |app| app.held.as_ref().is_some_and(|held| held.cause.contains("Deploymnt")));
    assert_eq!((version(&shop.get("configmaps/config")), uid(&shop.get("deployments/web"))), before);
}
