use super::*;
use crate::digest::Digest;
use crate::network::BudgetPeriod;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn app(name: &str) -> AppStatus {
    let release = Some(ReleaseId(Digest::of(b"1")));
    AppStatus {
        name: name.parse().unwrap(),
        kind: Some(WorkloadKind::Container),
        driver: Some(DriverName::PODMAN),
        phase: "Good".to_owned(),
        health: "Healthy".to_owned(),
        reason: None,
        release,
        good: release,
        revision: Some(Revision("8f3c2a1b9d8e7f60".to_owned())),
        since: Some(at("2026-11-21T08:57:00Z")),
        held: None,
    }
}

fn status() -> Status {
    Status {
        device: "emea/de/store-0042/till-1".parse().unwrap(),
        agent: "0.1.0".to_owned(),
        running: true,
        trust: "signed".to_owned(),
        converged: true,
        source: SourceStatus {
            url: "https://git.example/retail/edge.git".to_owned(),
            last_poll: Some(at("2026-11-21T09:00:00Z")),
            next_poll: Some(at("2026-11-21T09:05:00Z")),
            error: None,
        },
        revision: RevisionStatus::default(),
        change: Some(ChangeStatus {
            subject: "pos: raise the price of tea".to_owned(),
            author: "Ada Lovelace".to_owned(),
            signer: Some("ops@retail.example".to_owned()),
        }),
        clock: None,
        runtimes: Vec::new(),
        apps: vec![app("db"), app("pos")],
        orphans: Vec::new(),
        held: vec![],
        downloads: None,
    }
}

fn held(cause: &str) -> Held {
    Held::until_changed(cause, "commit a fix to apps/pos")
}

#[test]
fn a_clock_that_is_not_trusted_is_said_before_what_is_held_with_what_to_do() {
    let shown = at("2099-01-01T00:00:00Z");
    let doubt = crate::clock::Doubt {
        shown,
        proven: at("2026-11-21T09:00:00Z"),
        why: crate::clock::Suspicion::Ahead,
    };
    let status = Status { clock: ClockStatus::of(&Time::Unknown(doubt)), ..status() };
    let text = status.render(at("2026-11-21T09:00:00Z"));
    assert!(
        text.lines().nth(1).unwrap().starts_with("CLOCK: the clock is not trusted: it shows 2099"),
        "{text}"
    );
    assert!(text.lines().nth(2).unwrap().contains("timedatectl"), "{text}");
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["clock"]["trusted"], false);
}

#[test]
fn the_names_in_status_json_are_those_that_scripts_use() {
    let json = serde_json::to_value(status()).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let sorted = |mut keys: Vec<String>| {
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(sorted(keys(&json)), "agent apps change converged device held revision running source trust");
    assert_eq!(sorted(keys(&json["source"])), "error lastPoll nextPoll url");
    assert_eq!(sorted(keys(&json["revision"])), "accepted applied fetched");
    assert_eq!(sorted(keys(&json["change"])), "author signer subject");
    assert_eq!(
        sorted(keys(&json["apps"][0])),
        "driver good health held kind name phase release revision since"
    );
    assert_eq!(json["source"]["lastPoll"], "2026-11-21T09:00:00Z");
    assert_eq!(json["apps"][0]["kind"], "container");
    assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status());
}

#[test]
fn the_accepted_revision_is_told_by_what_people_know_it_by() {
    let text = status().render(at("2026-11-21T09:00:00Z"));
    let said = "accepted  -\n          \"pos: raise the price of tea\" by \"Ada Lovelace\", signed by ops@retail.example\n";
    assert!(text.contains(said), "{text}");
}

#[test]
fn the_names_in_plan_json_are_those_that_scripts_use() {
    let plan = PlanReport {
        orphans: Vec::new(),
        revision: Some(Revision("8f3c".to_owned())),
        steps: vec![StepReport {
            app: "pos".parse().unwrap(),
            driver: DriverName::PODMAN,
            action: Action::Create,
            object: ObjectKey::new("Pod", "pos"),
            reason: "it is absent".to_owned(),
        }],
        held: vec![HeldReport { app: Some("db".parse().unwrap()), held: held("x") }],
    };
    let json = serde_json::to_value(&plan).unwrap();
    let step = serde_json::json!({"app": "pos", "driver": "podman", "action": "create", "object": "Pod/pos", "reason": "it is absent"});
    assert_eq!(json["steps"][0], step);
    assert_eq!(json["held"][0]["cause"], "x");
    assert_eq!(serde_json::from_value::<PlanReport>(json).unwrap(), plan);
}

#[test]
fn what_is_held_comes_first_with_cause_next_attempt_and_way_out() {
    let mut status = status();
    status.converged = false;
    status.apps[1].held =
        Some(Held { next: Some(at("2026-11-21T09:10:00Z")), ..held("the image is missing") });
    let text = status.render(at("2026-11-21T09:00:00Z"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "emea/de/store-0042/till-1: NOT CONVERGED   (holdfast 0.1.0, trust signed)");
    assert_eq!(lines[1], "HELD pos: the image is missing");
    assert_eq!(lines[2], "    next: tries again in 10 min");
    assert_eq!(lines[3], "    to unblock: commit a fix to apps/pos");
}

#[test]
fn a_box_that_trusts_everything_says_so() {
    let status = Status { trust: "none".to_owned(), ..status() };
    assert!(status.render(at("2026-11-21T09:00:00Z")).lines().nth(1).unwrap().starts_with("UNSIGNED"));
}

#[test]
fn a_table_of_apps_lines_up() {
    let text = status().render(at("2026-11-21T09:00:00Z"));
    let lines: Vec<&str> = text.lines().skip(2).take(3).collect();
    assert!(lines[0].starts_with("APP  PHASE  HEALTH   DRIVER"), "{text}");
    assert_eq!(lines[0].find("SINCE"), lines[2].find("3 min ago"), "{text}");
}

#[test]
fn no_message_can_reach_the_terminal() {
    let mut status = status();
    status.apps[0].held = Some(held("\u{1b}[2Jgone\r\nHELD nothing \u{202e}"));
    status.source.error = Some("\u{9b}31m".to_owned());
    let text = status.render(at("2026-11-21T09:00:00Z"));
    assert!(!text.contains(['\u{1b}', '\r', '\u{9b}', '\u{202e}']));
    assert_eq!(text.lines().filter(|line| line.starts_with("HELD")).count(), 1);
}

#[test]
fn an_event_is_one_line_whatever_it_quotes() {
    use crate::event::{Draft, Event};
    let draft = Draft::new("app.rolledback", "answered 500\n\u{1b}[2J").app(&"pos".parse().unwrap());
    let text = Event::after(None, at("2026-11-21T09:00:00Z"), draft).render();
    assert_eq!(text, "2026-11-21T09:00:00Z  app.rolledback     pos: answered 500 \u{fffd}[2J");
}

#[test]
fn an_empty_plan_says_that_there_is_nothing_to_do() {
    assert!(PlanReport::default().render(at("2026-11-21T09:00:00Z")).starts_with("Nothing to do"));
}

#[test]
fn times_are_told_in_words_whatever_the_clock_does() {
    let now = at("2026-11-21T09:00:00Z");
    for (time, words) in [
        ("2026-11-21T09:00:00Z", "now"),
        ("2026-11-21T08:59:01Z", "59 s ago"),
        ("2026-11-21T09:05:00Z", "in 5 min"),
        ("1970-01-01T00:00:00Z", "20778 days ago"),
    ] {
        assert_eq!(super::text::relative(at(time), now), words);
    }
}

#[test]
fn a_metered_link_shows_what_was_used_of_it() {
    let budget = BudgetStatus {
        bytes: 500 << 20,
        per: BudgetPeriod::Month,
        used: 3 << 20,
        next: at("2026-12-01T00:00:00Z"),
    };
    let downloads = Some(DownloadStatus { rate: Some(64 << 10), budget: Some(budget), urgent: false });
    let text = Status { downloads, ..status() }.render(at("2026-11-21T09:00:00Z"));
    assert!(text.contains("3 MiB of 500 MiB used this month"), "{text}");
    assert!(text.contains("at most 64 KiB a second"), "{text}");
    assert!(!status().render(at("2026-11-21T09:00:00Z")).contains("downloads"));
}

#[test]
fn a_box_that_runs_what_it_should_and_where_that_is_ill_says_both() {
    let mut status = status();
    status.apps[1].health = "Unhealthy".to_owned();
    let text = status.render(at("2026-11-21T09:00:00Z"));
    assert!(text.starts_with("emea/de/store-0042/till-1: converged, but NOT HEALTHY: pos   ("), "{text}");
    assert_eq!(status.ill().count(), 1);
}

#[test]
fn that_no_agent_runs_is_said_before_anything_else() {
    let status = Status { running: false, ..status() };
    let text = status.render(at("2026-11-21T09:01:00Z"));
    assert!(text.lines().nth(1).unwrap().starts_with("NOT RUNNING"), "{text}");
    assert!(text.contains("next once the agent is running"), "{text}");
    // What an older agent says has no such word: it answered, so it runs.
    let mut json = serde_json::to_value(&status).unwrap();
    json.as_object_mut().unwrap().remove("running");
    assert!(serde_json::from_value::<Status>(json).unwrap().running);
}
