//! The registries' client against a real registry, alone and behind servers that misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod disk;
mod downloads;
mod hostile;
mod login;
mod metered;
mod mirrors;
mod resolving;
