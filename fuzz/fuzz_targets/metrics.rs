//! Any text as a page of metrics, twice, and its first line as a selector: a finding or an error with a line; never
//! a panic.
#![no_main]

use std::time::Duration;

use holdfast_core::http_check::HttpCheck;
use holdfast_core::metrics::{History, Latency, MetricsCheck, Part, Series, Share, SuccessRate, TimeUnit};
use libfuzzer_sys::fuzz_target;

fn check(series: &Series) -> MetricsCheck {
    MetricsCheck {
        page: HttpCheck::Url { url: "http://127.0.0.1/metrics".into() },
        window: Duration::from_secs(60),
        interval: Duration::from_secs(5),
        min_requests: 1,
        success_rate: Some(SuccessRate {
            total: series.clone(),
            part: Part::Errors(series.clone()),
            at_least: Share(99_000),
        }),
        error_rate: None,
        latency: Some(Latency {
            histogram: series.clone(),
            quantile: 990,
            at_most: Duration::from_millis(500),
            unit: TimeUnit::Seconds,
        }),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, page) = text.split_once('\n').unwrap_or(("took_seconds", text));
    let Ok(series) = first.parse::<Series>() else { return };
    // Two pages with a line of four dashes between them.
    let (before, after) = page.split_once("\n----\n").unwrap_or((page, page));
    let mut history = History::new(&check(&series));
    for (page, at) in [before, after].into_iter().zip(1..) {
        if let Err(error) = history.take(page, Duration::from_secs(5 * at)) {
            assert!(error.line <= page.lines().count() + 1);
        }
    }
    let _ = history.judge();
});
