//! The agent on a box with podman: the real program, a real podman, a real registry, images made from scratch.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

mod apps;
#[cfg(feature = "wasm")]
#[allow(missing_docs, unreachable_pub)]
#[path = "../../drivers/tests/wasm/component.rs"]
mod component;
mod conformance;
mod demo;
mod faults;
mod faults_boot;
mod faults_crash;
mod faults_image;
mod faults_place;
mod faults_service;
mod faults_slow;
mod features;
mod grpc;
mod handover;
mod health;
mod hooks;
mod links;
#[allow(dead_code, reason = "the test of kills needs a part of it alone")]
mod meddler;
mod rootless;
#[cfg(feature = "kubernetes")]
mod same_on_kubernetes;
mod secrets;
mod shop;
