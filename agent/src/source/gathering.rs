//! Gathering what a box reads of a revision: it looks as far as it can, what it met and isn't here is fetched in
//! one request, and it looks again. So each level of folders costs one request, however many folders it has.

use std::sync::Arc;

use gix::ObjectId;
use holdfast_core::digest::Revision;

use super::error::SourceError;
use super::git::{GitSource, Origin, guarded};
use super::http::Meter;
use super::mirror::object_id;
use super::remote::{Extent, Parts};
use super::snapshot::Snapshot;
use crate::http::allowance::UsedUp;

/// A revision that is being read, and what may still be spent on it.
pub struct Gathering<'a> {
    source: &'a mut GitSource,
    revision: Revision,
    id: ObjectId,
    files: Snapshot,
    /// One account for all requests; none where nobody may be asked.
    allowance: Option<Arc<Meter>>,
    ask: bool,
    /// Something waits for the byte budget.
    lacks: bool,
}

impl<'a> Gathering<'a> {
    pub(super) fn new(
        source: &'a mut GitSource,
        revision: &Revision,
        ask: bool,
    ) -> Result<Self, SourceError> {
        let id = object_id(revision)?;
        let files = source.snapshot(revision)?;
        Ok(Gathering { source, revision: revision.clone(), id, files, allowance: None, ask, lacks: false })
    }

    /// What `look` gives when it finds all that it looks for. Until then it meets
    /// [`super::ReadError::NotHere`], should go on with what else it needs, and is called again; what it gave
    /// before is dropped.
    ///
    /// # Errors
    /// [`SourceError`]; what was fetched until then stays, and is not fetched again.
    pub fn read<T>(&mut self, mut look: impl FnMut(&Snapshot) -> T) -> Result<T, SourceError> {
        let mut found = look(&self.files);
        let mut missing = self.files.missing();
        while !missing.is_empty() {
            self.bring(&missing, Parts::Documents)?;
            self.files = self.source.snapshot(&self.revision)?;
            found = look(&self.files);
            let still = self.files.missing();
            // What came and can't be found would be asked for without end.
            if still.iter().any(|id| missing.binary_search(id).is_ok()) {
                return Err(self.source.mirror.note_damage("what was fetched is not in it"));
            }
            missing = still;
        }
        Ok(found)
    }

    /// The same of what may wait for the byte budget: gives what `look` gives of what came, and why that isn't all.
    ///
    /// # Errors
    /// As [`Gathering::read`].
    pub fn read_as_far<T>(
        &mut self,
        what: Parts,
        mut look: impl FnMut(&Snapshot) -> T,
    ) -> Result<(T, Option<UsedUp>), SourceError> {
        let mut found = look(&self.files);
        let mut missing = self.files.missing();
        let mut waits = None;
        while !missing.is_empty() {
            waits = match self.bring(&missing, what) {
                Ok(()) => None,
                Err(SourceError::UsedUp { cause, .. }) => Some(cause),
                Err(error) => return Err(error),
            };
            self.files = self.source.snapshot(&self.revision)?;
            found = look(&self.files);
            let still = self.files.missing();
            if waits.is_some() {
                // What remembers why it failed is not for what comes next.
                self.allowance = None;
                if still == missing {
                    break;
                }
            } else if still.iter().any(|id| missing.binary_search(id).is_ok()) {
                return Err(self.source.mirror.note_damage("what was fetched is not in it"));
            }
            missing = still;
        }
        self.lacks |= waits.is_some();
        Ok((found, waits))
    }

    /// Everything that the box needs of the revision was read: from here on it is known to be here, unless something
    /// waits.
    ///
    /// # Errors
    /// [`SourceError::Local`].
    pub fn finish(self) -> Result<Snapshot, SourceError> {
        if !self.lacks {
            self.source.mirror.seal_part(&self.id)?;
        }
        Ok(self.files)
    }

    fn bring(&mut self, missing: &[ObjectId], what: Parts) -> Result<(), SourceError> {
        if !self.ask {
            let revision = self.revision.to_string();
            return Err(SourceError::Incomplete { revision, count: missing.len() });
        }
        let url = self.source.url();
        guarded(&url, || {
            let mirror = &self.source.mirror;
            mirror.check_refused(&self.id)?;
            let brought = match &mut self.source.origin {
                Origin::Local(local) => local.copy(&self.id, mirror).map(|()| Extent::Whole),
                Origin::Remote(remote) => {
                    let allowance = self.allowance.get_or_insert_with(|| remote.allowance());
                    remote.fetch_parts(&self.id, missing, what, mirror, allowance)
                }
            };
            mirror.note_refused(&self.id, &brought);
            match brought? {
                Extent::Whole => mirror.seal(&self.id),
                Extent::Commit => Ok(()),
            }
        })
    }
}
