//! Programs of the tests that Go builds, each from a folder of its own in tests/, and what a test says when one isn't there.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, thread};

use sha2::{Digest as _, Sha256};

/// Where the folders of the programs are.
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests");
/// The file that skipped tests are written to, a line each; `scripts/test.sh` counts them.
const SKIPPED: &str = "HOLDFAST_SKIPPED";

/// The control plane of the Kubernetes tests; none as [`find`] has it.
pub fn control_plane() -> Option<PathBuf> {
    find("control-plane", "holdfast-test-plane", "HOLDFAST_TEST_PLANE")
}

/// The gRPC server of the tests of probes; none as [`find`] has it.
pub fn grpc_server() -> Option<PathBuf> {
    find("grpc-server", "holdfast-test-grpc", "HOLDFAST_TEST_GRPC")
}

/// The program, or none: then the test is to end at once, and is counted as skipped. With CI set it fails instead.
/// `variable` may name another.
fn find(folder: &str, name: &str, variable: &str) -> Option<PathBuf> {
    let path = match env::var_os(variable) {
        Some(path) => path.into(),
        None => cached(folder, name),
    };
    if path.is_file() {
        return Some(path);
    }
    skip(&format!(
        "what Go builds of tests/{folder} is not at {}: run scripts/setup-tests.sh, which builds it",
        path.display()
    ));
    None
}

/// Where `scripts/setup-tests.sh` puts what it builds from these sources.
fn cached(folder: &str, name: &str) -> PathBuf {
    let cache = match env::var_os("HOLDFAST_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/holdfast"),
    };
    let hash = hash(&Path::new(TESTS).join(folder));
    cache.join("tools").join(folder).join(hash).join(name)
}

/// As `sha256sum build.sh go.mod go.sum *.go | sha256sum | cut -c 1-16` has it.
fn hash(dir: &Path) -> String {
    let mut names = vec!["build.sh".to_owned(), "go.mod".to_owned(), "go.sum".to_owned()];
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut sources: Vec<String> = files.filter(|name| name.ends_with(".go")).collect();
    sources.sort();
    names.append(&mut sources);
    let mut sums = String::new();
    for name in names {
        let sum = Sha256::digest(fs::read(dir.join(&name)).unwrap());
        writeln!(sums, "{sum:x}  {name}").unwrap();
    }
    format!("{:x}", Sha256::digest(sums))[..16].to_owned()
}

/// Says that this test isn't run. Where all tests must run, it fails.
fn skip(reason: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(env::var_os("CI").is_none_or(|ci| ci.is_empty()), "CI skips no test, and {reason}");
    let line = format!("skipped: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = env::var_os(SKIPPED) {
        // One write: other tests write at the same time.
        let file = File::options().create(true).append(true).open(file);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
