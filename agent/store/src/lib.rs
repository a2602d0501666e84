//! What Holdfast keeps on disk, and how it survives a kill, a power cut and a full or failing disk.
//!
//! | module | what | lost |
//! |---|---|---|
//! | [`anchor`] | what can't be found again: floors, failed releases, the open transaction | survived, and said |
//! | [`db`], [`records`] | facts in sled that can be found again | set aside and rebuilt |
//! | [`audit`] | the chain of events: in sled, older ones in files, its head in the anchor | the gap stays visible |
//! | [`content`] | pinned content by digest, and the reserve | fetched again |
//! | [`keystore`] | the box's own keys | made anew, and said |
//! | [`lock`] | one agent at a time | |
//! | [`fault`] | named crash points for tests | |
//!
//! The state folder (0700):
//!
//! ```text
//! anchor       two checksummed slots
//! db/          sled              db.opening  a start that hasn't come back yet
//! events/      the audit log's older events, some hundred a file
//! content/     sha256/<hex>, tmp/, partial/<hex>, reserve*
//! keys/        signing.key, age.key, box.key (0600)
//! lock         flock; the holder's process id
//! mirror/      git's, not this crate's; wasm/ the runtime's
//! *.damaged-N  what was set aside; the newest three of each are kept
//! ```
//!
//! Everything here blocks.

pub mod anchor;
pub mod audit;
pub mod content;
pub mod db;
mod durable_files;
pub mod encrypted;
pub mod error;
pub mod fault;
pub mod keystore;
pub mod lock;
mod opened;
pub mod records;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::app::App;
use holdfast_core::clock::RELEASED;
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::event::segment::Seal;
use holdfast_core::event::{Draft, Event};
use holdfast_core::generation::OwnedObjects;
use holdfast_core::name::{AppName, DeviceName};
use jiff::Timestamp;

use anchor::{Anchor, AnchorFile};
use audit::{AuditLog, Bounds, TakenOut};
use content::{Beside, Content, Reserve};
use db::{Database, DbOptions, Key, Record, Table};
use keystore::FileKeystore;
use lock::StateLock;
use records::{GateHold, LinkUsage, Revisions, SeenTime, Tags};

pub use audit::Bounds as AuditBounds;
pub use durable_files::FreeSpace;
pub use error::{DiskError, StoreError};
pub use opened::Opened;

pub(crate) const EVENTS: &str = "events";
/// The folder of the audit log's older events.
const PAGES: &str = "events";
const APPS: &str = "apps";
const INVENTORY: &str = "inventory";
const META: &str = "meta";
const GATE_HOLD: &str = "gate-hold";
const SEEN: &str = "seen-time";
const TAGS: &str = "tags";
/// What others keep in the state folder, and what counts to the disk budget: git's mirror and compiled code.
const BESIDE: &[&str] = &["mirror", "wasm/compiled"];
/// As many events wait for a disk that refuses them.
const WAITING_EVENTS: usize = 256;
/// As much is kept for a start on a full disk, in bytes, or a quarter of a small reserve.
const START_RESERVE: u64 = 512 << 10;
const DIAGNOSES: &str = "diagnoses";
const REVISIONS: &str = "revisions";
/// The one record of the table of revisions.
const FOLLOWED: &str = "followed";
/// As many bytes of events may be in the anchor instead of the database, as JSON.
const UNFLUSHED_BYTES: usize = 12 << 10;
const LINK: &str = "link";
/// The one record of the table of what was used of the link.
const LINK_USAGE: &str = "usage";

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this box is.
    pub device: DeviceName,
    /// The time as the clock has it, for what is written while opening.
    pub now: Timestamp,
    /// What the box has proof of without its anchor: it is at least this late.
    pub proven: Timestamp,
    /// What pinned content may use, in bytes.
    pub disk_budget: u64,
    /// The room that is kept for a full disk, in bytes.
    pub reserve: u64,
    /// What others keep outside of the state folder, and what counts to the disk budget.
    pub beside: Vec<Beside>,
    /// How large the audit log may grow before its oldest events are sealed.
    pub audit: Bounds,
    /// How sled is opened.
    pub db: DbOptions,
}

impl Options {
    /// The defaults for a box: 2 GiB of content, 4 MiB of reserve, 10,000 events in 8 MiB.
    pub fn new(device: DeviceName, now: Timestamp) -> Self {
        Options {
            device,
            now,
            proven: RELEASED,
            disk_budget: 2 << 30,
            reserve: 4 << 20,
            beside: Vec::new(),
            audit: Bounds { events: 10_000, bytes: 8 << 20 },
            db: DbOptions::default(),
        }
    }
}

/// Everything that is kept, behind one lock.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    anchor: AnchorFile,
    /// The anchor as it is to be.
    staged: Option<Anchor>,
    /// The newest event that is in the database on disk.
    flushed: u64,
    /// Whether the database was flushed since it was opened: before that, what a killed process wrote may be there to be read,
    /// and not on disk.
    is_flushed: bool,
    audit: AuditLog,
    db: Database,
    content: Arc<Content>,
    reserve: Arc<Reserve>,
    keys: FileKeystore,
    bounds: Bounds,
    /// Events that the disk refused, with their times.
    waiting: VecDeque<(Timestamp, Draft)>,
    /// Last, so that it is given up last.
    _lock: StateLock,
}

impl Store {
    /// Opens the state folder `dir`, which is made if it isn't there. Gives also what must be told: what was
    /// made, lost or rebuilt. Each of these is in the audit log already.
    pub fn open(dir: &Path, options: &Options) -> Result<(Self, Vec<Opened>), StoreError> {
        durable_files::private_dir(dir)?;
        let lock = StateLock::take(&dir.join("lock"))?;
        let mut opened = Vec::new();

        // The anchor comes first, so that one that is missing beside other things was lost.
        let others_exist = dir.join("db").exists() || dir.join("keys").exists();
        let fresh = Anchor::new(options.device.clone(), options.now, options.proven);
        let (anchor, state) = AnchorFile::open(&dir.join("anchor"), fresh)?;
        opened.extend(opened::of_anchor(state, others_exist));
        opened.extend(opened::of_device(&anchor.get().identity.device, &options.device));

        let (keys, replaced) = FileKeystore::open(&dir.join("keys"))?;
        opened.extend(replaced.into_iter().map(Opened::KeyReplaced));

        durable_files::private_dir(&dir.join("content"))?;
        let (reserve, reserved) = Reserve::open(&dir.join("content/reserve"), options.reserve);
        let reserve = Arc::new(reserve);
        // What a start needs is never given away for anything else: after a power cut on a full disk the box must
        // come up again.
        let (for_start, _) =
            Reserve::open(&dir.join("content/reserve.start"), (options.reserve / 4).min(START_RESERVE));
        if let Err(error) = reserved {
            tracing::warn!(%error, "there is no reserve for a full disk");
        }
        let content = Content::open(&dir.join("content"), options.disk_budget)?;
        let own = BESIDE.iter().map(|name| Beside::all_in(dir.join(name)));
        let beside = own.chain(options.beside.iter().cloned()).collect();
        let content = Arc::new(content.within(beside, Arc::clone(&reserve)));

        let db_dir = dir.join("db");
        let db_options = DbOptions { reserve: Some(Arc::clone(&reserve)), ..options.db.clone() };
        let open = || Database::open(&db_dir, db_options.clone());
        let (db, rebuilt) = with_reserve(&reserve, || with_reserve(&for_start, open))?;
        opened.extend(rebuilt.map(Opened::DatabaseRebuilt));
        let fresh = opened.iter().any(|report| matches!(report, Opened::DatabaseRebuilt(_)));
        opened.extend(audit::make_usable(&dir.join(PAGES))?.map(Opened::PagesSetAside));
        let (audit, found) = open_audit(&db, &dir.join(PAGES), anchor.get(), options.audit, fresh)?;
        opened.extend(found);

        for_start.take_back_now();

        let dir = dir.to_owned();
        let bounds = options.audit;
        let flushed =
            audit.head().map_or(0, |head| head.seq.saturating_sub(anchor.get().unflushed.len() as u64));
        let mut store = Store {
            dir,
            anchor,
            staged: None,
            flushed,
            is_flushed: false,
            audit,
            db,
            content,
            reserve,
            keys,
            bounds,
            waiting: VecDeque::new(),
            _lock: lock,
        };
        for report in &opened {
            store.append_event(options.now, report.draft())?;
        }
        if !opened.is_empty() {
            store.anchor_head()?;
        }
        Ok((store, opened))
    }

    /// The state folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The anchor, with what is staged.
    pub fn anchor(&self) -> &Anchor {
        self.staged.as_ref().unwrap_or_else(|| self.anchor.get())
    }

    /// Whether nothing of the anchor is staged.
    pub fn is_anchor_on_disk(&self) -> bool {
        self.staged.is_none()
    }

    /// Changes the anchor, and all else that is staged, and returns once that is on disk; gives whether there was something
    /// to change. Without a change nothing is written.
    pub fn update_anchor(&mut self, change: impl FnOnce(&mut Anchor)) -> Result<bool, StoreError> {
        let before = self.staged.clone();
        if !self.stage_anchor(change) {
            return Ok(false);
        }
        // The floor must not wait for a database that is in trouble.
        if let Err(error) = self.flush_records() {
            tracing::warn!(%error, "the anchor is written without the newest records");
        }
        let written = self.write_anchor();
        if written.is_err() {
            self.staged = before;
        }
        written
    }

    /// Changes the anchor as it will be on disk after the next [`Store::commit`]; gives whether there was something to change.
    pub fn stage_anchor(&mut self, change: impl FnOnce(&mut Anchor)) -> bool {
        let mut next = self.anchor().clone();
        change(&mut next);
        let differs = next != *self.anchor();
        if differs {
            self.staged = Some(next);
        }
        differs
    }

    /// Returns once every record, every event and what is staged of the anchor is on disk, with as few writes as that takes;
    /// gives whether there was something to do. Records are there before the anchor; but a database that takes no write holds
    /// up nothing of the anchor, which is written in place.
    pub fn commit(&mut self) -> Result<bool, StoreError> {
        let flushed = self.flush_records();
        let written = self.write_anchor()?;
        Ok(flushed? || written)
    }

    /// Flushes the database if it has records that are nowhere else: a few events, and how far the source was followed, are in
    /// the anchor as well, and need no write of their own.
    fn flush_records(&mut self) -> Result<bool, StoreError> {
        let is_spared = self.is_flushed
            && !self.db.is_unflushed_besides(&[EVENTS, REVISIONS])
            && (self.is_anchored()
                || self.audit.few_after(self.flushed, UNFLUSHED_BYTES).is_ok_and(|events| events.is_some()));
        if is_spared { Ok(false) } else { self.flush() }
    }

    /// Whether the anchor knows the newest event.
    fn is_anchored(&self) -> bool {
        self.audit.head() == self.anchor.get().audit_head.as_ref()
    }

    /// Writes the anchor if something of it is staged, or an event isn't on disk.
    fn write_anchor(&mut self) -> Result<bool, StoreError> {
        if self.staged.is_none() && self.is_anchored() {
            return Ok(false);
        }
        let mut next = self.anchor().clone();
        match self.audit.catch_up().and_then(|()| self.audit.few_after(self.flushed, UNFLUSHED_BYTES)) {
            Ok(Some(events)) => {
                if self.staged.is_none() && events.is_empty() {
                    return Ok(false);
                }
                next.audit_head = self.audit.head().cloned();
                next.unflushed = events;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the anchor is written without the newest events"),
        }
        let anchor = &mut self.anchor;
        let written = with_reserve(&self.reserve, || anchor.update(|anchor| *anchor = next.clone()))?;
        self.staged = None;
        Ok(written)
    }

    /// Adds an event to the audit log. It is on disk after the next [`Store::commit`], [`Store::flush`] or
    /// [`Store::update_anchor`]. One that the disk refuses waits, and is written before the next one: what was wrong
    /// with the disk is in the log once that takes writes again.
    pub fn append_event(&mut self, now: Timestamp, draft: Draft) -> Result<Event, StoreError> {
        while let Some((time, waiting)) = self.waiting.front() {
            if let Err(error) = self.audit.append(*time, waiting.clone()) {
                self.keep_waiting(now, draft, &error);
                return Err(error);
            }
            self.waiting.pop_front();
        }
        let (event, moved) = match self.audit.append(now, draft.clone()) {
            Ok(appended) => appended,
            Err(error) => {
                self.keep_waiting(now, draft, &error);
                return Err(error);
            }
        };
        // So that the anchor's head is one that can be looked up, in the database: that it is there shows that this is whole.
        if moved && let Err(error) = self.anchor_head() {
            tracing::warn!(%error, "the audit log's head can't be written into the anchor");
        }
        Ok(event)
    }

    /// The first ones are those that tell what began it.
    fn keep_waiting(&mut self, time: Timestamp, draft: Draft, error: &StoreError) {
        if error.trouble().is_some() && self.waiting.len() < WAITING_EVENTS {
            self.waiting.push_back((time, draft));
        }
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// What the audit log is checked by, beside its events.
    pub fn seal(&self) -> Seal {
        let anchored = self.anchor.get().audit_head.clone();
        Seal { segments: self.audit.segments().clone(), anchored }
    }

    /// The pinned content.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The pinned content, for downloads that mustn't hold the store while they wait for the network.
    pub fn shared_content(&self) -> Arc<Content> {
        self.content.clone()
    }

    /// The room that is kept for a full disk.
    pub fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// What the file system of the state folder still takes.
    pub fn room(&self) -> Result<FreeSpace, DiskError> {
        FreeSpace::of(&self.dir)
    }

    /// The box's own keys.
    pub fn keys(&self) -> &FileKeystore {
        &self.keys
    }

    /// A table of the agent's own, such as its apps.
    pub fn table<K: Key, V: Record>(&self, name: &'static str) -> Table<K, V> {
        self.db.table(name)
    }

    /// Every app's record.
    pub fn apps(&self) -> Table<AppName, App> {
        self.db.table(APPS)
    }

    /// What runs here by our doing, and what of it holds data and is no longer wanted.
    pub fn inventory(&self) -> Table<AppName, OwnedObjects> {
        self.db.table(INVENTORY)
    }

    /// What was seen of each app when it last failed.
    pub fn diagnoses(&self) -> Table<AppName, Diagnosis> {
        self.db.table(DIAGNOSES)
    }

    /// What the tags of each app's images mean.
    pub fn tags(&self) -> Table<AppName, Tags> {
        self.db.table(TAGS)
    }

    /// How far the source was followed, as the anchor has it; what that doesn't know, since it was lost, as the database has it.
    pub fn revisions(&self) -> Result<Revisions, StoreError> {
        let table: Table<String, Revisions> = self.db.table(REVISIONS);
        let kept = table.get(&FOLLOWED.to_owned())?.unwrap_or_default();
        let Anchor { floor, fetched, applied, .. } = self.anchor();
        let accepted = floor.as_ref().map(|floor| floor.revision.clone());
        Ok(Revisions {
            fetched: fetched.clone().or(kept.fetched),
            accepted: accepted.or(kept.accepted),
            applied: applied.clone().or(kept.applied),
        })
    }

    /// Keeps how far the source was followed; gives whether that differs. It is on disk after the next [`Store::commit`]. What
    /// was accepted is the anchor's floor, and only kept in case that is lost.
    pub fn set_revisions(&mut self, revisions: &Revisions) -> Result<bool, StoreError> {
        let Revisions { fetched, accepted: _, applied } = revisions;
        let Anchor { fetched: known, applied: known_applied, .. } = self.anchor();
        // First the anchor's, which a full disk takes as well.
        let staged = (known, known_applied) != (fetched, applied)
            && self.stage_anchor(|anchor| {
                (anchor.fetched, anchor.applied) = (fetched.clone(), applied.clone());
            });
        let table: Table<String, Revisions> = self.db.table(REVISIONS);
        Ok(table.put(&FOLLOWED.to_owned(), revisions)? || staged)
    }

    /// What was used of the box's link.
    pub fn link_usage(&self) -> Result<Option<LinkUsage>, StoreError> {
        let table: Table<String, LinkUsage> = self.db.table(LINK);
        table.get(&LINK_USAGE.to_owned())
    }

    /// Keeps what was used of the box's link; gives whether that differs.
    pub fn set_link_usage(&self, usage: &LinkUsage) -> Result<bool, StoreError> {
        self.db.table(LINK).put(&LINK_USAGE.to_owned(), usage)
    }

    /// For how long gates have held the change that waits for them.
    pub fn gate_hold(&self) -> Result<Duration, StoreError> {
        let table: Table<String, GateHold> = self.db.table(META);
        Ok(table.get(&GATE_HOLD.to_owned())?.unwrap_or_default().held)
    }

    /// Keeps that; gives whether it differs.
    pub fn set_gate_hold(&self, held: Duration) -> Result<bool, StoreError> {
        self.db.table(META).put(&GATE_HOLD.to_owned(), &GateHold { held })
    }

    /// How much time the box has seen while it knew what time it was, when that was last written down.
    pub fn seen_time(&self) -> Result<Duration, StoreError> {
        let table: Table<String, SeenTime> = self.db.table(META);
        Ok(table.get(&SEEN.to_owned())?.unwrap_or_default().seen)
    }

    /// Keeps that; gives whether it differs.
    pub fn set_seen_time(&self, seen: Duration) -> Result<bool, StoreError> {
        self.db.table(META).put(&SEEN.to_owned(), &SeenTime { seen })
    }

    /// Returns once every record and event is in the database on disk; gives whether there was something to do.
    pub fn flush(&mut self) -> Result<bool, StoreError> {
        let flushed = self.db.flush()?;
        self.is_flushed = true;
        self.flushed = self.audit.head().map_or(0, |head| head.seq);
        Ok(flushed)
    }

    /// What of the database was found damaged, if anything was. Then [`Store::rebuild_database`] helps.
    pub fn damage(&self) -> Option<String> {
        self.db.damage()
    }

    /// Sets the database aside and begins an empty one, with what can be read of the newest events. The caller then writes
    /// down or finds again what else it knows.
    pub fn rebuild_database(&mut self, now: Timestamp, reason: &str) -> Result<Opened, StoreError> {
        let taken = self.audit.take_out();
        let rebuilt = self.db.rebuild(reason)?;
        (self.flushed, self.is_flushed) = (0, false);
        AuditLog::put_back(&self.db, &taken)?;
        let Anchor { audit_head, unflushed, .. } = self.anchor.get();
        let pages = self.dir.join(PAGES);
        (self.audit, _) = AuditLog::open(&self.db, &pages, audit_head.as_ref(), unflushed, self.bounds)?;
        let report = Opened::DatabaseRebuilt(rebuilt);
        self.append_event(now, report.draft())?;
        self.anchor_head()?;
        Ok(report)
    }

    /// Writes the newest event's link into the anchor, so that the next start doesn't miss one that is gone.
    pub fn anchor_head(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.audit.catch_up()?;
        if self.staged.is_none() && self.is_anchored() {
            return Ok(());
        }
        self.staged.get_or_insert_with(|| self.anchor.get().clone());
        self.write_anchor().map(drop)
    }
}

/// Does `work`; if the disk is full, gives the reserve away and does it once more.
fn with_reserve<T>(
    reserve: &Reserve,
    mut work: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match work() {
        Err(error) if error.is_full() && reserve.release()? => work(),
        other => other,
    }
}

/// Reads every record but the events.
fn check_records(db: &Database) -> Result<(), StoreError> {
    db.table::<AppName, App>(APPS).all()?;
    db.table::<AppName, OwnedObjects>(INVENTORY).all()?;
    db.table::<AppName, Diagnosis>(DIAGNOSES).all()?;
    db.table::<AppName, Tags>(TAGS).all()?;
    db.table::<String, Revisions>(REVISIONS).get(&FOLLOWED.to_owned())?;
    db.table::<String, GateHold>(META).get(&GATE_HOLD.to_owned())?;
    db.table::<String, SeenTime>(META).get(&SEEN.to_owned())?;
    db.table::<String, LinkUsage>(LINK).get(&LINK_USAGE.to_owned()).map(drop)
}

/// Opens the audit log. A database that turns out damaged there is rebuilt; so is one that lacks the event
/// that the anchor knows: sled cuts its log off at the first page that it can't read, without a word, so that
/// every other record may be older than what was promised; and one with a record that can't be read, such as one that a
/// newer agent wrote. The events that are left are taken over.
/// `fresh` says that the database was begun anew just now.
fn open_audit(
    db: &Database,
    pages: &Path,
    anchor: &Anchor,
    bounds: Bounds,
    fresh: bool,
) -> Result<(AuditLog, Vec<Opened>), StoreError> {
    let open = || AuditLog::open(db, pages, anchor.audit_head.as_ref(), &anchor.unflushed, bounds);
    let (taken, rebuilt, cut) = match open() {
        Ok((audit, None)) => match check_records(db) {
            Ok(()) => return Ok((audit, Vec::new())),
            Err(error) if error.is_damage() => (audit.take_out(), db.rebuild(&error.to_string())?, None),
            Err(error) => return Err(error),
        },
        // What is missing of a page no other database brings back.
        Ok((audit, Some(cut))) if fresh || audit.is_of_pages(cut.expected.seq) => {
            return Ok((audit, vec![Opened::AuditCut(cut)]));
        }
        Ok((audit, Some(cut))) => (audit.take_out(), db.rebuild(&cut.to_string())?, Some(cut)),
        Err(error) if error.is_damage() => (TakenOut::default(), db.rebuild(&error.to_string())?, None),
        Err(error) => return Err(error),
    };
    AuditLog::put_back(db, &taken)?;
    let (audit, still_cut) = open()?;
    let cut = cut.or(still_cut).map(Opened::AuditCut);
    Ok((audit, std::iter::once(Opened::DatabaseRebuilt(rebuilt)).chain(cut).collect()))
}
