//! The agent from outside: the real program on a box in a temporary folder, with real repositories, real
//! servers and the simulated runtime.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

mod apps;
mod boxes;
mod health;
mod lifecycle;
mod looking;
mod network;
mod parts;
mod trust;
