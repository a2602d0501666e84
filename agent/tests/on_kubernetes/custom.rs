//! Resources of kinds that only their own controllers know: their health, and their removal.

use serde_json::{Value, json};

use crate::cluster_box::{APP, ClusterBox, config_map, finalizers};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

const FINALIZER: &str = "example.com/drain";

/// A kind of a test's own, whose objects have a status of their own.
struct Lathes {
    group: String,
    path: String,
}

impl Lathes {
    fn define(shop: &ClusterBox<'_>) -> Self {
        let group = shop.define("Lathe");
        let path = format!("/apis/{group}/v1/namespaces/{}/lathes/l", shop.namespace);
        Lathes { group, path }
    }

    fn manifest(&self, speed: u32) -> String {
        format!(
            "apiVersion: {}/v1\nkind: Lathe\nmetadata: {{ name: l }}\nspec: {{ speed: {speed} }}\n---\n",
            self.group
        )
    }

    /// What its controller says of the version that is there.
    fn say(&self, plane: &ControlPlane, ready: bool, reason: &str) {
        let generation = plane.get(&self.path)["metadata"]["generation"].clone();
        let status = json!({ "observedGeneration": generation, "conditions": [{
            "type": "Ready", "status": if ready { "True" } else { "False" }, "reason": reason,
            "message": "the spindle turns", "observedGeneration": generation,
            "lastTransitionTime": "2026-11-21T09:00:00Z",
        }] });
        plane.patch(&format!("{}/status", self.path), &json!({ "status": status }));
    }
}

#[test]
fn a_custom_resource_is_as_its_condition_ready_says() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "ready");
    let lathes = Lathes::define(&shop);
    let health = "health: { startup: 1s, deadline: 40s, soak: 300ms }";
    shop.write(health, &lathes.manifest(1));
    shop.start(&[]);
    let commit = shop.push();
    plane.until(&lathes.path, |_| true);
    lathes.say(&plane, false, "WarmingUp");
    shop.wait_app("warming up", |app| {
        (app.phase.as_str(), app.health.as_str()) == ("Judging", "Starting")
            && app.reason.as_ref().is_some_and(|why| why.contains("WarmingUp"))
    });
    lathes.say(&plane, true, "Warm");
    shop.wait_converged(&commit);

    // What its controller said of the version before doesn't count for the next.
    shop.write(health, &lathes.manifest(2));
    let commit = shop.push();
    plane.until(&lathes.path, |lathe| lathe["spec"]["speed"] == 2);
    shop.wait_app("waiting for its controller", |app| {
        app.health == "Starting" && app.reason.as_ref().is_some_and(|why| why.contains("generation"))
    });
    lathes.say(&plane, true, "Warm");
    shop.wait_converged(&commit);

    // One that never gets ready goes back at its deadline, with its controller's own words.
    shop.write("health: { startup: 1s, deadline: 4s, soak: 300ms }", &lathes.manifest(3));
    shop.push();
    plane.until(&lathes.path, |lathe| lathe["spec"]["speed"] == 3);
    lathes.say(&plane, false, "BeltTorn");
    shop.wait_app("rolled back", |app| app.phase == "RolledBack");
    let status = shop.status().unwrap();
    let held = app(&status, APP).unwrap().held.clone().unwrap();
    assert!(held.cause.contains("BeltTorn"), "{held:?}");
    assert_eq!(plane.get(&lathes.path)["spec"]["speed"], 2);
}

#[test]
fn a_removal_that_hangs_on_a_finalizer_is_held_and_says_for_whom_it_waits() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "drain");
    let lathes = Lathes::define(&shop);
    shop.write("", &(lathes.manifest(1) + &config_map("config", "1")));
    shop.write_app("other", "", &config_map("other", "1"));
    shop.start(&[]);
    shop.converge();
    plane.patch(&lathes.path, &finalizers(json!([FINALIZER])));

    // The whole app is to go.
    shop.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    shop.push();
    shop.wait_held(FINALIZER);
    let status = shop.status().unwrap();
    let pos = app(&status, APP).unwrap();
    let held = pos.held.clone().unwrap();
    assert!(!status.converged && pos.phase == "Removing", "{pos:?}");
    assert!(held.cause.contains("Lathe") && held.next.is_some() && !held.unblock.is_empty(), "{held:?}");
    assert!(!plane.get(&lathes.path)["metadata"]["deletionTimestamp"].is_null());

    // Nobody else waits for it.
    shop.write_app("other", "", &config_map("other", "2"));
    let commit = shop.push();
    plane.until(&shop.path("configmaps/other"), |map| map["data"]["value"] == "2");
    shop.wait_until("good beside it", |_, status| {
        app(status, "other").is_some_and(|app| app.phase == "Good") && app(status, APP).is_some()
    });

    plane.patch(&lathes.path, &finalizers(Value::Null));
    plane.until_gone(&lathes.path);
    shop.wait_until("without the app", |_, status| app(status, APP).is_none());
    shop.wait_converged(&commit);
    assert!(shop.find("configmaps/config").is_none());
}
