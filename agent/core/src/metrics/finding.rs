//! What grew in a window, compared with what a check requires.

use std::time::Duration;

use super::check::{ErrorRate, Latency, MetricsCheck, Part, SuccessRate};
use super::histogram::{Quantile, quantile};
use super::history::{Counter, Sums};
use super::series::Series;

/// So much may be lost in computing.
const TINY: f64 = 1e-9;

/// What a window says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All is as it should be.
    Well,
    /// Too little was seen for a verdict.
    Unclear(String),
    /// Something is not as it should be.
    Bad(String),
}

/// Judges what grew in `span`. What is bad is told before what is unclear.
pub(super) fn find(check: &MetricsCheck, grown: &Sums, span: Duration) -> Finding {
    let least = check.min_requests;
    let success = check.success_rate.as_ref().map(|rate| of_success(rate, grown, least));
    let error = check.error_rate.as_ref().map(|rate| of_errors(rate, grown, least));
    let latency = check.latency.as_ref().map(|latency| of_latency(latency, grown, least));
    let (mut bad, mut unclear) = (Vec::new(), Vec::new());
    for finding in [success, error, latency].into_iter().flatten() {
        match finding {
            Finding::Well => {}
            Finding::Unclear(why) => unclear.push(why),
            Finding::Bad(why) => bad.push(why),
        }
    }
    let told = |all: &[String]| format!("in the last {:.1?}, {}", span, all.join(", and "));
    match (bad.as_slice(), unclear.as_slice()) {
        ([], []) => Finding::Well,
        ([], unclear) => Finding::Unclear(told(unclear)),
        (bad, _) => Finding::Bad(told(bad)),
    }
}

fn of_success(rate: &SuccessRate, grown: &Sums, least: u64) -> Finding {
    let (total, part) = (grown.of(Counter::SuccessTotal), grown.of(Counter::SuccessPart));
    if let Some(unclear) = too_few(total, least, &rate.total) {
        return unclear;
    }
    let share = match rate.part {
        Part::Errors(_) => 1.0 - (part / total).clamp(0.0, 1.0),
        Part::Successes(_) => (part / total).clamp(0.0, 1.0),
    };
    if share >= rate.at_least.fraction() - TINY {
        return Finding::Well;
    }
    let share = percent(share);
    Finding::Bad(format!(
        "only {share} of {total:.0} requests succeeded, but at least {} must",
        rate.at_least
    ))
}

fn of_errors(rate: &ErrorRate, grown: &Sums, least: u64) -> Finding {
    let (total, errors) = (grown.of(Counter::ErrorTotal), grown.of(Counter::Errors));
    if let Some(unclear) = too_few(total, least, &rate.total) {
        return unclear;
    }
    let share = (errors / total).clamp(0.0, 1.0);
    if share <= rate.at_most.fraction() + TINY {
        return Finding::Well;
    }
    let share = percent(share);
    Finding::Bad(format!("{share} of {total:.0} requests failed, but at most {} may", rate.at_most))
}

fn of_latency(latency: &Latency, grown: &Sums, least: u64) -> Finding {
    let q = f64::from(latency.quantile) / 1000.0;
    let observed = grown.buckets.last_key_value().map_or(0.0, |(_, count)| *count);
    // Where a page has both, the native one is the finer.
    let native = grown.native.count();
    if let Some(unclear) = too_few(if native > 0.0 { native } else { observed }, least, &latency.histogram) {
        return unclear;
    }
    let found = match grown.native.quantile(q) {
        Some(value) => Some(Quantile::At(value)),
        None => quantile(&grown.buckets, q),
    };
    let most = latency.at_most.as_secs_f64() * (1.0 + TINY);
    let name = format!("p{} of {}", f64::from(latency.quantile) / 10.0, latency.histogram);
    let limit = format!("but may be at most {:?}", latency.at_most);
    match found {
        None => Finding::Unclear(format!("{} has no bucket le=\"+Inf\"", latency.histogram)),
        Some(Quantile::At(value)) => match latency.unit.seconds(value) {
            seconds if seconds <= most => Finding::Well,
            seconds => Finding::Bad(format!("{name} was {}, {limit}", time(seconds))),
        },
        Some(Quantile::Above(bound)) => match latency.unit.seconds(bound) {
            seconds if seconds * (1.0 + TINY) < latency.at_most.as_secs_f64() => Finding::Unclear(format!(
                "{name} is above the histogram's last bucket ({}): add a bucket for {:?}",
                time(seconds),
                latency.at_most
            )),
            seconds => Finding::Bad(format!("{name} was more than {}, {limit}", time(seconds))),
        },
    }
}

fn too_few(seen: f64, least: u64, series: &Series) -> Option<Finding> {
    #[allow(clippy::cast_precision_loss, reason = "no window has so many requests")]
    let enough = seen >= least as f64 && seen > 0.0;
    let none = if seen > 0.0 { "" } else { " (there were none, or the page has no such series)" };
    let told = || format!("{series} counted {seen:.0} requests{none}, but a verdict needs at least {least}");
    (!enough).then(|| Finding::Unclear(told()))
}

fn percent(share: f64) -> String {
    format!("{}%", (share * 100_000.0).floor() / 1000.0)
}

fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1}ms", seconds * 1000.0) } else { format!("{seconds:.2}s") }
}
