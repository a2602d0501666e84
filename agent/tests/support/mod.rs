//! What the black-box tests share: real repositories, real servers and a real agent. Each test binary uses a
//! part of it.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod agent_box;
pub mod containerd;
pub mod customer;
pub mod faulty_proxy;
pub mod git_repo;
pub mod git_server;
pub mod go_program;
pub mod hostile;
pub mod image;
pub mod kubernetes;
pub mod middleman;
pub mod moved_clock;
pub mod pack;
pub mod podman;
pub mod podman_image;
pub mod podman_traces;
pub mod ports;
pub mod process;
pub mod random;
pub mod registry;
pub mod token_gate;
pub mod tools;
