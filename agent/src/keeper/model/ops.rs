//! What may happen to a box: commits, faults, and what somebody does by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_core::digest::Revision;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::{
    HealthPolicy, Immutable, Object, OnFailure, Policy, Release, Target, WorkloadKind,
};
use holdfast_core::runtime::DriverName;
use proptest::prelude::*;
use serde_json::json;

pub(super) const APPS: [&str; 5] = ["db", "pos", "menu", "sign", "cam"];
/// What commits move from app to app.
pub(super) const ROAMS: [&str; 2] = ["Deployment/roams", "PersistentVolumeClaim/roams"];
/// These change together.
pub(super) const GROUP: [&str; 2] = ["sign", "cam"];
/// How long data that nothing wants outlives a Purge document, in seconds.
pub(super) const GRACE: u64 = 60;

/// How a committed version behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    Slow,
    Ill,
    Dies,
    Flaps,
    Refused,
    Unpreparable,
    Busy,
    Partial,
    NotYet,
    Late,
    Fixed,
    /// A kind that no runtime has stands in it.
    Misspelt,
}

/// What a commit says of one app.
#[derive(Clone, Copy, Debug)]
pub(super) enum Says {
    Version(u8, Kind),
    Faulty,
    /// Its folder has a name that can't be read.
    Misnamed,
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Commit([Says; 5]),
    Change(usize, u8, Kind),
    /// A commit moves this of what roams to this app, or leaves it out.
    Move(usize, usize),
    /// A commit gives one app's folder the name of another one.
    Rename(usize, usize),
    Wait(u16),
    Die(u8),
    Reboot {
        loses: bool,
    },
    Clock(i32),
    Runtime(u8),
    RemoveByHand(usize),
    EditByHand(usize),
    LoseStore,
    /// What windows and gates allow from now on.
    Permit {
        download: bool,
        apply: bool,
    },
    /// Whether a Purge document asks for the data of `db`.
    Purge(bool),
    /// Whether the runtime refuses to let go of anything.
    Keep(bool),
    /// Whether the disk takes no write.
    DiskFull(bool),
    /// Somebody wants what failed of an app to be tried again.
    Retry(usize),
    /// How long the runtime takes from now on for what it is asked: nothing, or long and never the same.
    Pace(u8),
}

pub(super) fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Good),
        1 => Just(Kind::Slow),
        2 => Just(Kind::Ill),
        1 => Just(Kind::Dies),
        1 => Just(Kind::Flaps),
        1 => Just(Kind::Refused),
        1 => Just(Kind::Unpreparable),
        1 => Just(Kind::Busy),
        1 => Just(Kind::Partial),
        1 => Just(Kind::NotYet),
        1 => Just(Kind::Late),
        1 => Just(Kind::Fixed),
        1 => Just(Kind::Misspelt),
    ]
}

pub(super) fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        8 => (0..4u8, kinds()).prop_map(|(version, kind)| Says::Version(version, kind)),
        1 => Just(Says::Faulty),
        1 => Just(Says::Misnamed),
        1 => Just(Says::Nothing),
    ]
}

pub(super) fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => prop::array::uniform5(says()).prop_map(Op::Commit),
        6 => (0..5usize, 0..6u8, kinds()).prop_map(|(app, version, kind)| Op::Change(app, version, kind)),
        4 => (0..ROAMS.len(), 0..6usize).prop_map(|(what, app)| Op::Move(what, app)),
        2 => (0..5usize, 0..5usize).prop_map(|(from, to)| Op::Rename(from, to)),
        8 => (0..150u16).prop_map(Op::Wait),
        6 => (1..30u8).prop_map(Op::Die),
        2 => any::<bool>().prop_map(|loses| Op::Reboot { loses }),
        1 => (-100_000_000..100_000_000i32).prop_map(Op::Clock),
        2 => (0..3u8).prop_map(Op::Runtime),
        2 => (0..5usize).prop_map(Op::RemoveByHand),
        2 => (0..5usize).prop_map(Op::EditByHand),
        1 => Just(Op::LoseStore),
        3 => (any::<bool>(), prop::bool::weighted(0.6)).prop_map(|(download, apply)| Op::Permit { download, apply }),
        2 => any::<bool>().prop_map(Op::Purge),
        2 => any::<bool>().prop_map(Op::Keep),
        2 => any::<bool>().prop_map(Op::DiskFull),
        2 => (0..5usize).prop_map(Op::Retry),
        4 => (0..20u8).prop_map(Op::Pace),
    ]
}

pub(super) fn name(app: usize) -> AppName {
    APPS[app].parse().unwrap()
}

pub(super) fn release(app: usize, version: u8, kind: Kind) -> Release {
    release_with(app, version, kind, &[])
}

/// The same with what roams between the apps and is this one's.
pub(super) fn release_with(app: usize, version: u8, kind: Kind, roams: &[&str]) -> Release {
    let (what, how) = match kind {
        Kind::Good => ("health", "healthy"),
        Kind::Slow => ("health", "slow:20s"),
        Kind::Ill => ("health", "unhealthy"),
        Kind::Dies => ("health", "dies:8s"),
        Kind::Flaps => ("health", "flapping"),
        Kind::Refused => ("apply", "fail"),
        Kind::Unpreparable | Kind::Misspelt => ("prepare", "fail"),
        Kind::Busy => ("apply", "retry"),
        Kind::Partial => ("apply", "partial"),
        Kind::NotYet => ("apply", "not-yet"),
        Kind::Late => ("apply", "not-yet:20s"),
        Kind::Fixed => ("change", "immutable"),
    };
    let spec = json!({
        "version": version,
        "metadata": { "annotations": { (format!("simulated.holdfast.dev/{what}")): how } },
    });
    let workload = if kind == Kind::Misspelt { "Deploymnt" } else { "Deployment" };
    let mut keys =
        vec![format!("{workload}/{}", APPS[app]), format!("ConfigMap/{}-{}", APPS[app], version % 2)];
    if app == 0 && version.is_multiple_of(2) {
        keys.push("PersistentVolumeClaim/data".into());
    }
    keys.extend(roams.iter().map(|key| (*key).to_owned()));
    Release {
        app: name(app),
        driver: DriverName::SIMULATED,
        objects: keys.iter().map(|key| Object { key: key.parse().unwrap(), spec: spec.clone() }).collect(),
        artifacts: BTreeSet::new(),
        secrets: BTreeMap::new(),
        account: None,
    }
}

pub(super) fn target(app: usize, release: &Release, revision: &Revision) -> Target {
    // pos depends on db, menu on pos.
    let needs = if app == 1 || app == 2 { BTreeSet::from([name(app - 1)]) } else { BTreeSet::new() };
    // Policies of all kinds, and for a release always the same.
    let hash = release.id().0.as_bytes()[0];
    Target {
        release: release.id(),
        kind: WorkloadKind::Container,
        driver: DriverName::SIMULATED,
        policy: Policy {
            depends_on: needs,
            health: HealthPolicy {
                startup: Duration::from_secs(30),
                deadline: Duration::from_secs(90),
                soak: Duration::from_secs(5),
                checks: vec![],
            },
            on_failure: if hash.is_multiple_of(5) { OnFailure::Hold } else { OnFailure::Rollback },
            strategy: match hash % 2 {
                0 => holdfast_core::release::Strategy::StopStart,
                _ => holdfast_core::release::Strategy::StartStop,
            },
            irreversible: hash.is_multiple_of(7),
            immutable: if hash.is_multiple_of(3) { Immutable::Recreate } else { Immutable::Hold },
            group: GROUP.contains(&APPS[app]).then(|| "board".parse().unwrap()),
        },
        revision: revision.clone(),
    }
}

pub(super) fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}
