//! What a revision does to the apps: errors hold as little as possible, nothing is removed by accident,
//! a bad release is rolled back.

use std::fs;

use serde_json::{Value, json};

use crate::boxes::{TestBox, app, cause, document, of, pos};

/// A box with these apps in version 1, on which it has converged.
fn with_apps(names: &[&str]) -> TestBox {
    let test_box = TestBox::new();
    let files: Vec<_> = names.iter().flat_map(|name| app(name, "1", "")).collect();
    test_box.commit(&files);
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    test_box
}

#[test]
fn a_broken_app_document_holds_that_app_only() {
    let test_box = with_apps(&["db", "pos"]);
    let mut files = app("db", "2", "");
    let broken = document("App", "pos", "spec:\n  placment: {}\n  container: { namespace: pos }\n");
    files.push(("apps/pos/app.yaml".to_owned(), broken));
    let commit = test_box.commit(&files);
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["accepted"]), (2, &json!(commit)), "{status:#}");
    assert_eq!(status["held"], json!([]));
    let held = of(&status, "pos")["held"]["cause"].as_str().unwrap();
    assert!(held.contains("apps/pos/app.yaml:5:") && held.contains("placement"), "{held}");
    assert_eq!(of(&status, "pos")["health"], "Healthy");
    assert_eq!(of(&status, "db")["phase"], "Good");
    assert_eq!(test_box.runs("db").unwrap(), "2");
    assert_eq!(test_box.runs("pos").unwrap(), "1");
    let events = test_box.events();
    let event = events.iter().find(|event| event["kind"] == "app.held").expect("it is written down");
    assert_eq!((&event["app"], &event["revision"]), (&json!("pos"), &json!(commit)));
}

#[test]
fn a_broken_fleet_document_holds_the_revision() {
    let test_box = with_apps(&["db"]);
    let mut files = app("db", "2", "");
    files.push(("holdfast.yaml".to_owned(), document("Fleet", "retail", "spec: { valeus: {} }\n")));
    test_box.commit(&files);
    for _ in ["at first", "after a restart"] {
        let (code, status) = test_box.once();
        assert_eq!(code, 2, "{status:#}");
        let cause = cause(&status);
        assert!(cause.contains("holdfast.yaml:4:") && cause.contains("valeus"), "{cause}");
        assert_eq!(of(&status, "db")["health"], "Healthy");
        assert_eq!(test_box.runs("db").unwrap(), "1");
    }
    let mended = test_box.commit(&[("holdfast.yaml".to_owned(), document("Fleet", "retail", "spec: {}\n"))]);
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(mended)), "{status:#}");
    assert_eq!(test_box.runs("db").unwrap(), "2");
}

#[test]
fn an_app_that_the_repository_no_longer_has_is_removed() {
    let test_box = with_apps(&["db", "pos"]);
    test_box.remove("apps/pos");
    test_box.commit(&[]);
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    assert_eq!(of(&status, "pos"), &Value::Null);
    assert!(!test_box.object("pos").exists());
    assert!(test_box.object("db").exists());
    assert_eq!(test_box.count("app.removed"), 1);
}

#[test]
fn a_commit_that_removes_too_much_removes_nothing() {
    let names = ["a", "b", "c", "d"];
    let test_box = with_apps(&names);
    test_box.remove("apps/a");
    test_box.remove("apps/b");
    test_box.commit(&[]);
    for _ in ["at first", "after a restart"] {
        let (code, status) = test_box.once();
        assert_eq!(code, 2, "{status:#}");
        let held = of(&status, "a")["held"]["cause"].as_str().unwrap();
        assert!(held.contains("2 of 4"), "{held}");
        assert!(names.iter().all(|name| test_box.object(name).exists()));
        let (_, plan) = test_box.json(&["plan"]);
        let steps = plan["steps"].as_array().unwrap();
        let removes = |app: &str| steps.iter().any(|step| step["action"] == "remove" && step["app"] == app);
        assert!(removes("a") && removes("b") && !removes("c"), "{plan:#}");
        assert!(plan["held"].as_array().unwrap().iter().any(|held| held["app"] == "a"), "{plan:#}");
    }
    assert!(test_box.count("change.held") > 0, "the log tells what was held");
    let policy = document("Fleet", "retail", "spec: { policy: { prune: { maxApps: 2 } } }\n");
    test_box.commit(&[("holdfast.yaml".to_owned(), policy)]);
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    assert!(!test_box.object("a").exists() && test_box.object("c").exists());
}

#[test]
fn a_repository_without_its_fleet_document_removes_nothing() {
    let test_box = with_apps(&["db"]);
    test_box.remove("holdfast.yaml");
    test_box.remove("apps");
    test_box.commit(&[]);
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert!(cause(&status).contains("holdfast.yaml"), "{status:#}");
    assert_eq!(of(&status, "db")["phase"], "Good");
    assert!(test_box.object("db").exists());
}

#[test]
fn a_repository_without_this_device_removes_nothing() {
    let test_box = with_apps(&["db"]);
    test_box.remove("devices");
    test_box.commit(&[]);
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert!(cause(&status).contains("devices/shops/till-1.yaml"), "{status:#}");
    assert!(test_box.object("db").exists());
}

#[test]
fn an_unhealthy_release_goes_back_is_not_tried_again_and_does_not_stop_the_next_commit() {
    let test_box = TestBox::converged();
    let good = of(&test_box.status(), "pos")["good"].clone();
    test_box.commit(&pos("2", "simulated.holdfast.dev/health: unhealthy"));
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (2, &json!("RolledBack")), "{status:#}");
    let held = &of(&status, "pos")["held"];
    assert!(!held["cause"].as_str().unwrap().is_empty() && held["next"].is_null(), "{held}");
    assert_eq!(of(&status, "pos")["release"], good);
    assert_eq!(test_box.runs("pos").unwrap(), "1");
    assert_eq!(test_box.count("app.rolledback"), 1);

    let changes = test_box.changes();
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (2, &json!("RolledBack")), "{status:#}");
    assert_eq!(of(&status, "pos")["health"], "Healthy");
    assert_eq!(test_box.changes(), changes, "the failed release was tried again");

    // Another commit with the same release is the same failed release.
    test_box.commit(&[("README".to_owned(), "nothing for this app".to_owned())]);
    assert_eq!(test_box.once().0, 2);
    assert_eq!(test_box.changes(), changes, "the failed release was tried again");

    let next = test_box.commit(&pos("3", ""));
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(next)), "{status:#}");
    assert_eq!(test_box.runs("pos").unwrap(), "3");
}

#[test]
fn a_first_release_that_fails_leaves_nothing_behind() {
    let test_box = TestBox::new();
    test_box.commit(&pos("1", "simulated.holdfast.dev/health: unhealthy"));
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert!(of(&status, "pos")["held"].is_object(), "{status:#}");
    assert!(!test_box.object("pos").exists());
}

#[test]
fn an_object_that_somebody_removes_or_changes_is_put_right() {
    let test_box = TestBox::converged();
    let agent = test_box.start();
    agent.wait("pos", |status| of(status, "pos")["health"] == "Healthy");
    fs::remove_file(test_box.object("pos")).unwrap();
    agent.wait("the object is back", |_| test_box.runs("pos").is_some());
    let text = fs::read_to_string(test_box.object("pos")).unwrap();
    let changed = text.replace("\"version\": \"1\"", "\"version\": \"mine\"");
    assert_ne!(changed, text);
    fs::write(test_box.object("pos"), changed).unwrap();
    agent.wait("the object is as it was", |_| test_box.runs("pos").as_deref() == Some("1"));
    agent.wait("both are written down", |_| test_box.count("app.drift") == 2);
    agent.wait("all is well", |status| status["converged"] == true);
}

#[test]
fn an_app_waits_for_the_one_that_it_depends_on() {
    let test_box = TestBox::new();
    let mut files = app("db", "1", "simulated.holdfast.dev/health: unhealthy");
    let mut after = app("pos", "1", "");
    after[0].1.push_str("  dependsOn: [db]\n");
    files.extend(after);
    test_box.commit(&files);
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    let held = of(&status, "pos")["held"]["cause"].as_str().unwrap();
    assert!(held.contains("db"), "{held}");
    assert!(!test_box.object("pos").exists());
    test_box.commit(&app("db", "2", ""));
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    assert!(test_box.object("pos").exists());
}
