//! Elections: single candidates step by step, and several at once over a server that fails them.

mod candidate;
mod server;
mod several;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::election::{Act, Election};
use super::{Record, Times, device_in, identity};

const LEASE: Duration = Duration::from_secs(15);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Any time of a wall's clock.
fn wall() -> Timestamp {
    at("2026-05-04T03:02:01.5Z")
}
