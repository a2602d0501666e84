//! The parts of the one binary that Holdfast is; `main.rs` only starts [`cli`].

pub mod config;
