//! A commit that is being read: what isn't in the mirror is fetched when it is needed.

use std::sync::Arc;

use gix::ObjectId;
use holdfast_core::digest::Revision;

use super::http::Meter;
use super::mirror::object_id;
use super::remote::Extent;
use super::snapshot::Snapshot;
use super::{GitSource, Origin, guarded};
use crate::source::error::SourceError;
use crate::source::{FileClass, Reading, SourceTree};

/// A commit that is being read, and what may still be spent on it.
pub(super) struct CommitReading<'a> {
    source: &'a mut GitSource,
    revision: Revision,
    id: ObjectId,
    files: Snapshot,
    /// One account for all requests; none where nobody may be asked.
    allowance: Option<Arc<Meter>>,
    ask: bool,
}

impl<'a> CommitReading<'a> {
    pub(super) fn new(
        source: &'a mut GitSource,
        revision: &Revision,
        ask: bool,
    ) -> Result<Self, SourceError> {
        let id = object_id(revision)?;
        let files = source.snapshot(revision)?;
        Ok(CommitReading { source, revision: revision.clone(), id, files, allowance: None, ask })
    }

    fn fetch(&mut self, missing: &[ObjectId], what: FileClass) -> Result<(), SourceError> {
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
                Extent::Whole => mirror.mark_complete(&self.id),
                Extent::Commit => Ok(()),
            }
        })
    }
}

impl Reading for CommitReading<'_> {
    fn tree(&self) -> &dyn SourceTree {
        &self.files
    }

    fn bring(&mut self, what: FileClass) -> Result<(), SourceError> {
        let missing = self.files.lacks();
        if !self.ask {
            let revision = self.revision.to_string();
            return Err(SourceError::Incomplete { revision, count: missing.len() });
        }
        let brought = self.fetch(&missing, what);
        if !matches!(brought, Ok(()) | Err(SourceError::UsedUp { .. })) {
            return brought;
        }
        self.files = self.source.snapshot(&self.revision)?;
        if brought.is_err() {
            // What remembers why it failed is not for what comes next.
            self.allowance = None;
        }
        brought
    }

    fn brought_in_vain(&self) -> SourceError {
        self.source.mirror.note_damage("what was fetched is not in it")
    }

    fn finish(self: Box<Self>, whole: bool) -> Result<Box<dyn SourceTree>, SourceError> {
        if whole {
            self.source.mirror.mark_gathered(&self.id)?;
        }
        Ok(Box::new(self.files))
    }
}
