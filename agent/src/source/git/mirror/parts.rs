//! Revisions of which this box has only the part that it reads.

use std::fs::{self, File};
use std::io::{BufRead, Cursor, Read as _};
use std::path::PathBuf;

use gix::ObjectId;

use super::bounds::Bounds;
use super::{GATHERED, Mirror, pack, sync_dir};
use crate::source::error::SourceError;

/// What became of a pack that was to have certain objects.
pub(crate) enum PackResult {
    /// They are in the mirror.
    All,
    /// The pack was another one, and nothing of it was kept.
    Nothing(String),
}

impl Mirror {
    fn part_marker(&self, id: &ObjectId) -> PathBuf {
        self.packs().join(format!("{id}.{GATHERED}"))
    }

    /// Whether everything of this revision is here that the box read of it.
    pub(crate) fn has_part(&self, id: &ObjectId) -> bool {
        !self.is_damaged() && self.part_marker(id).exists()
    }

    /// The revisions of which everything is here that the box read of them.
    pub(crate) fn gathered(&self) -> Result<Vec<ObjectId>, SourceError> {
        self.marked(GATHERED)
    }

    /// Whether there may be folders without what is below them.
    pub(crate) fn is_in_parts(&self) -> bool {
        self.dir.join("parts").exists()
    }

    /// From here on there may be such folders.
    pub(super) fn begin_parts(&self) -> Result<(), SourceError> {
        if self.is_in_parts() {
            return Ok(());
        }
        self.mark(&self.dir.join("parts"))
    }

    /// No folder is left without what is below it.
    pub(super) fn end_parts(&self) -> Result<(), SourceError> {
        let marker = self.dir.join("parts");
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SourceError::local("removing", &marker, error))
            }
            _ => sync_dir(&self.dir),
        }
    }

    /// Marks the revision as one of which the box has all that it reads. What was put aside because of damage
    /// is not needed any more.
    pub(crate) fn mark_gathered(&self, id: &ObjectId) -> Result<(), SourceError> {
        if !self.has(id) && !self.has_part(id) {
            self.mark(&self.part_marker(id))?;
        }
        self.drop_aside()
    }

    pub(super) fn forget_part(&self, id: &ObjectId) -> Result<(), SourceError> {
        let marker = self.part_marker(id);
        fs::remove_file(&marker).map_err(|error| SourceError::local("removing", &marker, error))
    }

    /// Makes an empty file, whose name is all that there is to it, and returns once that is on disk.
    pub(super) fn mark(&self, marker: &std::path::Path) -> Result<(), SourceError> {
        File::create(marker).map_err(|error| SourceError::local("making", marker, error))?;
        sync_dir(marker.parent().unwrap_or(&self.dir))
    }

    /// Takes a pack in if it has the objects `wanted` and no others, none of them larger than `bounds` say.
    pub(crate) fn take_parts(
        &self,
        pack: &mut dyn BufRead,
        wanted: &[ObjectId],
        bounds: Bounds,
    ) -> Result<PackResult, SourceError> {
        let room = self.room();
        let mut bounded = self.bounded(pack, room);
        let counted = pack::count(&mut bounded);
        let (count, head) = bounded.explain(counted)?;
        if count != wanted.len() as u64 {
            let why = format!("it sends {count} objects where {} were asked for", wanted.len());
            return Ok(PackResult::Nothing(why));
        }
        let dir = self.scratch("incoming")?;
        let mut pack = Cursor::new(head).chain(&mut bounded);
        let done = self.indexed(&mut pack, &dir.0, None, bounds, room);
        let indexed = bounded.explain(done)?;
        if let Some(id) = indexed.lacks(wanted)? {
            return Ok(PackResult::Nothing(format!("it did not send {id}, which was asked for")));
        }
        self.take_room(&indexed)?;
        self.begin_parts()?;
        self.add(&indexed)?;
        Ok(PackResult::All)
    }
}
