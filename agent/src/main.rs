//! The one binary that Holdfast is.

use std::process::ExitCode;

/// docs/adr/0003-allocator.md
#[cfg(feature = "wasm")]
#[global_allocator]
static ALLOCATOR: holdfast::allocator::Allocator = holdfast::allocator::Allocator;

fn main() -> ExitCode {
    // Where huge pages are given unasked, each heap would grow in steps of 2 MiB. Children inherit this.
    // A kernel without huge pages refuses: nothing to do.
    let _ = nix::sys::prctl::set_thp_disable(true);
    holdfast::cli::main()
}
