//! How long the box waits for registries, and how often it asks.

use std::time::{Duration, Instant};

use crate::http::Waits;
use crate::http::allowance::Line;

/// What an operation may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a server may be silent at each step.
    pub patience: Duration,
    /// Bytes a second, averaged over `patience`, below which a server is given up.
    pub slowest: u64,
    /// How long it may take to find out what an image is.
    pub resolve: Duration,
    /// How long it may take to fetch an image. What came in this time stays.
    pub pull: Duration,
    /// How often all servers are asked in turn.
    pub rounds: u32,
    /// The longest pause after the first round; it doubles from round to round.
    pub first_pause: Duration,
    /// The longest pause ever.
    pub longest_pause: Duration,
    /// The longest time for which a server that asks for patience is waited for; beyond it, the caller waits.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            patience: Duration::from_secs(30),
            slowest: 100,
            resolve: Duration::from_secs(90),
            pull: Duration::from_secs(3600),
            rounds: 5,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            retry_after: Duration::from_secs(60),
        }
    }
}

/// The end of one operation. Time in which the box itself held it up, to keep to a rate, is no part of it.
#[derive(Clone, Debug)]
pub(super) struct Deadline {
    end: Instant,
    total: Duration,
    patience: Duration,
    line: Line,
}

impl Deadline {
    /// `line` is the operation's own: it wasn't held up before.
    pub(super) fn new(total: Duration, patience: Duration, line: Line) -> Self {
        Deadline { end: Instant::now() + total, total, patience: patience.min(total), line }
    }

    /// The way of the operation.
    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// What is left.
    pub(super) fn left(&self) -> Duration {
        let end = self.end.checked_add(self.line.waited()).unwrap_or(self.end);
        end.saturating_duration_since(Instant::now())
    }

    /// How long a request may take now.
    pub(super) fn waits(&self) -> Waits {
        Waits { left: self.left(), total: self.total, patience: self.patience }
    }

    /// What to say once nothing is left.
    pub(super) fn is_over(&self) -> Result<(), String> {
        match self.left().is_zero() {
            true => Err(format!("it took longer than {:?} in all", self.total)),
            false => Ok(()),
        }
    }
}
