//! The agent from outside: the real program on a box in a temporary folder, with real repositories, real
//! servers and the simulated runtime.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

mod apps;
mod boxes;
#[cfg(feature = "wasm")]
#[allow(missing_docs, unreachable_pub)]
#[path = "../../drivers/tests/wasm/component.rs"]
mod component;
#[cfg(all(feature = "demo", feature = "wasm"))]
mod demo;
mod failures;
mod handover;
mod health;
mod hostile;
mod lifecycle;
mod looking;
#[cfg(feature = "wasm")]
mod metered;
mod network;
mod parts;
mod permits;
#[cfg(feature = "wasm")]
mod probes;
mod reading;
mod side_by_side;
mod time;
mod trust;
