//! What is ours is proved by what only we can write: labels, annotations and the name of a field manager are anybody's.

use serde_json::{Value, json};

use crate::cluster_box::{ClusterBox, config_map};
use crate::support::kubernetes::ControlPlane;

const OWNER: &str = "holdfast.dev/owner";
const PROOF: &str = "holdfast.dev/proof";

/// Makes another ConfigMap with all the marks of ours, as their field manager.
fn forge(shop: &ClusterBox<'_>, name: &str) -> Value {
    let ours = shop.get("configmaps/config");
    let mut notes = ours["metadata"]["annotations"].clone();
    notes["holdfast.dev/object"] = json!(format!("ConfigMap/{}/{name}", shop.namespace));
    let forged = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": { "value": "somebody else's" },
        "metadata": { "name": name, "labels": ours["metadata"]["labels"], "annotations": notes },
    });
    let apply =
        ["apply", "--server-side", "--field-manager", "holdfast", "-n", &shop.namespace, "--filename", "-"];
    let done = shop.plane.kubectl_with(&apply, &forged.to_string());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    shop.get(&format!("configmaps/{name}"))
}

#[test]
fn an_object_with_all_our_marks_and_not_our_proof_is_neither_removed_nor_taken_over() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "forged");
    shop.write("", &config_map("config", "1"));
    shop.start(&[]);
    shop.converge();
    let forged = forge(&shop, "victim");

    // A pass over all that carries our marks, and one of an agent that knows nothing yet.
    shop.write("", &(config_map("config", "2") + &config_map("more", "2")));
    shop.converge();
    shop.stop();
    shop.start(&[]);
    shop.write("", &config_map("config", "3"));
    shop.converge();
    plane.until_gone(&shop.path("configmaps/more"));
    assert_eq!(shop.get("configmaps/victim"), forged, "what is somebody else's was touched");

    // An app that comes to want it is held.
    shop.write("", &(config_map("config", "4") + &config_map("victim", "4")));
    shop.push();
    shop.wait_held("not the proof that only this agent can write");
    assert_eq!(shop.get("configmaps/victim"), forged);
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "3");
}

#[test]
fn a_key_that_was_lost_is_replaced_and_what_it_proved_stays_ours() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "lost-key");
    shop.write("", &config_map("config", "1"));
    shop.start(&[]);
    shop.converge();
    let before = shop.get("configmaps/config");
    let mark = before["metadata"]["labels"][OWNER].as_str().unwrap();
    let secret = format!("/api/v1/namespaces/holdfast-system/secrets/holdfast-{}-key", &mark[..8]);
    assert_eq!(plane.get(&secret)["immutable"], true);

    shop.stop();
    plane.delete(&secret);
    // The server tells ages to the second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    shop.start(&[]);
    let after = plane.until(&shop.path("configmaps/config"), |map| {
        map["metadata"]["annotations"][PROOF] != before["metadata"]["annotations"][PROOF]
    });
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    shop.write("", &config_map("config", "2"));
    shop.converge();
    assert_eq!(shop.get("configmaps/config")["metadata"]["uid"], before["metadata"]["uid"]);
}
