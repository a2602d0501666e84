//! A box whose clock is wrong, and commits whose dates are: neither moves what the box has proof of, nor what may sign.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::boxes::{TestBox, cause, pos};
#[cfg(feature = "faults")]
use crate::boxes::{document, of};
use crate::support::git_repo::{Key, Signer};

/// Commits `pos` in this version with a committer's date.
fn commit_at(test_box: &TestBox, version: &str, signer: Signer<'_>, at: &str) -> String {
    let files = pos(version, "");
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    test_box.repo.commit_at(&files, signer, Some(at))
}

/// A key that is allowed to sign within a time.
fn allow(test_box: &TestBox, name: &str, options: &str) -> Key {
    let key = test_box.repo.key(name, &["-t", "ed25519"]);
    let file = test_box.repo.allowed_signers();
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{before}\n{name} {options} {}\n", key.public())).unwrap();
    key
}

/// Moves the clock on the wall by so many days from what it is.
#[cfg(feature = "faults")]
fn move_clock(test_box: &TestBox, days: i64, word: &str) {
    fs::write(test_box.path("clock"), format!("{} {word}", days * 86_400)).unwrap();
}

fn from_now(days: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(days * 24)
}

fn doctor(test_box: &TestBox) -> Value {
    let (_, findings) = test_box.json(&["doctor"]);
    findings.as_array().unwrap().iter().find(|finding| finding["check"] == "clock").unwrap().clone()
}

#[test]
fn a_commit_from_the_future_is_taken_and_ends_no_key() {
    let test_box = TestBox::converged();
    let next_year = from_now(366).strftime("%Y%m%dZ").to_string();
    let short = allow(&test_box, "short", &format!("valid-before=\"{next_year}\""));
    let future = commit_at(&test_box, "2", Signer::Ops, "2099-01-01T00:00:00Z");
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(future)), "{status:#}");
    assert!(status["clock"].is_null(), "{status:#}");
    // What the commit itself claims is judged as git does.
    commit_at(&test_box, "3", Signer::Key(&short), "2099-01-02T00:00:00Z");
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert!(cause(&status).contains("valid until"), "{status:#}");
    commit_at(&test_box, "4", Signer::Key(&short), &from_now(0).to_string());
    let (code, status) = test_box.once();
    assert_eq!((code, test_box.runs("pos").as_deref()), (0, Some("4")), "{status:#}");
    assert_eq!(doctor(&test_box)["state"], "ok");
}

#[test]
fn a_commit_from_the_past_is_taken_and_brings_no_ended_key_back() {
    let test_box = TestBox::converged();
    let ended = allow(&test_box, "ended", "valid-before=\"20260201Z\"");
    let past = commit_at(&test_box, "2", Signer::Ops, "2019-01-01T00:00:00Z");
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(past)), "{status:#}");
    commit_at(&test_box, "3", Signer::Key(&ended), "2026-01-15T00:00:00Z");
    for _ in ["at first", "after a restart"] {
        let (code, status) = test_box.once();
        assert_eq!(code, 2, "{status:#}");
        assert!(cause(&status).contains("valid until 2026-02-01"), "{status:#}");
        assert_eq!(test_box.runs("pos").as_deref(), Some("2"));
    }
}

#[test]
fn a_key_signs_nothing_that_claims_to_be_older_than_the_key() {
    let test_box = TestBox::converged();
    let new = allow(&test_box, "new", "valid-after=\"20260101Z\"");
    commit_at(&test_box, "2", Signer::Key(&new), "2020-01-01T00:00:00Z");
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert!(cause(&status).contains("valid from 2026-01-01"), "{status:#}");
    let unborn = allow(&test_box, "unborn", &format!("valid-after=\"{}\"", from_now(90).strftime("%Y%m%dZ")));
    commit_at(&test_box, "3", Signer::Key(&unborn), &from_now(100).to_string());
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "the time is known, and it isn't that: {status:#}");
    assert!(cause(&status).contains("valid from"), "{status:#}");
    commit_at(&test_box, "4", Signer::Key(&new), &from_now(0).to_string());
    assert_eq!(test_box.once().0, 0);
}

#[cfg(feature = "faults")]
#[test]
fn a_clock_that_is_far_ahead_closes_windows_and_does_no_harm_that_stays() {
    let test_box = TestBox::converged();
    let hour =
        |hours: i64| (Timestamp::now() + SignedDuration::from_hours(hours)).strftime("%H:%M").to_string();
    // By what the clock shows it would be open.
    let windows = format!(
        "spec: {{ policy: {{ windows: {{ apply: [ {{ from: \"{}\", to: \"{}\" }} ] }} }} }}\n",
        hour(-2),
        hour(2)
    );
    let commit = |version: &str| {
        let mut files = pos(version, "");
        files.push(("holdfast.yaml".to_owned(), document("Fleet", "retail", &windows)));
        test_box.commit(&files)
    };
    for (days, shown, state) in
        [(80 * 365, "days after the last proven time", "warn"), (-80 * 365, "or later", "fail")]
    {
        move_clock(&test_box, days, "");
        commit("2");
        let (code, status) = test_box.once();
        assert_eq!(code, 2, "{status:#}");
        let held = of(&status, "pos")["held"]["cause"].as_str().unwrap().to_owned();
        assert!(held.contains("only in the windows") && held.contains("the clock is not trusted"), "{held}");
        assert_eq!(status["clock"]["trusted"], false);
        assert!(status["clock"]["doubt"].as_str().unwrap().contains(shown), "{status:#}");
        assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
        let found = doctor(&test_box);
        assert_eq!(found["state"], state, "{found:#}");
        let text = test_box.holdfast(&["status"]);
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.lines().any(|line| line.starts_with("CLOCK: the clock is not trusted")), "{text}");
    }
    // With the clock put right everything is as if nothing had been.
    move_clock(&test_box, 0, "");
    let applied = commit("3");
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(applied)), "{status:#}");
    assert!(status["clock"].is_null(), "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("3"));
    let anchored = test_box.events();
    let times = anchored.iter().map(|event| event["time"].as_str().unwrap().parse::<Timestamp>().unwrap());
    assert!(times.max().unwrap() <= from_now(1), "nothing was written down with the clock's wrong date");
}

#[cfg(feature = "faults")]
#[test]
fn a_clock_that_jumps_makes_no_data_go_and_neither_does_one_that_is_not_trusted() {
    let test_box = TestBox::converged();
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }\n";
    let mut files = pos("2", "");
    files.push(("apps/pos/manifests/claim.yaml".to_owned(), claim.to_owned()));
    test_box.commit(&files);
    assert_eq!(test_box.once().0, 0);
    test_box.remove("apps/pos/manifests/claim.yaml");
    test_box.commit(&[]);
    let status = test_box.once().1;
    let object = status["orphans"][0]["object"].as_str().unwrap().to_owned();
    let purge = format!(
        "spec:\n  placement: {{}}\n  reason: moved\n  objects: [ {{ app: pos, object: {object} }} ]\n"
    );
    let fleet = |grace: &str| {
        let spec = format!("spec: {{ policy: {{ prune: {{ grace: {grace} }} }} }}\n");
        ("holdfast.yaml".to_owned(), document("Fleet", "retail", &spec))
    };
    test_box.commit(&[("purges/x.yaml".to_owned(), document("Purge", "x", &purge)), fleet("1d")]);
    assert_eq!(test_box.once().1["orphans"][0]["purge"], "x");
    for (days, word) in [(20, ""), (400, "synchronized"), (80 * 365, ""), (0, "stood"), (0, "")] {
        move_clock(&test_box, days, word);
        let status = test_box.once().1;
        assert_eq!(status["orphans"][0]["object"], object, "{days} days, {word}: {status:#}");
    }
    assert_eq!(test_box.count("app.purged"), 0);
    test_box.commit(&[fleet("0s")]);
    assert!(test_box.once().1["orphans"].is_null());
}

#[cfg(feature = "faults")]
#[test]
fn a_clock_that_stood_while_the_box_was_off_is_trusted_once_it_is_synchronized() {
    let test_box = TestBox::converged();
    move_clock(&test_box, 0, "stood");
    let (_, status) = test_box.once();
    assert!(
        status["clock"]["doubt"]
            .as_str()
            .unwrap()
            .contains("has no clock that keeps running while it is off"),
        "{status:#}"
    );
    move_clock(&test_box, 400, "synchronized");
    let (_, status) = test_box.once();
    assert!(status["clock"].is_null(), "{status:#}");
    // That alone is no proof for the time after.
    move_clock(&test_box, 0, "");
    assert!(test_box.once().1["clock"].is_null());
}
