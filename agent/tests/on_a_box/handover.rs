//! What moves from one app to another in a commit is handed over: it is never removed and recreated, and it is given
//! back as it was if its new app fails.

use std::fs;

use serde_json::Value;

use crate::boxes::{TestBox, document, of};

/// An app whose objects stand in the namespace that all share.
fn app_yaml(name: &str) -> (String, String) {
    let spec = "spec:\n  placement: {}\n  container: { namespace: shop, driver: any }\n  \
                health: { startup: 1s, deadline: 1m, soak: 200ms }\n";
    (format!("apps/{name}/app.yaml"), document("App", name, spec))
}

fn object(app: &str, kind: &str, name: &str, script: &str) -> (String, String) {
    let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
    let text = format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{ name: {name}, annotations: {{ {script} }} }}\nspec: {{ version: \"1\" }}\n"
    );
    (format!("apps/{app}/manifests/{name}.yaml"), text)
}

/// A box with the apps `pos` (a Deployment, a claim and a map) and `menu` (a Deployment).
fn two_apps() -> TestBox {
    let test_box = TestBox::new();
    test_box.commit(&[
        app_yaml("pos"),
        object("pos", "Deployment", "web", ""),
        object("pos", "PersistentVolumeClaim", "data", ""),
        object("pos", "ConfigMap", "settings", ""),
        app_yaml("menu"),
        object("menu", "Deployment", "board", ""),
    ]);
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    test_box
}

/// What the runtime holds under a name.
fn held(test_box: &TestBox, key: &str) -> Value {
    let path = test_box.path(&format!("runtime/objects/{key}.json"));
    serde_json::from_slice(&fs::read(&path).unwrap_or_else(|error| panic!("{key}: {error}"))).unwrap()
}

const MOVED: [&str; 2] = ["Deployment:shop:web", "PersistentVolumeClaim:shop:data"];

/// When these were made and started: whatever was removed and made again has another time.
fn times(test_box: &TestBox) -> Vec<Value> {
    let object = |key| held(test_box, key);
    MOVED.map(object).iter().flat_map(|it| [it["created"].clone(), it["started"].clone()]).collect()
}

fn assert_are_of(test_box: &TestBox, app: &str) {
    for key in MOVED {
        assert_eq!(held(test_box, key)["app"], app, "{key}");
    }
}

fn move_to_menu(test_box: &TestBox) {
    for name in ["web", "data"] {
        let at = |app: &str| format!("apps/{app}/manifests/{name}.yaml");
        test_box.repo.git(&["mv", &at("pos"), &at("menu")]);
    }
}

#[test]
fn objects_that_move_to_another_app_stay_what_they_are() {
    let test_box = two_apps();
    let before = times(&test_box);
    move_to_menu(&test_box);
    test_box.commit(&[]);
    let (code, status) = test_box.once();
    assert_eq!((code, &status["converged"]), (0, &Value::Bool(true)), "{status:#}");
    assert_are_of(&test_box, "menu");
    assert_eq!(times(&test_box), before);
    assert_eq!(test_box.count("app.takeover"), 2);
    assert_eq!(test_box.count("app.orphaned"), 0);
}

#[test]
fn an_app_whose_folder_is_renamed_stays_what_it_is() {
    let test_box = two_apps();
    let before = times(&test_box);
    test_box.repo.git(&["mv", "apps/pos", "apps/till"]);
    test_box.commit(&[app_yaml("till")]);
    let (code, status) = test_box.once();
    assert_eq!((code, &status["converged"]), (0, &Value::Bool(true)), "{status:#}");
    assert_are_of(&test_box, "till");
    assert_eq!(times(&test_box), before);
    assert_eq!(of(&status, "pos"), &Value::Null);
    assert_eq!(test_box.count("app.orphaned"), 0);
}

#[test]
fn what_moved_to_an_app_that_fails_goes_back_as_it_was() {
    let test_box = two_apps();
    let before = times(&test_box);
    move_to_menu(&test_box);
    test_box.commit(&[object("menu", "ConfigMap", "ill", "simulated.holdfast.dev/health: unhealthy")]);
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert_eq!(of(&status, "menu")["phase"], "RolledBack", "{status:#}");
    assert_are_of(&test_box, "pos");
    assert_eq!(times(&test_box), before);
    let held = of(&status, "pos")["held"]["cause"].as_str().unwrap_or_default();
    assert!(held.contains("to the app menu, which is"), "{status:#}");

    // A renamed app that fails leaves the old one as it was, too.
    let test_box = two_apps();
    let before = times(&test_box);
    test_box.repo.git(&["mv", "apps/pos", "apps/till"]);
    let ill = object("till", "ConfigMap", "ill", "simulated.holdfast.dev/health: unhealthy");
    test_box.commit(&[app_yaml("till"), ill]);
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert_are_of(&test_box, "pos");
    assert_eq!(times(&test_box), before);
    assert_eq!(of(&status, "pos")["phase"], "Good", "{status:#}");

    // Put right, it is handed over.
    test_box.remove("apps/till/manifests/ill.yaml");
    test_box.commit(&[]);
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    assert_are_of(&test_box, "till");
    assert_eq!(times(&test_box), before);
}

#[test]
fn an_app_that_is_renamed_with_an_error_in_it_runs_on() {
    let test_box = two_apps();
    let before = times(&test_box);
    test_box.repo.git(&["mv", "apps/pos", "apps/till"]);
    test_box
        .commit(&[("apps/till/app.yaml".to_owned(), document("App", "till", "spec: { placment: {} }\n"))]);
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert_eq!(times(&test_box), before);
    let held = of(&status, "pos")["held"]["cause"].as_str().unwrap_or_default();
    assert!(held.contains("the app till can't be read"), "{status:#}");
}
