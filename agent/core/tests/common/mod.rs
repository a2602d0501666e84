//! Reading repositories from disk, for tests of a crate that itself reads nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "tests read their own files")]
#![allow(dead_code, reason = "not every test uses all of it")]

use std::path::{Path, PathBuf};

use holdfast_core::repository::Files;

/// A folder of the source tree.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A text file of the source tree.
pub(crate) fn file(path: &str) -> String {
    std::fs::read_to_string(source(path)).unwrap()
}

/// Every file under `folder`, by its path from there.
pub(crate) fn read(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Compares `text` with a golden file; with BLESS=1 in the environment it writes the file instead.
pub(crate) fn golden(name: &str, text: &str) {
    let path = source("agent/core/tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{} differs; is now:\n{text}", path.display());
}
