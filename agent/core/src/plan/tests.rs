//! Plans: what is there, what is wanted, and the steps between them.

use super::*;
use crate::testing::{ALL, good, name, now, release, target};

struct Box_ {
    apps: Apps,
    releases: BTreeMap<ReleaseId, Arc<Release>>,
    observed: Observations,
    inventory: Inventory,
}

impl Box_ {
    fn with(apps: &[(&str, &Arc<Release>, &[&str])]) -> Self {
        let mut made = Box_ {
            apps: Apps::new(),
            releases: BTreeMap::new(),
            observed: Observations::new(),
            inventory: Inventory::new(),
        };
        for (app, release, needs) in apps {
            made.apps.insert(name(app), good(&target(release, needs)));
            made.releases.insert(release.id(), Arc::clone(release));
            for object in &release.objects {
                made.sees(app, &object.key.to_string(), Observed::Same).owns(app, &object.key.to_string());
            }
        }
        made
    }

    fn sees(&mut self, app: &str, key: &str, seen: Observed) -> &mut Self {
        let by_driver = self.observed.entry(name(app)).or_default();
        by_driver.entry(DriverName::SIMULATED).or_default().insert(key.parse().unwrap(), seen);
        self
    }

    fn owns(&mut self, app: &str, key: &str) -> &mut Self {
        let owned = Owned::by(DriverName::SIMULATED);
        self.inventory.entry(name(app)).or_default().insert(key.parse().unwrap(), owned);
        self
    }

    fn plan(&self) -> Plan {
        let Box_ { apps, releases, observed, inventory } = self;
        plan(
            Known { apps, releases, observed, inventory, newest: None, runtimes: &ALL, holders: None },
            Aim::Current,
        )
    }

    fn steps(&self) -> Vec<String> {
        self.plan().steps.iter().map(|step| format!("{:?} {}", step.action, step.object)).collect()
    }
}

#[test]
fn what_is_as_it_should_be_needs_no_step() {
    assert_eq!(Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]).plan(), Plan::default());
}

#[test]
fn what_somebody_removed_is_made_again_and_what_they_changed_is_put_right() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["ConfigMap/a", "Pod/a"]), &[])]);
    held.sees("a", "Pod/a", Observed::Absent);
    held.sees("a", "ConfigMap/a", Observed::Drift { difference: "data.x: 1, not 2".into(), recreate: false });
    assert_eq!(held.steps(), ["Update ConfigMap/a", "Create Pod/a"]);
}

#[test]
fn an_app_whose_driver_did_not_answer_gets_no_step() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]);
    held.owns("a", "Pod/old");
    held.observed.clear();
    assert_eq!(held.plan(), Plan::default());
}

#[test]
fn what_is_somebody_elses_is_left_alone_and_holds_the_app() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]);
    held.sees("a", "Pod/a", Observed::Foreign { owner: "somebody".into() });
    let plan = held.plan();
    assert!(plan.steps.is_empty());
    assert!(plan.held[&name("a")].cause.contains("somebody"));
}

#[test]
fn only_what_carries_our_mark_and_stands_in_the_inventory_is_removed() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]);
    held.sees("a", "Pod/marked", Observed::Extra { release: None });
    held.sees("a", "Pod/both", Observed::Extra { release: None }).owns("a", "Pod/both");
    assert_eq!(held.steps(), ["Remove Pod/both", "Adopt Pod/marked"]);
}

#[test]
fn what_holds_data_is_orphaned_and_never_removed() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]);
    held.sees("a", "PersistentVolumeClaim/d", Observed::Extra { release: None })
        .owns("a", "PersistentVolumeClaim/d");
    assert_eq!(held.steps(), ["Orphan PersistentVolumeClaim/d"]);
}

#[test]
fn a_claim_that_a_stateful_set_makes_is_taken_in_kept_and_listed_once_nothing_makes_it() {
    let with_template = |template: &str| {
        let mut made = (*release("a", "1", &["StatefulSet/shop/db"])).clone();
        made.objects[0].spec =
            serde_json::json!({ "spec": { "volumeClaimTemplates": [{ "metadata": { "name": template } }] } });
        Arc::new(made)
    };
    let claim = "PersistentVolumeClaim/shop/data-db-0";
    let mut held = Box_::with(&[("a", &with_template("data"), &[])]);
    held.sees("a", claim, Observed::Extra { release: None });
    held.sees("a", "PersistentVolumeClaim/other/data-db-0", Observed::Absent);
    assert_eq!(held.steps(), [format!("Adopt {claim}")]);
    held.owns("a", claim);
    assert_eq!(held.steps(), [""; 0], "a claim in use");
    // It was nobody's, and is wanted after all.
    let owned = held.inventory.get_mut(&name("a")).unwrap().get_mut(&claim.parse().unwrap()).unwrap();
    owned.orphaned = Some(jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(held.steps(), [format!("Adopt {claim}")]);

    let mut held = Box_::with(&[("a", &with_template("other"), &[])]);
    held.sees("a", claim, Observed::Extra { release: None }).owns("a", claim);
    assert_eq!(held.steps(), [format!("Orphan {claim}")]);
    for (key, makes) in [
        ("PersistentVolumeClaim/shop/other-db-12", true),
        ("PersistentVolumeClaim/shop/other-db-x", false),
        ("PersistentVolumeClaim/shop/another-db-0", false),
        ("PersistentVolumeClaim/other-db-0", false),
        ("ConfigMap/shop/other-db-0", false),
    ] {
        assert_eq!(with_template("other").makes_claim(&key.parse().unwrap()), makes, "{key}");
    }
}

#[test]
fn what_replaces_something_comes_before_that_goes_and_dependents_go_first() {
    let (db, pos) = (release("db", "1", &["Pod/db"]), release("pos", "1", &["Pod/pos"]));
    let mut held = Box_::with(&[("db", &db, &[]), ("pos", &pos, &["db"])]);
    for app in ["db", "pos"] {
        held.sees(app, "Pod/old", Observed::Extra { release: None }).owns(app, "Pod/old");
        held.sees(app, &format!("Pod/{app}"), Observed::Absent);
        let before = release(app, "0", &["Pod/old"]);
        held.apps.get_mut(&name(app)).unwrap().previous = Some(target(&before, &[]));
        held.releases.insert(before.id(), before);
    }
    let plan = held.plan();
    let steps: Vec<_> = plan.steps.iter().map(|s| format!("{} {:?} {}", s.app, s.action, s.object)).collect();
    assert_eq!(steps, ["db Create Pod/db", "pos Create Pod/pos", "pos Remove Pod/old", "db Remove Pod/old"]);
}

#[test]
fn a_withdrawn_app_goes_whole() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["ConfigMap/a", "Pod/a"]), &[])]);
    held.apps.get_mut(&name("a")).unwrap().withdraw(&now());
    assert_eq!(held.steps(), ["Remove Pod/a", "Remove ConfigMap/a"]);
}

#[test]
fn a_release_that_is_not_on_disk_holds_its_app_and_removes_nothing() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]);
    held.releases.clear();
    held.owns("a", "Pod/old");
    let plan = held.plan();
    assert!(plan.steps.is_empty() && plan.held.contains_key(&name("a")));
}

#[test]
fn an_app_that_was_found_and_nothing_is_known_of_is_left_alone() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]);
    held.apps.insert(name("a"), App::found(&now()));
    assert_eq!(held.plan(), Plan::default());
}

fn immutable() -> Observed {
    Observed::Immutable { difference: "spec.selector: web, not shop".into() }
}

/// An app whose object can't be made what it should be; `policy` is what its release says of that.
fn with_immutable(key: &str, policy: Immutable) -> Box_ {
    let mut held = Box_::with(&[("a", &release("a", "1", &["ConfigMap/a", key]), &[])]);
    held.sees("a", "ConfigMap/a", Observed::Absent).sees("a", key, immutable());
    held.apps.get_mut(&name("a")).unwrap().current.as_mut().unwrap().policy.immutable = policy;
    held
}

#[test]
fn a_change_that_the_runtime_does_not_let_be_made_holds_all_of_the_app_and_says_what_to_do() {
    let plan = with_immutable("Deployment/a", Immutable::Hold).plan();
    assert!(plan.steps.is_empty(), "{plan:?}");
    let held = &plan.held[&name("a")];
    assert!(
        held.cause.contains("Deployment/a") && held.cause.contains("spec.selector: web, not shop"),
        "{held:?}"
    );
    assert!(
        held.unblock.contains("update.immutable: recreate") && held.unblock.contains("old value"),
        "{held:?}"
    );
}

#[test]
fn where_the_app_says_so_what_can_not_be_changed_is_recreated() {
    let held = with_immutable("Deployment/a", Immutable::Recreate);
    assert_eq!(held.steps(), ["Create ConfigMap/a", "Recreate Deployment/a"]);
    assert!(held.plan().steps[1].reason.contains("spec.selector: web, not shop"));
}

#[test]
fn what_holds_data_is_never_recreated_whatever_the_app_says() {
    let mut new = with_immutable("PersistentVolumeClaim/a", Immutable::Recreate);
    let app = new.apps.get_mut(&name("a")).unwrap();
    (app.good, app.phase) = (None, Phase::Applying);
    let plan = new.plan();
    assert!(plan.steps.is_empty(), "{plan:?}");
    let held = &plan.held[&name("a")];
    assert!(held.unblock.contains("holds data") && !held.unblock.contains("update.immutable"), "{held:?}");
}

#[test]
fn what_was_recreated_on_the_way_to_a_release_is_recreated_on_the_way_back() {
    let mut held = with_immutable("Deployment/a", Immutable::Hold);
    let app = held.apps.get_mut(&name("a")).unwrap();
    let mut set_aside = target(&release("a", "2", &["ConfigMap/a", "Deployment/a"]), &[]);
    set_aside.policy.immutable = Immutable::Recreate;
    app.target = Some(set_aside);
    app.phase = Phase::Pending;
    assert_eq!(held.steps(), ["Create ConfigMap/a", "Recreate Deployment/a"]);
}

#[test]
fn a_release_that_failed_is_left_though_its_objects_can_not_be_changed_in_place() {
    let mut held = with_immutable("Deployment/a", Immutable::Hold);
    held.apps.get_mut(&name("a")).unwrap().phase = Phase::RollingBack { reason: "answered 500".into() };
    assert_eq!(held.steps(), ["Create ConfigMap/a", "Recreate Deployment/a"]);
}

#[test]
fn what_holds_data_and_can_not_go_back_stays_as_it_is_and_the_rest_of_the_app_goes_back() {
    let mut held = with_immutable("PersistentVolumeClaim/a", Immutable::Hold);
    let app = held.apps.get_mut(&name("a")).unwrap();
    app.good.clone_from(&app.current);
    let reason = || "answered 500".to_owned();
    for phase in
        [Phase::RollingBack { reason: reason() }, Phase::RolledBack { reason: reason() }, Phase::Good]
    {
        held.apps.get_mut(&name("a")).unwrap().phase = phase;
        assert_eq!(held.steps(), ["Create ConfigMap/a"]);
    }
}

/// Two apps of which the first has `Pod/x`, and the second, which is being changed, wants it; `first` says what the first
/// is to be by the newest revision.
fn moved(first: Option<&[&str]>) -> (Box_, Resolved) {
    let (old, new) = (release("a", "1", &["ConfigMap/a", "Pod/x"]), release("b", "2", &["Pod/x"]));
    let mut held = Box_::with(&[("a", &old, &[]), ("b", &release("b", "1", &["ConfigMap/b"]), &[])]);
    let b = held.apps.get_mut(&name("b")).unwrap();
    b.target = Some(target(&new, &[]));
    b.current = b.target.clone();
    b.phase = Phase::Applying;
    held.releases.insert(new.id(), Arc::clone(&new));
    held.sees("b", "Pod/x", Observed::Another { app: name("a"), immutable: None });
    let mut newest = crate::testing::resolved(&[("b", &target(&new, &[]))]);
    if let Some(keys) = first {
        let next = release("a", "2", keys);
        newest.apps.insert(name("a"), target(&next, &[]));
        held.releases.insert(next.id(), next);
    }
    (held, newest)
}

fn told(held: &Box_, newest: &Resolved) -> Vec<String> {
    let Box_ { apps, releases, observed, inventory } = held;
    let plan = plan(
        Known { apps, releases, observed, inventory, newest: Some(newest), runtimes: &ALL, holders: None },
        Aim::Current,
    );
    let from = |step: &Step| step.from.as_ref().map_or(String::new(), |from| format!(" from {from}"));
    plan.steps.iter().map(|s| format!("{} {:?} {}{}", s.app, s.action, s.object, from(s))).collect()
}

#[test]
fn what_moves_from_app_to_app_is_taken_over_and_never_removed() {
    for first in [None, Some(&["ConfigMap/a"][..])] {
        let (mut held, newest) = moved(first);
        assert_eq!(told(&held, &newest), ["b Adopt Pod/x from a"]);
        // Even where the one that gives it comes first, or goes.
        held.apps.get_mut(&name("a")).unwrap().withdraw(&now());
        held.observed.remove(&name("b"));
        assert_eq!(told(&held, &newest), ["a Remove ConfigMap/a"]);
    }
}

#[test]
fn what_another_app_is_to_keep_is_not_taken() {
    let (held, newest) = moved(Some(&["Pod/x"]));
    let Box_ { apps, releases, observed, inventory } = &held;
    let plan = plan(
        Known { apps, releases, observed, inventory, newest: Some(&newest), runtimes: &ALL, holders: None },
        Aim::Current,
    );
    assert!(plan.steps.is_empty(), "{plan:?}");
    assert!(plan.held[&name("b")].cause.contains("the app a"), "{plan:?}");
}

#[test]
fn what_was_lent_to_an_app_that_fails_is_taken_back() {
    let (mut held, newest) = moved(None);
    held.inventory.get_mut(&name("a")).unwrap().remove(&"Pod/x".parse().unwrap());
    held.owns("b", "Pod/x").sees("b", "Pod/x", Observed::Same);
    held.sees("a", "Pod/x", Observed::Another { app: name("b"), immutable: None });
    assert_eq!(told(&held, &newest), Vec::<String>::new(), "the one that gave it leaves it alone");
    let b = held.apps.get_mut(&name("b")).unwrap();
    b.fail("answered 500", false, &now());
    held.sees("b", "Pod/x", Observed::Extra { release: None });
    assert_eq!(told(&held, &newest), ["a Adopt Pod/x from b"]);
}

#[test]
fn what_another_app_has_by_now_is_forgotten_and_no_runtime_is_told_to_remove_it() {
    let (mut held, newest) = moved(None);
    held.owns("b", "Pod/x").sees("b", "Pod/x", Observed::Same);
    held.apps.get_mut(&name("a")).unwrap().withdraw(&now());
    held.observed.get_mut(&name("a")).unwrap().get_mut(&DriverName::SIMULATED).unwrap().clear();
    let told = told(&held, &newest);
    assert!(told.contains(&"a Forget Pod/x".to_owned()), "{told:?}");
    assert!(!told.contains(&"a Remove Pod/x".to_owned()), "{told:?}");
}

#[test]
fn what_another_app_has_and_can_not_be_changed_in_place_holds_the_app_that_wants_it() {
    let (mut held, newest) = moved(None);
    let why = Some("spec.selector: web, not shop".to_owned());
    held.sees("b", "Pod/x", Observed::Another { app: name("a"), immutable: why });
    assert!(told(&held, &newest).is_empty());
}

#[test]
fn what_takes_the_place_of_something_is_well_before_that_goes() {
    let new = release("a", "2", &["Pod/new"]);
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/old"]), &[])]);
    held.releases.insert(new.id(), Arc::clone(&new));
    held.sees("a", "Pod/old", Observed::Extra { release: None }).sees("a", "Pod/new", Observed::Absent);
    let app = held.apps.get_mut(&name("a")).unwrap();
    app.target = Some(target(&new, &[]));
    app.phase = Phase::Pending;
    app.apply(&now());
    assert_eq!(held.steps(), ["Create Pod/new"]);
    held.owns("a", "Pod/new").sees("a", "Pod/new", Observed::Same);
    let app = held.apps.get_mut(&name("a")).unwrap();
    app.applied(&now());
    assert_eq!(held.steps(), Vec::<String>::new());
    let app = held.apps.get_mut(&name("a")).unwrap();
    app.pass(&now());
    assert_eq!(held.steps(), ["Remove Pod/old"]);
}

#[test]
fn what_was_taken_over_before_the_agent_died_and_not_written_down_is_let_go_of_by_the_other_app() {
    let (mut held, newest) = moved(None);
    held.sees("b", "Pod/x", Observed::Same).owns("b", "Pod/x");
    assert_eq!(told(&held, &newest), ["b Adopt Pod/x from a"]);
    held.inventory.get_mut(&name("a")).unwrap().remove(&"Pod/x".parse().unwrap());
    assert_eq!(told(&held, &newest), Vec::<String>::new());
}

#[test]
fn a_claim_that_a_stateful_set_made_goes_with_it_to_another_app() {
    let with_template = |app: &str| {
        let mut made = (*release(app, "1", &["StatefulSet/shop/db"])).clone();
        made.objects[0].spec =
            serde_json::json!({ "spec": { "volumeClaimTemplates": [{ "metadata": { "name": "data" } }] } });
        Arc::new(made)
    };
    let claim = "PersistentVolumeClaim/shop/data-db-0";
    let mut held = Box_::with(&[("b", &with_template("b"), &[])]);
    held.owns("a", claim).sees("b", claim, Observed::Extra { release: None });
    assert_eq!(held.steps(), [format!("Adopt {claim}")]);
    assert_eq!(held.plan().steps[0].from, Some(name("a")));
    // One that names it itself and runs it keeps it.
    let keeper = release("a", "1", &[claim]);
    held.apps.insert(name("a"), good(&target(&keeper, &[])));
    held.releases.insert(keeper.id(), keeper);
    assert_eq!(held.plan().steps_of(&name("b")).count(), 0);
    // The app that gave it away removes nothing of it, and lists it no more.
    let mut gone = good(&target(&release("a", "1", &[]), &[]));
    gone.withdraw(&now());
    held.apps.insert(name("a"), gone);
    held.sees("a", claim, Observed::Extra { release: None });
    assert_eq!(held.plan().steps_of(&name("a")).count(), 0, "it isn't taken over yet");
    held.observed.insert(name("a"), [(DriverName::SIMULATED, AppObservation::new())].into());
    assert_eq!(held.plan().steps_of(&name("a")).count(), 0, "it is the other one's");
}

#[test]
fn what_an_app_wants_that_can_not_be_resolved_yet_is_not_removed() {
    let mut held = Box_::with(&[("a", &release("a", "1", &["Pod/a"]), &[])]);
    held.sees("a", "Pod/old", Observed::Extra { release: None }).owns("a", "Pod/old");
    let mut newest = crate::testing::resolved(&[("a", held.apps[&name("a")].target.as_ref().unwrap())]);
    newest.wants.insert(name("b"), ["Pod/old".parse().unwrap()].into());
    assert_eq!(told(&held, &newest), Vec::<String>::new());
    newest.wants.insert(name("b"), ["Pod/other".parse().unwrap()].into());
    assert_eq!(told(&held, &newest), ["a Remove Pod/old"]);
}

#[test]
fn on_podman_what_moves_makes_room_where_both_can_not_be_there_and_comes_back_if_the_new_one_fails() {
    let with_port = |app: &str, version: &str, keys: &[&str], port: u16| {
        let mut made = (*release(app, version, keys)).clone();
        made.driver = DriverName::PODMAN;
        for object in made.objects.iter_mut().filter(|object| object.key.name == "web") {
            object.spec = serde_json::json!({
                "workload": "Pod/shop/web", "hostname": "web", "restart": "always", "graceSeconds": 5,
                "containers": [], "network": { "bridge": { "ports": [
                    { "hostPort": port, "containerPort": 80, "protocol": "tcp" },
                ] } },
            });
        }
        Arc::new(made)
    };
    let of = |port| {
        let (old, new) = (with_port("a", "1", &["Pod/web"], 80), with_port("b", "2", &["Pod/web"], port));
        let mut held = Box_::with(&[("a", &old, &[]), ("b", &with_port("b", "1", &["Pod/b"], 80), &[])]);
        held.observed.clear();
        held.inventory =
            [(name("a"), [("Pod/web".parse().unwrap(), Owned::by(DriverName::PODMAN))].into())].into();
        let b = held.apps.get_mut(&name("b")).unwrap();
        b.target = Some(target(&new, &[]));
        b.phase = Phase::Pending;
        b.apply(&now());
        held.releases.insert(new.id(), Arc::clone(&new));
        let newest = crate::testing::resolved(&[("b", &target(&new, &[]))]);
        let nothing = || BTreeMap::from([(DriverName::PODMAN, AppObservation::new())]);
        held.observed = [(name("a"), nothing()), (name("b"), nothing())].into();
        (held, newest)
    };
    let (held, newest) = of(81);
    assert_eq!(told(&held, &newest), ["b Create Pod/web"], "both can be there");
    let (mut held, newest) = of(80);
    assert_eq!(told(&held, &newest), ["a Remove Pod/web", "b Create Pod/web"]);
    // It is taken back: what was made goes before the other one is there again.
    held.inventory =
        [(name("b"), [("Pod/web".parse().unwrap(), Owned::by(DriverName::PODMAN))].into())].into();
    held.apps.get_mut(&name("b")).unwrap().fail("answered 500", false, &now());
    let seen = [("Pod/web".parse().unwrap(), Observed::Extra { release: None })];
    held.observed.insert(name("b"), [(DriverName::PODMAN, seen.into())].into());
    assert_eq!(told(&held, &newest), ["b Remove Pod/web", "b Create Pod/b"]);
    held.inventory = [(name("b"), [("Pod/b".parse().unwrap(), Owned::by(DriverName::PODMAN))].into())].into();
    let claims = Claims {
        apps: &held.apps,
        releases: &held.releases,
        inventory: &held.inventory,
        newest: Some(&newest),
        runtimes: &ALL,
        holders: None,
    };
    assert!(claims.takers().contains(&name("a")));
    held.observed.remove(&name("b"));
    assert_eq!(told(&held, &newest), ["a Create Pod/web"]);
}

#[test]
fn on_podman_what_runs_with_data_that_another_app_takes_over_stops_before_and_never_runs_beside_it() {
    const DATA: &str = "PersistentVolumeClaim/shop/data";
    let with_data = |app: &str, pod: &str| {
        let mut made = (*release(app, "1", &[DATA, pod])).clone();
        made.driver = DriverName::PODMAN;
        made.objects[1].spec = serde_json::json!({
            "workload": "Pod/shop/web", "hostname": "web", "restart": "always", "graceSeconds": 5,
            "containers": [], "network": { "bridge": { "ports": [] } }, "volumes": { "data": { "claim": DATA } },
        });
        Arc::new(made)
    };
    let owned = |keys: &[&str]| {
        let of = |key: &&str| (key.parse().unwrap(), Owned::by(DriverName::PODMAN));
        keys.iter().map(of).collect::<BTreeMap<_, _>>()
    };
    let seen = |seen: &[(&str, Observed)]| {
        let seen = seen.iter().map(|(key, seen)| (key.parse().unwrap(), seen.clone())).collect();
        BTreeMap::from([(DriverName::PODMAN, seen)])
    };
    let (old, new) = (with_data("a", "Pod/old"), with_data("b", "Pod/new"));
    let mut held = Box_::with(&[("a", &old, &[]), ("b", &new, &[])]);
    let newest = crate::testing::resolved(&[("b", &target(&new, &[]))]);
    held.inventory = [(name("a"), owned(&[DATA, "Pod/old"]))].into();
    let of_a = Observed::Another { app: name("a"), immutable: None };
    held.observed = [(name("b"), seen(&[(DATA, of_a)]))].into();
    // As after a commit that was reverted before the one that has it by now began its own change: that goes first.
    assert_eq!(told(&held, &newest), Vec::<String>::new());
    held.apps.get_mut(&name("b")).unwrap().phase = Phase::Applying;
    assert_eq!(
        told(&held, &newest),
        ["a Remove Pod/old", &format!("b Adopt {DATA} from a"), "b Create Pod/new"]
    );
    held.apps.get_mut(&name("b")).unwrap().phase = Phase::Good;

    // The one that waits until the other is good makes nothing of it again, also while nothing is known of the newest revision.
    held.inventory = [(name("a"), owned(&[])), (name("b"), owned(&[DATA, "Pod/new"]))].into();
    let of_b = Observed::Another { app: name("b"), immutable: None };
    held.observed = [(name("a"), seen(&[(DATA, of_b.clone())]))].into();
    assert_eq!(told(&held, &newest), Vec::<String>::new());

    // The commit is taken back: what goes stops before the first one starts again.
    let newest = crate::testing::resolved(&[("a", &target(&old, &[]))]);
    held.apps.get_mut(&name("b")).unwrap().withdraw(&now());
    assert_eq!(
        told(&held, &newest),
        ["b Remove Pod/new", &format!("a Adopt {DATA} from b"), "a Create Pod/old"]
    );
}
