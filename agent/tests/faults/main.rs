//! The agent dies at its fault points, and the next start recovers.
//!
//! Needs the feature `faults`; scripts/test.sh switches it on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]
#![allow(clippy::print_stdout, reason = "a test's figures")]

#[path = "../support/mod.rs"]
mod support;

mod collection;
mod durable;
mod panics;
mod rollback;
mod watchdog;
