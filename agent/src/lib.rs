//! The parts of the one binary that Holdfast is; `main.rs` only starts [`cli`].

#[cfg(feature = "wasm")]
pub mod allocator;
pub mod api;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
pub mod http;
pub mod keeper;
pub mod log;
pub mod memory;
pub mod notify;
pub mod registry;
pub mod sandbox;
pub mod source;
mod work;

/// This agent's version.
pub fn version() -> semver::Version {
    // Cargo accepts only versions that semver can read.
    env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0))
}
