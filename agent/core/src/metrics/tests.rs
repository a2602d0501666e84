//! What is read of a page, and what follows from pages.

use std::time::Duration;

use proptest::prelude::*;

use super::text::samples;
use super::*;
use crate::http_check::HttpCheck;

fn series(text: &str) -> Series {
    text.parse().unwrap()
}

fn check() -> MetricsCheck {
    MetricsCheck {
        page: HttpCheck::Url { url: "http://127.0.0.1:9090/metrics".into() },
        window: Duration::from_secs(60),
        interval: Duration::from_secs(5),
        min_requests: 1,
        success_rate: None,
        error_rate: None,
        latency: None,
    }
}

fn of_success() -> MetricsCheck {
    let part = Part::Errors(series("http_requests_total{code=~\"5..\"}"));
    let rate = SuccessRate { total: series("http_requests_total"), part, at_least: Share(99_000) };
    MetricsCheck { success_rate: Some(rate), ..check() }
}

fn of_latency() -> MetricsCheck {
    let latency = Latency {
        histogram: series("took_seconds{path!=\"/metrics\"}"),
        quantile: 990,
        at_most: Duration::from_millis(500),
        unit: TimeUnit::Seconds,
    };
    MetricsCheck { latency: Some(latency), ..check() }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What follows from these pages, scraped every five seconds.
fn judge(check: &MetricsCheck, pages: &[String]) -> Finding {
    let mut window = History::new(check);
    for (page, at) in pages.iter().zip(0..) {
        window.take(page, secs(at * 5)).unwrap();
    }
    window.judge()
}

fn requests(good: u64, bad: u64) -> String {
    format!("http_requests_total{{code=\"200\"}} {good}\nhttp_requests_total{{code=\"503\"}} {bad}\n")
}

/// The reason of a verdict that is bad.
fn bad(finding: Finding) -> String {
    let Finding::Bad(why) = finding else { panic!("{finding:?}") };
    why
}

fn unclear(finding: Finding) -> String {
    let Finding::Unclear(why) = finding else { panic!("{finding:?}") };
    why
}

#[test]
fn a_page_is_read_as_prometheus_writes_it() {
    let page = "# HELP a text\n# TYPE a counter\na 1\r\n\
        a{x=\"1\",y=\"q\\\"\\\\\\n}\",} 2.5 1700000000\n  b_total { x = \"1\" }\t+Inf # {trace=\"t\"} 1\n\
        {\"with.dots\",\"la bel\"=\"v\"} 1e3\nc{} NaN\n# EOF\n";
    let read: Vec<String> = samples(page).map(|sample| format!("{:?}", sample.unwrap())).collect();
    for (line, part) in read.iter().zip([
        "name: \"a\", labels: [], value: Number(1.0)",
        "labels: [(\"x\", \"1\"), (\"y\", \"q\\\"\\\\\\n}\")], value: Number(2.5)",
        "name: \"b_total\", labels: [(\"x\", \"1\")], value: Number(inf)",
        "name: \"with.dots\", labels: [(\"la bel\", \"v\")], value: Number(1000.0)",
        "name: \"c\", labels: [], value: Number(NaN)",
    ]) {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(read.len(), 5);
}

#[test]
fn a_line_that_is_no_sample_is_an_error_with_its_number() {
    for line in [
        "<html>",
        "a",
        "a b",
        "1a 1",
        "a{x=1} 1",
        "a{x=\"1\" 1",
        "a{x=\"1} 1",
        "a{x=~\"1\"} 1",
        "a{x} 1",
        "{} 1",
        "{\"x\"=\"y\"} 1",
        "a-b 1",
        "a {count:1",
        "a {count:x}",
        "a {schema:99}",
        "a {schema:0,positive_spans:[0:1],positive_buckets:[]}",
    ] {
        let error = samples(&format!("ok 1\n{line}\n")).find_map(Result::err);
        assert_eq!(error.map(|error| error.line), Some(2), "{line}");
    }
    let many = "a 1\n".repeat(100_001);
    assert!(samples(&many).any(|sample| sample.is_err()));
}

#[test]
fn series_are_selected_as_in_promql() {
    let fits = |selector: &str, line: &str| {
        let sample = samples(line).next().unwrap().unwrap();
        series(selector).matcher().unwrap().fits(&sample.name, &sample.labels)
    };
    let line = "http_requests_total{code=\"503\",path=\"/a.b\"} 1";
    for selector in [
        "http_requests_total",
        " http_requests_total{ code = \"503\", } ",
        "http_requests_total{code=~'5..'}",
        "http_requests_total{code!~\"2..|3..\"}",
        "http_requests_total{path=~\"/a\\.b\"}",
        "http_requests_total{path=~\"/a\\\\.b\"}",
        "http_requests_total{host=\"\"}",
        "http_requests_total{host!=\"x\"}",
        "{\"http_requests_total\",code=\"503\"}",
    ] {
        assert!(fits(selector, line), "{selector}");
    }
    for selector in [
        "http_requests",
        "http_requests_total{code=~\"50\"}",
        "http_requests_total{code=~\"2..|3..\"}",
        "http_requests_total{code!=\"503\"}",
        "http_requests_total{host=~\".+\"}",
    ] {
        assert!(!fits(selector, line), "{selector}");
    }
    for wrong in ["", "{}", "a{b=~\"(\"}", "a{b=~\"x)|(y\"}", "rate(a[5m])", "a[5m]", "a{b}", "a b", "a{b=c}"]
    {
        assert!(wrong.parse::<Series>().unwrap_err().contains("is not a series selector"), "{wrong}");
    }
}

#[test]
fn a_release_that_fails_too_many_requests_is_bad_and_the_reason_has_the_numbers() {
    let finding = judge(&of_success(), &[requests(1000, 50), requests(1960, 90)]);
    assert_eq!(bad(finding), "in the last 5.0s, only 96% of 1000 requests succeeded, but at least 99% must");
    assert_eq!(judge(&of_success(), &[requests(1000, 50), requests(1990, 60)]), Finding::Well);
    let part = Part::Successes(series("http_requests_total{code=\"200\"}"));
    let rate = SuccessRate { part, ..of_success().success_rate.unwrap() };
    let by_success = MetricsCheck { success_rate: Some(rate), ..check() };
    assert_eq!(judge(&by_success, &[requests(0, 0), requests(99, 1)]), Finding::Well);
    assert!(bad(judge(&by_success, &[requests(0, 0), requests(98, 2)])).contains("98% of 100"));
}

#[test]
fn errors_are_judged_from_the_other_side() {
    let (total, errors) = (series("http_requests_total"), series("http_requests_total{code=~\"5..\"}"));
    let rate = ErrorRate { total, errors, at_most: Share(500) };
    let check = MetricsCheck { error_rate: Some(rate), ..check() };
    assert_eq!(judge(&check, &[requests(0, 0), requests(995, 5)]), Finding::Well);
    let why = bad(judge(&check, &[requests(0, 0), requests(994, 6)]));
    assert!(why.contains("0.6% of 1000 requests failed, but at most 0.5% may"), "{why}");
}

#[test]
fn too_few_requests_are_no_verdict() {
    let check = MetricsCheck { min_requests: 10, ..of_success() };
    let why = unclear(judge(&check, &[requests(5, 5), requests(5, 14)]));
    assert!(why.contains("counted 9 requests, but a verdict needs at least 10"), "{why}");
    assert!(unclear(judge(&check, &["up 1".into(), "up 1".into()])).contains("counted 0 requests"));
    assert!(unclear(judge(&check, &[requests(0, 900)])).contains("scraped only once"));
    assert!(unclear(judge(&check, &[])).contains("not been scraped yet"));
    assert!(bad(judge(&check, &[requests(5, 5), requests(5, 15)])).contains("0% of 10"));
}

#[test]
fn a_label_that_shows_up_with_the_first_error_counts_from_nothing() {
    let without = "http_requests_total{code=\"200\"} 100\n".to_owned();
    assert!(bad(judge(&of_success(), &[without, requests(190, 10)])).contains("90% of 100"));
}

#[test]
fn a_counter_that_was_started_anew_counts_what_it_has() {
    let pages = [requests(5000, 100), requests(95, 5)];
    assert!(bad(judge(&of_success(), &pages)).contains("95% of 100"));
}

#[test]
fn what_lies_before_the_window_is_forgotten() {
    let mut pages = vec![requests(0, 0), requests(0, 100)];
    pages.extend((1..=11).map(|n| requests(n * 100, 100)));
    assert!(matches!(judge(&of_success(), &pages), Finding::Bad(_)), "it is at the window's very beginning");
    pages.push(requests(1200, 100));
    assert_eq!(judge(&of_success(), &pages), Finding::Well);
}

#[test]
fn a_pause_longer_than_the_window_begins_anew() {
    let mut window = History::new(&of_success());
    window.take(&requests(0, 0), secs(0)).unwrap();
    window.take(&requests(0, 100), secs(600)).unwrap();
    assert!(unclear(window.judge()).contains("scraped only once"));
    assert!(!window.is_due(secs(604)) && window.is_due(secs(605)));
}

#[test]
fn a_window_that_begins_anew_forgets_what_was_counted_and_goes_on_from_there() {
    let mut window = History::new(&of_success());
    window.begin_anew();
    window.take(&requests(0, 0), secs(0)).unwrap();
    window.take(&requests(0, 100), secs(5)).unwrap();
    window.begin_anew();
    assert!(unclear(window.judge()).contains("scraped only once"));
    window.take(&requests(100, 100), secs(10)).unwrap();
    assert_eq!(window.judge(), Finding::Well);
}

#[test]
fn a_page_that_cannot_be_read_changes_nothing() {
    let mut window = History::new(&of_success());
    window.take(&requests(0, 0), secs(0)).unwrap();
    let error = window.take(&(requests(0, 100) + "<html>"), secs(5)).unwrap_err();
    assert!(error.to_string().starts_with("line 3 of the page"), "{error}");
    window.take(&requests(100, 0), secs(10)).unwrap();
    assert_eq!(window.judge(), Finding::Well);
    let many: String = (0..6000).map(|n| format!("http_requests_total{{n=\"{n}\"}} 1\n")).collect();
    assert!(window.take(&many, secs(15)).unwrap_err().why.contains("more than 5000 series"));
}

fn classic(quick: u64, slow: u64) -> String {
    let all = quick + slow;
    format!(
        "took_seconds_bucket{{path=\"/\",le=\"0.1\"}} {quick}\ntook_seconds_bucket{{path=\"/\",le=\"1.0\"}} {all}\n\
         took_seconds_bucket{{path=\"/\",le=\"+Inf\"}} {all}\ntook_seconds_bucket{{path=\"/metrics\",le=\"+Inf\"}} 7000\n\
         took_seconds_count{{path=\"/\"}} {all}\n"
    )
}

#[test]
fn latency_is_judged_by_what_a_histogram_grew_by() {
    assert_eq!(judge(&of_latency(), &[classic(0, 500), classic(1000, 510)]), Finding::Well);
    let why = bad(judge(&of_latency(), &[classic(0, 500), classic(900, 600)]));
    assert!(
        why.contains("p99 of took_seconds{path!=\"/metrics\"} was 910.0ms, but may be at most 500ms"),
        "{why}"
    );
    let mut millis = of_latency();
    millis.latency.as_mut().unwrap().unit = TimeUnit::Milliseconds;
    assert_eq!(judge(&millis, &[classic(0, 500), classic(900, 600)]), Finding::Well);
}

#[test]
fn a_quantile_above_the_last_bucket_is_bad_or_unclear_but_never_well() {
    let page = |bound: &str, slow: u64| {
        format!("took_seconds_bucket{{le=\"{bound}\"}} 5\ntook_seconds_bucket{{le=\"+Inf\"}} {}\n", 5 + slow)
    };
    let why = bad(judge(&of_latency(), &[page("0.5", 0), page("0.5", 9)]));
    assert!(why.contains("was more than 500.0ms"), "{why}");
    let why = unclear(judge(&of_latency(), &[page("0.2", 0), page("0.2", 9)]));
    assert!(why.contains("above the histogram's last bucket (200.0ms): add a bucket for 500ms"), "{why}");
}

#[test]
fn native_histograms_of_openmetrics_2_are_read_in_all_their_forms() {
    let before = "took_seconds {count:2,sum:1,schema:0,zero_threshold:1e-4,zero_count:0,positive_spans:[-1:2],positive_buckets:[1,1]} st@1.5\n";
    let slow = "took_seconds {count:9,sum:20.5,schema:0,zero_threshold:1e-4,zero_count:0,positive_spans:[-1:2,1:1],positive_buckets:[1,1,7]} 17 st@1.5 # {trace_id=\"x\"} 0.67 1\n";
    let why = bad(judge(&of_latency(), &[before.into(), slow.into()]));
    assert!(why.contains("was 3.97s"), "{why}");
    let deltas = "took_seconds {sum:20.5,count:9,schema:0,zero_threshold:1e-4,zero_count:0,positive_spans:[-1:2,1:1],positive_deltas:[1,0,6]}\n";
    assert_eq!(bad(judge(&of_latency(), &[before.into(), deltas.into()])), why);
    let quick = "took_seconds {count:9,sum:2,schema:0,zero_threshold:1e-4,zero_count:0,positive_spans:[-1:2],positive_buckets:[8,1]}\n";
    assert_eq!(judge(&of_latency(), &[before.into(), quick.into()]), Finding::Well);
    // A classic one in one line.
    let classic =
        |slow: u64| format!("took_seconds {{count:{slow},sum:1,bucket:[0.1:0,1:{slow},+Inf:{slow}]}}\n");
    assert!(bad(judge(&of_latency(), &[classic(0), classic(9)])).contains("was 991.0ms"));
}

#[test]
fn a_check_reads_back_as_it_was_written_down() {
    let both = MetricsCheck { latency: of_latency().latency, ..of_success() };
    let text = serde_json::to_string(&both).unwrap();
    assert_eq!(serde_json::from_str::<MetricsCheck>(&text).unwrap(), both);
}

proptest! {
    #[test]
    fn no_text_ends_the_reader_or_a_window(text in "[a-z_{}=~!\"\\\\:,.#0-9 +\n\\[\\]-]{0,200}") {
        let mut window = History::new(&MetricsCheck { latency: of_latency().latency, ..of_success() });
        let _ = window.take(&text, secs(0));
        let _ = window.take(&text.replace('1', "7"), secs(5));
        let _ = window.judge();
        let _ = text.parse::<Series>();
    }

    #[test]
    fn labels_read_back_as_they_were_written(value in "\\PC{0,20}|[\"\\\\\n]{0,5}", count in 0u32..1000) {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let page = format!("a{{x=\"{escaped}\",y=\"\"}} {count}\n");
        let sample = samples(&page).next().unwrap().unwrap();
        prop_assert_eq!(&sample.labels[0].1, &value);
    }

    #[test]
    fn whatever_is_started_anew_what_grew_is_what_was_added(
        steps in prop::collection::vec((1..100u64, 0..50u64, prop::bool::weighted(0.2)), 1..12),
    ) {
        let (mut good, mut failed) = (1000, 1000);
        let (mut grew, mut grew_bad) = (0, 0);
        let mut pages = vec![requests(good, failed)];
        for (more, more_bad, anew) in steps {
            // One that counts on at a smaller number can only have been started anew.
            if anew && more < good && more_bad < failed {
                (good, failed) = (0, 0);
            }
            (good, failed) = (good + more, failed + more_bad);
            (grew, grew_bad) = (grew + more, grew_bad + more_bad);
            pages.push(requests(good, failed));
        }
        let mut strict = of_success();
        strict.success_rate.as_mut().unwrap().at_least = Share(100_000);
        match judge(&strict, &pages) {
            Finding::Well => prop_assert_eq!(grew_bad, 0),
            Finding::Bad(why) => {
                prop_assert!(why.contains(&format!("of {} requests", grew + grew_bad)), "{}", why);
            }
            Finding::Unclear(why) => prop_assert!(false, "{}", why),
        }
    }
}
