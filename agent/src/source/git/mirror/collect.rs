//! Garbage collection: what no kept revision needs is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gix::ObjectId;

use super::{CopyError, Mirror, Walk};
use crate::source::error::SourceError;

/// As many packs may pile up before they are written anew: rewriting them at each commit would wear out the
/// flash of a box, and each pack is an open file.
const MAX_PACKS: usize = 8;

/// The same while revisions come in parts: each change brings a small pack for each level of folders.
const MAX_PACKS_OF_PARTS: usize = 40;

impl Mirror {
    /// Forgets all revisions but `keep`. When packs have piled up, or nothing else is left, what `keep` needs
    /// is written into a new pack, or several where that is much, and the old ones go. A crash in between leaves both, or the new one.
    pub(crate) fn collect(&self, keep: &[ObjectId]) -> Result<(), SourceError> {
        self.collect_where(keep, false)
    }

    /// The same where room is scarce: whatever `keep` doesn't need goes at once.
    pub(crate) fn collect_all(&self, keep: &[ObjectId]) -> Result<(), SourceError> {
        self.collect_where(keep, true)
    }

    fn collect_where(&self, keep: &[ObjectId], scarce: bool) -> Result<(), SourceError> {
        if self.is_damaged() {
            // The next fetch builds it anew; until then nothing is thrown away.
            return Ok(());
        }
        if self.dir.join("aside").exists() {
            // Only what is gathered next shows what is needed; until then nothing is thrown away.
            return Ok(());
        }
        let mut forgotten = false;
        for id in self.complete()? {
            if !keep.contains(&id) {
                let marker = self.marker(&id);
                fs::remove_file(&marker).map_err(|error| SourceError::local("removing", &marker, error))?;
                forgotten = true;
            }
        }
        for id in self.gathered()?.iter().filter(|id| !keep.contains(id)) {
            self.forget_part(id)?;
            forgotten = true;
        }
        let objects = self.objects()?;
        let kept: Vec<ObjectId> = keep.iter().copied().filter(|id| objects.exists(id)).collect();
        let all_whole = kept.iter().all(|id| self.has(id));
        let old = self.pack_files()?;
        let packs = old.iter().filter(|path| path.extension().is_some_and(|e| e == "pack")).count();
        match self.is_in_parts() {
            true if all_whole && !kept.is_empty() => {
                self.rewrite(&kept, &old)?;
                // What was dropped must not come back without this mark.
                self.sync()?;
                self.end_parts()
            }
            // One pack of which nothing was forgotten since it was written holds nothing else.
            _ if scarce && (forgotten || packs > 1) => self.rewrite(&kept, &old),
            true if packs > MAX_PACKS_OF_PARTS => self.rewrite(&kept, &old),
            false if packs > MAX_PACKS => self.rewrite(&kept, &old),
            _ => Ok(()),
        }
    }

    fn pack_files(&self) -> Result<Vec<PathBuf>, SourceError> {
        let dir = self.packs();
        let entries = fs::read_dir(&dir).map_err(|error| SourceError::local("reading", &dir, error))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_pack = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"pack-"))
        };
        Ok(paths.filter(is_pack).collect())
    }

    fn rewrite(&self, kept: &[ObjectId], old: &[PathBuf]) -> Result<(), SourceError> {
        let objects = self.objects()?;
        let mut walk = Walk::new(&objects);
        let mut ids = Vec::new();
        for id in kept {
            let commit = objects.commit(id).map_err(|damage| self.note_damage(damage))?;
            let walked = match self.has(id) {
                true => walk.tree(&commit.tree),
                // What isn't here was never needed.
                false => walk.tree_unless(&commit.tree, |id| !objects.exists(id)),
            };
            walked.map_err(|damage| self.note_damage(damage))?;
            ids.push(*id);
        }
        ids.append(&mut walk.met);
        let new = self.copy(&objects, &ids, u64::MAX).map_err(|error| match error {
            CopyError::Source(damage) => self.note_damage(damage),
            CopyError::Mirror(error) => error,
        })?;
        // Before any object goes, what takes its place is there, and a marker that would outlive it is not.
        self.sync()?;
        // It has the name of an old one if it holds the same.
        let old: Vec<&PathBuf> =
            old.iter().filter(|path| !new.iter().any(|name| path.file_stem() == Some(name))).collect();
        self.drop_packs(&old)
    }

    fn drop_packs(&self, old: &[&PathBuf]) -> Result<(), SourceError> {
        // The newest first: a pack builds on older ones, so that at any moment what is left holds, with each
        // folder, all that is below it. Of each pack the index first: without it the pack is not looked at.
        let mut old: Vec<_> = old.iter().map(|path| (modified(path), *path)).collect();
        old.sort_by(|(a, path_a), (b, path_b)| b.cmp(a).then_with(|| path_a.cmp(path_b)));
        for (_, path) in old {
            fs::remove_file(path).map_err(|error| SourceError::local("removing", path, error))?;
        }
        Ok(())
    }
}

/// When the pack that a file belongs to was written.
fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path.with_extension("pack")).and_then(|data| data.modified()).ok()
}
