//! Arbitrary input: readers return a value or errors with a place, and rendering is deterministic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use holdfast_core::model::document::read;
use holdfast_core::model::{App, Device, Fleet, Site};
use holdfast_core::repository::{Files, render_for, validate};
use holdfast_core::yaml::{Dialect, MANIFEST_LIMIT, parse};
use proptest::prelude::*;
use semver::Version;

const HEAD: &str = "apiVersion: holdfast.dev/v1alpha1\n";

/// Pieces that documents and templates are made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "spec",
        "metadata",
        "name",
        "values",
        "apps",
        "placement",
        "wasm",
        "container",
        ":",
        ": ",
        "\n",
        "\n  ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a ",
        "*a",
        "!!str ",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "---\n",
        "<<",
        "null",
        "true",
        "0042",
        "1",
        "60s",
        "{{ ",
        " }}",
        "{% for x in ",
        "{% if ",
        " %}",
        "{% endfor %}",
        "{% set a = ",
        "a",
        " ~ ",
        "é",
        "\t",
        "\0",
        "%",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn tell_places<T>(
    result: Result<T, Vec<holdfast_core::diagnostic::Diagnostic>>,
) -> Result<(), TestCaseError> {
    if let Err(errors) = result {
        prop_assert!(!errors.is_empty());
        prop_assert!(errors.iter().all(|error| error.line > 0 && error.column > 0));
    }
    Ok(())
}

fn every_kind(bytes: &[u8]) -> Result<(), TestCaseError> {
    tell_places(read::<Fleet>("f", bytes, None))?;
    tell_places(read::<Site>("f", bytes, None))?;
    tell_places(read::<Device>("f", bytes, None))?;
    tell_places(read::<App>("f", bytes, None))?;
    tell_places(parse("f", bytes, Dialect::Kubernetes, MANIFEST_LIMIT))
}

fn repository(template: &str, values: &str) -> Files {
    let file = |path: &str, text: String| (path.to_owned(), text.into_bytes());
    Files::from([
        file("holdfast.yaml", format!("{HEAD}kind: Fleet\nmetadata: {{name: f}}\n")),
        file(
            "devices/d.yaml",
            format!("{HEAD}kind: Device\nmetadata: {{name: d}}\nspec: {{values: {values}}}\n"),
        ),
        file(
            "apps/a/app.yaml",
            format!("{HEAD}kind: App\nmetadata: {{name: a}}\nspec: {{placement: {{}}, container: {{}}}}\n"),
        ),
        file("apps/a/manifests/a.yaml.j2", template.to_owned()),
        file("apps/a/manifests/b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n".to_owned()),
    ])
}

proptest! {
    #[test]
    fn any_bytes_are_a_document_or_errors_with_a_place(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        every_kind(&bytes)?;
    }

    #[test]
    fn any_pieces_are_a_document_or_errors_with_a_place(text in pieces()) {
        every_kind(text.as_bytes())?;
        every_kind(format!("{HEAD}kind: App\nmetadata: {{name: x}}\nspec:\n  {text}").as_bytes())?;
    }

    #[test]
    fn rendering_is_a_function_of_its_input(template in pieces(), number in any::<i32>()) {
        let files = repository(&template, &format!("{{a: {number}}}"));
        let render = || render_for(&files, &"d".parse().unwrap(), &Version::new(0, 1, 0));
        let (first, second) = (render(), render());
        prop_assert_eq!(serde_json::to_vec(&first.clone().unwrap()).unwrap(), serde_json::to_vec(&second.unwrap()).unwrap());
        validate(&files, None, &Version::new(0, 1, 0));
    }
}
