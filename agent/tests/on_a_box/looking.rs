//! What status, plan and events say, with a daemon and without one.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::boxes::{DEVICE, TestBox, fields, of, pos};

/// Wants a status with exactly the fields that are documented.
fn has_every_field(status: &Value) {
    let all = ["agent", "apps", "converged", "device", "held", "revision", "running", "source", "trust"];
    let mut names = fields(status);
    // Once something was accepted; and where somebody asked, not at the end of a pass.
    names.retain(|name| *name != "change" && *name != "runtimes");
    assert_eq!(names, all);
    assert_eq!(fields(&status["source"]), ["error", "lastPoll", "nextPoll", "url"]);
    assert_eq!(fields(&status["revision"]), ["accepted", "applied", "fetched"]);
    for app in status["apps"].as_array().unwrap() {
        let all =
            ["driver", "good", "health", "held", "kind", "name", "phase", "release", "revision", "since"];
        let mut names = fields(app);
        names.retain(|name| *name != "reason");
        assert_eq!(names, all);
        if app["held"].is_object() {
            assert_eq!(fields(&app["held"]), ["cause", "next", "unblock"]);
        }
    }
}

#[test]
fn the_status_of_a_converged_box_has_every_field() {
    let test_box = TestBox::new();
    let commit = test_box.commit(&pos("1", ""));
    let (code, status) = test_box.once();
    assert_eq!(code, 0);
    has_every_field(&status);
    assert_eq!(status["device"], DEVICE);
    assert_eq!(status["trust"], "signed");
    assert_eq!(status["source"]["error"], json!(null));
    let all = json!({ "fetched": commit, "accepted": commit, "applied": commit });
    assert_eq!(status["revision"], all);
    let app = of(&status, "pos");
    assert_eq!(
        (&app["kind"], &app["driver"], &app["phase"], &app["health"], &app["held"]),
        (&json!("container"), &json!("simulated"), &json!("Good"), &json!("Healthy"), &json!(null))
    );
    assert_eq!(app["release"], app["good"]);
    assert!(app["release"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(app["revision"], json!(commit));
}

#[test]
fn the_status_of_a_box_on_which_everything_is_wrong_has_every_field() {
    let test_box = TestBox::converged();
    test_box.commit(&pos("2", "simulated.holdfast.dev/health: unhealthy"));
    let (code, status) = test_box.once();
    assert_eq!(code, 2);
    has_every_field(&status);
    assert!(of(&status, "pos")["held"].is_object());
    test_box.commit_by(&pos("3", ""), crate::support::git_repo::Signer::Nobody);
    let status = test_box.once().1;
    has_every_field(&status);
    assert_eq!(fields(&status["held"][0]), ["cause", "next", "unblock"]);
}

#[test]
fn status_plan_and_events_are_the_same_without_a_daemon() {
    let test_box = TestBox::converged();
    let plan = json!({ "revision": test_box.repo.head(), "steps": [], "held": [] });
    let events = test_box.events();
    assert!(!events.is_empty());
    let (code, offline) = test_box.json(&["status"]);
    assert_eq!((code, &offline["running"]), (0, &json!(false)), "{offline:#}");
    has_every_field(&offline);
    assert_eq!(test_box.json(&["plan"]), (0, plan.clone()));

    let agent = test_box.start();
    let asked = agent.wait("a poll", |status| status["source"]["lastPoll"].is_string());
    assert_eq!(asked["running"], json!(true));
    assert_eq!(of(&asked, "pos"), of(&offline, "pos"));
    assert_eq!(asked["revision"], offline["revision"]);
    assert_eq!(test_box.json(&["plan"]), (0, plan));
    let more = test_box.events();
    assert_eq!(&more[..events.len()], &events[..]);
}

#[test]
fn the_doctor_asks_the_agent_what_it_sees_from_within_its_unit() {
    let test_box = TestBox::converged();
    let sandbox = || {
        let (_, findings) = test_box.json(&["doctor"]);
        findings.as_array().unwrap().iter().find(|finding| finding["check"] == "sandbox").cloned()
    };
    assert_eq!(sandbox(), None, "nobody but the agent knows");
    let agent = test_box.start();
    agent.wait("a poll", |status| status["source"]["lastPoll"].is_string());
    let found = sandbox().unwrap();
    assert!(found["message"].as_str().unwrap().starts_with("the agent: "), "{found}");
}

#[test]
fn looking_without_a_daemon_changes_nothing_that_runs() {
    let test_box = TestBox::converged();
    let changes = test_box.changes();
    std::fs::remove_file(test_box.object("pos")).unwrap();
    let (code, plan) = test_box.json(&["plan"]);
    assert_eq!(code, 0);
    assert_eq!(plan["steps"][0]["action"], "create", "{plan:#}");
    let (_, status) = test_box.json(&["status"]);
    assert_eq!(of(&status, "pos")["health"], "Unhealthy", "{status:#}");
    assert_eq!(test_box.changes(), changes);
    assert_eq!(test_box.runs("pos"), None);
}

#[test]
fn a_plan_says_what_will_be_done_and_then_that_nothing_is_left() {
    let test_box = TestBox::converged();
    let script = test_box.path("runtime/script.json");
    std::fs::write(&script, r#"{"apps":{"pos":{"prepare":"retry"}}}"#).unwrap();
    let agent = test_box.start();
    let commit = test_box.commit(&pos("2", ""));
    agent.signal("HUP");
    let status = agent.wait("pos waits", |status| of(status, "pos")["phase"] == "Preparing");
    assert_eq!(status["converged"], false);
    let (code, plan) = test_box.json(&["plan"]);
    assert_eq!((code, &plan["revision"]), (0, &json!(commit)), "{plan:#}");
    let steps = plan["steps"].as_array().unwrap();
    let changes: Vec<&Value> = steps.iter().filter(|step| step["action"] != "prepare").collect();
    assert_eq!(changes.len(), 1, "{plan:#}");
    assert_eq!(fields(changes[0]), ["action", "app", "driver", "object", "reason"]);
    assert_eq!(changes[0]["object"], "Deployment/pos/pos");
    assert_eq!(changes[0]["action"], "update");
    std::fs::write(&script, "{}").unwrap();
    agent.signal("HUP");
    agent.wait_for(&commit);
    let (code, plan) = test_box.json(&["plan"]);
    assert_eq!((code, plan), (0, json!({ "revision": commit, "steps": [], "held": [] })));
}

#[test]
fn every_event_names_the_hash_of_the_one_before() {
    let test_box = TestBox::converged();
    test_box.commit(&pos("2", "simulated.holdfast.dev/health: unhealthy"));
    test_box.once();
    let events = test_box.events();
    let mut before = json!(format!("sha256:{}", "0".repeat(64)));
    for (event, seq) in events.iter().zip(1..) {
        let all = ["app", "hash", "kind", "message", "prev", "revision", "seq", "time"];
        assert_eq!(fields(event), all);
        assert_eq!(event["seq"], json!(seq));
        assert_eq!(event["prev"], before);
        before = event["hash"].clone();
    }
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    for kind in ["revision.accepted", "app.applied", "app.good", "app.failed", "app.rolledback"] {
        assert!(kinds.contains(&kind), "{kind} is not among {kinds:?}");
    }
    let rolled_back = events.iter().find(|event| event["kind"] == "app.rolledback").unwrap();
    assert_eq!(rolled_back["app"], "pos");

    let (code, verified) = test_box.json(&["events", "verify"]);
    assert_eq!((code, &verified["whole"], &verified["head"]["hash"]), (0, &json!(true), &before));

    let since = test_box.holdfast(&["events", "--json", "--since", &(events.len() - 1).to_string()]);
    assert_eq!(String::from_utf8(since.stdout).unwrap().lines().count(), 1);
}

#[test]
fn events_are_followed_as_they_happen() {
    let test_box = TestBox::converged();
    let agent = test_box.start();
    agent.wait("the first poll", |status| status["source"]["lastPoll"].is_string());
    let mut command = test_box.command(&["events", "--follow", "--json"]);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let commit = test_box.commit(&pos("2", ""));
    agent.signal("HUP");
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let seen: Vec<Value> = events
        .inspect(|event| assert!(event["hash"].is_string()))
        .take_while(|event| event["kind"] != "revision.applied" || event["revision"] != json!(commit))
        .collect();
    assert_eq!(seen, test_box.events()[..seen.len()]);
    assert_eq!(agent.stop(), Some(0));
    assert!(follower.wait().unwrap().code().is_some(), "it ends with the agent");
}

#[test]
fn a_pass_that_ends_before_the_verdict_is_2_and_the_next_one_goes_on() {
    let test_box = TestBox::new();
    test_box.commit(&pos("1", ""));
    std::fs::create_dir(test_box.path("runtime")).unwrap();
    let script = test_box.path("runtime/script.json");
    std::fs::write(&script, r#"{"apps":{"pos":{"health":"never"}}}"#).unwrap();
    let (code, status) = test_box.json(&["run", "--once", "--timeout", "2s", "--log", "error"]);
    assert_eq!((code, &of(&status, "pos")["phase"]), (2, &json!("Judging")), "{status:#}");
    assert_eq!(of(&status, "pos")["health"], "Starting");
    has_every_field(&status);
    std::fs::write(&script, "{}").unwrap();
    let (code, status) = test_box.once();
    assert_eq!((code, &of(&status, "pos")["phase"]), (0, &json!("Good")), "{status:#}");
    assert_eq!(test_box.changes(), 1, "what ran was found again");
}

#[test]
fn a_box_that_never_saw_its_repository_says_so() {
    let test_box = TestBox::new();
    let (code, status) = test_box.json(&["status"]);
    assert_eq!(code, 2, "{status:#}");
    has_every_field(&status);
    assert_eq!(status["revision"], json!({ "fetched": null, "accepted": null, "applied": null }));
    assert_eq!(test_box.json(&["plan"]).1["steps"], json!([]));
}

#[test]
fn an_error_is_1_and_wrong_usage_is_64() {
    let test_box = TestBox::converged();
    assert_eq!(test_box.holdfast(&["run", "--once", "--timeout", "soon"]).status.code(), Some(64));
    assert_eq!(test_box.holdfast(&["stauts"]).status.code(), Some(64));
    std::fs::write(test_box.path("agent.toml"), "[device]\nnmae = \"x\"\n").unwrap();
    for command in [&["run", "--once"][..], &["status"], &["plan"], &["events"]] {
        let output = test_box.holdfast(command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("agent.toml"), "{command:?}: {said}");
    }
}

/// A record of the store, whatever is in it.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Raw(Value);

impl holdfast_store::db::Record for Raw {}

/// Opens the box's store with an audit log of at most so many events, and does something with it.
fn with_store(test_box: &TestBox, work: impl FnOnce(&mut holdfast_store::Store)) {
    let device = DEVICE.parse().unwrap();
    let audit = holdfast_store::AuditBounds { events: 40, bytes: 1 << 20 };
    let options =
        holdfast_store::Options { audit, ..holdfast_store::Options::new(device, jiff::Timestamp::now()) };
    let (mut store, _) = holdfast_store::Store::open(&test_box.path("state"), &options).unwrap();
    work(&mut store);
}

#[test]
fn sealed_events_are_told_and_checked_and_whoever_meddles_with_them_is_found() {
    let test_box = TestBox::converged();
    with_store(&test_box, |store| {
        for n in 0..1000 {
            let draft = holdfast_core::event::Draft::new("test", format!("event {n}"));
            store.append_event(jiff::Timestamp::now(), draft).unwrap();
        }
        store.flush().unwrap();
    });
    let verify = || test_box.json(&["events", "verify"]);
    let (code, offline) = verify();
    assert_eq!((code, &offline["whole"]), (0, &json!(true)), "{offline:#}");
    let segments = offline["segments"].as_array().unwrap();
    assert!((2..=16).contains(&segments.len()), "{offline:#}");
    assert_eq!(segments[0]["first"], 1);
    let all = ["count", "digest", "end", "first", "from", "gaps", "last", "prev", "to"];
    assert_eq!(fields(&segments[0]), all);
    assert_eq!(segments.last().unwrap()["last"].as_u64().unwrap() + 1, offline["oldest"].as_u64().unwrap());
    let text = test_box.holdfast(&["events", "verify"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("sealed: events 1 to ") && text.contains("one unbroken chain"), "{text}");
    let sealed = test_box.events().into_iter().find(|event| event["kind"] == "audit.sealed").unwrap();
    assert!(sealed["seals"].as_str().unwrap().starts_with("sha256:"), "{sealed:#}");

    let agent = test_box.start();
    agent.wait("the first poll", |status| status["source"]["lastPoll"].is_string());
    let (code, asked) = verify();
    assert_eq!((code, &asked["segments"]), (0, &offline["segments"]));
    assert_eq!(agent.stop(), Some(0));

    let mut forged = segments.clone();
    forged[1]["to"] = json!("2026-01-01T00:00:00Z");
    for segments in [forged, segments[1..].to_vec(), segments[..segments.len() - 1].to_vec(), Vec::new()] {
        with_store(&test_box, |store| {
            store.table("events").put(&0u64, &Raw(json!(segments))).unwrap();
        });
        let (code, found) = verify();
        assert_eq!((code, &found["whole"]), (1, &json!(false)), "{found:#}");
    }
    with_store(&test_box, |store| {
        store.table("events").put(&0u64, &Raw(offline["segments"].clone())).unwrap();
    });
    assert_eq!(verify().0, 0, "as it was, it is well again");
}
