//! The mirror: the objects of the revisions that the box keeps, on its own disk.
//!
//! ```text
//! objects/pack/       packs, each complete by itself or on top of the others, synced before they appear here
//!   <id>.complete     an empty file: every object of this revision's tree is in the packs
//!   <id>.gathered     an empty file: what this box reads of this revision is in the packs
//! parts               an empty file, while a folder may be here without what is below it
//! incoming/ copying/  what is being received or copied; removed at every start
//! aside/              a damaged mirror, until a new one is whole
//! ```
//!
//! The order of writes makes a crash at any point harmless: a pack is synced before it gets its name, and a
//! revision is marked complete only after its whole tree was walked. One sync of the folder makes the names of its packs and of
//! its mark durable. Every object that is read is hashed and
//! compared with its id, so damage can't go unseen. A damaged mirror is emptied and filled from the source.

mod arriving;
mod bounds;
mod collect;
mod differences;
mod disk_budget;
mod objects;
mod pack;
mod parts;
mod stream;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gix::ObjectId;
use holdfast_core::digest::Revision;
use holdfast_store::content::Beside;
use holdfast_store::fault;

use self::bounds::Failure;
pub(crate) use self::bounds::{Bounds, MAX_COMMIT};
pub(crate) use self::objects::{Damage, Objects, Walk};
pub(crate) use self::pack::CopyError;
use self::pack::{Indexed, write_pack};
pub(crate) use self::parts::PackResult;
use super::config::Limits;
use crate::source::error::SourceError;

/// What marks a revision of which every object is here.
const COMPLETE: &str = "complete";
/// What marks one of which that is here what the box reads of it.
const GATHERED: &str = "gathered";

/// So many objects are copied into one pack: one with more would not be taken.
const COPIED_AT_ONCE: usize = if cfg!(test) { 3 } else { bounds::MAX_OBJECTS as usize };

/// The mirror's folder.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    dir: PathBuf,
    limits: Limits,
    /// Set by whoever finds an object that is missing or wrong; the next fetch starts anew.
    damaged: Arc<AtomicBool>,
    /// How many bytes a fetch may add.
    room: Arc<AtomicU64>,
    /// Whether the pack that came last had too much that is built on other objects.
    too_much: Arc<AtomicBool>,
    /// What there was no room for.
    refused: Arc<Mutex<Option<disk_budget::Refused>>>,
}

impl Mirror {
    /// Opens the mirror, or makes an empty one. What a crash left half received is removed.
    pub(crate) fn open(dir: &Path, limits: Limits) -> Result<Self, SourceError> {
        let room = Arc::new(AtomicU64::new(u64::MAX));
        let mirror = Mirror {
            dir: dir.to_owned(),
            limits,
            damaged: Arc::default(),
            room,
            too_much: Arc::default(),
            refused: Arc::default(),
        };
        if mirror.dir.join("aside").exists() {
            // A crash while it was built anew.
            let whole = |found: Result<Vec<ObjectId>, _>| found.is_ok_and(|ids| !ids.is_empty());
            match whole(mirror.complete()) || whole(mirror.gathered()) {
                true => mirror.drop_aside()?,
                false => {
                    mirror.take_back()?;
                    // What is wrong with it is found again when it is read; the rest can be.
                    mirror.damaged.store(false, Ordering::Relaxed);
                }
            }
        }
        mirror.lay_out()?;
        // What a killed process wrote may be there to be read, and not on disk.
        if let Err(error) = mirror.sync() {
            tracing::warn!(%error, "the mirror can't be synced");
        }
        Ok(mirror)
    }

    fn lay_out(&self) -> Result<(), SourceError> {
        let packs = self.packs();
        if !packs.is_dir() {
            fs::create_dir_all(&packs).map_err(|error| SourceError::local("making", &packs, error))?;
            sync_dir(&self.dir.join("objects"))?;
            sync_dir(&self.dir)?;
        }
        remove(&self.dir.join("incoming"))?;
        remove(&self.dir.join("copying"))
    }

    fn packs(&self) -> PathBuf {
        self.dir.join("objects/pack")
    }

    fn marker(&self, id: &ObjectId) -> PathBuf {
        self.packs().join(format!("{id}.{COMPLETE}"))
    }

    /// The flag that says that something on disk is wrong.
    pub(crate) fn damage(&self) -> Arc<AtomicBool> {
        self.damaged.clone()
    }

    pub(crate) fn note_damage(&self, damage: impl std::fmt::Display) -> SourceError {
        self.damaged.store(true, Ordering::Relaxed);
        SourceError::Damaged(damage.to_string())
    }

    /// The objects as they are now.
    pub(crate) fn objects(&self) -> Result<Objects, SourceError> {
        let dir = self.dir.join("objects");
        Objects::at(&dir, self.limits.object).map_err(|error| SourceError::local("opening", &dir, error))
    }

    /// Whether everything of this revision is here.
    pub(crate) fn has(&self, id: &ObjectId) -> bool {
        !self.is_damaged() && self.marker(id).exists()
    }

    /// The revisions of which everything is here.
    pub(crate) fn complete(&self) -> Result<Vec<ObjectId>, SourceError> {
        self.marked(COMPLETE)
    }

    /// Whether something on disk was found missing or wrong since the mirror was opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Puts a damaged mirror aside and begins an empty one, so that what is not damaged isn't lost should the
    /// source turn out to be unreachable. While nothing is marked in the new one, a start after a crash takes back what is
    /// aside.
    pub(crate) fn set_aside(&self) -> Result<(), SourceError> {
        tracing::warn!(mirror = %self.dir.display(), "the mirror is damaged and is rebuilt");
        let aside = self.dir.join("aside");
        // What goes aside goes for good once the new one is whole.
        self.widen_room(Beside::all_in(self.dir.join("objects")).size());
        // What waits there already is worth more than what never became whole since.
        let waits = aside.join("objects").exists();
        fs::create_dir_all(&aside).map_err(|error| SourceError::local("making", &aside, error))?;
        let objects = self.dir.join("objects");
        if waits {
            remove(&objects)?;
        } else {
            rename(&objects, &aside.join("objects"))?;
        }
        sync_dir(&self.dir)?;
        self.lay_out()?;
        self.damaged.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Takes back what was put aside, damaged as it is.
    pub(crate) fn take_back(&self) -> Result<(), SourceError> {
        let aside = self.dir.join("aside");
        if aside.join("objects").exists() {
            let here = self.dir.join("objects");
            remove(&here)?;
            rename(&aside.join("objects"), &here)?;
            sync_dir(&self.dir)?;
        }
        remove(&aside)?;
        self.damaged.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets what was put aside: the new mirror is whole.
    pub(crate) fn drop_aside(&self) -> Result<(), SourceError> {
        remove(&self.dir.join("aside"))
    }

    /// An empty folder for what is not yet part of the mirror.
    fn scratch(&self, name: &str) -> Result<Scratch, SourceError> {
        let dir = self.dir.join(name);
        remove(&dir)?;
        fs::create_dir_all(&dir).map_err(|error| SourceError::local("making", &dir, error))?;
        Ok(Scratch(dir))
    }

    /// Copies objects of another database, or of this one, into new packs of the mirror; gives their names.
    /// No more than `room` bytes are written.
    pub(crate) fn copy(
        &self,
        from: &Objects,
        ids: &[ObjectId],
        mut room: u64,
    ) -> Result<Vec<OsString>, CopyError> {
        let mut names = Vec::new();
        // What was met first, the topmost folders, comes into the newest pack: it builds on the others.
        for ids in ids.rchunks(COPIED_AT_ONCE) {
            let (name, bytes) = self.copy_some(from, ids, room)?;
            names.extend(name);
            room = room.saturating_sub(bytes);
        }
        Ok(names)
    }

    /// The same for one pack. Gives how large it is, too.
    fn copy_some(
        &self,
        from: &Objects,
        ids: &[ObjectId],
        room: u64,
    ) -> Result<(Option<OsString>, u64), CopyError> {
        let dir = self.scratch("copying").map_err(CopyError::Mirror)?;
        let path = dir.0.join("pack");
        write_pack(from, ids, &path, room)?;
        let file = File::open(&path)
            .map_err(|error| CopyError::Mirror(SourceError::local("opening", &path, error)))?;
        let bytes = file.metadata().map_or(0, |data| data.len());
        let indexed = self.index(&mut BufReader::new(file), u64::MAX);
        let added = indexed.and_then(|(_scratch, indexed)| self.add(&indexed));
        added.map(|name| (name, bytes)).map_err(|error| match error {
            SourceError::Protocol { why, .. } => CopyError::Mirror(SourceError::here(why)),
            error => CopyError::Mirror(error),
        })
    }

    /// Unpacks a pack beside the mirror and lets `look` at it. Nothing of it stays.
    pub(crate) fn inspect<T>(
        &self,
        pack: &mut dyn BufRead,
        bounds: Bounds,
        look: impl FnOnce(&Objects) -> T,
    ) -> Result<T, SourceError> {
        let dir = self.scratch("incoming")?;
        let packs = dir.0.join("pack");
        fs::create_dir_all(&packs).map_err(|error| SourceError::local("making", &packs, error))?;
        // What it builds on must be in it.
        let room = self.room();
        let mut pack = self.bounded(pack, room);
        let done = self.indexed(&mut pack, &packs, None, bounds, room);
        pack.explain(done)?;
        let objects = Objects::at(&dir.0, self.limits.object)
            .map_err(|error| SourceError::local("opening", &dir.0, error))?;
        Ok(look(&objects))
    }

    /// Takes a pack in that comes from elsewhere, if there is room for it: it is unpacked and hashed, synced, and only
    /// then becomes part of the mirror.
    pub(crate) fn ingest(&self, pack: &mut dyn BufRead) -> Result<(), SourceError> {
        let (_scratch, indexed) = self.index(pack, self.room())?;
        self.take_room(&indexed)?;
        self.add(&indexed).map(drop)
    }

    /// The same for a pack with folders without what is below them.
    pub(crate) fn ingest_part(&self, pack: &mut dyn BufRead) -> Result<(), SourceError> {
        let (_scratch, indexed) = self.index(pack, self.room())?;
        self.take_room(&indexed)?;
        self.begin_parts()?;
        self.add(&indexed).map(drop)
    }

    /// Unpacks and hashes a pack of at most `room` bytes, in a folder that goes unless the pack is added.
    fn index(&self, pack: &mut dyn BufRead, room: u64) -> Result<(Scratch, Indexed), SourceError> {
        let dir = self.scratch("incoming")?;
        let here = self.objects()?.without_refresh();
        let mut pack = self.bounded(pack, room);
        let done = self.indexed(&mut pack, &dir.0, Some(&here), Bounds::up_to(self.limits.object), room);
        Ok((dir, pack.explain(done)?))
    }

    fn indexed(
        &self,
        pack: &mut dyn BufRead,
        dir: &Path,
        here: Option<&Objects>,
        bounds: Bounds,
        room: u64,
    ) -> Result<Indexed, SourceError> {
        let done = pack::index(pack, dir, here, bounds, room, self.limits.fetch);
        self.too_much.store(matches!(done, Err(Failure::TooMuch { .. })), Ordering::Relaxed);
        done.map_err(|failure| match failure {
            Failure::TooLarge { what, limit } | Failure::TooMuch { what, limit } => {
                SourceError::TooLarge { what, limit }
            }
            Failure::NoRoom => SourceError::OverBudget { room },
            Failure::Disk(error) => SourceError::local("unpacking into", dir, error),
            Failure::Base(damage) => self.note_damage(damage),
            // Whoever asked for the pack knows where it came from.
            failure @ (Failure::Broken(_) | Failure::Read(_)) => SourceError::Protocol {
                url: String::new(),
                why: format!("the pack cannot be used: {failure}"),
            },
        })
    }

    /// Whether the last pack was refused because too much of it is built on other objects: they may still be taken by
    /// themselves, or whole.
    pub(crate) fn had_too_much(&self) -> bool {
        self.too_much.swap(false, Ordering::Relaxed)
    }

    /// Makes a pack part of the mirror. Gives its name; a pack without objects has none. The names are on disk once the revision
    /// is marked, or with [`Mirror::sync`].
    fn add(&self, indexed: &Indexed) -> Result<Option<OsString>, SourceError> {
        for path in indexed.iter() {
            sync_file(path)?;
        }
        fault::point("fetch.pack-synced");
        // The index last: the object database looks for indexes.
        for path in indexed.iter() {
            let name = path.file_name().unwrap_or_default();
            rename(path, &self.packs().join(name))?;
        }
        fault::point("fetch.pack-renamed");
        Ok(indexed.iter().next().and_then(|path| path.file_stem()).map(OsString::from))
    }

    /// Walks the revision's tree: every folder is read, every file looked up.
    pub(crate) fn check(&self, id: &ObjectId) -> Result<(), SourceError> {
        let objects = self.objects()?;
        let tree = objects.commit(id).map_err(|damage| self.note_damage(damage))?.tree;
        Walk::new(&objects).tree(&tree).map_err(|damage| self.note_damage(damage))
    }

    /// Marks the revision complete if nothing of it is missing.
    pub(crate) fn mark_complete(&self, id: &ObjectId) -> Result<(), SourceError> {
        self.check(id)?;
        self.mark(&self.marker(id))
    }

    /// Makes the names of packs and markers durable.
    pub(super) fn sync(&self) -> Result<(), SourceError> {
        sync_dir(&self.packs())
    }

    /// The revisions that are marked so.
    fn marked(&self, how: &str) -> Result<Vec<ObjectId>, SourceError> {
        let dir = self.packs();
        let entries = fs::read_dir(&dir).map_err(|error| SourceError::local("reading", &dir, error))?;
        let marked = |path: PathBuf| {
            let id = ObjectId::from_hex(path.file_stem()?.as_encoded_bytes()).ok()?;
            (path.extension()? == how).then_some(id)
        };
        Ok(entries.filter_map(|entry| marked(entry.ok()?.path())).collect())
    }
}

/// A folder that goes with its last use, so that a full disk isn't kept full by what didn't fit.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // If it can't be removed, the next start does it.
        let _ = remove(&self.0);
    }
}

/// A revision's id as Git's.
pub(crate) fn object_id(revision: &Revision) -> Result<ObjectId, SourceError> {
    ObjectId::from_hex(revision.0.as_bytes()).ok().filter(|id| id.kind() == gix::hash::Kind::Sha1).ok_or_else(
        || SourceError::Config(format!("{:?} is not a commit id of 40 hexadecimal digits", revision.0)),
    )
}

/// Removes a folder if it is there.
fn remove(dir: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SourceError::local("removing", dir, error))
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), SourceError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SourceError::local("renaming", from, error))
        }
        _ => Ok(()),
    }
}

fn sync_file(path: &Path) -> Result<(), SourceError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| SourceError::local("syncing", path, error))
}

fn sync_dir(path: &Path) -> Result<(), SourceError> {
    sync_file(path)
}
