//! What a box makes of a repository that isn't as it should be: what `holdfast validate` calls an error holds the app, or
//! the revision, and nothing is removed because of it.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::boxes::{TestBox, cause, document, of, pos};

fn stop(name: &str) -> String {
    document("Stop", name, "spec: { placement: {}, reason: black friday }\n")
}

/// What `holdfast validate` says of the repository as it lies there, with its exit code.
fn validate(test_box: &TestBox) -> (Option<i32>, String) {
    let dir = test_box.repo.path();
    let output = test_box.holdfast(&["validate", dir.to_str().unwrap()]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Commits what stands there now, has the box take it, and gives its status. What ran runs on. `error` is what `validate`
/// says, beside what podman couldn't hold of the apps.
fn held_by(test_box: &TestBox, files: &[(String, String)], error: Option<&str>) -> Value {
    test_box.commit(files);
    let (code, said) = validate(test_box);
    match error {
        Some(error) => assert!(code == Some(1) && said.contains(error), "{said}"),
        None => assert!(!said.contains("stops/"), "{said}"),
    }
    let (code, status) = test_box.once();
    assert_eq!((code, &status["converged"]), (2, &Value::Bool(false)), "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"), "{status:#}");
    status
}

#[test]
fn an_app_whose_folder_gets_a_name_that_is_none_runs_on() {
    let test_box = TestBox::converged();
    test_box.repo.git(&["mv", "apps/pos", "apps/Pos"]);
    let status = held_by(&test_box, &[], Some("\"Pos\" is not a valid name for an app"));
    assert!(cause(&status).contains("\"Pos\" is not a valid name for an app"), "{status:#}");
    assert_eq!(of(&status, "pos")["phase"], "Good");
}

#[test]
fn an_app_of_which_only_files_beside_the_folders_are_left_runs_on() {
    let test_box = TestBox::converged();
    test_box.repo.git(&["mv", "apps/pos/manifests/pos.yaml", "apps/pos.yaml"]);
    test_box.remove("apps/pos");
    let status = held_by(&test_box, &[], Some("files directly in apps/ are not read"));
    assert!(cause(&status).contains("files directly in apps/ are not read"), "{status:#}");
}

#[test]
fn a_manifest_whose_name_is_no_text_holds_its_app() {
    use std::os::unix::ffi::OsStrExt;

    let test_box = TestBox::converged();
    let manifests = test_box.repo.path().join("apps/pos/manifests");
    let name = std::ffi::OsStr::from_bytes(b"\xffpos.yaml");
    fs::rename(manifests.join("pos.yaml"), manifests.join(name)).unwrap();
    let status = held_by(&test_box, &[], Some("this is not a valid file name"));
    let held = of(&status, "pos")["held"]["cause"].as_str().unwrap();
    assert!(held.contains("this is not a valid file name"), "{held}");
}

#[test]
fn a_stop_that_cannot_be_read_holds_everything_and_one_called_yml_is_one() {
    for path in ["stops/a/freeze.yaml", "stops/.freeze.yaml", "stops/Freeze.yaml", "stop/freeze.yaml"] {
        let test_box = TestBox::converged();
        let mut files = pos("2", "");
        files.push((path.to_owned(), stop("freeze")));
        let folder = path.split('/').next().unwrap();
        let status = held_by(&test_box, &files, Some(folder));
        assert!(cause(&status).contains(folder), "{path}: {status:#}");
    }
    let test_box = TestBox::converged();
    let mut files = pos("2", "");
    files.push(("stops/freeze.yml".to_owned(), stop("freeze")));
    let status = held_by(&test_box, &files, None);
    assert!(of(&status, "pos")["held"]["cause"].as_str().unwrap().contains("black friday"), "{status:#}");
}

#[test]
fn manifests_in_folders_and_behind_links_are_applied_as_all_others() {
    let test_box = TestBox::converged();
    let repo = test_box.repo.path();
    fs::create_dir_all(repo.join("shared")).unwrap();
    test_box.repo.git(&["mv", "apps/pos/manifests/pos.yaml", "shared/pos.yml"]);
    fs::create_dir_all(repo.join("apps/pos/manifests")).unwrap();
    symlink("../../../shared", repo.join("apps/pos/manifests/web")).unwrap();
    test_box.repo.git(&["mv", "apps/pos/app.yaml", "apps/pos/app.yml"]);
    test_box.commit(&[]);
    // It reads them, too, and tells what podman can't hold.
    assert!(validate(&test_box).1.contains("apps/pos/manifests/web/pos.yml:"));
    let (code, status) = test_box.once();
    assert_eq!(code, 0, "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    assert_eq!(test_box.count("app.removed"), 0);
}
