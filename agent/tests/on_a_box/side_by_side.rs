//! A runtime that takes minutes for one app: everything else goes on. Calls are held by the simulated runtime's script and
//! let go by it, so that nothing here is a question of time.

use std::fs;

use serde_json::Value;

use crate::boxes::{Agent, TestBox, app, document, of};

/// An app with one Deployment that is judged within 2 s.
fn short_lived(name: &str, version: &str, script: &str) -> Vec<(String, String)> {
    let mut files = app(name, version, script);
    files[0].1 = files[0].1.replace("deadline: 1m", "deadline: 2s");
    files
}

fn hold(test_box: &TestBox, calls: &str) {
    let script = format!("{{\"hold\": [{calls}]}}");
    // Whole or not at all: the runtime reads it while it is written.
    fs::write(test_box.path("runtime/script.new"), script).unwrap();
    fs::rename(test_box.path("runtime/script.new"), test_box.path("runtime/script.json")).unwrap();
}

/// How often this call was held up to now, of the app `slow` or of none.
fn held(test_box: &TestBox, call: &str) -> usize {
    let log = fs::read_to_string(test_box.path("runtime/log.jsonl")).unwrap_or_default();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_its = |line: &Value| line["app"] == "slow" || line["app"].is_null();
    lines.filter(|line| line["op"] == "held" && line["outcome"] == call && is_its(line)).count()
}

/// `slow` in this version, with a check by a program in it; with a script it is judged within 2 s.
fn slow(version: &str, script: &str) -> Vec<(String, String)> {
    let make = if script.is_empty() { app } else { short_lived };
    let mut files = make("slow", version, script);
    let check = "{ exec: { target: Deployment/slow/slow, command: [ask], timeout: 1s } }";
    files[0].1 = files[0].1.replace("soak: 200ms", &format!("soak: 200ms, checks: [ {check} ]"));
    files
}

fn accepted(agent: &Agent<'_>, commit: &str) {
    agent.signal("HUP");
    agent.wait("the commit is accepted", |status| status["revision"]["accepted"] == commit);
}

/// `quick` in this version and `ill` in one that fails, with what else there is.
fn others(version: &str) -> Vec<(String, String)> {
    let mut files = app("quick", version, "");
    files.extend(short_lived("ill", version, "simulated.holdfast.dev/health: unhealthy"));
    files
}

/// What there was before a commit: calls that were held, and how often `ill` was taken back.
struct Before {
    call: &'static str,
    held: usize,
    taken_back: usize,
}

impl Before {
    fn now(test_box: &TestBox, call: &'static str) -> Self {
        Before { call, held: held(test_box, call), taken_back: taken_back(test_box, "ill") }
    }
}

fn taken_back(test_box: &TestBox, app: &str) -> usize {
    let events = test_box.events();
    events.iter().filter(|event| event["kind"] == "app.rolledback" && event["app"] == app).count()
}

/// What goes on while a call is held.
fn everything_else_goes_on(test_box: &TestBox, agent: &Agent<'_>, version: &str, before: &Before) {
    agent.wait("a call is held", |_| held(test_box, before.call) > before.held);
    // The change of another app, and the verdict on one that fails.
    agent.wait("quick is good", |status| {
        of(status, "quick")["phase"] == "Good" && test_box.runs("quick").as_deref() == Some(version)
    });
    agent.wait("ill was judged", |_| taken_back(test_box, "ill") > before.taken_back);
    the_box_is_kept_in_order_and_takes_orders(test_box, agent, version);
    // Whoever asks.
    assert!(test_box.events().iter().any(|event| event["kind"] == "app.good" && event["app"] == "quick"));
}

/// What goes on whatever is held, with `quick` in this version.
fn the_box_is_kept_in_order_and_takes_orders(test_box: &TestBox, agent: &Agent<'_>, version: &str) {
    // What is gone of another app is put right.
    fs::remove_file(test_box.object("quick")).unwrap();
    agent.wait("quick is back", |_| test_box.runs("quick").as_deref() == Some(version));
    // An emergency stop, and the end of it.
    let stop = document("Stop", "freeze", "spec: { placement: {}, reason: a recall }\n");
    let commit = test_box.commit(&[("stops/freeze.yaml".to_owned(), stop)]);
    accepted(agent, &commit);
    agent.wait("the stop counts", |status| status["held"].to_string().contains("a recall"));
    test_box.remove("stops/freeze.yaml");
    let commit = test_box.commit(&[]);
    accepted(agent, &commit);
    agent.wait("the stop is over", |status| !status["held"].to_string().contains("a recall"));
}

/// A box on which all three run in version 0.
fn with_three_apps() -> (TestBox, String) {
    let test_box = TestBox::new();
    let mut files = slow("0", "");
    files.extend(app("quick", "0", ""));
    files.extend(short_lived("ill", "0", ""));
    let commit = test_box.commit(&files);
    (test_box, commit)
}

#[test]
fn a_call_that_takes_minutes_for_one_app_holds_up_nothing_of_the_others_no_poll_no_stop_and_nobody_who_asks()
{
    let (test_box, commit) = with_three_apps();
    let agent = test_box.start();
    agent.wait_for(&commit);

    for (version, call) in ["prepare", "observe", "apply", "probe", "exec"].into_iter().enumerate() {
        let version = format!("{}", version + 1);
        let before = Before::now(&test_box, call);
        hold(&test_box, &format!("\"slow:{call}\""));
        let mut files = others(&version);
        files.extend(slow(&version, ""));
        test_box.commit(&files);
        agent.signal("HUP");
        everything_else_goes_on(&test_box, &agent, &version, &before);
        let status = test_box.status();
        let has_run = test_box.runs("slow").as_deref() == Some(&version);
        assert!(of(&status, "slow")["phase"] != "Good" || !has_run, "{call} is held: {status:#}");
        hold(&test_box, "");
        agent.signal("HUP");
        agent.wait("slow is good", |status| {
            of(status, "slow")["phase"] == "Good" && test_box.runs("slow").as_deref() == Some(&version)
        });
    }

    // While the log of one that failed is asked for, before it is taken back.
    let before = Before::now(&test_box, "logs");
    hold(&test_box, "\"slow:logs\"");
    let mut files = others("8");
    files.extend(slow("8", "simulated.holdfast.dev/health: unhealthy"));
    test_box.commit(&files);
    agent.signal("HUP");
    everything_else_goes_on(&test_box, &agent, "8", &before);
    hold(&test_box, "");
    agent.wait("slow is taken back", |status| {
        of(status, "slow")["phase"] == "RolledBack" && test_box.runs("slow").as_deref() == Some("5")
    });

    // And while it is removed.
    let before = Before::now(&test_box, "apply");
    hold(&test_box, "\"slow:apply\"");
    test_box.remove("apps/slow");
    test_box.commit(&others("9"));
    agent.signal("HUP");
    everything_else_goes_on(&test_box, &agent, "9", &before);
    assert_eq!(of(&test_box.status(), "slow")["phase"], "Removing");
    hold(&test_box, "");
    agent.signal("HUP");
    agent.wait("slow is gone", |status| of(status, "slow").is_null() && test_box.runs("slow").is_none());
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_runtime_that_takes_minutes_to_list_its_apps_holds_up_nothing() {
    let (test_box, commit) = with_three_apps();
    let agent = test_box.start();
    agent.wait_for(&commit);
    assert_eq!(agent.stop(), Some(0));

    // Who starts looks for apps that it doesn't know of.
    let before = Before::now(&test_box, "apps");
    hold(&test_box, "\"*:apps\"");
    let agent = test_box.start();
    test_box.commit(&others("1"));
    agent.signal("HUP");
    everything_else_goes_on(&test_box, &agent, "1", &before);
    assert_eq!(test_box.status()["converged"], false, "nobody knows yet what else is here");
    hold(&test_box, "");
    let commit = test_box.commit(&app("ill", "2", ""));
    agent.signal("HUP");
    agent.wait_for(&commit);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_runtime_that_takes_minutes_to_tidy_up_is_brought_nothing_new_and_holds_up_nothing_else() {
    let (test_box, commit) = with_three_apps();
    let agent = test_box.start();
    agent.wait_for(&commit);
    assert_eq!(agent.stop(), Some(0));

    let before = held(&test_box, "collect");
    hold(&test_box, "\"*:collect\"");
    let agent = test_box.start();
    agent.wait("a call is held", |_| held(&test_box, "collect") > before);
    the_box_is_kept_in_order_and_takes_orders(&test_box, &agent, "0");
    let commit = test_box.commit(&app("quick", "1", ""));
    accepted(&agent, &commit);
    the_box_is_kept_in_order_and_takes_orders(&test_box, &agent, "0");
    hold(&test_box, "");
    agent.wait("the change came", |_| test_box.runs("quick").as_deref() == Some("1"));
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn an_agent_that_is_told_to_stop_while_a_call_is_held_stops_and_goes_on_with_the_change_when_it_starts() {
    let test_box = TestBox::new();
    let commit = test_box.commit(&app("slow", "1", ""));
    let agent = test_box.start();
    agent.wait_for(&commit);
    hold(&test_box, "\"slow:apply\"");
    let commit = test_box.commit(&app("slow", "2", ""));
    agent.signal("HUP");
    agent.wait("a call is held", |_| held(&test_box, "apply") > 0);
    // More often than an agent may die under a change.
    let mut agent = Some(agent);
    for _ in 0..4 {
        assert_eq!(agent.take().unwrap().stop(), Some(0));
        let before = held(&test_box, "apply");
        let again = test_box.start();
        again.wait("a call is held again", |_| held(&test_box, "apply") > before);
        agent = Some(again);
    }
    hold(&test_box, "");
    agent.unwrap().wait_for(&commit);
    assert_eq!(test_box.count("app.setaside"), 0);
    assert_eq!(test_box.runs("slow").as_deref(), Some("2"));
}

#[cfg(feature = "wasm")]
#[test]
fn what_is_killed_on_one_runtime_is_back_while_the_other_answers_nothing() {
    use crate::support::agent_box::{AgentBox, Kind};
    use crate::support::ports::free_port;

    let mut agent_box = AgentBox::new();
    agent_box.write_app("slow", &[], 1, Kind::Good);
    agent_box.write_wasm_app("web", free_port());
    let commit = agent_box.commit();
    agent_box.start(&[]);
    agent_box.wait_converged(&commit);
    fs::write(agent_box.dir().join("sim/script.json"), "{\"hold\": [\"*:*\"]}").unwrap();
    agent_box.end_workloads();
    agent_box.wait_until("brought back", |agent_box, status| {
        let web = crate::support::agent_box::app(status, "web");
        agent_box.processes().len() > 1 && web.is_some_and(|web| web.health == "Healthy")
    });
    fs::write(agent_box.dir().join("sim/script.json"), "{}").unwrap();
    agent_box.stop();
}
