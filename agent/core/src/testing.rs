//! Small values for the tests of this crate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::app::App;
use crate::change::ChangePolicy;
use crate::clock::{BootId, Moment, Now};
use crate::digest::Revision;
use crate::name::{AppName, ObjectKey};
use crate::release::{
    HealthPolicy, Immutable, Object, OnFailure, Policy, Release, Strategy, Target, WorkloadKind,
};
use crate::resolve::Resolved;
use crate::runtime::{Abilities, DriverName, Form, Names, Runtimes};

pub(crate) fn now() -> Now {
    let moment = Moment { boot: BootId("b".into()), uptime: Duration::from_secs(100) };
    Now::certain(Timestamp::UNIX_EPOCH, moment)
}

/// What the runtimes of the tree can do, as far as it matters here.
pub(crate) fn abilities(driver: DriverName) -> Abilities {
    let takes = match driver.as_str() {
        "wasm" => Form::Component,
        "podman" => Form::Pods,
        _ => Form::Manifests,
    };
    let rank = match driver.as_str() {
        "kubernetes" => 0,
        "podman" => 1,
        _ => u8::MAX,
    };
    Abilities {
        takes,
        rank,
        names: match takes {
            Form::Manifests => Names::Shared,
            Form::Pods => Names::OfData,
            Form::Component => Names::PerApp,
        },
        start_stop: takes == Form::Pods,
        exec: true,
        addresses: true,
        holds_data: true,
        accounts: driver == DriverName::KUBERNETES,
        stages_images: false,
        engine: takes == Form::Component,
    }
}

pub(crate) fn runtimes(drivers: &[DriverName]) -> Runtimes {
    drivers.iter().map(|driver| (*driver, abilities(*driver))).collect()
}

/// All runtimes of the tree.
pub(crate) static ALL: LazyLock<Runtimes> = LazyLock::new(|| {
    runtimes(&[DriverName::WASM, DriverName::PODMAN, DriverName::KUBERNETES, DriverName::SIMULATED])
});

pub(crate) fn name(text: &str) -> AppName {
    text.parse().unwrap()
}

pub(crate) fn release(app: &str, version: &str, keys: &[&str]) -> Arc<Release> {
    let object =
        |key: &&str| Object { key: key.parse::<ObjectKey>().unwrap(), spec: json!({ "version": version }) };
    Arc::new(Release {
        app: name(app),
        driver: DriverName::SIMULATED,
        objects: keys.iter().map(object).collect(),
        artifacts: BTreeSet::new(),
        secrets: BTreeMap::new(),
        account: None,
    })
}

pub(crate) fn target(release: &Release, depends_on: &[&str]) -> Target {
    Target {
        release: release.id(),
        kind: WorkloadKind::Container,
        driver: release.driver,
        policy: Policy {
            depends_on: depends_on.iter().map(|text| name(text)).collect(),
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

pub(crate) fn good(target: &Target) -> App {
    let mut app = App::placed(target, None, &now());
    app.prepared(&now());
    app.apply(&now());
    app.applied(&now());
    app.pass(&now());
    app
}

pub(crate) fn resolved(targets: &[(&str, &Target)]) -> Resolved {
    Resolved {
        revision: Revision("r".into()),
        apps: targets.iter().map(|(app, target)| (name(app), (*target).clone())).collect(),
        releases: BTreeMap::new(),
        held: BTreeMap::new(),
        unread: BTreeSet::new(),
        wants: Default::default(),
        policy: ChangePolicy::default(),
    }
}
