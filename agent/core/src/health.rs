//! The health of an app, as one look finds it.

use serde::{Deserialize, Serialize};

/// What a probe of an app saw. In `status` only the variant's name is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "PascalCase")]
pub enum Health {
    /// Nobody has looked yet, or the driver cannot tell.
    Unknown,
    /// It is coming up, and may yet be well.
    Starting {
        /// What is still missing, for people.
        reason: String,
    },
    /// It answers as it should.
    Healthy,
    /// It does not.
    Unhealthy {
        /// What was seen, for people.
        reason: String,
    },
}

impl Health {
    /// The word that `status` prints.
    pub fn word(&self) -> &'static str {
        match self {
            Health::Unknown => "Unknown",
            Health::Starting { .. } => "Starting",
            Health::Healthy => "Healthy",
            Health::Unhealthy { .. } => "Unhealthy",
        }
    }
}

/// All that one look at an app saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// How it is.
    pub health: Health,
    /// How often its runtime has started something of it again up to now, if that is known.
    pub restarts: Option<u64>,
    /// What could not be told, for people: metrics without a verdict.
    pub remark: Option<String>,
}

impl From<Health> for Sight {
    fn from(health: Health) -> Self {
        Sight { health, restarts: None, remark: None }
    }
}
