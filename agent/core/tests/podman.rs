//! Kubernetes' objects as podman gets them: golden files, and the table in docs/podman.md.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;

use common::{file, golden};
use holdfast_core::diagnostic::to_text;
use holdfast_core::lower::markdown::to_markdown;
use holdfast_core::render::{Desired, Workload};
use holdfast_core::repository::{Files, render_for, validate};
use semver::Version;

const VERSION: Version = Version::new(0, 1, 0);

/// A repository of one app that must run on podman, with these manifests.
fn repository(manifests: &str) -> Files {
    let app = "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: { name: shop }\nspec: { placement: {}, container: { driver: podman } }\n";
    let fleet = "apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\nmetadata: { name: f }\nspec: {}\n";
    let device = "apiVersion: holdfast.dev/v1alpha1\nkind: Device\nmetadata: { name: till-1 }\nspec: {}\n";
    let files = [
        ("holdfast.yaml", fleet),
        ("devices/till-1.yaml", device),
        ("apps/shop/app.yaml", app),
        ("apps/shop/manifests/all.yaml", manifests),
    ];
    files
        .into_iter()
        .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
        .collect::<BTreeMap<_, _>>()
}

fn manifests(name: &str) -> String {
    file(&format!("agent/core/tests/golden/podman/{name}"))
}

fn desired(files: &Files) -> Desired {
    render_for(files, &"till-1".parse().unwrap(), &VERSION).map_err(|errors| to_text(&errors)).unwrap()
}

#[test]
fn everything_that_podman_holds_is_lowered_as_written_down() {
    let desired = desired(&repository(&manifests("everything.yaml")));
    assert!(desired.faulty.is_empty(), "{:?}", desired.faulty);
    let Workload::Container { podman, .. } = &desired.apps[&"shop".parse().unwrap()].workload else {
        panic!()
    };
    golden("podman/everything.json", &(serde_json::to_string_pretty(podman).unwrap() + "\n"));
}

#[test]
fn what_podman_cant_hold_is_refused_with_line_and_reason() {
    let errors = validate(&repository(&manifests("refused.yaml")), None, &VERSION);
    golden("podman/refused.txt", &(to_text(&errors) + "\n"));
}

#[test]
fn the_table_in_the_documentation_is_the_one_that_the_code_goes_by() {
    let text = file("docs/podman.md");
    let (start, end) = ("<!-- table -->\n", "<!-- end of table -->");
    let (before, rest) = text.split_once(start).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    golden("../../../../docs/podman.md", &format!("{before}{start}{}{end}{after}", to_markdown()));
}
