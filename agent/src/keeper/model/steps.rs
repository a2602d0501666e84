//! How many steps the executor walks at once, and which ones.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use holdfast_core::clock::{BootId, Moment, Now};
use holdfast_core::digest::Revision;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::AppObservation;
use holdfast_core::release::{Object, Release};
use holdfast_core::resolve::Resolved;
use holdfast_core::runtime::{Abilities, DriverName, Fingerprint};
use holdfast_drivers::simulated::world::{Fault, World};
use holdfast_drivers::{ApplyStep, Driver, DriverError, DriverEvent, simulated};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use super::memory::{Disk, Fuse, Memory};
use super::ops::{name, target};
use crate::keeper::{Drivers, Keeper, Permit, Scope};

/// What is under way, and what was.
#[derive(Default)]
struct Overlap {
    under_way: Vec<(AppName, ObjectKey)>,
    /// The most that were under way at once for one app.
    most: usize,
    /// The most apps that were under way at once.
    apps: usize,
    order: Vec<ObjectKey>,
}

/// A runtime that takes its time for each step, and watches which ones overlap.
struct Wide {
    world: Mutex<World>,
    seen: Mutex<Overlap>,
    width: usize,
    /// This object it refuses.
    refused: Option<ObjectKey>,
}

impl Wide {
    fn begin(&self, step: &ApplyStep<'_>) {
        let mut seen = self.seen.lock().unwrap();
        for (app, key) in &seen.under_way {
            assert!(app != step.app || key.kind == step.object.kind, "two kinds of one app overlap");
        }
        seen.under_way.push((step.app.clone(), step.object.clone()));
        let of_app = seen.under_way.iter().filter(|(app, _)| app == step.app).count();
        seen.most = seen.most.max(of_app);
        let apps: std::collections::BTreeSet<_> = seen.under_way.iter().map(|(app, _)| app).collect();
        seen.apps = seen.apps.max(apps.len());
        seen.order.push(step.object.clone());
    }
}

fn answer<T>(result: Result<T, Fault>) -> Result<T, DriverError> {
    result.map_err(|fault| DriverError::Runtime(format!("{fault:?}")))
}

#[async_trait]
impl Driver for Wide {
    fn name(&self) -> DriverName {
        DriverName::SIMULATED
    }

    fn abilities(&self) -> Abilities {
        simulated::ABILITIES
    }

    async fn fingerprint(&self) -> Fingerprint {
        simulated::fingerprint(std::path::Path::new("/"))
    }

    fn check(&self, _: &Release) -> Result<(), DriverError> {
        Ok(())
    }

    async fn prepare(&self, _: &Release) -> Result<(), DriverError> {
        Ok(())
    }

    async fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, DriverError> {
        answer(self.world.lock().unwrap().observe(app, desired))
    }

    async fn apps(&self) -> Result<Vec<AppName>, DriverError> {
        answer(self.world.lock().unwrap().apps())
    }

    async fn apply(&self, step: ApplyStep<'_>) -> Result<(), DriverError> {
        self.begin(&step);
        for _ in 0..step.object.name.len() {
            tokio::task::yield_now().await;
        }
        self.seen.lock().unwrap().under_way.retain(|(_, key)| key != step.object);
        if self.refused.as_ref() == Some(step.object) {
            return Err(DriverError::Runtime(format!("{} is refused", step.object)));
        }
        answer(self.world.lock().unwrap().apply(&now().moment, &step).result.map(drop))
    }

    fn width(&self) -> usize {
        self.width
    }

    async fn health(&self, _: &Release) -> Health {
        Health::Healthy
    }

    async fn address_of(&self, _: &Release, _: &ObjectKey, _: u16) -> Option<std::net::SocketAddr> {
        None
    }

    async fn logs(&self, _: &AppName, _: usize) -> Result<Vec<String>, DriverError> {
        Ok(Vec::new())
    }

    fn watch(self: Arc<Self>, _: mpsc::Sender<DriverEvent>) {}
}

fn now() -> Now {
    let moment = Moment { boot: BootId("0".into()), uptime: std::time::Duration::from_secs(10) };
    Now::certain(Timestamp::from_second(1_700_000_000).unwrap(), moment)
}

const KINDS: [&str; 3] = ["ConfigMap", "Service", "Deployment"];

/// Applies two apps with four objects of each of three kinds, and gives what the runtime and the disk hold then.
fn applied(width: usize, refused: Option<&str>) -> (Arc<Wide>, Arc<Mutex<Disk>>) {
    let world = World::new("store/till-1".parse().unwrap());
    let refused = refused.map(|key| key.parse().unwrap());
    let driver = Arc::new(Wide { world: Mutex::new(world), seen: Mutex::default(), width, refused });
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let revision = Revision("r1".into());
    let mut resolved = Resolved {
        revision: revision.clone(),
        apps: Default::default(),
        releases: Default::default(),
        held: Default::default(),
        unread: Default::default(),
        wants: Default::default(),
        policy: Default::default(),
    };
    for app in [0, 3] {
        let keys = KINDS.iter().flat_map(|kind| (0..4).map(move |n| format!("{kind}/{}-{n}", name(app))));
        let release = Release {
            app: name(app),
            driver: DriverName::SIMULATED,
            objects: keys.map(|key| Object { key: key.parse().unwrap(), spec: json!({}) }).collect(),
            artifacts: Default::default(),
            secrets: Default::default(),
            account: None,
        };
        let mut target = target(app, &release, &revision);
        target.policy.group = None;
        resolved.apps.insert(name(app), target);
        resolved.releases.insert(release.id(), Arc::new(release));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let journal = Memory { disk: Arc::clone(&disk), fuse: Fuse::default() };
        let drivers = Drivers::from_iter([Arc::clone(&driver) as Arc<dyn Driver>]);
        let mut keeper = Keeper::open(journal, drivers).unwrap();
        keeper.place(&resolved, &now()).unwrap();
        keeper.permit(Permit::default());
        for todo in keeper.to_prepare(&now()) {
            keeper.prepared(&todo.app, todo.id, Ok(()), &now()).unwrap();
        }
        let mut scope = Scope::All;
        loop {
            keeper.pass(&scope, &now()).unwrap();
            let (works, committed) = keeper.take_work();
            committed.unwrap();
            if works.is_empty() {
                break;
            }
            let all = works.into_iter().map(crate::keeper::Work::run);
            for done in futures_util::future::join_all(all).await {
                keeper.done(done, &now()).unwrap();
            }
            scope = Scope::default();
        }
    });
    (driver, disk)
}

#[test]
fn steps_of_one_kind_are_walked_at_once_no_two_kinds_of_an_app_overlap_and_apps_go_on_side_by_side() {
    for (width, most) in [(1, 1), (3, 3), (8, 4)] {
        let (driver, disk) = applied(width, None);
        assert_eq!(driver.seen.lock().unwrap().most, most, "width {width}");
        assert_eq!(driver.seen.lock().unwrap().apps, 2, "width {width}");
        assert_eq!(driver.world.lock().unwrap().objects.len(), 24);
        let inventory = &disk.lock().unwrap().loaded.inventory;
        assert!(inventory.values().all(|owned| owned.len() == 12) && inventory.len() == 2, "{inventory:?}");
    }
}

#[test]
fn after_a_step_that_failed_those_beside_it_end_and_no_other_of_its_app_begins() {
    let (driver, disk) = applied(3, Some("Service/db-1"));
    let order: Vec<String> = driver.seen.lock().unwrap().order.iter().map(ToString::to_string).collect();
    let of_db: Vec<&str> = order.iter().map(String::as_str).filter(|key| key.contains("db-")).collect();
    assert_eq!(of_db.len(), 4 + 3, "the second three have one more Service: {of_db:?}");
    assert!(of_db.ends_with(&["Service/db-0", "Service/db-1", "Service/db-2"]), "{of_db:?}");
    let objects = &driver.world.lock().unwrap().objects;
    assert!(objects.contains_key(&"Service/db-2".parse().unwrap()));
    assert_eq!(order.iter().filter(|key| key.contains("sign-")).count(), 12, "another app goes on");
    let disk = disk.lock().unwrap();
    let db = &disk.loaded.apps[&name(0)];
    assert_eq!(db.phase.word(), "Applying");
    assert!(db.stuck.as_ref().unwrap().cause.contains("Service/db-1 is refused"), "{:?}", db.stuck);
}
