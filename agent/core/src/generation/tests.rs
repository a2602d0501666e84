//! What a revision makes of the apps, each as a sentence.

use std::sync::Arc;

use super::handover::{Claims, Releases};
use super::*;
use crate::release::{Release, Target};
use crate::testing::{ALL, good, name, now, release, resolved, target};

fn handovers_of(apps: &Apps, resolved: &Resolved, releases: &Releases, inventory: &Inventory) -> Handovers {
    Handovers::of(Claims { apps, releases, inventory, newest: None, runtimes: &ALL, holders: None }, resolved)
}

fn apps(names: &[&str]) -> Apps {
    names.iter().map(|app| (name(app), good(&target(&release(app, "1", &["Pod/x"]), &[])))).collect()
}

#[test]
fn a_revision_without_a_change_changes_nothing() {
    let mut held = apps(&["a", "b"]);
    let (a, b) = (target(&release("a", "1", &["Pod/x"]), &[]), target(&release("b", "1", &["Pod/x"]), &[]));
    let advance = advance(
        &mut held,
        &resolved(&[("a", &a), ("b", &b)]),
        &Failed::new(),
        None,
        false,
        &Handovers::default(),
        &now(),
    );
    assert_eq!(advance, Advance::default());
}

#[test]
fn one_app_that_is_no_longer_there_is_withdrawn() {
    let mut held = apps(&["a", "b"]);
    let a = target(&release("a", "1", &["Pod/x"]), &[]);
    advance(&mut held, &resolved(&[("a", &a)]), &Failed::new(), None, false, &Handovers::default(), &now());
    assert_eq!(held[&name("b")].phase, Phase::Removing);
}

#[test]
fn while_changes_are_withheld_nothing_is_withdrawn() {
    let mut held = apps(&["a", "b"]);
    let a = target(&release("a", "1", &["Pod/x"]), &[]);
    let closed = Held::until_changed("the window is closed", "wait");
    let advance = advance(
        &mut held,
        &resolved(&[("a", &a)]),
        &Failed::new(),
        Some(&closed),
        true,
        &Handovers::default(),
        &now(),
    );
    assert_eq!(held[&name("b")].phase, Phase::Good);
    assert_eq!((advance.kept, advance.withheld), ([(name("b"), closed)].into(), true));
}

#[test]
fn what_is_being_judged_gets_its_verdict_before_a_successor_that_may_have_to_wait() {
    let (ill, next) =
        (target(&release("a", "2", &["Pod/x"]), &[]), target(&release("a", "3", &["Pod/x"]), &[]));
    let mut held = apps(&["a"]);
    let mut go_to = |target: &Target, defers: bool| {
        advance(
            &mut held,
            &resolved(&[("a", target)]),
            &Failed::new(),
            None,
            defers,
            &Handovers::default(),
            &now(),
        );
        let app = held.get_mut(&name("a")).unwrap();
        app.prepared(&now());
        app.apply(&now());
        app.applied(&now());
        app.target.as_ref().unwrap().release
    };
    assert_eq!(go_to(&ill, false), ill.release);
    assert_eq!(go_to(&next, true), ill.release);
    assert_eq!(go_to(&next, false), next.release);
}

#[test]
fn an_app_is_shaken_while_what_it_depends_on_is_changed() {
    let db = target(&release("db", "2", &["Pod/db"]), &[]);
    let pos = good(&target(&release("pos", "1", &["Pod/pos"]), &["db"]));
    let mut held = apps(&["db"]);
    let shaken = |held: &Apps| shaken_by(&pos, held).is_some();
    assert!(!shaken(&held));
    advance(&mut held, &resolved(&[("db", &db)]), &Failed::new(), None, false, &Handovers::default(), &now());
    let mut change = |change: fn(&mut App)| {
        change(held.get_mut(&name("db")).unwrap());
        shaken(&held)
    };
    assert!(!change(|db| db.prepared(&now())), "nothing of it was touched yet");
    assert!(change(|db| db.apply(&now())));
    assert!(change(|db| db.applied(&now())));
    assert!(change(|db| db.fail("answered 500", false, &now())));
    assert!(!change(|db| db.restored(&now())));
}

fn failure(judged_by: Option<JudgedBy>) -> Failure {
    Failure { reason: "answered 500".to_owned(), judged_by }
}

#[test]
fn a_release_that_failed_by_a_wrong_check_is_tried_again_with_another() {
    let bad = target(&release("a", "2", &["Pod/x"]), &[]);
    let failed = |by| Failed::from([(name("a"), [(bad.release, failure(by))].into())]);
    let mut other = bad.clone();
    other.policy.health.deadline *= 2;
    let tried = |failed: &Failed, target: &Target| {
        let mut held = apps(&["a"]);
        advance(&mut held, &resolved(&[("a", target)]), failed, None, false, &Handovers::default(), &now());
        held[&name("a")].phase == Phase::Preparing
    };
    let judged = failed(Some(bad.policy.health.mark()));
    assert!(!tried(&judged, &bad) && tried(&judged, &other));
    assert!(!tried(&failed(None), &other), "the runtime refused it whatever the policy");
}

#[test]
fn an_empty_tree_removes_nothing_and_says_why() {
    let mut held = apps(&["a", "b", "c", "d"]);
    let advance =
        advance(&mut held, &resolved(&[]), &Failed::new(), None, false, &Handovers::default(), &now());
    assert_eq!(advance.kept.len(), 4);
    assert!(held.values().all(|app| app.phase == Phase::Good));
}

#[test]
fn an_app_with_faulty_documents_stays_as_it_is() {
    let mut held = apps(&["a"]);
    let mut faulty = resolved(&[]);
    faulty.held.insert(name("a"), Held::until_changed("app.yaml:1:1: unknown field", "fix it"));
    advance(&mut held, &faulty, &Failed::new(), None, false, &Handovers::default(), &now());
    assert_eq!(held[&name("a")].phase, Phase::Good);
}

#[test]
fn a_release_that_failed_on_this_box_is_not_tried_again_after_the_store_was_lost() {
    let bad = target(&release("a", "2", &["Pod/x"]), &[]);
    let failed = Failed::from([(name("a"), [(bad.release, failure(None))].into())]);
    let mut held = Apps::new();
    advance(&mut held, &resolved(&[("a", &bad)]), &failed, None, false, &Handovers::default(), &now());
    assert_eq!(held[&name("a")].phase, Phase::RollingBack { reason: "answered 500".into() });
    assert_eq!(held[&name("a")].current, None);
}

#[test]
fn a_way_back_that_cannot_end_makes_room_for_what_is_new_once_that_may_be_changed() {
    let first = target(&release("a", "1", &["Pod/x"]), &[]);
    let [bad, fixed] = ["2", "3"].map(|version| target(&release("a", version, &["Pod/x"]), &[]));
    let failed = Failed::from([(name("a"), [(bad.release, failure(None))].into())]);
    let mut held = Apps::from([(name("a"), good(&first))]);
    let wants = |held: &mut Apps, target: &Target, defers: bool| {
        advance(held, &resolved(&[("a", target)]), &failed, None, defers, &Handovers::default(), &now());
        (held[&name("a")].phase.word(), held[&name("a")].target.as_ref().map(|target| target.release))
    };
    let app = held.get_mut(&name("a")).unwrap();
    *app = App { target: Some(bad.clone()), ..app.clone() };
    app.phase = Phase::RollingBack { reason: "answered 500".into() };
    for attempt in 1..=3 {
        assert_eq!(wants(&mut held, &fixed, false), ("RollingBack", Some(bad.release)), "attempt {attempt}");
        held.get_mut(&name("a")).unwrap().stick("cannot listen: address in use", &now());
    }
    assert_eq!(wants(&mut held, &bad, false), ("RollingBack", Some(bad.release)), "nothing is new");
    assert_eq!(wants(&mut held, &fixed, true), ("RollingBack", Some(bad.release)), "nothing may be changed");
    assert_eq!(wants(&mut held, &fixed, false), ("Preparing", Some(fixed.release)));
    // Until its turn has come, and should it fail, the box goes on trying to have what was good.
    assert_eq!(held[&name("a")].current.as_ref().map(|target| target.release), Some(first.release));
    assert_eq!(held[&name("a")].stuck, None);
}

#[test]
fn whoever_waits_is_told_what_failed_however_far_away_it_is() {
    let of = |app: &str, needs: &[&str]| target(&release(app, "1", &[]), needs);
    let (db, mid, top) = (of("db", &[]), of("mid", &["db"]), of("top", &["mid"]));
    let mut held = Apps::new();
    let wanted = resolved(&[("db", &db), ("mid", &mid), ("top", &top)]);
    advance(&mut held, &wanted, &Failed::new(), None, false, &Handovers::default(), &now());
    held.values_mut().for_each(|app| app.prepared(&now()));
    let unblock = |held: &Apps, app: &str| {
        waits_for(&name(app), &held[&name(app)], held, &Faulty::new()).unwrap().unblock
    };
    assert_eq!(unblock(&held, "top"), "nothing to do here: it continues when mid is good");
    held.get_mut(&name("db")).unwrap().phase = Phase::RolledBack { reason: "answered 500".into() };
    assert_eq!(unblock(&held, "mid"), "db has failed and must become good first: see what is held for db");
    assert_eq!(
        unblock(&held, "top"),
        "mid must become good first, but it waits for db, which has failed: see what is held for db"
    );
}

#[test]
fn an_app_waits_until_what_it_depends_on_is_good() {
    let db = target(&release("db", "1", &["Pod/db"]), &[]);
    let pos = target(&release("pos", "1", &["Pod/pos"]), &["db"]);
    let mut held = Apps::new();
    advance(
        &mut held,
        &resolved(&[("db", &db), ("pos", &pos)]),
        &Failed::new(),
        None,
        false,
        &Handovers::default(),
        &now(),
    );
    held.values_mut().for_each(|app| app.prepared(&now()));
    assert_eq!(ready(&held, &Faulty::new(), &now()), [name("db")]);
    held.insert(name("db"), good(&db));
    assert_eq!(ready(&held, &Faulty::new(), &now()), [name("pos")]);
}

#[test]
fn what_is_depended_on_comes_first_and_a_cycle_ends() {
    let app = |app: &str, needs: &[&str]| (name(app), good(&target(&release(app, "1", &[]), needs)));
    let held = Apps::from([app("a", &["z"]), app("m", &["a"]), app("z", &[])]);
    assert_eq!(order(&held), [name("z"), name("a"), name("m")]);
    let cycle = Apps::from([app("a", &["b"]), app("b", &["a"])]);
    assert_eq!(order(&cycle).len(), 2);
}

#[test]
fn apps_that_were_found_after_the_store_was_lost_go_only_within_the_prune_limit() {
    let mut held: Apps = ["a", "b", "c"].iter().map(|app| (name(app), App::found(&now()))).collect();
    let kept =
        advance(&mut held, &resolved(&[]), &Failed::new(), None, false, &Handovers::default(), &now()).kept;
    assert_eq!(kept.len(), 3);
    assert!(held.values().all(|app| app.phase != Phase::Removing));
}

/// A good app `old` with `keys`, and a revision that has `new` with them in its place.
fn renamed(keys: &[&str]) -> (Apps, Resolved, BTreeMap<ReleaseId, Arc<Release>>) {
    let (old, new) = (release("old", "1", keys), release("new", "1", keys));
    let held = Apps::from([(name("old"), good(&target(&old, &[])))]);
    let wanted = resolved(&[("new", &target(&new, &[]))]);
    (held, wanted, [(old.id(), old), (new.id(), new)].into())
}

#[test]
fn an_app_whose_objects_go_over_to_another_one_goes_when_that_is_good() {
    let (mut held, wanted, releases) = renamed(&["Pod/a", "PersistentVolumeClaim/d"]);
    let handovers = |held: &Apps| handovers_of(held, &wanted, &releases, &Inventory::new());
    let first = handovers(&held);
    let kept = advance(&mut held, &wanted, &Failed::new(), None, false, &first, &now()).kept;
    assert!(kept[&name("old")].cause.contains("to the app new, which is"), "{kept:?}");
    assert_eq!(held[&name("old")].phase, Phase::Good);
    let new = held.get_mut(&name("new")).unwrap();
    new.prepared(&now());
    new.apply(&now());
    new.applied(&now());
    let judged = handovers(&held);
    assert!(!advance(&mut held, &wanted, &Failed::new(), None, false, &judged, &now()).kept.is_empty());
    held.get_mut(&name("new")).unwrap().pass(&now());
    let settled = handovers(&held);
    assert!(advance(&mut held, &wanted, &Failed::new(), None, false, &settled, &now()).kept.is_empty());
    assert_eq!(held[&name("old")].phase, Phase::Removing);
}

#[test]
fn an_app_that_gives_something_away_changes_when_that_is_well_where_it_goes() {
    let (old, new) = (release("a", "1", &["Pod/x", "Pod/a"]), release("a", "2", &["Pod/a"]));
    let taker = release("b", "1", &["Pod/x"]);
    let mut held = Apps::from([(name("a"), good(&target(&old, &[])))]);
    let wanted = resolved(&[("a", &target(&new, &[])), ("b", &target(&taker, &[]))]);
    let releases = [(old.id(), old), (new.id(), new), (taker.id(), taker)].into();
    let handovers = handovers_of(&held, &wanted, &releases, &Inventory::new());
    advance(&mut held, &wanted, &Failed::new(), None, false, &handovers, &now());
    held.values_mut().for_each(|app| app.prepared(&now()));
    let faulty = Faulty::new();
    let order = Order { faulty: &faulty, handovers: Some(&handovers) };
    assert_eq!(ready(&held, order, &now()), [name("b")]);
    // One that depends on the one that gives could never begin if that waited for it.
    held.get_mut(&name("b")).unwrap().target.as_mut().unwrap().policy.depends_on.insert(name("a"));
    assert_eq!(ready(&held, order, &now()), [name("a")]);
}

#[test]
fn no_app_goes_while_the_documents_of_another_one_can_not_be_read() {
    let mut held = Apps::from([(name("old"), good(&target(&release("old", "1", &["Pod/a"]), &[])))]);
    let mut wanted = resolved(&[]);
    wanted.unread.insert(name("new"));
    wanted.held.insert(name("new"), Held::until_changed("app.yaml:3: unknown field", "mend it"));
    let handovers = handovers_of(&held, &wanted, &BTreeMap::new(), &Inventory::new());
    let kept = advance(&mut held, &wanted, &Failed::new(), None, false, &handovers, &now()).kept;
    assert!(kept[&name("old")].cause.contains("the app new can't be read"), "{kept:?}");
    assert_eq!(held[&name("old")].phase, Phase::Good);
}

#[test]
fn an_app_stays_whose_objects_another_one_wants_that_can_not_be_resolved_yet() {
    let (mut held, mut wanted, releases) = renamed(&["Pod/a"]);
    wanted.hold(name("new"), Held::until_changed("registry.example doesn't answer", "wait"));
    wanted.wants.insert(name("new"), ["Pod/a".parse().unwrap()].into());
    let handovers = handovers_of(&held, &wanted, &releases, &Inventory::new());
    let kept = advance(&mut held, &wanted, &Failed::new(), None, false, &handovers, &now()).kept;
    assert!(kept[&name("old")].cause.contains("to the app new, which is"), "{kept:?}");
    assert_eq!(held[&name("old")].phase, Phase::Good);
}

#[test]
fn apps_that_have_an_object_in_common_are_told() {
    let (held, _, releases) = renamed(&["Pod/a"]);
    let mut inventory = Inventory::new();
    let shares = |inventory: &Inventory, other: &str| {
        let claims = Claims {
            apps: &held,
            releases: &releases,
            inventory,
            newest: None,
            runtimes: &ALL,
            holders: None,
        };
        claims.shares_any(&name("old"), [&name("old"), &name(other)].into_iter())
    };
    assert!(!shares(&inventory, "new"));
    inventory.insert(name("new"), [("Pod/a".parse().unwrap(), Owned::by(DriverName::SIMULATED))].into());
    assert!(shares(&inventory, "new"));
    assert!(!shares(&inventory, "another"));
    inventory.insert(name("new"), [("Pod/a".parse().unwrap(), Owned::by(DriverName::PODMAN))].into());
    assert!(!shares(&inventory, "new"), "names are each app's own there");
}

#[test]
fn what_nobody_wants_any_more_holds_no_change_of_the_app_that_had_it() {
    let (old, new, other) = (
        release("a", "1", &["Pod/a"]),
        release("a", "2", &["Pod/a"]),
        release("b", "1", &["PersistentVolumeClaim/d"]),
    );
    let held = Apps::from([(name("a"), good(&target(&old, &[])))]);
    let wanted = resolved(&[("a", &target(&new, &[])), ("b", &target(&other, &[]))]);
    let releases = [(old.id(), old), (new.id(), new), (other.id(), other)].into();
    let orphan = Owned { orphaned: Some(now().wall), ..Owned::by(DriverName::SIMULATED) };
    let inventory =
        Inventory::from([(name("a"), [("PersistentVolumeClaim/d".parse().unwrap(), orphan)].into())]);
    assert_eq!(handovers_of(&held, &wanted, &releases, &inventory).holds(&name("a"), &held), None);
}

#[test]
fn on_podman_an_app_that_is_replaced_as_a_whole_counts_for_no_limit_once_the_new_one_is_good_either() {
    let on_podman = |app: &str| {
        let mut made = (*release(app, "1", &["Pod/a"])).clone();
        made.driver = DriverName::PODMAN;
        Arc::new(made)
    };
    let (old, new) = (on_podman("old"), on_podman("new"));
    let at = |release: &Release| {
        let mut made = target(release, &[]);
        made.driver = DriverName::PODMAN;
        made
    };
    let held = Apps::from([(name("old"), good(&at(&old))), (name("new"), good(&at(&new)))]);
    let wanted = resolved(&[("new", &at(&new))]);
    let releases = [(old.id(), old), (new.id(), new)].into();
    assert!(handovers_of(&held, &wanted, &releases, &Inventory::new()).is_whole(&name("old")));
}

#[test]
fn no_member_of_a_group_begins_while_another_one_has_to_keep_what_goes_to_another_app() {
    let in_group = |app: &str, version: &str, keys: &[&str]| {
        let made = release(app, version, keys);
        let mut target = target(&made, &[]);
        target.policy.group = Some(name("till"));
        (made, target)
    };
    let (pos_1, pos_2) = (in_group("pos", "1", &["Pod/pos"]), in_group("pos", "2", &["Pod/pos"]));
    let (menu_1, menu_2) =
        (in_group("menu", "1", &["Pod/x", "Pod/menu"]), in_group("menu", "2", &["Pod/menu"]));
    let taker = release("sign", "1", &["Pod/x"]);
    let mut held = Apps::from([(name("pos"), good(&pos_1.1)), (name("menu"), good(&menu_1.1))]);
    let wanted = resolved(&[("pos", &pos_2.1), ("menu", &menu_2.1), ("sign", &target(&taker, &[]))]);
    let releases = [pos_1.0, pos_2.0, menu_1.0, menu_2.0, taker].map(|made| (made.id(), made)).into();
    let handovers = handovers_of(&held, &wanted, &releases, &Inventory::new());
    advance(&mut held, &wanted, &Failed::new(), None, false, &handovers, &now());
    held.values_mut().for_each(|app| app.prepared(&now()));
    let faulty = Faulty::new();
    let order = Order { faulty: &faulty, handovers: Some(&handovers) };
    assert_eq!(ready(&held, order, &now()), [name("sign")]);
}
