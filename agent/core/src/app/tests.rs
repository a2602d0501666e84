//! The machine's transitions, each as a sentence.

use std::collections::BTreeSet;

use super::*;
use crate::clock::BootId;
use crate::digest::{Digest, Revision};
use crate::release::{HealthPolicy, Immutable, OnFailure, Policy, Strategy, WorkloadKind};
use crate::runtime::DriverName;

fn now() -> Now {
    let moment = Moment { boot: BootId("b".into()), uptime: Duration::from_secs(100) };
    Now::certain(Timestamp::UNIX_EPOCH, moment)
}

fn target(name: &str) -> Target {
    Target {
        release: ReleaseId(Digest::of(name.as_bytes())),
        kind: WorkloadKind::Container,
        driver: DriverName::SIMULATED,
        policy: Policy {
            depends_on: BTreeSet::new(),
            health: HealthPolicy::default(),
            on_failure: OnFailure::Rollback,
            strategy: Strategy::StopStart,
            irreversible: false,
            immutable: Immutable::Hold,
            group: None,
        },
        revision: Revision("r".into()),
    }
}

fn judging(name: &str) -> App {
    let mut app = App::placed(&target(name), None, &now());
    app.prepared(&now());
    app.apply(&now());
    app.applied(&now());
    app
}

fn good(name: &str) -> App {
    let mut app = judging(name);
    app.pass(&now());
    app
}

#[test]
fn a_new_app_runs_nothing_until_it_is_applied() {
    let mut app = App::placed(&target("v1"), None, &now());
    app.prepared(&now());
    assert_eq!((app.phase.word(), &app.current), ("Pending", &None));
    app.apply(&now());
    assert_eq!(app.current, Some(target("v1")));
}

#[test]
fn a_good_app_keeps_running_while_its_update_is_prepared() {
    let mut app = good("v1");
    app.place(&target("v2"), None, false, &now());
    assert_eq!((app.phase.word(), app.current.clone()), ("Preparing", Some(target("v1"))));
}

#[test]
fn what_was_good_before_is_good_again_only_once_it_was_seen_to_be() {
    let mut app = good("v1");
    app.place(&target("v2"), None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    // The commit is reverted, and another one comes while that is being put in place.
    app.place(&target("v1"), None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    app.place(&target("v1"), None, false, &now());
    assert_eq!(app.phase.word(), "Applying");
    app.applied(&now());
    app.place(&target("v1"), None, false, &now());
    assert_eq!(app.phase.word(), "Judging");
    app.pass(&now());
    assert_eq!((app.phase.word(), app.good.clone()), ("Good", Some(target("v1"))));
}

#[test]
fn a_failed_update_goes_back_to_the_last_known_good() {
    let mut app = good("v1");
    app.place(&target("v2"), None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    app.applied(&now());
    app.fail("answered 500", false, &now());
    assert_eq!((app.phase.word(), app.current.clone()), ("RollingBack", Some(target("v1"))));
    app.restored(&now());
    assert_eq!(app.phase.word(), "RolledBack");
    app.place(&target("v2"), Some("answered 500"), false, &now());
    assert_eq!(app.phase.word(), "RolledBack", "the same release is not tried again");
    app.place(&target("v3"), None, false, &now());
    assert_eq!(app.phase.word(), "Preparing", "the next one is tried at once");
}

#[test]
fn an_irreversible_update_that_fails_is_held_where_it_is() {
    let mut app = good("v1");
    let mut migration = target("v2");
    migration.policy.irreversible = true;
    app.place(&migration, None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    app.fail("broken", app.stays_after_failure(), &now());
    assert_eq!((app.phase.word(), app.current.clone()), ("Held", Some(migration)));
}

#[test]
fn a_commit_that_takes_a_bad_change_back_ends_as_good_without_a_new_judgement() {
    let mut app = good("v1");
    app.place(&target("v2"), Some("known as bad"), false, &now());
    app.restored(&now());
    app.place(&target("v1"), None, false, &now());
    assert_eq!(app.phase, Phase::Good);
}

#[test]
fn a_commit_that_goes_back_while_the_new_release_is_judged_applies_the_old_one() {
    let mut app = good("v1");
    app.place(&target("v2"), None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    app.place(&target("v1"), None, false, &now());
    assert_eq!((app.phase.word(), app.current.clone()), ("Preparing", Some(target("v2"))));
}

#[test]
fn the_good_one_before_stays_pinned() {
    let mut app = good("v1");
    app.place(&target("v2"), None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    app.applied(&now());
    app.pass(&now());
    let pinned: BTreeSet<_> = app.pinned().collect();
    assert_eq!(pinned, [target("v1").release, target("v2").release].into());
}

#[test]
fn another_policy_is_no_other_release() {
    let mut app = good("v1");
    let mut renewed = target("v1");
    renewed.policy.health.soak = Duration::from_secs(1);
    app.place(&renewed, None, false, &now());
    assert_eq!((app.phase.clone(), app.good.clone()), (Phase::Good, Some(renewed)));
}

#[test]
fn an_app_that_comes_back_while_it_is_removed_is_placed_again() {
    let mut app = good("v1");
    app.withdraw(&now());
    app.place(&target("v1"), None, false, &now());
    assert_eq!(
        (app.phase, app.current),
        (Phase::Preparing, Some(target("v1"))),
        "it is looked at before it counts as good"
    );

    let mut app = good("v1");
    app.withdraw(&now());
    app.place(&target("v2"), None, false, &now());
    assert_eq!(
        (app.phase, app.current),
        (Phase::Preparing, Some(target("v1"))),
        "what it was stays until then"
    );
}

#[test]
fn what_is_begun_is_taken_back_as_far_as_there_is_something_good_to_go_back_to() {
    let mut app = good("v1");
    app.place(&target("v2"), None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    app.take_back(&now());
    assert_eq!((app.phase.clone(), app.current.clone()), (Phase::Pending, Some(target("v1"))));
    assert_eq!(app.target, Some(target("v2")), "the change waits");

    let mut app = good("v1");
    app.withdraw(&now());
    app.take_back(&now());
    assert_eq!((app.phase.clone(), app.current.clone()), (Phase::Good, Some(target("v1"))));

    let mut app = good("v1");
    app.good = None;
    app.withdraw(&now());
    app.take_back(&now());
    assert_eq!(app.phase, Phase::Removing, "nothing of it was ever good");
}

#[test]
fn a_change_that_kills_the_agent_is_set_aside_and_tried_later() {
    let mut app = good("v1");
    app.place(&target("v2"), None, false, &now());
    app.prepared(&now());
    app.apply(&now());
    app.set_aside("the agent died 3 times", 1, Duration::from_secs(60), &now());
    assert_eq!((app.phase.word(), app.current.clone()), ("Pending", Some(target("v1"))));
    assert!(app.waits(&now().moment));
    let reboot = Moment { boot: BootId("next".into()), uptime: Duration::ZERO };
    assert!(!app.waits(&reboot), "a reboot is a new chance");
}

#[test]
fn pauses_grow_and_end_growing() {
    let first = Duration::from_secs(1);
    assert_eq!(pause(first, 1), first);
    assert_eq!(pause(first, 4), Duration::from_secs(8));
    assert_eq!(pause(first, 1000), Duration::from_secs(900));
}

#[test]
fn the_drawing_in_docs_has_exactly_these_phases_and_transitions() {
    let drawing = include_str!("../../../../docs/app-states.md");
    let code = include_str!("mod.rs");
    for phase in [
        "Preparing",
        "Pending",
        "Applying",
        "Judging",
        "Good",
        "RollingBack",
        "RolledBack",
        "Held",
        "Removing",
    ] {
        assert!(drawing.contains(phase), "{phase} is not drawn");
        assert!(code.contains(&format!("Phase::{phase}")), "{phase} is not in the code");
    }
    let drawn: BTreeSet<&str> =
        drawing.lines().filter_map(|line| line.split_once(" : ")).map(|(_, label)| label.trim()).collect();
    let methods: BTreeSet<&str> = code
        .lines()
        .filter_map(|line| line.strip_prefix("    pub fn ")?.split_once("(&mut self"))
        .map(|(name, _)| name)
        .filter(|name| !matches!(*name, "stick" | "stick_until" | "not_yet" | "unstick"))
        .collect();
    assert_eq!(drawn, methods);
}

fn applying() -> App {
    let mut app = App::placed(&target("v1"), None, &now());
    app.prepared(&now());
    app.apply(&now());
    app
}

fn after(seconds: u64) -> Now {
    let mut now = now();
    now.moment.uptime += Duration::from_secs(seconds);
    now
}

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn what_the_runtime_does_not_take_yet_is_tried_again_until_the_deadline_and_at_it() {
    let mut app = applying();
    let (mut at, mut tries) = (0, 0);
    while app.not_yet("the webhook isn't ready", DEADLINE, &after(at)) {
        let retry = app.retry_at().unwrap().uptime.as_secs() - 100;
        assert!(retry > at && retry <= at + 10 && retry <= 60, "{at} {retry}");
        (at, tries) = (retry, tries + 1);
    }
    assert_eq!(at, 60, "the last try is at the deadline");
    assert!(tries > 6, "{tries}");
}

#[test]
fn only_what_is_not_taken_in_a_row_and_in_one_boot_counts_against_the_deadline() {
    let mut app = applying();
    assert!(app.not_yet("the webhook isn't ready", DEADLINE, &after(0)));
    app.stick("the runtime is away", &after(30));
    assert!(app.not_yet("the webhook isn't ready", DEADLINE, &after(90)));
    let text = serde_json::to_string(&app).unwrap();
    let mut app: App = serde_json::from_str(&text).unwrap();
    assert!(
        !app.clone().not_yet("the webhook isn't ready", DEADLINE, &after(150)),
        "a restarted agent counts on"
    );
    let mut other = after(150);
    other.moment.boot = BootId("other".into());
    assert!(app.not_yet("the webhook isn't ready", DEADLINE, &other));
}

#[test]
fn what_is_stuck_says_what_would_unblock_it() {
    let mut app = applying();
    app.stick_until("it can't be changed", "go back to the old value", &now());
    assert_eq!(app.held(&"pos".parse().unwrap()).unwrap().unblock, "go back to the old value");
    app.stick("the runtime is away", &now());
    assert!(app.held(&"pos".parse().unwrap()).unwrap().unblock.contains("nothing to do"));
}
