//! Any text as a list of allowed signers: keys, or errors that name a line and a cause; never a panic.
#![no_main]

use holdfast_core::verify::AllowedSigners;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match AllowedSigners::parse(text) {
        Ok(signers) => assert!(!signers.is_empty()),
        Err(bad) => {
            assert!(!bad.0.is_empty());
            assert!(bad.0.iter().all(|line| line.line <= text.lines().count() && !line.cause.is_empty()));
        }
    }
});
