//! Any bytes as each kind of document and as a file of manifests: an error or a value, never a panic, and an
//! error always has a place.
#![no_main]

use holdfast_core::diagnostic::Diagnostic;
use holdfast_core::model::document::{Document, read};
use holdfast_core::model::{App, Device, Fleet, Purge, Site, Stop};
use holdfast_core::yaml::{Dialect, MANIFEST_LIMIT, parse};
use libfuzzer_sys::fuzz_target;

fn check<T>(result: Result<T, Vec<Diagnostic>>) {
    if let Err(errors) = result {
        assert!(!errors.is_empty());
        assert!(errors.iter().all(|error| error.line > 0 && error.column > 0 && !error.message.is_empty()));
    }
}

/// With the head that a document of this kind needs, so that its body is reached.
fn of_kind<D: Document>(bytes: &[u8]) {
    check(read::<D>("f.yaml", bytes, None));
    let head =
        format!("apiVersion: holdfast.dev/v1alpha1\nkind: {}\nmetadata: {{name: x}}\nspec:\n ", D::KIND);
    check(read::<D>("f.yaml", &[head.as_bytes(), bytes].concat(), Some("x")));
}

fuzz_target!(|bytes: &[u8]| {
    of_kind::<Fleet>(bytes);
    of_kind::<Site>(bytes);
    of_kind::<Device>(bytes);
    of_kind::<App>(bytes);
    of_kind::<Stop>(bytes);
    of_kind::<Purge>(bytes);
    check(parse("f.yaml", bytes, Dialect::Kubernetes, MANIFEST_LIMIT));
});
