//! The parts of the one binary that Holdfast is; `main.rs` only starts [`cli`].

pub mod api;
pub mod cli;
pub mod config;
pub mod log;
pub mod notify;
pub mod probe;
