//! The database: sled, with a guard around it.
//!
//! - A panic inside sled, an error that means damage, and an open that never ends are caught, and the folder
//!   is set aside: nothing in it is more than a fact that can be found again.
//! - After an error of the disk sled refuses everything until it is opened anew; that happens here, at the
//!   next use. What wasn't flushed is gone then, and is put again: whoever makes room and flushes once more
//!   has it on disk.
//! - sled writes what is full in the background, and tells of an error there to whoever comes next, however late: a
//!   write that comes when there is room again must not fail by it. So after an error of the disk the disk itself is
//!   asked, and what was to be done is done once more where it has no objection.
//! - A record that needs a file of its own, and can't have one, leaves sled waiting for itself for ever. So before
//!   each write the file system is asked whether it takes writes and has room; where it hasn't, the reserve is
//!   released, and where that isn't enough, sled is left alone and can still be read.
//! - sled's own flush leaves out the file's metadata and the disk's cache (`sync_file_range`), so that each
//!   flush is followed by an fsync.
//! - It ends its log silently at the first page that it can't read; [`crate::Store::open`] finds that out by
//!   the audit log, whose head the anchor knows.
//! - A start that was cut off leaves a half-written snapshot, which sled would take for damage: it is swept.
//!
//! What was put is there for this process at once, and on disk once [`Database::flush`] has returned.

mod open;
mod table;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::content::Reserve;
use crate::error::{DiskError, StoreError, at};
use crate::{durable_files, fault};

pub(crate) use table::Staged;
pub use table::{Key, RECORD_LIMIT, Record, Table};

use open::OpenFailure;
use table::Change;

/// How much may be put without ever coming to the disk, in bytes: two of the largest records.
const UNFLUSHED_LIMIT: usize = 2 * RECORD_LIMIT;

/// What a write may need beside itself, in bytes: sled writes in segments of 128 KiB, and rewrites what it splits.
const ROOM: u64 = 512 << 10;
/// The same in inodes: large records are files.
const INODES: u64 = 4;

/// From here on a record may become a file, in bytes. sled: above a quarter of a segment.
const LARGE: u64 = 16 << 10;

/// How the database is opened.
#[derive(Clone, Debug)]
pub struct DbOptions {
    /// How much sled keeps in memory, in bytes.
    pub cache: u64,
    /// After how long an open counts as one that never ends.
    pub open_limit: Duration,
    /// How much must be free on the file system for a write, in bytes, beside what is written.
    pub room: u64,
    /// What is released when there is no room.
    pub reserve: Option<Arc<Reserve>>,
}

impl Default for DbOptions {
    fn default() -> Self {
        // Measured: docs/adr/0002-store.md.
        DbOptions { cache: 1024 * 1024, open_limit: Duration::from_secs(30), room: ROOM, reserve: None }
    }
}

/// A database that was damaged, set aside, and begun anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// What was damaged.
    pub reason: String,
    /// Where the old one is now.
    pub set_aside: Option<PathBuf>,
}

/// The database. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Database {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    options: DbOptions,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    handle: Handle,
    /// Whether something was written since the last flush.
    dirty: bool,
    /// What was put since the last flush, by table.
    unflushed: Vec<(&'static str, Vec<Change>)>,
    /// How large that is, in bytes.
    unflushed_bytes: usize,
    /// The files of large records whose names are on disk.
    blobs: BTreeSet<OsString>,
    /// Which record was found damaged, where sled itself found nothing.
    damage: Option<String>,
}

impl State {
    fn of(db: sled::Db) -> State {
        State {
            handle: Handle::Open(db),
            dirty: true,
            unflushed: Vec::new(),
            unflushed_bytes: 0,
            blobs: BTreeSet::new(),
            damage: None,
        }
    }
}

#[derive(Debug)]
enum Handle {
    Open(sled::Db),
    /// Closed after an error of the disk; opened again at the next use.
    Closed,
    /// Found damaged while in use; stays so until it is rebuilt.
    Broken(String),
}

impl Database {
    /// Opens the database in `dir`. One that is damaged is set aside and begun anew; an error is one of the
    /// disk or of another process, and leaves everything as it is.
    pub fn open(dir: &Path, options: DbOptions) -> Result<(Self, Option<Rebuilt>), StoreError> {
        let (handle, rebuilt) = match open::guarded(dir, &options) {
            Ok(db) => (db, None),
            Err(OpenFailure::Refused(error)) => return Err(error),
            Err(OpenFailure::Damaged(reason)) => {
                let (db, rebuilt) = begin_anew(dir, &options, reason)?;
                (db, Some(rebuilt))
            }
        };
        let state = Mutex::new(State::of(handle));
        Ok((Database { shared: Arc::new(Shared { dir: dir.to_owned(), options, state }) }, rebuilt))
    }

    /// The table called `name`.
    pub fn table<K: Key, V: Record>(&self, name: &'static str) -> Table<K, V> {
        Table::new(self.clone(), name)
    }

    /// Whether something was put since the last flush in a table that isn't among these.
    pub(crate) fn is_unflushed_besides(&self, tables: &[&str]) -> bool {
        self.state().unflushed.iter().any(|(table, _)| !tables.contains(table))
    }

    /// Returns once everything that was put is on disk; gives whether there was something to do.
    pub fn flush(&self) -> Result<bool, StoreError> {
        self.flush_state(&mut self.state())
    }

    fn flush_state(&self, state: &mut State) -> Result<bool, StoreError> {
        if !state.dirty {
            return Ok(false);
        }
        let bytes = state.unflushed_bytes as u64;
        self.with_room(bytes, || self.with_state(state, "flush", |db| db.flush()))?;
        let file = self.shared.dir.join("db");
        let opened = File::open(&file).map_err(at("sync", &file))?;
        opened.sync_all().map_err(at("sync", &file))?;
        durable_files::forget_pages(&opened);
        // Large records have files of their own; sled syncs these, but not their names. It also writes many small ones anew as
        // one that is large.
        let blobs = self.shared.dir.join("blobs");
        let names = durable_files::names_in(&blobs)?;
        if !names.is_subset(&state.blobs) {
            durable_files::sync_dir(&blobs)?;
        }
        state.blobs = names;
        state.dirty = false;
        state.unflushed.clear();
        state.unflushed_bytes = 0;
        fault::point("db.flushed");
        Ok(true)
    }

    /// Sets the database aside and begins an empty one, for when a record turned out to be damaged.
    pub fn rebuild(&self, reason: &str) -> Result<Rebuilt, StoreError> {
        let mut state = self.state();
        close(std::mem::replace(&mut state.handle, Handle::Closed));
        let (db, rebuilt) = begin_anew(&self.shared.dir, &self.shared.options, reason.to_owned())?;
        *state = State::of(db);
        Ok(rebuilt)
    }

    /// What was found damaged, if anything was: only [`Database::rebuild`] helps.
    pub fn damage(&self) -> Option<String> {
        let state = self.state();
        let broken = match &state.handle {
            Handle::Broken(cause) => Some(cause),
            Handle::Open(_) | Handle::Closed => None,
        };
        state.damage.as_ref().or(broken).cloned()
    }

    fn note_damage(&self, what: &str) {
        self.state().damage.get_or_insert_with(|| what.to_owned());
    }

    /// Does `write` of so many bytes if there is room for it. Where there is none, or it finds none, the reserve is
    /// released, and it is done once more.
    fn with_room<T>(
        &self,
        bytes: u64,
        mut write: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut attempt = || self.check_room(bytes).map_err(StoreError::from).and_then(|()| write());
        match attempt() {
            Err(error) if error.is_full() && self.release()? => attempt(),
            other => other,
        }
    }

    fn release(&self) -> Result<bool, DiskError> {
        self.shared.options.reserve.as_ref().map_or(Ok(false), |reserve| reserve.release())
    }

    /// Whether the file system takes writes, and has room for so many bytes and what sled needs beside.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), DiskError> {
        let Shared { dir, options, .. } = &*self.shared;
        let refuse = |kind: io::ErrorKind| Err(DiskError::new("write the database in", dir, kind.into()));
        let disk = durable_files::FreeSpace::of(dir)?;
        if disk.is_read_only {
            return refuse(io::ErrorKind::ReadOnlyFilesystem);
        }
        let few = options.room > 0 && disk.inodes.is_some_and(|free| free < INODES);
        if few || (options.room > 0 && disk.bytes < options.room.saturating_add(bytes)) {
            return refuse(io::ErrorKind::StorageFull);
        }
        if bytes < LARGE {
            return Ok(());
        }
        // A file system that the kernel has given up says nothing of it but to whoever writes.
        let probe = dir.join("probe");
        let made = File::create(&probe).map_err(at("write the database in", dir));
        durable_files::remove_if_there(&probe)?;
        made.map(drop)
    }

    /// Runs `work`, which only reads, on sled, opening it if need be, and sorts what goes wrong.
    fn with<T>(&self, doing: &str, work: impl FnMut(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        self.with_state(&mut self.state(), doing, work)
    }

    /// Makes changes in one table, all or none.
    fn change(&self, table: &'static str, changes: Vec<Change>) -> Result<(), StoreError> {
        let state = &mut *self.state();
        let bytes: usize =
            changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        if state.unflushed_bytes + bytes > UNFLUSHED_LIMIT {
            // It isn't to grow in memory. Where the disk refuses this, what was put is kept, and nothing more is taken.
            self.flush_state(state)?;
        }
        let doing = format!("write {table}");
        self.with_room(bytes as u64, || {
            state.dirty = true;
            self.with_state(state, &doing, |db| apply(db, table, &changes))
        })?;
        state.unflushed_bytes += bytes;
        state.unflushed.push((table, changes));
        Ok(())
    }

    /// Runs `work`, which can be done twice. An error of the disk may be of a write of before, that sled made in the
    /// background: where the disk takes writes now, it is opened anew and the work is done once more.
    fn with_state<T>(
        &self,
        state: &mut State,
        doing: &str,
        mut work: impl FnMut(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        match self.with_state_once(state, doing, &mut work) {
            Err(StoreError::Disk(_)) if self.check_room(0).is_ok() => {
                self.with_state_once(state, doing, &mut work)
            }
            done => done,
        }
    }

    fn with_state_once<T>(
        &self,
        state: &mut State,
        doing: &str,
        work: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        if matches!(state.handle, Handle::Closed) {
            self.reopen(state)?;
        }
        let db = match &state.handle {
            Handle::Open(db) => db,
            Handle::Broken(cause) => {
                return Err(StoreError::Damaged { doing: doing.to_owned(), cause: cause.clone() });
            }
            // `reopen` leaves none of these without an error.
            Handle::Closed => {
                return Err(StoreError::Database { doing: doing.to_owned(), cause: "it is closed".into() });
            }
        };
        let damage = match catch_unwind(AssertUnwindSafe(|| work(db))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(sled::Error::Io(cause))) if !open::means_damage(&cause) => {
                close(std::mem::replace(&mut state.handle, Handle::Closed));
                state.dirty = true;
                return Err(DiskError::new("write or read the database in", &self.shared.dir, cause).into());
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => open::panic_text(panic.as_ref()),
        };
        close(std::mem::replace(&mut state.handle, Handle::Broken(damage.clone())));
        Err(StoreError::Damaged { doing: doing.to_owned(), cause: damage })
    }

    fn reopen(&self, state: &mut State) -> Result<(), StoreError> {
        match open::guarded(&self.shared.dir, &self.shared.options) {
            Ok(db) => {
                let again = |(table, changes): &(&'static str, Vec<Change>)| apply(&db, table, changes);
                if let Err(error) = state.unflushed.iter().try_for_each(again) {
                    close(Handle::Open(db));
                    let cause = match error {
                        sled::Error::Io(cause) => cause,
                        error => io::Error::other(error.to_string()),
                    };
                    return Err(
                        DiskError::new("write again what was lost of", &self.shared.dir, cause).into()
                    );
                }
                state.handle = Handle::Open(db);
                Ok(())
            }
            Err(OpenFailure::Refused(error)) => Err(error),
            Err(OpenFailure::Damaged(cause)) => {
                state.handle = Handle::Broken(cause.clone());
                Err(StoreError::Damaged { doing: "open what is kept".to_owned(), cause })
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Panics of sled are caught inside; what is left in between is one of the three states.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        close(std::mem::replace(&mut state.handle, Handle::Closed));
    }
}

fn apply(db: &sled::Db, table: &str, changes: &[Change]) -> sled::Result<()> {
    let tree = db.open_tree(table)?;
    // One record alone needs no batch, each of which begins by writing out what was put before it.
    if let [(key, value)] = changes {
        return match value {
            Some(value) => tree.insert(key, value.as_slice()),
            None => tree.remove(key),
        }
        .map(drop);
    }
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.insert(key.as_slice(), value.as_slice()),
            None => batch.remove(key.as_slice()),
        }
    }
    tree.apply_batch(batch)
}

/// Drops sled, which flushes, and may panic when the disk refuses that.
fn close(handle: Handle) {
    if let Handle::Open(db) = handle
        && let Err(panic) = catch_unwind(AssertUnwindSafe(move || drop(db)))
    {
        tracing::warn!(cause = open::panic_text(panic.as_ref()), "the database didn't close cleanly");
    }
}

fn begin_anew(dir: &Path, options: &DbOptions, reason: String) -> Result<(sled::Db, Rebuilt), StoreError> {
    let set_aside = if dir.symlink_metadata().is_ok() { Some(durable_files::set_aside(dir)?) } else { None };
    fault::point("db.set-aside");
    tracing::warn!(reason, "the database is damaged: it is set aside and replaced by a new one");
    match open::guarded(dir, options) {
        Ok(db) => Ok((db, Rebuilt { reason, set_aside })),
        Err(OpenFailure::Refused(error)) => Err(error),
        Err(OpenFailure::Damaged(cause)) => {
            Err(StoreError::Database { doing: "create new tables".to_owned(), cause })
        }
    }
}

#[cfg(test)]
mod tests;
