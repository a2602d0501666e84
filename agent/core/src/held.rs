//! Held: not converged and waiting, always with a cause, the next attempt, and what would unblock it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Why something waits, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What happened, to what, and why.
    pub cause: String,
    /// When the agent tries again by itself; `None` when it waits for something to change.
    pub next: Option<Timestamp>,
    /// What a person can do to end it.
    pub unblock: String,
}

impl Held {
    /// Waits for something to change.
    pub fn until_changed(cause: impl Into<String>, unblock: impl Into<String>) -> Self {
        Held { cause: cause.into(), next: None, unblock: unblock.into() }
    }
}

#[cfg(test)]
mod tests;
