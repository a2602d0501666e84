//! A component made from Rust, as those who write probes make theirs.

use std::process::Command;
use std::sync::OnceLock;

/// The probe of `workloads/ask.rs`, compiled once for each process of tests.
pub fn ask() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, made) = (folder.path().join("ask.rs"), folder.path().join("ask.wasm"));
        std::fs::write(&source, include_str!("../workloads/ask.rs")).unwrap();
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition", "2024", "--target", "wasm32-wasip2", "-C", "opt-level=s"]);
        rustc.args(["-C", "strip=symbols", "-C", "panic=abort", "-o"]).arg(&made).arg(source);
        let output = rustc.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let hint = "run scripts/setup-tests.sh, which installs what the tests need";
        assert!(output.status.success(), "Rust's target wasm32-wasip2 may be missing: {hint}\n{said}");
        std::fs::read(made).unwrap()
    })
}
