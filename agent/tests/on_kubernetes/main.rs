//! The agent on a box with Kubernetes: a real API server, that the tests start.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod apply_sets;
mod apps;
mod away;
mod causes;
mod charts;
mod checks;
mod claims;
mod cluster_box;
mod conformance;
mod custom;
mod handover;
mod immutable;
mod jobs;
mod logs;
mod nodes;
mod ownership;
mod plane;
mod pods;
mod programs;
mod real_node;
mod real_node_images;
mod removals;
mod waits;
