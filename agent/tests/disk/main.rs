//! A disk that is full, out of inodes, or read-only, under the real agent: what runs goes on, the box says what is
//! wrong, goes back where it must, and goes on by itself when there is room again. Needs root, for the mounts.

#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod full;
mod read_only;
mod small_disk;
