//! Health as documents ask for it: a program in the workload, a page of metrics, an app that flaps.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::boxes::{TestBox, of, pos};

/// `pos` in a version, with this health.
fn with_health(version: &str, script: &str, health: &str) -> Vec<(String, String)> {
    let mut files = pos(version, script);
    let usual = "health: { startup: 1s, deadline: 1m, soak: 200ms }";
    assert!(files[0].1.contains(usual));
    files[0].1 = files[0].1.replace(usual, &format!("health: {health}"));
    files
}

/// What the events say of why an app failed.
fn why_it_failed(test_box: &TestBox) -> String {
    let events = test_box.events();
    let failed = events.iter().rfind(|event| event["kind"] == "app.failed").expect("it failed");
    failed["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_release_whose_program_fails_in_the_workload_goes_back_with_the_command_as_the_reason() {
    let health = "{ startup: 1s, deadline: 1m, soak: 200ms, checks: [ { exec: { target: Deployment/pos/pos, command: [ask, till], timeout: 1s } } ] }";
    let test_box = TestBox::new();
    test_box.commit(&with_health("1", "", health));
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (0, &json!("Good")), "{status:#}");

    for (version, how, said) in
        [("2", "fail", "ask till exited with code 1"), ("3", "hang", "ask till did not end within 1s")]
    {
        let script = format!("simulated.holdfast.dev/exec: {how}");
        test_box.commit(&with_health(version, &script, health));
        let (code, status) = test_box.once();
        assert_eq!((code, &of(&status, "pos")["phase"]), (2, &json!("RolledBack")), "{status:#}");
        assert_eq!(test_box.runs("pos").unwrap(), "1");
        let why = why_it_failed(&test_box);
        assert!(why.contains("exec in Deployment/pos/pos") && why.contains(said), "{why}");
    }
}

/// A page of metrics. Each scrape finds so many more requests that went well, and that failed.
struct Page {
    port: u16,
    grows_by: Arc<Mutex<(u64, u64)>>,
}

impl Page {
    fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let page = Page { port: listener.local_addr().unwrap().port(), grows_by: Arc::default() };
        let grows_by = Arc::clone(&page.grows_by);
        std::thread::spawn(move || {
            let (mut good, mut failed) = (0, 0);
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let more = *grows_by.lock().unwrap();
                (good, failed) = (good + more.0, failed + more.1);
                let all = good + failed;
                let body = format!(
                    "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {good}\n\
                     http_requests_total{{code=\"500\"}} {failed}\n# TYPE took_seconds histogram\n\
                     took_seconds_bucket{{le=\"0.5\"}} {good}\ntook_seconds_bucket{{le=\"5\"}} {all}\n\
                     took_seconds_bucket{{le=\"+Inf\"}} {all}\n"
                );
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        page
    }

    fn grows_by(&self, good: u64, failed: u64) {
        *self.grows_by.lock().unwrap() = (good, failed);
    }

    /// Health by this page.
    fn health(&self, what: &str) -> String {
        format!(
            "{{ startup: 1s, deadline: 30s, soak: 2s, checks: [ {{ metrics: {{ url: 'http://127.0.0.1:{}/metrics', window: 10s, interval: 1s, {what} }} }} ] }}",
            self.port
        )
    }
}

const RATE: &str =
    "successRate: { total: http_requests_total, errors: 'http_requests_total{code=~\"5..\"}' }";
const LATENCY: &str = "latency: { histogram: took_seconds }";

#[test]
fn a_release_whose_own_metrics_are_bad_goes_back_with_the_numbers_as_the_reason() {
    let (test_box, page) = (TestBox::new(), Page::serve());
    page.grows_by(100, 0);
    test_box.commit(&with_health("1", "", &page.health(&format!("{RATE}, {LATENCY}"))));
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (0, &json!("Good")), "{status:#}");

    page.grows_by(90, 10);
    for (version, what, said) in [
        ("2", RATE, "requests succeeded, but at least 99% must"),
        ("3", LATENCY, "p99 of took_seconds was 4.55s, but may be at most 500ms"),
    ] {
        test_box.commit(&with_health(version, "", &page.health(what)));
        let (code, status) = test_box.once();
        assert_eq!((code, &of(&status, "pos")["phase"]), (2, &json!("RolledBack")), "{status:#}");
        assert_eq!(test_box.runs("pos").unwrap(), "1");
        let why = why_it_failed(&test_box);
        assert!(why.contains(said), "{why}");
    }
}

#[test]
fn errors_while_a_release_starts_are_forgiven_once_it_serves_well() {
    let (test_box, page) = (TestBox::new(), Page::serve());
    page.grows_by(0, 100);
    let health = page.health(RATE).replace("startup: 1s", "startup: 20s");
    let commit = test_box.commit(&with_health("1", "", &health));
    let agent = test_box.start();
    agent.wait("the numbers are bad", |status| {
        of(status, "pos")["reason"].as_str().is_some_and(|reason| reason.contains("0% of 100 requests"))
    });
    page.grows_by(100, 0);
    agent.wait_for(&commit);
    assert_eq!(test_box.count("app.failed"), 0);
}

#[test]
fn a_release_that_nobody_asks_is_good_and_it_is_said_that_its_metrics_told_nothing() {
    let (test_box, page) = (TestBox::new(), Page::serve());
    test_box.commit(&with_health("1", "", &page.health(RATE)));
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (0, &json!("Good")), "{status:#}");
    let events = test_box.events();
    let good = events.iter().find(|event| event["kind"] == "app.good").unwrap();
    let said = good["message"].as_str().unwrap();
    assert!(said.contains("no verdict from metrics") && said.contains("counted 0 requests"), "{said}");
}

#[test]
fn a_page_that_is_not_there_is_unhealthy_with_its_cause() {
    let (test_box, page) = (TestBox::converged(), Page::serve());
    let health = page.health(RATE).replace(&page.port.to_string(), "1");
    test_box.commit(&with_health("2", "", &health));
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (2, &json!("RolledBack")), "{status:#}");
    let why = why_it_failed(&test_box);
    assert!(why.contains("metrics: GET http://127.0.0.1:1/metrics: connection refused"), "{why}");
}

#[test]
fn a_release_that_flaps_goes_back_though_it_never_stays_ill() {
    let test_box = TestBox::converged();
    test_box.commit(&pos("2", "simulated.holdfast.dev/health: flapping"));
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (2, &json!("RolledBack")), "{status:#}");
    let why = why_it_failed(&test_box);
    assert!(why.contains("it is flapping: it became healthy and then unhealthy again 5 times"), "{why}");
}

/// Answers `200` to each request; while it is held, it waits, and the first that waited gets a `500`.
struct Check {
    port: u16,
    held: Arc<Mutex<()>>,
    asked: Arc<AtomicUsize>,
}

impl Check {
    fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let check = Check { port, held: Arc::default(), asked: Arc::default() };
        let (held, asked) = (Arc::clone(&check.held), Arc::clone(&check.asked));
        std::thread::spawn(move || {
            let mut waited = false;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                asked.fetch_add(1, Ordering::SeqCst);
                let waits = held.try_lock().is_err();
                let code = if waits && !waited { 500 } else { 200 };
                waited |= waits;
                drop(held.lock().unwrap());
                let answer =
                    format!("HTTP/1.1 {code} Said\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        check
    }
}

#[test]
fn what_happens_to_an_app_while_it_is_looked_at_is_looked_at_too() {
    let (test_box, check) = (TestBox::new(), Check::serve());
    let health = format!(
        "{{ startup: 1s, deadline: 1m, soak: 200ms, checks: [ {{ http: {{ url: 'http://127.0.0.1:{}/' }} }} ] }}",
        check.port
    );
    let commit = test_box.commit(&with_health("1", "", &health));
    let agent = test_box.start();
    agent.wait_for(&commit);
    agent.wait("it is well", |status| of(status, "pos")["health"] == "Healthy");

    let (mut drifts, held) = (0, check.held.lock().unwrap());
    let mut drift = || {
        drifts += 1;
        fs::remove_file(test_box.object("pos")).unwrap();
        agent.wait("it is put right", |_| {
            test_box.count("app.drift") == drifts && test_box.object("pos").exists()
        });
    };
    let before = check.asked.load(Ordering::SeqCst);
    drift();
    agent.wait("it is looked at", |_| check.asked.load(Ordering::SeqCst) > before);
    drift();
    drop(held);
    agent.wait("it is well again", |status| {
        check.asked.load(Ordering::SeqCst) > before + 1 && of(status, "pos")["health"] == "Healthy"
    });
}
