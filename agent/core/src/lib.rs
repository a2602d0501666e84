//! The pure part of Holdfast. No clock, no file, no network, no randomness: those come in as values.
//!
//! The data flows through these modules in this order, each stage with a type of its own:
//!
//! ```text
//! Fetched -> Verified -> Selected -> Desired -> Resolved -> Plan -> Outcome -> Verdict -> Report
//! verify     verify      select      render     resolve     plan    plan       judge      report
//! ```
//!
//! `app` holds the state machine of one app; `model` the documents of a repository.

pub mod app;
pub mod change;
pub mod clock;
mod contention;
pub mod diagnosis;
pub mod diagnostic;
pub mod digest;
pub mod disk_trouble;
pub mod duration;
pub mod event;
pub mod generation;
pub mod grpc;
pub mod health;
pub mod held;
pub mod http_check;
pub mod image;
pub mod kubernetes;
pub mod limit;
pub mod lower;
pub mod metrics;
pub mod model;
pub mod name;
pub mod network;
pub mod observe;
pub mod oci;
pub mod plan;
pub mod pod;
pub mod probe_component;
pub mod reading;
pub mod release;
pub mod render;
pub mod report;
pub mod repository;
pub mod resolve;
pub mod runtime;
pub mod secret;
pub mod select;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod verify;
pub mod yaml;
