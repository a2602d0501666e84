//! The files of one revision, read from the mirror without a work tree.
//!
//! Symbolic links are followed inside of the repository, as a checkout would have it; one that leads out of
//! it is an error on the path that needs it. So are submodules and Git LFS pointers.
//!
//! Of a revision that came in parts, what isn't here is noted as it is met ([`Snapshot::missing`]), so that all
//! that a look needs can be asked for at once.

use std::collections::{BTreeSet, VecDeque};
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gix::ObjectId;
use gix::objs::tree::EntryKind as Mode;
use gix::objs::{Kind, TreeRefIter};
use holdfast_core::tree::file_name;

use super::mirror::{Damage, Objects};
use crate::source::{Entry, EntryKind, ReadError, SourceTree, Stream};

/// How many symbolic links are followed on one path (Linux has the same limit).
const MAX_LINKS: usize = 40;

/// The longest target of a symbolic link (PATH_MAX).
const MAX_TARGET: u64 = 4096;

/// How many folders are remembered, those used last: the ones on the way to a file and some more. Without them
/// each file below `apps` would have all of `apps` inflated, hashed and parsed again.
const KNOWN_FOLDERS: usize = 8;

/// What isn't larger is read as a whole, in bytes.
const WHOLE: u64 = 64 << 10;

/// What is larger is not read where Git stores it as a difference: gix puts such objects together in memory, in bytes.
const DIFFERENCE_LIMIT: u64 = 64 << 20;

/// An LFS pointer begins so, and is shorter than 1024 bytes (git-lfs, docs/spec.md).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The files of one revision. Paths are relative to the configured `source.path`, with `/` between names.
pub struct Snapshot {
    objects: Objects,
    root: ObjectId,
    base: Vec<String>,
    damaged: Arc<AtomicBool>,
    /// What was looked for and isn't here; none for a revision that is here as a whole: there it is damage.
    missing: Option<Mutex<BTreeSet<ObjectId>>>,
    /// The folders used last, the latest first.
    folders: Mutex<VecDeque<(ObjectId, Folder)>>,
}

/// The entries of a Git tree: name, mode, object.
type Folder = Arc<[(Vec<u8>, Mode, ObjectId)]>;

struct TreeEntry {
    id: ObjectId,
    mode: Mode,
    path: String,
}

impl Snapshot {
    pub(crate) fn new(objects: Objects, root: ObjectId, base: &str, damaged: Arc<AtomicBool>) -> Self {
        let base = base.split('/').filter(|name| !matches!(*name, "" | ".")).map(str::to_owned).collect();
        Snapshot { objects, root, base, damaged, missing: None, folders: Mutex::default() }
    }

    /// The same of a revision that came in parts.
    pub(crate) fn of_parts(self) -> Self {
        Snapshot { missing: Some(Mutex::default()), ..self }
    }

    /// A name for the content of the folder at `path` that changes with anything below it; `None` if there is
    /// no such folder.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn folder_id(&self, path: &str) -> Result<Option<String>, ReadError> {
        Ok(self.find(path)?.filter(|found| found.mode == Mode::Tree).map(|found| found.id.to_string()))
    }

    /// What was looked for so far and isn't here.
    pub(super) fn lacks(&self) -> Vec<ObjectId> {
        let missing = self.missing.as_ref().map(|ids| ids.lock().unwrap_or_else(PoisonError::into_inner));
        missing.map_or_else(Vec::new, |ids| ids.iter().copied().collect())
    }

    fn size(&self, id: &ObjectId, path: &str) -> Result<u64, ReadError> {
        self.objects.header(id).map(|(_, size)| size).map_err(|damage| self.damaged(path, damage))
    }

    fn damaged(&self, path: &str, damage: Damage) -> ReadError {
        if let (Some(missing), Damage::Missing(id)) = (&self.missing, &damage) {
            missing.lock().unwrap_or_else(PoisonError::into_inner).insert(*id);
            return ReadError::NotHere { path: path.to_owned() };
        }
        self.damaged.store(true, Ordering::Relaxed);
        ReadError::Damaged { path: path.to_owned(), why: damage.to_string() }
    }

    fn entries(&self, tree: &ObjectId, path: &str) -> Result<Folder, ReadError> {
        // What is in there is whole, whatever a thread that panicked was doing.
        let mut known = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|(id, _)| id == tree)
            && let Some(found) = known.remove(at)
        {
            let folder = Arc::clone(&found.1);
            known.push_front(found);
            return Ok(folder);
        }
        let folder = self.read_folder(tree, path)?;
        known.push_front((*tree, Arc::clone(&folder)));
        known.truncate(KNOWN_FOLDERS);
        Ok(folder)
    }

    fn read_folder(&self, tree: &ObjectId, path: &str) -> Result<Folder, ReadError> {
        let mut data = Vec::new();
        self.objects.read(tree, Kind::Tree, &mut data).map_err(|damage| self.damaged(path, damage))?;
        TreeRefIter::from_bytes(&data, tree.kind())
            .map(|entry| match entry {
                Ok(entry) => Ok((entry.filename.to_vec(), entry.mode.kind(), entry.oid.to_owned())),
                Err(error) => Err(self.damaged(path, Damage::Broken { id: *tree, why: error.to_string() })),
            })
            .collect()
    }

    /// Follows `path` from the repository's top.
    fn find(&self, path: &str) -> Result<Option<TreeEntry>, ReadError> {
        let bad = || ReadError::BadPath { path: path.to_owned() };
        let mut todo: VecDeque<String> = self.base.iter().cloned().collect();
        for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
            if name == ".." {
                return Err(bad());
            }
            todo.push_back(name.to_owned());
        }
        if path.starts_with('/') || self.base.iter().any(|name| name == "..") {
            return Err(bad());
        }
        let shown = todo.iter().cloned().collect::<Vec<_>>().join("/");
        // The folders on the way down to where we are: the last one is where the next name is looked for.
        let mut folders = vec![self.root];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                // Only a link's target has these.
                folders.pop();
                if folders.is_empty() {
                    return Err(ReadError::LinkLeaves { path: shown, target: "..".to_owned() });
                }
                continue;
            }
            let here = *folders.last().unwrap_or(&self.root);
            let entries = self.entries(&here, &shown)?;
            let Some((_, mode, id)) = entries.iter().find(|(entry, ..)| entry == name.as_bytes()) else {
                return Ok(None);
            };
            match *mode {
                Mode::Tree => folders.push(*id),
                Mode::Commit => return Err(ReadError::Submodule { path: shown }),
                Mode::Link => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ReadError::LinkLoop { path: shown, limit: MAX_LINKS });
                    }
                    for name in self.target(id, &shown)?.into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                mode @ (Mode::Blob | Mode::BlobExecutable) if todo.is_empty() => {
                    return Ok(Some(TreeEntry { id: *id, mode, path: shown }));
                }
                // A file where a folder would have to be: below it is nothing.
                Mode::Blob | Mode::BlobExecutable => return Ok(None),
            }
        }
        let id = *folders.last().unwrap_or(&self.root);
        Ok(Some(TreeEntry { id, mode: Mode::Tree, path: shown }))
    }

    /// The names of a link's target.
    fn target(&self, id: &ObjectId, path: &str) -> Result<Vec<String>, ReadError> {
        let leaves = |target: &[u8]| ReadError::LinkLeaves {
            path: path.to_owned(),
            target: String::from_utf8_lossy(target).chars().take(200).collect(),
        };
        if self.size(id, path)? > MAX_TARGET {
            return Err(leaves(b"a target that is too long"));
        }
        let mut data = Vec::new();
        self.objects.read(id, Kind::Blob, &mut data).map_err(|damage| self.damaged(path, damage))?;
        match std::str::from_utf8(&data) {
            Ok(target) if !target.starts_with('/') => {
                let names = target.split('/').filter(|name| !matches!(*name, "" | "."));
                Ok(names.map(str::to_owned).collect())
            }
            _ => Err(leaves(&data)),
        }
    }
}

impl SourceTree for Snapshot {
    fn reach(&self, path: &str) -> Result<(), ReadError> {
        match self.find(path)? {
            Some(found) => self.size(&found.id, &found.path).map(|_| ()),
            None => Ok(()),
        }
    }

    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(found) = self.find(path)? else { return Ok(None) };
        if !matches!(found.mode, Mode::Blob | Mode::BlobExecutable) {
            return Err(ReadError::WrongKind { path: found.path, wanted: "file" });
        }
        let size = self.size(&found.id, &found.path)?;
        if size > limit {
            return Err(ReadError::TooLarge { path: found.path, size, limit });
        }
        let mut data = Vec::new();
        self.objects
            .read(&found.id, Kind::Blob, &mut data)
            .map_err(|damage| self.damaged(&found.path, damage))?;
        if data.len() < 1024 && data.starts_with(LFS_POINTER) {
            return Err(ReadError::LfsPointer { path: found.path });
        }
        Ok(Some(data))
    }

    fn open(&self, path: &str, limit: u64) -> Result<Option<Stream<'_>>, ReadError> {
        let Some(found) = self.find(path)? else { return Ok(None) };
        let size = self.size(&found.id, &found.path)?;
        if size <= limit.min(WHOLE) || !matches!(found.mode, Mode::Blob | Mode::BlobExecutable) {
            let whole = self.read(path, limit)?;
            return Ok(whole.map(|bytes| Stream { size, bytes: Box::new(Cursor::new(bytes)) }));
        }
        if size > limit {
            return Err(ReadError::TooLarge { path: found.path, size, limit });
        }
        match self.objects.stream(&found.id, &self.damaged) {
            Some(bytes) if bytes.left() == size => Ok(Some(Stream { size, bytes: Box::new(bytes) })),
            _ if size > DIFFERENCE_LIMIT => {
                Err(ReadError::Difference { path: found.path, size, limit: DIFFERENCE_LIMIT })
            }
            _ => {
                let whole = self.read(path, limit)?;
                Ok(whole.map(|bytes| Stream { size, bytes: Box::new(Cursor::new(bytes)) }))
            }
        }
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>, ReadError> {
        let Some(found) = self.find(path)? else { return Ok(Vec::new()) };
        if found.mode != Mode::Tree {
            return Err(ReadError::WrongKind { path: found.path, wanted: "folder" });
        }
        let mut entries = Vec::new();
        for (name, mode, id) in self.entries(&found.id, &found.path)?.iter() {
            let kind = match mode {
                _ if file_name(name).is_err() => EntryKind::Misnamed,
                Mode::Tree => EntryKind::Folder,
                Mode::Blob | Mode::BlobExecutable => EntryKind::File,
                Mode::Link => EntryKind::Link,
                Mode::Commit => EntryKind::Submodule,
            };
            let size = match kind {
                EntryKind::File if self.missing.is_none() || self.objects.exists(id) => {
                    Some(self.size(id, &found.path)?)
                }
                _ => None,
            };
            // Git allows any bytes in a name; a name that is no text is shown as well as can be.
            entries.push(Entry { name: String::from_utf8_lossy(name).into_owned(), kind, size });
        }
        entries.sort();
        Ok(entries)
    }

    fn missing(&self) -> Vec<String> {
        self.lacks().iter().map(ToString::to_string).collect()
    }
}
