//! What a check by metrics asks.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::series::Series;
use crate::http_check::HttpCheck;

/// A page of metrics that is scraped, and what its counters and histograms must say over a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsCheck {
    /// Where the page is.
    pub page: HttpCheck,
    /// The time that is judged, up to now.
    pub window: Duration,
    /// The time between two scrapes.
    pub interval: Duration,
    /// With fewer requests in the window there is no verdict.
    pub min_requests: u64,
    /// How many requests must succeed.
    #[serde(default)]
    pub success_rate: Option<SuccessRate>,
    /// How many requests may fail.
    #[serde(default)]
    pub error_rate: Option<ErrorRate>,
    /// How long requests may take.
    #[serde(default)]
    pub latency: Option<Latency>,
}

/// How many requests must succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuccessRate {
    /// Counts all requests.
    pub total: Series,
    /// Counts some of them.
    pub part: Part,
    /// The least share that must succeed.
    pub at_least: Share,
}

/// The requests that tell a share of success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// Counts those that failed.
    Errors(Series),
    /// Counts those that succeeded.
    Successes(Series),
}

impl Part {
    /// The counter, whichever it is.
    pub fn series(&self) -> &Series {
        match self {
            Part::Errors(series) | Part::Successes(series) => series,
        }
    }
}

/// How many requests may fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorRate {
    /// Counts all requests.
    pub total: Series,
    /// Counts those that failed.
    pub errors: Series,
    /// The largest share that may fail.
    pub at_most: Share,
}

/// How long requests may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// The histogram, without `_bucket`.
    pub histogram: Series,
    /// Which of the requests, in thousandths: 990 is p99.
    pub quantile: u32,
    /// The longest that it may take.
    pub at_most: Duration,
    /// What the histogram measures in.
    #[serde(default)]
    pub unit: TimeUnit,
}

/// What a histogram measures in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    /// Seconds, as Prometheus advises.
    #[default]
    Seconds,
    /// Thousandths of a second.
    Milliseconds,
}

impl TimeUnit {
    /// A value of the histogram in seconds.
    pub(super) fn seconds(self, value: f64) -> f64 {
        match self {
            TimeUnit::Seconds => value,
            TimeUnit::Milliseconds => value / 1000.0,
        }
    }
}

/// A share in thousandths of a percent: 99,000 is 99%.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    /// From 0 to 1.
    pub(super) fn fraction(self) -> f64 {
        f64::from(self.0) / 100_000.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 1000.0)
    }
}
