//! Space for what others write beside the content: it counts towards the budget, and is checked before anything is
//! written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::eviction::Promise;
use super::{Collected, Content};
use crate::durable_files;
use crate::error::{StoreError, at};

/// Room that was taken. Dropped, what wasn't written is given back.
#[derive(Debug)]
pub struct Allocation {
    content: Arc<Content>,
    bytes: u64,
}

impl Content {
    /// Takes room for `bytes` that are to be written into `folder`, which is one that counts to the budget
    /// ([`Content::within`]) and may be on another file system. Where there is none, what nobody needs makes some; the
    /// reserve's room stays.
    ///
    /// # Errors
    /// [`StoreError::OverBudget`] and [`StoreError::NoSpace`], and then no download that nobody is busy with is left;
    /// [`StoreError::Disk`] for a folder that can't be looked at.
    pub fn allocate_beside(self: &Arc<Self>, folder: &Path, bytes: u64) -> Result<Allocation, StoreError> {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).map_err(at("look at", path));
        let is_elsewhere = device(folder)? != device(&self.pinned)?;
        let taken = if is_elsewhere { self.take_elsewhere(folder, bytes) } else { self.take_here(bytes) };
        taken.inspect_err(|_| {
            self.give_up_partials();
        })?;
        Ok(Allocation { content: Arc::clone(self), bytes })
    }

    fn take_here(&self, bytes: u64) -> Result<(), StoreError> {
        let mut promise = Promise::of(self);
        promise.extend(bytes)?;
        promise.keep();
        Ok(())
    }

    /// What is evicted makes room in the budget alone.
    fn take_elsewhere(&self, folder: &Path, bytes: u64) -> Result<(), StoreError> {
        let free = durable_files::FreeSpace::of(folder)?.bytes;
        if bytes > free {
            let evicted = Collected::default();
            return Err(StoreError::NoSpace { size: bytes, free, path: folder.to_owned(), evicted });
        }
        let over = self.over_budget(&self.state(), bytes);
        let evicted = self.evict(over, &Default::default());
        let mut state = self.state();
        self.check_budget(&state, bytes, evicted)?;
        // Until it is written this counts as used on the content's own disk too, which is on the safe side.
        state.promised += bytes;
        Ok(())
    }
}

impl Allocation {
    /// So many bytes more were written, and are counted where they are.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        let mut state = self.content.state();
        state.promised = state.promised.saturating_sub(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.written(self.bytes);
    }
}
