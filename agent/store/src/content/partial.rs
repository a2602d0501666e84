//! Downloads that aren't complete yet: `content/partial/<hex>`, named by the digest that they should have.
//! They outlive a restart, so that what a cut connection left is gone on with, and count to the budget.
//! Nothing in them is trusted: all of it is read and hashed once it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use holdfast_core::digest::Digest;

use super::eviction::Promise;
use super::{Content, hash_of, scan};
use crate::durable_files;
use crate::error::{DiskError, StoreError, at};
use crate::fault;

/// What is known of the downloads.
#[derive(Debug, Default)]
pub(super) struct Partials {
    /// How much of each is on disk.
    sizes: BTreeMap<Digest, u64>,
    /// Those that are being written.
    open: BTreeSet<Digest>,
}

impl Partials {
    /// Finds what earlier runs left in `dir`.
    pub(super) fn of_disk(dir: &Path) -> Result<Self, DiskError> {
        let sizes = scan(dir)?.into_iter().map(|(digest, size, _)| (digest, size)).collect();
        Ok(Partials { sizes, open: BTreeSet::new() })
    }

    pub(super) fn used(&self) -> u64 {
        self.sizes.values().sum()
    }
}

/// One download under way. Dropped before it is committed, it stays on disk, to be gone on with.
#[derive(Debug)]
pub struct Partial<'a> {
    content: &'a Content,
    digest: Digest,
    size: u64,
    path: PathBuf,
    file: File,
    length: u64,
    /// The room for what is still to come.
    promise: Promise<'a>,
}

impl Content {
    /// Begins the download of `digest`, of which `size` bytes are expected, or goes on with what is there of
    /// it. The room for all of it is taken at once, so that a download that can't fit isn't begun. While
    /// another thread downloads the same, this waits, at most for `patience`: ask [`Content::verify`] again
    /// afterwards.
    pub fn partial(&self, digest: Digest, size: u64, patience: Duration) -> Result<Partial<'_>, StoreError> {
        self.wait_for(&digest, patience)?;
        let opened = self.open_partial(digest, size);
        if opened.is_err() {
            // It can't be finished now, and would only hold room.
            self.remove_partial(&digest);
            self.close_partial(&digest);
        }
        opened
    }

    fn wait_for(&self, digest: &Digest, patience: Duration) -> Result<(), StoreError> {
        let until = Instant::now() + patience;
        let mut state = self.state();
        while !state.partials.open.insert(*digest) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Busy { digest: *digest });
            }
            state =
                self.closed.wait_timeout(state, left).map_or_else(|e| e.into_inner().0, |(state, _)| state);
        }
        Ok(())
    }

    /// The digest is ours alone from here on.
    fn open_partial(&self, digest: Digest, size: u64) -> Result<Partial<'_>, StoreError> {
        let path = self.partial_path(&digest);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(at("open", &path))?;
        let mut length = file.metadata().map_err(at("look at", &path))?.len();
        if length > size {
            file.set_len(0).map_err(at("empty", &path))?;
            length = 0;
        }
        self.book_partial(&digest, length);
        let mut promise = Promise::of(self);
        promise.extend(size - length)?;
        Ok(Partial { content: self, digest, size, path, file, length, promise })
    }

    /// Removes downloads that aren't under way, aren't in `keep`, and were last written before `since`.
    pub fn sweep_partials(&self, keep: &BTreeSet<Digest>, since: SystemTime) -> u64 {
        let old = |digest: &Digest| {
            let written = fs::metadata(self.partial_path(digest)).and_then(|meta| meta.modified());
            written.is_ok_and(|written| written < since)
        };
        let idle = self.idle_partials();
        let unwanted = idle.iter().filter(|digest| !keep.contains(digest) && old(digest));
        unwanted.map(|digest| self.remove_idle(digest)).sum()
    }

    /// How much of `digest` was downloaded, in bytes.
    pub fn downloaded(&self, digest: &Digest) -> u64 {
        self.state().partials.sizes.get(digest).copied().unwrap_or(0)
    }

    /// Gives the room of downloads that nobody is busy with to whoever needs it now.
    pub(super) fn give_up_partials(&self) -> u64 {
        self.idle_partials().iter().map(|digest| self.remove_idle(digest)).sum()
    }

    pub(super) fn idle_partials(&self) -> Vec<Digest> {
        let state = self.state();
        let open = &state.partials.open;
        state.partials.sizes.keys().filter(|digest| !open.contains(digest)).copied().collect()
    }

    /// Removes a download, unless somebody took it up in the meantime.
    pub(super) fn remove_idle(&self, digest: &Digest) -> u64 {
        if !self.state().partials.open.insert(*digest) {
            return 0;
        }
        let removed = self.remove_partial(digest);
        self.close_partial(digest);
        removed
    }

    /// Removes a download that is the caller's alone.
    fn remove_partial(&self, digest: &Digest) -> u64 {
        let path = self.partial_path(digest);
        if let Err(error) = durable_files::remove_if_there(&path) {
            tracing::warn!(%error, "a download that is given up stays where it is");
            return 0;
        }
        self.forget_partial(digest)
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.partial.join(digest.to_hex())
    }

    fn book_partial(&self, digest: &Digest, length: u64) {
        let mut state = self.state();
        let before = state.partials.sizes.insert(*digest, length).unwrap_or(0);
        state.used = state.used.saturating_sub(before).saturating_add(length);
    }

    fn forget_partial(&self, digest: &Digest) -> u64 {
        let mut state = self.state();
        let size = state.partials.sizes.remove(digest).unwrap_or(0);
        state.used = state.used.saturating_sub(size);
        size
    }

    fn close_partial(&self, digest: &Digest) {
        self.state().partials.open.remove(digest);
        self.closed.notify_all();
    }
}

impl Partial<'_> {
    /// How much of it is there.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether nothing is missing but the proof.
    pub fn is_complete(&self) -> bool {
        self.length == self.size
    }

    /// Adds what comes next. More than was expected is refused; a disk that is full gets its room back.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let count = bytes.len() as u64;
        if count > self.size - self.length {
            return Err(StoreError::ContentTooLarge { what: self.digest.to_string(), limit: self.size });
        }
        if let Err(error) = self.file.write_all(bytes).map_err(at("write", &self.path)) {
            let error = StoreError::from(error);
            // What was written in part is not known any more.
            let kept = if error.is_full() { 0 } else { self.length };
            self.cut(kept)?;
            return Err(error);
        }
        self.length += count;
        self.promise.shrink(count);
        self.content.book_partial(&self.digest, self.length);
        Ok(())
    }

    /// Throws away what is there, to begin anew.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.cut(0)
    }

    fn cut(&mut self, length: u64) -> Result<(), StoreError> {
        self.file.set_len(length).map_err(at("shorten", &self.path))?;
        let given_back = self.length.saturating_sub(length);
        self.length = length;
        self.content.book_partial(&self.digest, length);
        // It was ours a moment ago, and is only promised again.
        self.content.state().promised += given_back;
        self.promise.bytes += given_back;
        Ok(())
    }

    /// Makes it pinned content, durably, if all of it is there and has its digest; else it is an error, and
    /// the download is empty again.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(at("sync", &self.path))?;
        fault::point("content.temp-synced");
        let mut written = File::open(&self.path).map_err(at("open", &self.path))?;
        let got = hash_of(&mut written).map_err(at("read", &self.path))?;
        if got != self.digest {
            self.cut(0)?;
            return Err(StoreError::DigestMismatch { expected: self.digest, got });
        }
        let pinned = self.content.pin(&self.path, self.digest, self.length);
        // Only now, so that its room is nobody else's in between.
        if !self.path.exists() {
            self.content.forget_partial(&self.digest);
        }
        pinned?;
        durable_files::sync_dir(&self.content.partial)?;
        Ok(())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if self.length == 0 {
            // An empty one is nothing to go on with. (Committed, it isn't there any more.)
            self.content.remove_partial(&self.digest);
        }
        self.content.close_partial(&self.digest);
    }
}
