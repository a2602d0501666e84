//! The simulated runtime as a driver without files, in simulated time. It keeps a list of what was done to
//! it, for the rules to be checked.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use holdfast_core::clock::Moment;
use holdfast_core::digest::ReleaseId;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observed};
use holdfast_core::plan::Action;
use holdfast_core::release::Release;
use holdfast_core::runtime::{Abilities, DriverName, Fingerprint};
use holdfast_drivers::simulated::world::{Fault, World};
use holdfast_drivers::{ApplyStep, Driver, DriverError, DriverEvent, simulated};
use tokio::sync::mpsc;

use super::memory::Fuse;

/// Something that was done.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) app: AppName,
    pub(super) action: Action,
    pub(super) object: ObjectKey,
    pub(super) release: Option<ReleaseId>,
    /// Whether the last look at the object had found it absent.
    pub(super) seen_absent: bool,
    /// Whether something was removed.
    pub(super) removed: bool,
    /// With which of the things that happened it was begun.
    pub(super) begun: usize,
}

/// The runtime, shared between the test and the driver.
pub(super) struct Shared {
    pub(super) world: World,
    pub(super) now: Moment,
    pub(super) done: Vec<Done>,
    /// With which of the things that happened the work was begun that is run now.
    pub(super) begun: usize,
    absent: BTreeSet<ObjectKey>,
}

impl Shared {
    pub(super) fn new(world: World, now: Moment) -> Self {
        Shared { world, now, done: Vec::new(), begun: 0, absent: BTreeSet::new() }
    }
}

pub(super) struct Runtime {
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) fuse: Fuse,
}

impl Runtime {
    /// What the runtime answers; nothing ever, once the process is dead.
    async fn answer<T>(&self, result: Result<T, Fault>) -> Result<T, DriverError> {
        match result {
            Ok(value) if !self.fuse.is_burnt() => Ok(value),
            Err(Fault::Release(why)) => Err(DriverError::Release(why)),
            Err(Fault::Runtime(why)) => Err(DriverError::Runtime(why)),
            Err(Fault::NotYet(why)) => Err(DriverError::NotYet(why)),
            Err(Fault::Stays(why)) => Err(DriverError::Stays(why)),
            Ok(_) | Err(Fault::Crash | Fault::Hang) => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Driver for Runtime {
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

    async fn prepare(&self, release: &Release) -> Result<(), DriverError> {
        let result = self.shared.lock().unwrap().world.prepare(release);
        self.answer(result).await
    }

    async fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, DriverError> {
        let result = {
            let mut shared = self.shared.lock().unwrap();
            let result = shared.world.observe(app, desired);
            for (key, seen) in result.iter().flatten() {
                if *seen == Observed::Absent {
                    shared.absent.insert(key.clone());
                } else {
                    shared.absent.remove(key);
                }
            }
            result
        };
        self.answer(result).await
    }

    async fn apps(&self) -> Result<Vec<AppName>, DriverError> {
        let result = self.shared.lock().unwrap().world.apps();
        self.answer(result).await
    }

    async fn apply(&self, step: ApplyStep<'_>) -> Result<(), DriverError> {
        let result = if self.fuse.burn() {
            let mut shared = self.shared.lock().unwrap();
            let now = shared.now.clone();
            let applied = shared.world.apply(&now, &step);
            let seen_absent = shared.absent.remove(step.object);
            let begun = shared.begun;
            shared.done.push(Done {
                begun,
                app: step.app.clone(),
                action: step.action,
                object: step.object.clone(),
                release: step.release.map(Release::id),
                seen_absent,
                removed: step.action == Action::Remove && applied.result == Ok("ok"),
            });
            applied.result.map(drop)
        } else {
            Err(Fault::Crash)
        };
        self.answer(result).await
    }

    fn width(&self) -> usize {
        3
    }

    async fn health(&self, release: &Release) -> Health {
        let mut shared = self.shared.lock().unwrap();
        let now = shared.now.clone();
        shared.world.health(&now, release)
    }

    async fn address_of(&self, _: &Release, _: &ObjectKey, _: u16) -> Option<std::net::SocketAddr> {
        None
    }

    async fn logs(&self, _: &AppName, _: usize) -> Result<Vec<String>, DriverError> {
        Ok(Vec::new())
    }

    fn watch(self: Arc<Self>, _: mpsc::Sender<DriverEvent>) {}
}
