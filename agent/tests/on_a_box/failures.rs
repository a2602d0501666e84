//! What follows a failure: apps that are rolled back together, the diagnosis, a retry, and data that outlives its
//! app.

use serde_json::{Value, json};

use crate::boxes::{TestBox, app, document, of};

/// An app of the group `till`.
fn member(name: &str, version: &str, script: &str, more: &str) -> Vec<(String, String)> {
    let mut files = app(name, version, script);
    files[0].1.push_str(&format!("  update: {{ group: till{more} }}\n"));
    files
}

fn phases<'a>(status: &'a Value, names: &[&str]) -> Vec<&'a str> {
    names.iter().map(|name| of(status, name)["phase"].as_str().unwrap_or("none")).collect()
}

/// A box with `pos` and `menu` in one group, and `sign` outside of it, all in version 1.
fn with_group() -> TestBox {
    let test_box = TestBox::new();
    let files = [member("pos", "1", "", ""), member("menu", "1", "", ""), app("sign", "1", "")].concat();
    test_box.commit(&files);
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    test_box
}

#[test]
fn the_apps_of_a_group_go_back_together_and_others_stay_new() {
    let test_box = with_group();
    let ill = "simulated.holdfast.dev/health: unhealthy";
    test_box
        .commit(&[member("pos", "2", "", ""), member("menu", "2", ill, ""), app("sign", "2", "")].concat());
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    assert_eq!(phases(&status, &["pos", "menu", "sign"]), ["RolledBack", "RolledBack", "Good"], "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    assert_eq!(test_box.runs("menu").as_deref(), Some("1"));
    assert_eq!(test_box.runs("sign").as_deref(), Some("2"));
    let held = of(&status, "pos")["held"]["cause"].as_str().unwrap();
    assert!(held.contains("group till change together, and menu failed"), "{held}");

    let changes = test_box.changes();
    test_box.once();
    assert_eq!(test_box.changes(), changes, "the same revision is not tried again");

    // The next commit is only of the one that failed; the other's release is the one that was taken back.
    let commit = test_box.commit(&member("menu", "3", "", ""));
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(commit)), "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"));
    assert_eq!(test_box.runs("menu").as_deref(), Some("3"));
}

#[test]
fn a_group_with_a_member_that_cannot_go_back_is_held_as_it_is() {
    let test_box = with_group();
    let ill = "simulated.holdfast.dev/health: unhealthy";
    test_box.commit(&[member("pos", "2", "", ", irreversible: true"), member("menu", "2", ill, "")].concat());
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    assert_eq!(phases(&status, &["pos", "menu"]), ["Held", "Held"], "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"));
}

#[test]
fn no_member_of_a_group_changes_while_one_of_them_is_faulty() {
    let test_box = with_group();
    let mut files = member("pos", "2", "", "");
    files.push(("apps/menu/app.yaml".to_owned(), document("App", "menu", "spec: { placment: {} }\n")));
    test_box.commit(&files);
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    let held = of(&status, "pos")["held"]["cause"].as_str().unwrap();
    assert!(held.contains("waiting for menu, whose documents are faulty"), "{held}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
}

#[test]
fn what_was_seen_of_a_release_that_failed_is_kept_and_outlives_the_agent() {
    let test_box = TestBox::converged();
    test_box.commit(&app("pos", "2", "simulated.holdfast.dev/health: unhealthy"));
    assert_eq!(test_box.once().0, 2);
    let (code, diagnosis) = test_box.json(&["diag", "pos"]);
    assert_eq!(code, 0, "{diagnosis:#}");
    let reason = diagnosis["reason"].as_str().unwrap();
    assert!(!reason.is_empty());
    assert_eq!(diagnosis["looks"][0]["health"], "Unhealthy", "{diagnosis:#}");
    let object = diagnosis["objects"]["Deployment/pos/pos"].as_str().unwrap();
    assert!(!object.contains("differs"), "compared with what failed, and not with what comes back: {object}");
    assert!(
        diagnosis["events"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line.as_str().unwrap().contains("app.failed"))
    );
    let held = of(&test_box.status(), "pos")["held"]["unblock"].as_str().unwrap().to_owned();
    assert!(held.contains("holdfast diag pos"), "{held}");
    let text = String::from_utf8(test_box.holdfast(&["diag", "pos"]).stdout).unwrap();
    assert!(text.starts_with("pos failed") && text.contains("LOOKS") && text.contains("EVENTS"), "{text}");
    let agent = test_box.start();
    assert_eq!(test_box.json(&["diag", "pos"]).1["reason"], json!(reason));
    drop(agent);
    let output = test_box.holdfast(&["diag", "menu"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn somebody_may_have_what_failed_tried_again() {
    let test_box = TestBox::converged();
    // The runtime can't be asked from a document, but from its script: it is ill until that is taken away.
    let script = test_box.path("runtime/script.json");
    std::fs::write(&script, json!({ "apps": { "pos": { "health": "unhealthy" } } }).to_string()).unwrap();
    test_box.commit(&app("pos", "2", ""));
    let agent = test_box.start();
    agent.signal("HUP");
    agent.wait("it goes back", |status| of(status, "pos")["phase"] == "RolledBack");
    let output = test_box.holdfast(&["retry", "db"]);
    assert_eq!(output.status.code(), Some(1));
    std::fs::remove_file(&script).unwrap();
    let output = test_box.holdfast(&["retry", "pos"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    agent.wait("it is good", |status| {
        of(status, "pos")["phase"] == "Good" && test_box.runs("pos").as_deref() == Some("2")
    });
    assert_eq!(test_box.count("app.retried"), 1);
    let output = test_box.holdfast(&["retry", "pos"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing to retry: pos has not failed"));
}

/// `db` with a claim.
fn with_claim(version: &str) -> Vec<(String, String)> {
    let mut files = app("db", version, "");
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }\n";
    files.push(("apps/db/manifests/claim.yaml".to_owned(), claim.to_owned()));
    files
}

#[test]
fn what_holds_data_outlives_its_app_is_listed_and_goes_by_a_purge_after_its_grace() {
    let test_box = TestBox::converged();
    test_box.commit(&with_claim("1"));
    assert_eq!(test_box.once().0, 0);
    let claim = test_box.path("runtime/objects/PersistentVolumeClaim:db:data.json");
    assert!(claim.exists());
    test_box.remove("apps/db");
    test_box.commit(&[]);
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    assert!(claim.exists() && of(&status, "db").is_null());
    assert_eq!(status["orphans"][0]["object"], "PersistentVolumeClaim/db/data", "{status:#}");
    let text = String::from_utf8(test_box.holdfast(&["status"]).stdout).unwrap();
    assert!(text.contains("ORPHAN PersistentVolumeClaim/db/data of db"), "{text}");

    let purge = "spec:\n  placement: {}\n  reason: moved away\n  objects: [ { app: db, object: PersistentVolumeClaim/db/data } ]\n";
    let fleet = |grace: &str| {
        let spec = format!("spec: {{ policy: {{ prune: {{ grace: {grace} }} }} }}\n");
        ("holdfast.yaml".to_owned(), document("Fleet", "retail", &spec))
    };
    test_box.commit(&[("purges/db.yaml".to_owned(), document("Purge", "db", purge)), fleet("1d")]);
    let (code, status) = test_box.once();
    assert_eq!(code, 0);
    assert!(claim.exists(), "its grace isn't over");
    assert_eq!(status["orphans"][0]["purge"], "db");
    let stop = document("Stop", "all", "spec: { placement: {}, reason: wait }\n");
    test_box.commit(&[fleet("0s"), ("stops/all.yaml".to_owned(), stop)]);
    assert_eq!(test_box.once().0, 0);
    assert!(claim.exists(), "a stop holds a purge too");
    let (_, plan) = test_box.json(&["plan"]);
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(1), "{plan:#}");
    assert_eq!((&plan["steps"][0]["action"], &plan["steps"][0]["app"]), (&json!("remove"), &json!("db")));
    assert!(plan["steps"][0]["reason"].as_str().unwrap().starts_with("purges/db.yaml names it"), "{plan:#}");
    test_box.remove("stops/all.yaml");
    test_box.commit(&[]);
    let (code, status) = test_box.once();
    assert_eq!(code, 0);
    assert!(!claim.exists(), "{status:#}");
    assert!(status["orphans"].is_null());
    assert_eq!(test_box.count("app.purged"), 1);
}

#[test]
fn a_purge_comes_when_its_grace_is_over_though_nothing_else_happens() {
    let test_box = TestBox::converged();
    test_box.commit(&with_claim("1"));
    assert_eq!(test_box.once().0, 0);
    let claim = test_box.path("runtime/objects/PersistentVolumeClaim:db:data.json");
    test_box.remove("apps/db");
    let purge = "spec:\n  placement: {}\n  reason: moved away\n  objects: [ { app: db, object: PersistentVolumeClaim/db/data } ]\n";
    let commit = test_box.commit(&[
        ("purges/db.yaml".to_owned(), document("Purge", "db", purge)),
        document_of_fleet("spec: { policy: { prune: { grace: 5s } } }\n"),
    ]);
    let agent = test_box.start();
    agent.wait_for(&commit);
    assert!(claim.exists(), "its grace isn't over");
    agent.wait("the purge", |status| status["orphans"].is_null());
    assert!(!claim.exists());
}

fn document_of_fleet(spec: &str) -> (String, String) {
    ("holdfast.yaml".to_owned(), document("Fleet", "retail", spec))
}

#[test]
fn a_purge_of_what_an_app_wants_removes_nothing() {
    let test_box = TestBox::converged();
    let mut files = with_claim("1");
    let purge = "spec:\n  placement: {}\n  reason: by mistake\n  objects: [ { app: db, object: PersistentVolumeClaim/db/data } ]\n";
    files.push(("purges/db.yaml".to_owned(), document("Purge", "db", purge)));
    files.push((
        "holdfast.yaml".to_owned(),
        document("Fleet", "retail", "spec: { policy: { prune: { grace: 0s } } }\n"),
    ));
    test_box.commit(&files);
    assert_eq!(test_box.once().0, 0);
    assert_eq!(test_box.once().0, 0);
    assert!(test_box.path("runtime/objects/PersistentVolumeClaim:db:data.json").exists());
}
