//! Any text as a template of manifests: it ends, within bounds of time and memory, with objects or an error.
#![no_main]

use std::collections::BTreeMap;

use holdfast_core::repository::{Files, render_for};
use libfuzzer_sys::fuzz_target;
use semver::Version;

const HEAD: &str = "apiVersion: holdfast.dev/v1alpha1\n";

fuzz_target!(|template: &str| {
    let mut files: Files = BTreeMap::new();
    let mut add =
        |path: &str, text: &str| files.insert(path.to_owned(), format!("{HEAD}{text}").into_bytes());
    add("holdfast.yaml", "kind: Fleet\nmetadata: {name: f}\n");
    add("devices/d.yaml", "kind: Device\nmetadata: {name: d, labels: {region: emea}}\n");
    add(
        "apps/a/app.yaml",
        "kind: App\nmetadata: {name: a}\nspec: {placement: {}, container: {}, values: {s: text, n: 3, l: [1, two], m: {k: v}}}\n",
    );
    files.insert("apps/a/manifests/a.yaml.j2".to_owned(), template.as_bytes().to_vec());
    let Ok(device) = "d".parse() else { return };
    let render = || render_for(&files, &device, &Version::new(0, 1, 0));
    assert_eq!(render(), render());
});
