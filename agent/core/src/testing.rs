//! Small values for the tests of this crate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::app::App;
use crate::change::ChangePolicy;
use crate::clock::{BootId, Moment, Now};
use crate::digest::Revision;
use crate::name::{AppName, ObjectKey};
use crate::release::{
    DriverKind, HealthPolicy, Immutable, Object, OnFailure, Policy, Release, Strategy, Target, WorkloadKind,
};
use crate::resolve::Resolved;

pub(crate) fn now() -> Now {
    let moment = Moment { boot: BootId("b".into()), uptime: Duration::from_secs(100) };
    Now::certain(Timestamp::UNIX_EPOCH, moment)
}

pub(crate) fn name(text: &str) -> AppName {
    text.parse().unwrap()
}

pub(crate) fn release(app: &str, version: &str, keys: &[&str]) -> Arc<Release> {
    let object =
        |key: &&str| Object { key: key.parse::<ObjectKey>().unwrap(), spec: json!({ "version": version }) };
    Arc::new(Release {
        app: name(app),
        driver: DriverKind::Simulated,
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
