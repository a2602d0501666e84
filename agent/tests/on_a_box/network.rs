//! Real servers, bad servers, and none.

use std::time::{Duration, Instant};

use holdfast_core::network::{BudgetPeriod, ByteBudget, DownloadLimits, Usage};
use holdfast_store::records::LinkUsage;
use holdfast_store::{Options as StoreOptions, Store};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::boxes::{DEVICE, TestBox, of, pos};
use crate::support::git_server::{GitServer, Options};
use crate::support::hostile::Hostile;
use crate::support::ports::free_port;

#[test]
fn a_box_converges_over_https_with_a_certificate_authority_and_a_password() {
    let test_box = TestBox::new();
    let commit = test_box.commit(&pos("1", ""));
    let auth = Some(("edge".to_owned(), "s3cret".to_owned()));
    let server = GitServer::with(&test_box.repo, &Options { auth, ..Options::default() });
    std::fs::write(test_box.path("password"), "s3cret\n").unwrap();
    let source = format!(
        "url = \"{}\"\nca_file = \"{}\"\nusername = \"edge\"\npassword_file = \"password\"",
        server.url(),
        server.ca_file().display()
    );
    test_box.follow(&source);
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(commit)), "{status:#}");
    assert_eq!(status["source"]["url"], json!(server.url()));
    assert_eq!(test_box.runs("pos").unwrap(), "1");

    let commit = test_box.commit(&pos("2", ""));
    test_box.repo.push(&server.bare());
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(commit)), "{status:#}");
    assert_eq!(test_box.runs("pos").unwrap(), "2");

    std::fs::write(test_box.path("password"), "wrong\n").unwrap();
    let (_, status) = test_box.once();
    let error = status["source"]["error"].as_str().unwrap();
    assert!(error.contains("401") || error.contains("password"), "{error}");
    assert!(!error.contains("wrong\n") && !error.contains("s3cret"), "{error}");
    assert_eq!(of(&status, "pos")["health"], "Healthy");
}

#[test]
fn a_server_that_answers_nonsense_changes_nothing_and_is_named() {
    let test_box = TestBox::converged();
    let changes = test_box.changes();
    let answers: [(&str, &'static [u8]); 4] = [
        ("401", b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ("404", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ("", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n<html>hi!"),
        ("", b"\x00\xff\x00\xff garbage \r\n\r\n"),
    ];
    for (wanted, answer) in answers {
        let server = Hostile::start(move |mut peer| {
            peer.read_request();
            peer.send(answer);
        });
        test_box.follow(&format!("url = \"{}\"\ntimeout = \"5s\"", server.url()));
        let (_, status) = test_box.once();
        let error = status["source"]["error"].as_str().unwrap_or_else(|| panic!("{wanted}: {status:#}"));
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains(&format!("127.0.0.1:{}", server.port())), "which server? {error}");
        assert_eq!(of(&status, "pos")["phase"], "Good", "{status:#}");
        assert_eq!(of(&status, "pos")["health"], "Healthy", "{status:#}");
    }
    assert_eq!(test_box.changes(), changes);
}

#[test]
fn a_server_that_hangs_is_given_up_and_named() {
    let test_box = TestBox::converged();
    let server = Hostile::start(|mut peer| peer.hang());
    test_box.follow(&format!("url = \"{}\"\ntimeout = \"1s\"", server.url()));
    let (_, status) = test_box.once();
    let error = status["source"]["error"].as_str().unwrap();
    assert!(error.contains(&format!("127.0.0.1:{}", server.port())), "{error}");
    assert_eq!(of(&status, "pos")["health"], "Healthy");
}

#[test]
fn the_daemon_answers_repairs_and_ends_while_a_server_keeps_it_waiting() {
    let test_box = TestBox::converged();
    let server = Hostile::start(|mut peer| {
        peer.read_request();
        peer.hang();
    });
    test_box.follow(&format!("url = \"{}\"\ntimeout = \"1h\"", server.url()));
    let agent = test_box.start();
    let began = Instant::now();
    while server.heads().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "the server is not asked:\n{}", test_box.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = agent.wait("an answer", |status| of(status, "pos")["health"] == "Healthy");
    assert_eq!(status["source"]["error"], json!(null), "the fetch goes on");
    assert_eq!(test_box.json(&["plan"]).1["steps"], json!([]));
    std::fs::remove_file(test_box.object("pos")).unwrap();
    agent.wait("the object is back", |_| test_box.runs("pos").is_some());
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_restart_without_a_network_brings_up_the_last_known_good() {
    let test_box = TestBox::converged();
    let accepted = test_box.repo.head();
    // As after a power cut of a runtime that keeps nothing.
    std::fs::remove_file(test_box.object("pos")).unwrap();
    test_box.follow(&format!("url = \"http://127.0.0.1:{}/edge.git\"", free_port()));
    let agent = test_box.start();
    let status = agent.wait("the app", |status| {
        of(status, "pos")["health"] == "Healthy" && status["source"]["error"].is_string()
    });
    assert_eq!(test_box.runs("pos").unwrap(), "1");
    assert_eq!(status["revision"]["accepted"], json!(accepted));
    assert_eq!(status["converged"], true, "{status:#}");
    assert!(status["source"]["nextPoll"].is_string(), "{status:#}");
}

/// Writes what downloads may use, and what they used, as the agent left it.
fn remember(test_box: &TestBox, usage: &LinkUsage) {
    let options = StoreOptions::new(DEVICE.parse().unwrap(), Timestamp::now());
    let (mut store, _) = Store::open(&test_box.path("state"), &options).unwrap();
    store.set_link_usage(usage).unwrap();
    store.flush().unwrap();
}

#[test]
fn a_box_whose_byte_budget_is_used_up_says_so_and_until_when() {
    let test_box = TestBox::new();
    let commit = test_box.commit(&pos("1", ""));
    let server = GitServer::start(&test_box.repo);
    test_box.follow(&format!("url = \"{}\"\nca_file = \"{}\"", server.url(), server.ca_file().display()));
    let used = |per| {
        let mut usage = Usage::new(per, Timestamp::now(), &TimeZone::UTC);
        usage.book(1 << 20);
        Some(usage)
    };
    let budget = Some(ByteBudget { bytes: 1 << 20, per: BudgetPeriod::Month });
    let limits = DownloadLimits { rate: None, budget };
    remember(
        &test_box,
        &LinkUsage {
            limits,
            used: used(BudgetPeriod::Month),
            extra: used(BudgetPeriod::Day),
            extra_of: Some(commit.clone()),
            manifests: None,
        },
    );
    for _ in 0..2 {
        let (code, status) = test_box.once();
        assert_eq!((code, &status["revision"]["accepted"]), (2, &json!(null)), "{status:#}");
        assert!(status["source"]["lastPoll"].is_string(), "{status:#}");
        assert_eq!(status["source"]["error"], json!(null), "the source answers: {status:#}");
        let held = &status["held"][0];
        assert!(held["cause"].as_str().unwrap().contains("used up (1.0 MiB of 1 MiB a month)"), "{status:#}");
        assert!(
            held["next"].is_string() && held["unblock"].as_str().unwrap().contains("budget"),
            "{status:#}"
        );
        let shown = &status["downloads"]["budget"];
        assert_eq!((&shown["bytes"], &shown["per"]), (&json!(1 << 20), &json!("month")), "{status:#}");
    }
    // The server was asked what there is, twice by two requests, and for nothing of it.
    assert_eq!(server.requests(4).len(), 4);

    remember(&test_box, &LinkUsage::default());
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(commit)), "{status:#}");
    assert_eq!(status.get("downloads"), None);
}
