//! A journal in memory that survives the keeper, and dies with the process when the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use holdfast_core::app::App;
use holdfast_core::clock::Now;
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::generation::{Failure, Owned};
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::Release;

use crate::keeper::{Journal, JournalError, Loaded, Note, Transaction};

/// Counts down at every durable act; at zero the process is dead, and nothing it does counts any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Fuse(Arc<Mutex<Option<u32>>>);

impl Fuse {
    pub(super) fn set(&self, acts: Option<u32>) {
        *self.0.lock().unwrap() = acts;
    }

    pub(super) fn is_burnt(&self) -> bool {
        *self.0.lock().unwrap() == Some(0)
    }

    /// Whether the process lives to do another act.
    pub(super) fn burn(&self) -> bool {
        match &mut *self.0.lock().unwrap() {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                *left > 0
            }
        }
    }
}

/// What is on the disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) loaded: Loaded,
    pub(super) releases: BTreeMap<ReleaseId, Release>,
    pub(super) set_aside: BTreeMap<(AppName, ReleaseId), u32>,
    pub(super) notes: Vec<Note>,
    pub(super) diagnoses: BTreeMap<AppName, Diagnosis>,
    /// It takes no write.
    pub(super) is_full: bool,
}

/// The journal of one process.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) fuse: Fuse,
}

impl Memory {
    fn write(&self, act: impl FnOnce(&mut Disk)) -> Result<(), JournalError> {
        if !self.fuse.burn() {
            return Err(JournalError("the process is dead".into()));
        }
        let mut disk = self.disk.lock().unwrap();
        if disk.is_full {
            return Err(JournalError("no space left on device".into()));
        }
        act(&mut disk);
        Ok(())
    }
}

impl Journal for Memory {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        Ok(self.disk.lock().unwrap().loaded.clone())
    }

    fn save_apps(&mut self, apps: &[(&AppName, Option<&App>)]) -> Result<(), JournalError> {
        self.write(|disk| {
            for (name, app) in apps {
                match app {
                    Some(app) => disk.loaded.apps.insert((*name).clone(), (*app).clone()),
                    None => disk.loaded.apps.remove(*name),
                };
            }
        })
    }

    fn save_inventory(&mut self, app: &AppName, owned: &[(&ObjectKey, &Owned)]) -> Result<(), JournalError> {
        self.write(|disk| {
            let owned: BTreeMap<_, _> =
                owned.iter().map(|(key, owned)| ((*key).clone(), (*owned).clone())).collect();
            if owned.is_empty() {
                disk.loaded.inventory.remove(app);
            } else {
                disk.loaded.inventory.insert(app.clone(), owned);
            }
        })
    }

    fn pin(&mut self, releases: &[Arc<Release>]) -> Result<(), JournalError> {
        self.write(|disk| {
            disk.releases.extend(releases.iter().map(|release| (release.id(), (**release).clone())));
        })
    }

    fn release(&mut self, id: &ReleaseId) -> Option<Release> {
        self.disk.lock().unwrap().releases.get(id).cloned()
    }

    fn open_transaction(&mut self, transaction: &Transaction, _: &Now) -> Result<(), JournalError> {
        self.write(|disk| {
            disk.loaded.transactions.retain(|open| open.app != transaction.app);
            disk.loaded.transactions.push(transaction.clone());
        })
    }

    fn close_transaction(&mut self, app: &AppName, settled: bool) -> Result<(), JournalError> {
        self.write(|disk| {
            disk.loaded.transactions.retain(|open| open.app != *app);
            if settled {
                disk.set_aside.retain(|(name, _), _| name != app);
            }
        })
    }

    fn times_set_aside(&mut self, app: &AppName, release: &ReleaseId) -> u32 {
        self.disk.lock().unwrap().set_aside.get(&(app.clone(), *release)).copied().unwrap_or(0)
    }

    fn set_aside(
        &mut self,
        app: &AppName,
        release: &ReleaseId,
        times: u32,
        _: &Now,
    ) -> Result<(), JournalError> {
        self.write(|disk| {
            disk.set_aside.insert((app.clone(), *release), times);
        })
    }

    fn remember_failed(
        &mut self,
        app: &AppName,
        release: &ReleaseId,
        failure: &Failure,
        _: &Now,
    ) -> Result<(), JournalError> {
        self.write(|disk| {
            disk.loaded.failed.entry(app.clone()).or_default().insert(*release, failure.clone());
        })
    }

    fn forget_failed(&mut self, app: &AppName) -> Result<(), JournalError> {
        self.write(|disk| {
            disk.loaded.failed.remove(app);
        })
    }

    fn keep_diagnosis(&mut self, app: &AppName, diagnosis: Diagnosis) {
        let _ = self.write(|disk| {
            disk.diagnoses.insert(app.clone(), diagnosis);
        });
    }

    fn diagnosis(&mut self, app: &AppName) -> Option<Diagnosis> {
        self.disk.lock().unwrap().diagnoses.get(app).cloned()
    }

    fn note(&mut self, note: Note, _: &Now) {
        self.disk.lock().unwrap().notes.push(note);
    }

    fn collect(&mut self, keep: &BTreeSet<Digest>) {
        self.disk.lock().unwrap().releases.retain(|id, _| keep.contains(&id.0));
    }
}
