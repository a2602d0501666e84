//! Health checks by metrics, as documents write them.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use super::check::{HttpFields, Url, UrlPath, page_of};
use super::decode::{Context, Decode, Placed, Whole, from_text, record, text, words};
use super::units::{Span, thousandths};
use crate::diagnostic::{Position, quoted};
use crate::metrics::{ErrorRate, Latency, MetricsCheck, Part, Series, Share, SuccessRate, TimeUnit};
use crate::name::ObjectKey;
use crate::yaml::Node;

record! {
    /// A Prometheus page of the app that the agent scrapes, and what it must say over a window: at least one of
    /// successRate, errorRate and latency.
    pub struct MetricsFields, "metrics" {
        /// A complete http:// URL.
        "url" => url: Option<Url> = None;
        /// An object of the app, such as Deployment/pos.
        "target" => target: Option<ObjectKey> = None;
        /// The port in the workload.
        "port" => port: Option<Whole<1, 65535>> = None;
        /// The path, with its leading slash; /metrics unless given.
        "path" => path: Option<UrlPath> = None;
        /// The time that is judged, up to now; at most 1h.
        "window" => window: Placed<Span> = Placed { at: Position::START, value: Span(WINDOW) };
        /// The time between two scrapes; at least 1s. 5s unless given.
        "interval" => interval: Option<Placed<Span>> = None;
        /// With fewer requests in the window there is no verdict from metrics.
        "minRequests" => min_requests: Whole<1, 1_000_000_000> = Whole(MIN_REQUESTS);
        /// How many requests must succeed.
        "successRate" => success_rate: Option<SuccessRate> = None;
        /// How many requests may fail.
        "errorRate" => error_rate: Option<ErrorRate> = None;
        /// How long requests may take.
        "latency" => latency: Option<Latency> = None;
    }
}

record! {
    /// How many requests must succeed: total, and one of errors and successes.
    pub struct SuccessFields, "successRate" {
        /// Counts all requests, such as http_requests_total.
        "total" => total: Series;
        /// Counts those that failed, such as http_requests_total{code=~"5.."}.
        "errors" => errors: Option<Series> = None;
        /// Counts those that succeeded.
        "successes" => successes: Option<Series> = None;
        /// The least share that must succeed.
        "atLeast" => at_least: Share = Share(99_000);
    }
}

record! {
    /// How many requests may fail.
    pub struct ErrorFields, "errorRate" {
        /// Counts all requests, such as http_requests_total.
        "total" => total: Series;
        /// Counts those that failed, such as http_requests_total{code=~"5.."}.
        "errors" => errors: Series;
        /// The largest share that may fail.
        "atMost" => at_most: Share = Share(1_000);
    }
}

record! {
    /// How long requests may take.
    pub struct LatencyFields, "latency" {
        /// The histogram's name without _bucket, such as http_request_duration_seconds.
        "histogram" => histogram: Placed<Series>;
        /// The quantile that is compared, such as 0.99.
        "quantile" => quantile: Quantile = Quantile(990);
        /// The longest that it may take.
        "atMost" => at_most: Span = Span(Duration::from_millis(500));
        /// The unit of the histogram.
        "unit" => unit: UnitWord = UnitWord::Seconds;
    }
}

words! {
    /// What a histogram measures in.
    pub enum UnitWord {
        /// Seconds.
        Seconds = "seconds",
        /// Milliseconds.
        Milliseconds = "milliseconds",
    }
}

const WINDOW: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(5);
const MIN_REQUESTS: u64 = 10;
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
/// So many scrapes of a window are kept at most.
const MOST_SCRAPES: u128 = 720;

/// A quantile in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile(u32);

impl FromStr for Quantile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = thousandths(text).and_then(|number| u32::try_from(number).ok());
        let found = found.filter(|number| (1..1000).contains(number)).map(Quantile);
        found.ok_or_else(|| format!("{} is not a quantile; write 0.99", quoted(text)))
    }
}
text!(Quantile, number, json!({"type": ["number", "string"], "examples": [0.99]}));

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found =
            text.strip_suffix('%').and_then(thousandths).and_then(|number| u32::try_from(number).ok());
        let found = found.filter(|share| *share <= 100_000).map(Share);
        found.ok_or_else(|| format!("{} is not a percentage; write 99% or 99.9%", quoted(text)))
    }
}
text!(Share, json!({"type": "string", "pattern": "^[0-9]{1,3}(\\.[0-9]{1,3})?%$", "examples": ["99.9%"]}));

impl Decode for Series {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        from_text(node, context)
    }

    fn schema() -> Value {
        json!({"type": "string", "examples": ["http_requests_total{code=~\"5..\"}"]})
    }
}

impl Decode for SuccessRate {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = SuccessFields::decode(node, context)?;
        let part = match (fields.errors, fields.successes) {
            (Some(errors), None) => Part::Errors(errors),
            (None, Some(successes)) => Part::Successes(successes),
            _ => {
                let hint = "write errors: 'http_requests_total{code=~\"5..\"}'";
                context.error_with(node.at, "successRate needs either errors or successes", hint);
                return None;
            }
        };
        Some(SuccessRate { total: fields.total, part, at_least: fields.at_least })
    }

    fn schema() -> Value {
        SuccessFields::schema()
    }
}

impl Decode for ErrorRate {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let ErrorFields { total, errors, at_most } = ErrorFields::decode(node, context)?;
        Some(ErrorRate { total, errors, at_most })
    }

    fn schema() -> Value {
        ErrorFields::schema()
    }
}

impl Decode for Latency {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = LatencyFields::decode(node, context)?;
        let Placed { at, value: histogram } = fields.histogram;
        if histogram.name().is_some_and(|name| name.ends_with("_bucket")) {
            context.error_with(at, "the name of a histogram must not end in _bucket", "leave _bucket out");
            return None;
        }
        Some(Latency {
            histogram,
            quantile: fields.quantile.0,
            at_most: fields.at_most.0,
            unit: match fields.unit {
                UnitWord::Seconds => TimeUnit::Seconds,
                UnitWord::Milliseconds => TimeUnit::Milliseconds,
            },
        })
    }

    fn schema() -> Value {
        LatencyFields::schema()
    }
}

impl Decode for MetricsCheck {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = MetricsFields::decode(node, context)?;
        if fields.success_rate.is_none() && fields.error_rate.is_none() && fields.latency.is_none() {
            let hint = "give at least one of successRate, errorRate, latency";
            context.error_with(node.at, "the metrics check has no condition", hint);
            return None;
        }
        let (window, interval) = times(&fields, context)?;
        let place =
            HttpFields { url: fields.url, target: fields.target, port: fields.port, path: fields.path };
        Some(MetricsCheck {
            page: page_of(place, "a metrics check", "/metrics", node, context)?,
            window,
            interval,
            min_requests: fields.min_requests.0,
            success_rate: fields.success_rate,
            error_rate: fields.error_rate,
            latency: fields.latency,
        })
    }

    fn schema() -> Value {
        MetricsFields::schema()
    }
}

/// The window and the interval, if they go together.
fn times(fields: &MetricsFields, context: &mut Context<'_>) -> Option<(Duration, Duration)> {
    let window = fields.window.value.0;
    let (at, interval) = match &fields.interval {
        Some(interval) => (interval.at, interval.value.0),
        None => (fields.window.at, INTERVAL.min(window / 2)),
    };
    if window < 2 * SHORTEST_INTERVAL || window > LONGEST_WINDOW {
        context.error_with(fields.window.at, "window must be from 2s to 1h", "write window: 60s");
        return None;
    }
    let scrapes = window.as_millis() / interval.as_millis().max(1);
    if interval < SHORTEST_INTERVAL || interval > window / 2 || scrapes > MOST_SCRAPES {
        let message = format!(
            "interval must be at least 1s and at most half the window, and a window must have at most \
             {MOST_SCRAPES} scrapes"
        );
        context.error_with(at, message, "write interval: 5s");
        return None;
    }
    Some((window, interval))
}
