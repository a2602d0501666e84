//! The keeper's journal, kept by the store. What must outlive everything is in the anchor, what can be found
//! again in the database, releases are pinned content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_core::app::App;
use holdfast_core::clock::Now;
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::digest::{Digest, ReleaseId, Revision};
use holdfast_core::event::Draft;
use holdfast_core::generation::{Failure, Owned, OwnedObjects};
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::Release;
use holdfast_store::anchor::{FailedRelease, SetAside, Transaction as AnchorTransaction, TransactionKind};
use holdfast_store::{Store, StoreError, fault};

use crate::keeper::{Journal, JournalError, Loaded, Note, Transaction};

/// The largest release that is read back.
const RELEASE_LIMIT: u64 = 64 << 20;

/// How many of the newest events are searched for those of an app that failed, and how many of these are kept.
const EVENTS_LOOKED_AT: usize = 200;
const EVENTS_KEPT: usize = 20;

/// The store, shared with the jobs that pin content.
pub(super) type SharedStore = Arc<Mutex<Store>>;

/// Locks the store. A job that panicked while it held the lock left no half-made record: each write to the
/// store is whole by itself.
pub(super) fn lock(store: &SharedStore) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
pub(super) struct StoreJournal {
    store: SharedStore,
}

impl StoreJournal {
    pub(super) fn new(store: SharedStore) -> Self {
        StoreJournal { store }
    }
}

fn failure_of(failed: &FailedRelease) -> Failure {
    Failure { reason: failed.reason.clone(), judged_by: failed.judged_by }
}

impl From<StoreError> for JournalError {
    fn from(error: StoreError) -> Self {
        JournalError { trouble: error.trouble(), cause: error.to_string() }
    }
}

impl Journal for StoreJournal {
    fn passed(&self, point: &'static str) {
        fault::point(point);
    }

    fn load(&mut self) -> Result<Loaded, JournalError> {
        let store = lock(&self.store);
        let anchor = store.anchor();
        let failed = anchor.failed.iter().map(|(app, failed)| {
            (app.clone(), failed.iter().map(|failed| (failed.release, failure_of(failed))).collect())
        });
        let transactions = anchor.transactions.iter().filter_map(|open| {
            Some(Transaction {
                app: open.app.clone(),
                release: open.release?,
                boot: open.boot.clone(),
                deaths: open.deaths_this_boot,
                under_way: open.under_way,
            })
        });
        Ok(Loaded {
            apps: store.apps().all()?,
            inventory: store.inventory().all()?.into_iter().map(|(app, owned)| (app, owned.0)).collect(),
            failed: failed.collect(),
            transactions: transactions.collect(),
        })
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        if lock(&self.store).commit()? {
            fault::point("state.saved");
        }
        Ok(())
    }

    fn is_accepted_on_disk(&self) -> bool {
        lock(&self.store).is_anchor_on_disk()
    }

    fn save_apps(&mut self, changed: &[(&AppName, Option<&App>)]) -> Result<(), JournalError> {
        let store = lock(&self.store);
        let gone = changed.iter().filter(|(_, app)| app.is_none()).map(|(name, _)| (*name, None));
        store.diagnoses().change(gone)?;
        store.apps().change(changed.iter().copied())?;
        Ok(())
    }

    fn save_inventory(&mut self, app: &AppName, owned: &[(&ObjectKey, &Owned)]) -> Result<(), JournalError> {
        let store = lock(&self.store);
        let owned: BTreeMap<_, _> =
            owned.iter().map(|(key, owned)| ((*key).clone(), (*owned).clone())).collect();
        let record = (!owned.is_empty()).then_some(OwnedObjects(owned));
        store.inventory().change(std::iter::once((app, record.as_ref())))?;
        Ok(())
    }

    fn pin(&mut self, releases: &[Arc<Release>]) -> Result<(), JournalError> {
        let content = lock(&self.store).shared_content();
        Ok(content.put_small_all(releases.iter().map(|release| release.to_bytes()))?)
    }

    fn release(&mut self, id: &ReleaseId) -> Option<Release> {
        let bytes = lock(&self.store).content().read(&id.0, RELEASE_LIMIT);
        let parsed = bytes.map(|bytes| bytes.map(|bytes| serde_json::from_slice(&bytes)));
        match parsed {
            Ok(Some(Ok(release))) => Some(release),
            Ok(None) => None,
            Ok(Some(Err(error))) => {
                tracing::warn!(%id, %error, "a pinned release can't be read");
                None
            }
            Err(error) => {
                tracing::warn!(%id, %error, "a pinned release can't be read");
                None
            }
        }
    }

    fn open_transaction(&mut self, transaction: &Transaction, now: &Now) -> Result<(), JournalError> {
        let Transaction { app, release, boot, deaths, under_way } = transaction;
        lock(&self.store).stage_anchor(|anchor| {
            let before = anchor.transaction(app).filter(|open| open.release == Some(*release)).cloned();
            let boots = before.as_ref().map_or(1, |open| open.boots + u32::from(open.boot != *boot));
            anchor.open_transaction(AnchorTransaction {
                app: app.clone(),
                release: Some(*release),
                kind: TransactionKind::Change,
                boot: boot.clone(),
                deaths_this_boot: *deaths,
                boots,
                opened: before.map_or(now.wall, |open| open.opened),
                under_way: *under_way,
            });
        });
        Ok(())
    }

    fn close_transaction(&mut self, app: &AppName, settled: bool) -> Result<(), JournalError> {
        lock(&self.store).stage_anchor(|anchor| {
            anchor.close_transaction(app);
            if settled {
                anchor.set_aside.remove(app);
            }
        });
        fault::point("executor.transaction-closed");
        Ok(())
    }

    fn times_set_aside(&mut self, app: &AppName, release: &ReleaseId) -> u32 {
        let store = lock(&self.store);
        let aside = store.anchor().set_aside.get(app).filter(|aside| aside.release == Some(*release));
        aside.map_or(0, |aside| aside.attempts)
    }

    fn set_aside(
        &mut self,
        app: &AppName,
        release: &ReleaseId,
        times: u32,
        now: &Now,
    ) -> Result<(), JournalError> {
        lock(&self.store).update_anchor(|anchor| {
            let aside = SetAside { release: Some(*release), attempts: times, next: now.wall };
            anchor.set_aside.insert(app.clone(), aside);
        })?;
        Ok(())
    }

    fn remember_failed(
        &mut self,
        app: &AppName,
        release: &ReleaseId,
        failure: &Failure,
        now: &Now,
    ) -> Result<(), JournalError> {
        fault::mark("verdict.bad");
        lock(&self.store).update_anchor(|anchor| anchor.remember_failed(app, *release, failure, now.wall))?;
        Ok(())
    }

    fn forget_failed(&mut self, app: &AppName) -> Result<(), JournalError> {
        let mut store = lock(&self.store);
        if store.anchor().failed.contains_key(app) {
            store.update_anchor(|anchor| {
                anchor.forget_failed(app);
            })?;
        }
        Ok(())
    }

    fn keep_diagnosis(&mut self, app: &AppName, mut diagnosis: Diagnosis) {
        let store = lock(&self.store);
        let kept = store.audit().newest(EVENTS_LOOKED_AT).and_then(|events| {
            let of_app = events.iter().filter(|event| event.app.as_ref() == Some(app));
            let lines = of_app.map(|event| format!("{} {} {}", event.time, event.kind, event.message));
            diagnosis.events = lines.rev().take(EVENTS_KEPT).collect();
            diagnosis.events.reverse();
            store.diagnoses().put(app, &diagnosis)
        });
        if let Err(error) = kept {
            tracing::warn!(%app, %error, "the diagnosis of an app that failed can't be saved");
        }
    }

    fn diagnosis(&mut self, app: &AppName) -> Option<Diagnosis> {
        lock(&self.store).diagnoses().get(app).ok().flatten()
    }

    fn note(&mut self, note: Note, now: &Now) {
        tracing::info!(kind = note.kind, app = note.app.as_ref().map(AppName::as_str), "{}", note.message);
        let draft = Draft {
            kind: note.kind.to_owned(),
            app: note.app,
            revision: note.revision.map(Revision),
            message: note.message,
        };
        if let Err(error) = lock(&self.store).append_event(now.wall, draft) {
            tracing::warn!(%error, "the audit log can't be written");
        }
    }

    fn collect(&mut self, keep: &BTreeSet<Digest>) {
        if let Err(error) = lock(&self.store).content().collect(keep) {
            tracing::warn!(%error, "content that is no longer needed can't be removed");
        }
    }
}
