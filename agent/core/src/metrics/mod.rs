//! Health by an app's own metrics: a Prometheus page is read, what grew in a window of time is computed from its
//! counters and histograms, and judged. Pure: who scrapes the page gives its text and the time.
//!
//! - [`check`]: what is asked, as documents say it.
//! - [`series`]: which series a check means.
//! - [`text`]: the page, line by line.
//! - `histogram`, `native`: quantiles.
//! - [`window`]: what grew between scrapes, and what follows.

pub mod check;
mod finding;
mod histogram;
pub mod history;
mod native;
mod scan;
pub mod series;
pub mod text;

#[cfg(test)]
mod tests;

pub use check::{ErrorRate, Latency, MetricsCheck, Part, Share, SuccessRate, TimeUnit};
pub use finding::Finding;
pub use history::History;
pub use series::Series;
