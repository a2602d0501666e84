//! The agent on a box with podman: the real program, a real podman, a real registry, images made from scratch.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

mod apps;
mod demo;
mod features;
mod health;
mod shop;
