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

/// How many calls of the app `slow` were held up to now.
fn held(test_box: &TestBox) -> usize {
    let log = fs::read_to_string(test_box.path("runtime/log.jsonl")).unwrap_or_default();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["op"] == "held" && line["app"] == "slow").count()
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

/// What there was before a commit: calls of `slow` that were held, and apps that were taken back.
struct Before {
    held: usize,
    taken_back: usize,
}

impl Before {
    fn now(test_box: &TestBox) -> Self {
        Before { held: held(test_box), taken_back: test_box.count("app.rolledback") }
    }
}

/// What goes on while a call of `slow` is held.
fn everything_else_goes_on(test_box: &TestBox, agent: &Agent<'_>, version: &str, before: &Before) {
    agent.wait("a call is held", |_| held(test_box) > before.held);
    // The change of another app, and the verdict on one that fails.
    agent.wait("quick is good", |status| {
        of(status, "quick")["phase"] == "Good" && test_box.runs("quick").as_deref() == Some(version)
    });
    agent.wait("ill was judged", |_| test_box.count("app.rolledback") > before.taken_back);
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
    // Whoever asks.
    assert!(test_box.events().iter().any(|event| event["kind"] == "app.good" && event["app"] == "quick"));
}

#[test]
fn a_call_that_takes_minutes_for_one_app_holds_up_nothing_of_the_others_no_poll_no_stop_and_nobody_who_asks()
{
    let test_box = TestBox::new();
    let mut files = app("slow", "0", "");
    files.extend(app("quick", "0", ""));
    files.extend(short_lived("ill", "0", ""));
    let commit = test_box.commit(&files);
    let agent = test_box.start();
    agent.wait_for(&commit);

    for (version, call) in ["prepare", "observe", "apply", "probe"].into_iter().enumerate() {
        let version = format!("{}", version + 1);
        let before = Before::now(&test_box);
        hold(&test_box, &format!("\"slow:{call}\""));
        let mut files = others(&version);
        files.extend(app("slow", &version, ""));
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

    // And while it is removed.
    let before = Before::now(&test_box);
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
fn an_agent_that_is_told_to_stop_while_a_call_is_held_stops_and_goes_on_with_the_change_when_it_starts() {
    let test_box = TestBox::new();
    let commit = test_box.commit(&app("slow", "1", ""));
    let agent = test_box.start();
    agent.wait_for(&commit);
    hold(&test_box, "\"slow:apply\"");
    let commit = test_box.commit(&app("slow", "2", ""));
    agent.signal("HUP");
    agent.wait("a call is held", |_| held(&test_box) > 0);
    // More often than an agent may die under a change.
    let mut agent = Some(agent);
    for _ in 0..4 {
        assert_eq!(agent.take().unwrap().stop(), Some(0));
        let before = held(&test_box);
        let again = test_box.start();
        again.wait("a call is held again", |_| held(&test_box) > before);
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
