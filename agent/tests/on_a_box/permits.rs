//! When a box may be changed: windows, gates, what is urgent, and the stop. None of them keeps it from holding what it
//! has.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::boxes::{TestBox, document, of, pos};

/// The Fleet document with this policy.
fn policy(policy: &str) -> (String, String) {
    (
        "holdfast.yaml".to_owned(),
        document("Fleet", "retail", &format!("spec: {{ policy: {{ {policy} }} }}\n")),
    )
}

/// A time of day in UTC, so many hours from now.
fn hours_from_now(hours: i64) -> String {
    let at = Timestamp::now() + SignedDuration::from_hours(hours);
    at.strftime("%H:%M").to_string()
}

/// `pos` in another version, with this policy; gives the status that the box comes to rest with.
fn update(test_box: &TestBox, version: &str, fleet: &str) -> Value {
    let mut files = pos(version, "");
    files.push(policy(fleet));
    test_box.commit(&files);
    test_box.once().1
}

fn held(status: &Value) -> &str {
    of(status, "pos")["held"]["cause"].as_str().unwrap_or("")
}

#[test]
fn a_change_outside_of_its_window_waits_with_the_time_of_the_next_and_what_runs_is_kept() {
    let test_box = TestBox::converged();
    let (from, to) = (hours_from_now(3), hours_from_now(5));
    let closed = format!("windows: {{ apply: [ {{ from: \"{from}\", to: \"{to}\" }} ] }}");
    let status = update(&test_box, "2", &closed);
    assert!(held(&status).contains(&format!("only in the windows {from}-{to} UTC")), "{status:#}");
    assert_eq!(of(&status, "pos")["phase"], "Pending");
    let next: Timestamp = of(&status, "pos")["held"]["next"].as_str().unwrap().parse().unwrap();
    assert_eq!(next.strftime("%H:%M").to_string(), from);
    let (code, plan) = test_box.json(&["plan"]);
    assert_eq!((code, plan["steps"].as_array().map(Vec::len)), (0, Some(1)), "{plan:#}");

    // What somebody changes by hand doesn't wait for a window.
    fs::remove_file(test_box.object("pos")).unwrap();
    test_box.once();
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));

    let urgent = format!("{closed}, urgent: \"a hole in the till\"");
    let status = update(&test_box, "2", &urgent);
    assert_eq!(of(&status, "pos")["phase"], "Good", "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"));
}

#[test]
fn nothing_is_downloaded_or_removed_outside_of_the_windows_for_that() {
    let test_box = TestBox::converged();
    let (from, to) = (hours_from_now(3), hours_from_now(5));
    let status =
        update(&test_box, "2", &format!("windows: {{ download: [ {{ from: \"{from}\", to: \"{to}\" }} ] }}"));
    assert_eq!(of(&status, "pos")["phase"], "Preparing", "{status:#}");
    assert!(held(&status).contains("downloads for a change are allowed only in the windows"), "{status:#}");

    test_box.remove("apps/pos");
    test_box.commit(&[policy(&format!("windows: {{ apply: [ {{ from: \"{from}\", to: \"{to}\" }} ] }}"))]);
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    assert!(held(&status).contains("changes are applied only in"), "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    test_box.commit(&[policy("")]);
    assert_eq!(test_box.once().0, 0);
    assert_eq!(test_box.runs("pos"), None);
}

#[test]
fn within_its_window_a_change_is_made() {
    let test_box = TestBox::converged();
    let window = format!("{{ from: \"{}\", to: \"{}\" }}", hours_from_now(-1), hours_from_now(2));
    let status =
        update(&test_box, "2", &format!("windows: {{ apply: [ {window} ], download: [ {window} ] }}"));
    assert_eq!(of(&status, "pos")["phase"], "Good", "{status:#}");
}

#[test]
fn a_box_on_which_nothing_was_ever_good_takes_its_first_apps_at_once() {
    let test_box = TestBox::new();
    let (from, to) = (hours_from_now(3), hours_from_now(5));
    let status =
        update(&test_box, "1", &format!("windows: {{ apply: [ {{ from: \"{from}\", to: \"{to}\" }} ] }}"));
    assert_eq!(of(&status, "pos")["phase"], "Good", "{status:#}");
}

#[test]
fn a_change_waits_while_the_box_is_in_use_and_is_made_when_it_is_free() {
    let test_box = TestBox::converged();
    let sale = test_box.path("open-sale");
    fs::write(&sale, "").unwrap();
    let gates = format!(
        "gates: [ {{ name: idle, command: {{ run: [ /bin/true ] }} }}, \
         {{ name: open-sale, file: {{ path: {} }} }} ]",
        sale.display()
    );
    let status = update(&test_box, "2", &gates);
    assert_eq!(of(&status, "pos")["phase"], "Pending", "{status:#}");
    assert!(held(&status).contains("the gate open-sale"), "{status:#}");
    let agent = test_box.start();
    let status = agent.wait("the gate", |status| held(status).contains("the gate open-sale"));
    assert!(held(&status).contains("exists"), "{status:#}");
    assert!(of(&status, "pos")["held"]["next"].is_string());
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    fs::remove_file(&sale).unwrap();
    agent.wait("the change", |_| test_box.runs("pos").as_deref() == Some("2"));
}

#[test]
fn a_gate_that_cannot_be_asked_holds_a_change_and_what_is_urgent_goes_through() {
    let test_box = TestBox::converged();
    let gates = "gates: [ { name: motion, command: { run: [ /no/such/program ] } } ]";
    let mut files = pos("2", "");
    files.push(policy(gates));
    test_box.commit(&files);
    let agent = test_box.start();
    agent.wait("the gate", |status| held(status).contains("/no/such/program could not be started"));
    let commit = test_box.commit(&[policy(&format!("{gates}, urgent: \"CVE\""))]);
    agent.signal("HUP");
    agent.wait_for(&commit);
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"));
}

#[test]
fn a_stop_holds_the_boxes_that_it_is_for_at_what_runs_until_it_is_taken_back() {
    let test_box = TestBox::converged();
    let stop = |name: &str, placement: &str| {
        let text = format!("spec: {{ placement: {placement}, reason: \"black friday\" }}\n");
        (format!("stops/{name}.yaml"), document("Stop", name, &text))
    };
    let mut files = pos("2", "");
    files.push(stop("others", "{ matchLabels: { tier: lab } }"));
    test_box.commit(&files);
    assert_eq!(test_box.once().0, 0);
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"), "a stop for others holds nothing here");

    let mut files = pos("3", "");
    files.extend([stop("all", "{}"), policy("urgent: \"CVE\"")]);
    test_box.commit(&files);
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    assert!(held(&status).contains("stopped by stops/all.yaml: black friday"), "{status:#}");
    assert!(of(&status, "pos")["held"]["unblock"].as_str().unwrap().contains("remove stops/all.yaml"));
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"));

    fs::remove_file(test_box.object("pos")).unwrap();
    test_box.once();
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"), "what runs is kept");

    test_box.remove("stops/all.yaml");
    test_box.commit(&[]);
    assert_eq!(test_box.once().0, 0);
    assert_eq!(test_box.runs("pos").as_deref(), Some("3"));
}

#[test]
fn a_stop_that_cannot_be_read_holds_the_revision() {
    let test_box = TestBox::converged();
    let mut files = pos("2", "");
    files.push(("stops/x.yaml".to_owned(), document("Stop", "x", "spec: { placement: {} }\n")));
    test_box.commit(&files);
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    assert!(status["held"][0]["cause"].as_str().unwrap().contains("stops/x.yaml:4:"), "{status:#}");
    assert_eq!(of(&status, "pos")["phase"], json!("Good"));
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
}
