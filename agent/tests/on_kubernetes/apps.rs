//! Apps on a cluster: what a commit changes, what is left to others, and what is removed.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster_box::{APP, ClusterBox, config_map, deployment, put_right};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

/// Long enough for a watch to tell of whatever there is to tell.
const A_WHILE: Duration = Duration::from_secs(2);

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[test]
fn a_commit_becomes_objects_and_a_pass_with_nothing_to_do_asks_for_nothing() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "first");
    let secret =
        "apiVersion: v1\nkind: Secret\nmetadata: { name: key }\nstringData: { word: hunter2 }\n---\n";
    shop.write("", &(config_map("config", "1") + secret + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    assert_eq!(shop.get("configmaps/config")["data"], json!({ "value": "1" }));
    assert_eq!(shop.get("secrets/key")["data"], json!({ "word": "aHVudGVyMg==" }));
    assert_eq!(shop.get("deployments/web")["status"]["availableReplicas"], 1);
    let status = shop.status().unwrap();
    let pos = app(&status, APP).unwrap();
    assert_eq!((pos.driver.unwrap().to_string().as_str(), pos.health.as_str()), ("kubernetes", "Healthy"));
    let (before, asked) = (shop.get("deployments/web"), shop.requests().len());
    // Another commit that changes nothing here, and a whole pass.
    shop.repo.write(&[("README.md", "more words")]);
    shop.converge();
    let more: Vec<_> =
        shop.requests().split_off(asked).into_iter().filter(|one| one.verb != "watch").collect();
    assert!(more.is_empty(), "{more:?}");
    assert_eq!(version(&shop.get("deployments/web")), version(&before));
    // What is on the disk, in the log and in events has no secret in it.
    assert!(!shop.log().contains("hunter2"));
    assert!(shop.events().iter().all(|event| !event.message.contains("hunter2")));
}

#[test]
fn an_agent_that_was_started_anew_writes_nothing() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "anew");
    shop.write(
        "",
        &(0..6)
            .map(|n| config_map(&format!("c{n}"), "1"))
            .chain([deployment("web", "1", "ready")])
            .collect::<String>(),
    );
    shop.start(&[]);
    let commit = shop.converge();
    shop.kill();
    let before = (shop.get("deployments/web"), shop.requests().len());
    shop.start(&[]);
    shop.wait_converged(&commit);
    shop.stop();
    let writes: Vec<_> = shop.requests().split_off(before.1).into_iter().filter(|one| one.writes()).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert_eq!(version(&shop.get("deployments/web")), version(&before.0));
}

#[test]
fn what_a_manifest_sets_is_put_right_and_all_else_is_left_alone() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "drift");
    shop.write("", &(config_map("config", "1") + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    plane.patch(&shop.path("configmaps/config"), &json!({ "data": { "value": "by hand", "other": "mine" } }));
    plane.until(&shop.path("configmaps/config"), |map| {
        map["data"] == json!({ "value": "1", "other": "mine" })
    });
    // The manifest sets no replicas: an autoscaler may.
    plane.patch(&shop.path("deployments/web"), &json!({ "spec": { "replicas": 3 } }));
    plane.until(&shop.path("deployments/web"), |web| web["status"]["availableReplicas"] == 3);
    plane.delete(&shop.path("deployments/web"));
    plane.until(&shop.path("deployments/web"), |web| web["status"]["availableReplicas"] == 1);
    shop.wait_until("told", |shop, _| put_right(shop).len() == 2);
    let told = put_right(&shop);
    assert!(told[0].contains("data.value is \"by hand\", but should be \"1\", changed by "), "{told:?}");
    assert!(told[1].contains("Deployment"), "{told:?}");
}

#[test]
fn the_difference_of_a_secret_says_where_and_not_what() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "redacted");
    shop.write("", "apiVersion: v1\nkind: Secret\nmetadata: { name: key }\nstringData: { word: hunter2 }\n");
    shop.start(&[]);
    shop.converge();
    plane.patch(&shop.path("secrets/key"), &json!({ "data": { "word": "c3R1cGlk" } }));
    plane.until(&shop.path("secrets/key"), |key| key["data"]["word"] == "aHVudGVyMg==");
    shop.wait_until("told", |shop, _| !put_right(shop).is_empty());
    let told = put_right(&shop).remove(0);
    assert!(
        told.contains("data.word differs") && !told.contains("c3R1cGlk") && !told.contains("aHVu"),
        "{told}"
    );
}

#[test]
fn what_somebody_else_made_is_left_alone_and_holds_the_app() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "foreign");
    let theirs = plane.apply(&shop.namespace, &config_map("config", "theirs"));
    assert!(theirs.contains("created"));
    shop.write("", &(config_map("config", "ours") + &config_map("second", "ours")));
    shop.start(&[]);
    shop.push();
    shop.wait_held("ConfigMap");
    let status = shop.status().unwrap();
    let held = app(&status, APP).unwrap().held.clone().unwrap();
    assert!(held.cause.contains("kubectl"), "{held:?}");
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "theirs");
    assert!(shop.find("configmaps/second").is_none(), "an app is put in place whole or not at all");
    plane.delete(&shop.path("configmaps/config"));
    shop.wait_app("good", |app| app.held.is_none() && app.phase == "Good");
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "ours");
}

#[test]
fn an_object_that_lost_its_label_is_left_alone_and_reported() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "label");
    shop.write("", &config_map("config", "1"));
    shop.start(&[]);
    shop.converge();
    for label in ["applyset.kubernetes.io/part-of", "holdfast.dev/owner"] {
        let before = shop.get("configmaps/config")["metadata"]["labels"][label].clone();
        plane.patch(&shop.path("configmaps/config"), &json!({ "metadata": { "labels": { label: null } } }));
        shop.wait_held(label);
        thread::sleep(A_WHILE);
        assert!(
            shop.get("configmaps/config")["metadata"]["labels"].get(label).is_none(),
            "{label} came back"
        );
        plane.patch(&shop.path("configmaps/config"), &json!({ "metadata": { "labels": { label: before } } }));
        shop.wait_app("free again", |app| app.held.is_none());
    }
}

#[test]
fn what_is_no_longer_wanted_goes_and_what_holds_data_is_orphaned() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "prune");
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: \
                 [ReadWriteOnce], storageClassName: \"\", volumeName: none, resources: { requests: { storage: 1Mi } } }\n---\n";
    let health = "health: { startup: 1s, deadline: 5s, soak: 300ms }\nonFailure: hold";
    shop.write("", &(config_map("one", "1") + &config_map("two", "1")));
    shop.write_app("claims", health, claim);
    shop.start(&[]);
    shop.push();
    shop.wait_app("good", |app| app.phase == "Good");
    plane.until(&shop.path("persistentvolumeclaims/data"), |_| true);
    // Something that looks like ours and stands in no inventory.
    plane.apply(&shop.namespace, &config_map("theirs", "1"));
    shop.write("", &config_map("one", "1"));
    shop.repo.git(&["rm", "-r", "-q", "apps/claims"]);
    shop.push();
    plane.until_gone(&shop.path("configmaps/two"));
    shop.wait_until("without the claims", |_, status| app(status, "claims").is_none());
    assert!(shop.find("persistentvolumeclaims/data").is_some(), "what holds data was removed");
    assert!(shop.find("configmaps/theirs").is_some() && shop.find("configmaps/one").is_some());
    shop.wait_until("listed", |_, status| !status.orphans.is_empty());
    assert!(shop.find("configmaps/kube-root-ca.crt").is_some());
}

#[test]
fn a_definition_and_its_resource_come_in_one_commit() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "crd");
    let group = format!("{}.example.com", shop.namespace);
    let definition = format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{ name: rockets.{group} }}\nspec:\n  \
         group: {group}\n  scope: Namespaced\n  names: {{ plural: rockets, singular: rocket, kind: Rocket }}\n  versions:\n  - \
         name: v1\n    served: true\n    storage: true\n    schema: {{ openAPIV3Schema: {{ type: object, properties: {{ spec: \
         {{ type: object, properties: {{ fuel: {{ type: integer }} }} }} }} }} }}\n---\n"
    );
    let rocket = |fuel: u32| {
        format!(
            "apiVersion: {group}/v1\nkind: Rocket\nmetadata: {{ name: r }}\nspec: {{ fuel: {fuel} }}\n---\n"
        )
    };
    shop.write("", &(rocket(1) + &definition));
    shop.start(&[]);
    shop.converge();
    let path = format!("/apis/{group}/v1/namespaces/{}/rockets/r", shop.namespace);
    assert_eq!(plane.get(&path)["spec"]["fuel"], 1);
    plane.patch(&path, &json!({ "spec": { "fuel": 9 } }));
    plane.until(&path, |rocket| rocket["spec"]["fuel"] == 1);
    // The resource goes, the definition is orphaned: others may have resources of it.
    shop.write("", &config_map("config", "1"));
    shop.converge();
    plane.until_gone(&path);
    assert!(
        plane
            .find(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rockets.{group}"))
            .is_some()
    );
}

#[test]
fn a_change_that_can_not_be_made_in_place_is_held_or_made_anew_where_the_app_says_so() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "immutable");
    let fixed = |value: &str| {
        config_map("config", value)
            + &format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: fixed }}\nimmutable: true\ndata: {{ value: \"{value}\" }}\n---\n"
            )
    };
    shop.write("", &fixed("1"));
    shop.start(&[]);
    shop.converge();
    let before = shop.get("configmaps/fixed")["metadata"]["uid"].clone();
    shop.write("", &fixed("2"));
    shop.push();
    shop.wait_held("fixed");
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "1", "an app is changed whole or not at all");
    shop.write("update: { immutable: recreate }", &fixed("2"));
    shop.converge();
    let after = shop.get("configmaps/fixed");
    assert_eq!(after["data"]["value"], "2");
    assert_ne!(after["metadata"]["uid"], before);
}

#[test]
fn a_manifest_that_the_server_refuses_is_refused_before_anything_changes() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "refused");
    shop.write("", &(config_map("config", "1") + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    let broken =
        deployment("web", "2", "ready").replace("spec:\n  selector", "spec:\n  replcas: 2\n  selector");
    shop.write("", &(config_map("config", "2") + &broken));
    shop.push();
    shop.wait_held("replcas");
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "1");
    shop.write("", &(config_map("config", "3") + &deployment("web", "3", "ready")));
    shop.converge();
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "3");
}

#[test]
fn a_release_whose_pods_do_not_come_up_goes_back() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "ill");
    let health = "health: { startup: 1s, deadline: 20s, soak: 300ms }";
    shop.write(health, &(config_map("config", "1") + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    for (round, (behaviour, said)) in
        [("crash-loop", "CrashLoopBackOff"), ("image-pull-error", "ImagePull")].into_iter().enumerate()
    {
        let new = format!("{}", round + 2);
        shop.write(health, &(config_map("config", &new) + &deployment("web", &new, behaviour)));
        let commit = shop.push();
        shop.wait_until("rolled back", |_, status| {
            let is_new = status.revision.accepted.as_ref().is_some_and(|revision| revision.0 == commit);
            is_new
                && app(status, APP).is_some_and(|app| {
                    app.phase == "RolledBack"
                        && app.held.as_ref().is_some_and(|held| held.cause.contains(said))
                })
        });
        assert_eq!(shop.get("configmaps/config")["data"]["value"], "1");
        plane.until(&shop.path("deployments/web"), |web| {
            let image = &web["spec"]["template"]["spec"]["containers"][0]["image"];
            image == "registry.example/web:1" && web["status"]["availableReplicas"] == 1
        });
    }
    shop.write(health, &(config_map("config", "4") + &deployment("web", "4", "ready")));
    shop.converge();
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "4");
}

#[test]
fn what_a_controller_made_with_our_labels_copied_onto_it_is_not_ours() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "copied");
    // The controller of EndpointSlices copies a Service's labels onto those that it makes.
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { selector: { app: web }, ports: [ { port: 80 } ] }\n---\n";
    let own = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: { name: own }\naddressType: IPv4\nendpoints: []\n---\n";
    shop.write("", &(service.to_owned() + own + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", shop.namespace);
    let copied = |slices: &Value| {
        let all = slices["items"].as_array().unwrap();
        all.iter().find(|slice| slice["metadata"]["ownerReferences"][0]["name"] == "web").cloned()
    };
    let before = copied(&plane.until(&slices, |slices| copied(slices).is_some())).unwrap();
    assert!(before["metadata"]["labels"].get("holdfast.dev/owner").is_some(), "nothing was copied: {before}");
    shop.repo.write(&[("README.md", "more words")]);
    shop.converge();
    thread::sleep(A_WHILE);
    let after = copied(&plane.get(&slices)).expect("what the controller made was removed");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(shop.status().unwrap().converged);
}

#[test]
fn a_namespace_that_the_agent_has_made_comes_to_be_the_app_s_that_brings_it() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "made");
    let namespace = format!("{}-late", shop.namespace);
    let map =
        config_map("config", "1").replace("name: config", &format!("name: config, namespace: {namespace}"));
    shop.write("", &map);
    shop.start(&[]);
    shop.converge();
    let path = format!("/api/v1/namespaces/{namespace}");
    assert_eq!(plane.get(&path)["metadata"]["labels"]["app.kubernetes.io/managed-by"], "holdfast");
    let brought = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {namespace}, labels: {{ team: shop }} }}\n---\n"
    );
    shop.write("", &(brought + &map));
    shop.converge();
    assert_eq!(plane.get(&path)["metadata"]["labels"]["team"], "shop");
}
