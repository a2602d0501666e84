//! The pure runtime with time of its own.

use holdfast_core::clock::BootId;
use holdfast_core::digest::Digest;
use serde_json::json;

use super::*;
use crate::simulated::script::PREFIX;

fn at(boot: &str, seconds: u64) -> Moment {
    Moment { boot: BootId(boot.to_owned()), uptime: Duration::from_secs(seconds) }
}

fn release(health: &str) -> Release {
    Release {
        app: "pos".parse().unwrap(),
        driver: DriverName::SIMULATED,
        objects: vec![Object {
            key: ObjectKey::new("Pod", "pos"),
            spec: json!({ "metadata": { "annotations": { format!("{PREFIX}health"): health } } }),
        }],
        artifacts: Default::default(),
        secrets: Default::default(),
        account: None,
    }
}

/// A world in which `release` was made at 100 s.
fn running(release: &Release) -> World {
    let mut world = World::new("emea/till-1".parse().unwrap());
    apply(&mut world, &at("a", 100), Action::Create, release).result.unwrap();
    world
}

fn apply(world: &mut World, now: &Moment, action: Action, release: &Release) -> Applied {
    let object = &release.objects[0].key;
    world.apply(
        now,
        &ApplyStep {
            app: &release.app,
            action,
            object,
            release: Some(release),
            id: None,
            strategy: holdfast_core::release::Strategy::StopStart,
            from: None,
        },
    )
}

fn words(world: &mut World, release: &Release, times: &[u64]) -> Vec<&'static str> {
    times.iter().map(|&seconds| world.health(&at("a", seconds), release).word()).collect()
}

#[test]
fn what_the_script_keeps_stays_until_it_no_longer_says_so() {
    let release = release("healthy");
    let mut world = running(&release);
    let gone = |world: &mut World| apply(world, &at("a", 101), Action::Remove, &release).result;
    for (keep, goes) in [("*", false), ("pos", false), ("menu", true)] {
        world.script.keep = vec![keep.to_owned()];
        assert_eq!(matches!(gone(&mut world), Err(Fault::Stays(why)) if why.contains("Pod/pos")), !goes);
        assert_eq!(world.objects.is_empty(), goes, "{keep}");
    }
}

#[test]
fn health_follows_the_script_and_the_time_since_the_start() {
    let times = [100, 104, 105, 200];
    for (script, expected) in [
        ("healthy", ["Healthy"; 4]),
        ("unhealthy", ["Unhealthy"; 4]),
        ("never", ["Starting"; 4]),
        ("flapping", ["Healthy", "Unhealthy", "Healthy", "Unhealthy"]),
        ("slow:5s", ["Starting", "Starting", "Healthy", "Healthy"]),
        ("dies:5s", ["Healthy", "Healthy", "Unhealthy", "Unhealthy"]),
    ] {
        let release = release(script);
        assert_eq!(words(&mut running(&release), &release, &times), expected, "{script}");
    }
}

#[test]
fn a_slow_release_starts_again_with_a_changed_spec_and_with_the_box() {
    let (old, new) = (release("slow:5s"), release("slow:6s"));
    let mut world = running(&old);
    assert_eq!(words(&mut world, &old, &[110]), ["Healthy"]);
    assert_eq!(world.health(&at("b", 2), &old).word(), "Starting");
    assert_eq!(world.health(&at("b", 5), &old).word(), "Healthy");
    apply(&mut world, &at("a", 110), Action::Update, &new).result.unwrap();
    assert_eq!(words(&mut world, &new, &[111, 116]), ["Starting", "Healthy"]);
}

#[test]
fn a_changed_secret_is_drift_that_shows_no_secret() {
    let old = release("healthy");
    let mut world = running(&old);
    let new = Release { secrets: [("db".to_owned(), Digest::of(b"new"))].into(), ..old };
    let observed = world.observe(&new.app, Some(&new)).unwrap();
    let Some(Observed::Drift { difference, .. }) = observed.values().next() else { panic!("{observed:?}") };
    assert_eq!(difference, "a secret of it has changed");
    apply(&mut world, &at("a", 1), Action::Update, &new).result.unwrap();
    assert_eq!(world.observe(&new.app, Some(&new)).unwrap().values().next(), Some(&Observed::Same));
}

#[test]
fn an_update_of_what_has_gone_is_not_a_create() {
    let release = release("healthy");
    let mut world = World::new("emea/till-1".parse().unwrap());
    for action in [Action::Update, Action::Adopt] {
        let applied = apply(&mut world, &at("a", 1), action, &release);
        assert!(
            matches!(applied, Applied { seen: Seen::Absent, result: Err(Fault::Runtime(_)) }),
            "{applied:?}"
        );
    }
    assert!(world.objects.is_empty());
}

#[test]
fn two_apps_of_one_device_do_not_take_each_others_objects() {
    let pos = release("healthy");
    let mut world = running(&pos);
    let thief = Release { app: "thief".parse().unwrap(), ..pos.clone() };
    assert!(matches!(apply(&mut world, &at("a", 1), Action::Create, &thief).result, Err(Fault::Runtime(_))));
    assert_eq!(apply(&mut world, &at("a", 1), Action::Remove, &thief).result, Ok("foreign"));
    assert_eq!(world.observe(&pos.app, Some(&pos)).unwrap().values().next(), Some(&Observed::Same));
}
