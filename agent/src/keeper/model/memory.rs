//! A journal in memory that survives the keeper, and dies with the process when the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use holdfast_core::app::App;
use holdfast_core::clock::Now;
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::disk_trouble::Trouble;
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

/// Where something is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Medium {
    Database,
    Anchor,
}

type Act = Arc<dyn Fn(&mut Loaded) + Send + Sync>;

/// What is on the disk, and on its way there.
#[derive(Default)]
pub(super) struct Disk {
    /// As the process sees it.
    pub(super) loaded: Loaded,
    /// As it is on the disk.
    durable: Loaded,
    /// What makes the one of the other.
    staged: Vec<(Medium, Act)>,
    pub(super) releases: BTreeMap<ReleaseId, Release>,
    pub(super) set_aside: BTreeMap<(AppName, ReleaseId), u32>,
    pub(super) notes: Vec<Note>,
    pub(super) diagnoses: BTreeMap<AppName, Diagnosis>,
    /// It takes no write.
    pub(super) is_full: bool,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?} {:?}", self.loaded, self.releases, self.set_aside, self.notes)
    }
}

impl Disk {
    fn settle(&mut self, medium: Medium) {
        for (_, act) in self.staged.extract_if(.., |(on, _)| *on == medium) {
            act(&mut self.durable);
        }
    }

    /// The process is dead. Of what it had put into the database, up to `some` may be there; the anchor is written as a whole.
    pub(super) fn crash(&mut self, some: usize) {
        let staged = std::mem::take(&mut self.staged);
        let put = staged.iter().filter(|(medium, _)| *medium == Medium::Database);
        let some = some % (put.clone().count() + 1);
        put.take(some).for_each(|(_, act)| act(&mut self.durable));
        self.loaded = self.durable.clone();
    }

    /// The database is lost, and begun again.
    pub(super) fn lose_database(&mut self) {
        self.crash(0);
        for loaded in [&mut self.loaded, &mut self.durable] {
            loaded.apps.clear();
            loaded.inventory.clear();
        }
    }
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
            return Err(dead());
        }
        let mut disk = self.disk.lock().unwrap();
        if disk.is_full {
            return Err(full());
        }
        act(&mut disk);
        Ok(())
    }

    /// Writes what a commit takes to the disk.
    fn stage(
        &self,
        medium: Medium,
        act: impl Fn(&mut Loaded) + Send + Sync + 'static,
    ) -> Result<(), JournalError> {
        if self.fuse.is_burnt() {
            return Err(dead());
        }
        let mut disk = self.disk.lock().unwrap();
        if disk.is_full && medium == Medium::Database {
            return Err(full());
        }
        act(&mut disk.loaded);
        disk.staged.push((medium, Arc::new(act)));
        Ok(())
    }
}

impl Journal for Memory {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        Ok(self.disk.lock().unwrap().loaded.clone())
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        let is_staged = |on: Medium| self.disk.lock().unwrap().staged.iter().any(|(medium, _)| *medium == on);
        let put = if is_staged(Medium::Database) {
            self.write(|disk| disk.settle(Medium::Database))
        } else {
            Ok(())
        };
        if is_staged(Medium::Anchor) {
            // It is written in place, on a full disk too.
            if !self.fuse.burn() {
                return Err(dead());
            }
            self.disk.lock().unwrap().settle(Medium::Anchor);
        }
        put
    }

    fn is_accepted_on_disk(&self) -> bool {
        self.disk.lock().unwrap().staged.iter().all(|(medium, _)| *medium == Medium::Database)
    }

    fn save_apps(&mut self, apps: &[(&AppName, Option<&App>)]) -> Result<(), JournalError> {
        let apps: Vec<(AppName, Option<App>)> =
            apps.iter().map(|(name, app)| ((*name).clone(), app.cloned())).collect();
        self.stage(Medium::Database, move |loaded| {
            for (name, app) in apps.iter().cloned() {
                match app {
                    Some(app) => loaded.apps.insert(name, app),
                    None => loaded.apps.remove(&name),
                };
            }
        })
    }

    fn save_inventory(&mut self, app: &AppName, owned: &[(&ObjectKey, &Owned)]) -> Result<(), JournalError> {
        let owned: BTreeMap<_, _> =
            owned.iter().map(|(key, owned)| ((*key).clone(), (*owned).clone())).collect();
        let app = app.clone();
        self.stage(Medium::Database, move |loaded| {
            if owned.is_empty() {
                loaded.inventory.remove(&app);
            } else {
                loaded.inventory.insert(app.clone(), owned.clone());
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
        let transaction = transaction.clone();
        self.stage(Medium::Anchor, move |loaded| {
            loaded.transactions.retain(|open| open.app != transaction.app);
            loaded.transactions.push(transaction.clone());
        })
    }

    fn close_transaction(&mut self, app: &AppName, settled: bool) -> Result<(), JournalError> {
        if settled {
            self.disk.lock().unwrap().set_aside.retain(|(name, _), _| name != app);
        }
        let app = app.clone();
        self.stage(Medium::Anchor, move |loaded| loaded.transactions.retain(|open| open.app != app))
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
            for medium in [Medium::Database, Medium::Anchor] {
                disk.settle(medium);
            }
            for loaded in [&mut disk.loaded, &mut disk.durable] {
                loaded.failed.entry(app.clone()).or_default().insert(*release, failure.clone());
            }
        })
    }

    fn forget_failed(&mut self, app: &AppName) -> Result<(), JournalError> {
        self.write(|disk| {
            for loaded in [&mut disk.loaded, &mut disk.durable] {
                loaded.failed.remove(app);
            }
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

fn dead() -> JournalError {
    JournalError { cause: "the process is dead".into(), trouble: None }
}

fn full() -> JournalError {
    JournalError { cause: "no space left on device".into(), trouble: Some(Trouble::Full) }
}
