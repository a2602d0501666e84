//! The Git source against real repositories and servers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod hostile;
mod local;
mod metered;
mod parts;
mod remote;
