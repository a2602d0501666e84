//! The parts of the one binary that Holdfast is; `main.rs` only starts [`cli`].

pub mod api;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod keeper;
pub mod log;
pub mod notify;
pub mod probe;
pub mod source;
