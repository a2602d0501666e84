//! A disk that is full, out of inodes, or read-only, under the real agent: workloads keep running, the box says
//! what is wrong, rolls back where it must, and resumes on its own when there is space again. Needs root, for the
//! mounts.

#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod full;
mod read_only;
mod small_disk;
