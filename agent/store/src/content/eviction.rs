//! Space: the budget, what is free on the file system, and what is evicted to make room.
//!
//! Before something comes whose size is known, both are looked at. Where either is too little, what nobody needs is
//! evicted: downloads that nobody goes on with, then content that isn't pinned, least recently used first. What is
//! pinned, what is [held](Content::hold) and what came since the pins were last set is never evicted. The reserve's
//! room is nobody's: where it was given away, as much must stay free.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;

use super::{Collected, Content, SMALL, State};
use crate::durable_files;
use crate::error::StoreError;
use crate::fault;

/// What is known of who needs what.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// What is pinned; unknown until it is said, and then nothing of what is there is evicted.
    pinned: Option<BTreeSet<Digest>>,
    /// What came since: nobody could say yet that it is needed.
    young: BTreeSet<Digest>,
    /// When each was last used, by a clock that counts uses.
    used_at: BTreeMap<Digest, u64>,
    uses: u64,
}

/// A folder whose files count to the budget, though others write them.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The folder, which needn't be there.
    pub folder: PathBuf,
    /// Which of the files in it count, by their names; without it all do, those in folders below too.
    pub counts: Option<fn(&OsStr) -> bool>,
}

impl Beside {
    /// All that is in `folder`.
    pub fn all_in(folder: PathBuf) -> Self {
        Beside { folder, counts: None }
    }

    /// Its bytes, as far as they can be seen.
    pub fn size(&self) -> u64 {
        let Some(counts) = self.counts else { return size_of(&self.folder) };
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let files = entries.filter(|entry| counts(&entry.file_name()));
        files.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }
}

/// Room in the budget for a write under way, given back when it ends.
#[derive(Debug)]
pub(super) struct Promise<'a> {
    pub(super) content: &'a Content,
    pub(super) bytes: u64,
    /// Whether it is for something small, for which there is room as long as the disk has some.
    pub(super) small: bool,
}

impl<'a> Promise<'a> {
    pub(super) fn of(content: &'a Content) -> Self {
        Promise { content, bytes: 0, small: false }
    }

    /// Takes more room. Where there is none, what nobody needs makes some.
    pub(super) fn extend(&mut self, more: u64) -> Result<(), StoreError> {
        if more == 0 {
            return Ok(());
        }
        let short = self.content.short_of(&self.content.state(), more);
        let evicted = self.content.evict(short, &BTreeSet::new());
        self.content.take_room(more, evicted, self.small)?;
        self.bytes += more;
        Ok(())
    }

    /// Leaves the room taken; somebody else gives it back.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }

    /// Gives a part back.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        let mut state = self.content.state();
        state.promised = state.promised.saturating_sub(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

impl Content {
    /// Says what must stay: what the releases need that run, that ran before, and that are to run. Everything else
    /// may be evicted. Must not run beside a `put` of something that isn't in `pins` or held yet.
    pub fn set_pins(&self, pins: BTreeSet<Digest>) {
        let mut state = self.state();
        state.pins.pinned = Some(pins);
        state.pins.young.clear();
    }

    /// Makes sure that `bytes` more fit into the budget and on the disk, before the first of them comes; gives what
    /// was evicted for that. `wanted` is what they are for, and stays. What can't be finished only takes room: where
    /// nothing helps, no download that nobody is busy with is left.
    pub fn make_room(&self, bytes: u64, wanted: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        let short = self.short_of(&self.state(), bytes);
        let evicted = self.evict(short, wanted);
        let checked = self.check_room(&self.state(), bytes, evicted);
        checked.inspect_err(|_| {
            self.give_up_partials();
        })?;
        if evicted.removed > 0 {
            let Collected { removed, bytes } = evicted;
            tracing::info!(removed, bytes, "content that no release needs made room for a download");
        }
        Ok(evicted)
    }

    /// What is left of the budget, in bytes.
    pub fn left(&self) -> u64 {
        self.budget.saturating_sub(self.used_in_all(&self.state()))
    }

    /// Makes sure that `bytes` are free on the file system for something that comes beside the content, and whose size
    /// nobody knows: the mirror. The budget isn't looked at, since what comes may be what makes room.
    pub fn make_space(&self, bytes: u64) -> Result<(), StoreError> {
        let short = |state: &State| bytes.saturating_sub(self.free_for_content(state).unwrap_or(u64::MAX));
        let before = short(&self.state());
        let evicted = self.evict(before, &BTreeSet::new());
        let state = self.state();
        match short(&state) {
            0 => Ok(()),
            _ => Err(self.no_space(bytes, self.free_for_content(&state).unwrap_or(0), evicted)),
        }
    }

    /// Evicts `short` bytes; no content if that much can't be had.
    pub(super) fn evict(&self, mut short: u64, wanted: &BTreeSet<Digest>) -> Collected {
        let mut evicted = Collected::default();
        if short == 0 {
            return evicted;
        }
        let (partials, content) = self.evictable(wanted);
        for digest in partials {
            if short == 0 {
                return evicted;
            }
            let bytes = self.remove_idle(&digest);
            evicted.removed += u64::from(bytes > 0);
            evicted.bytes += bytes;
            short = short.saturating_sub(bytes);
        }
        let there: u64 = content.iter().map(|(_, size)| size).sum();
        if there < short {
            return evicted;
        }
        for (digest, _) in content {
            if short == 0 {
                break;
            }
            let gone = self.evict_one(&digest);
            evicted.removed += gone.removed;
            evicted.bytes += gone.bytes;
            short = short.saturating_sub(gone.bytes);
        }
        if let Err(error) = durable_files::sync_dir(&self.pinned) {
            tracing::warn!(%error, "what was evicted may come back after a power cut");
        }
        evicted
    }

    /// What may go, in the order in which it goes: downloads, of which those that somebody may go on with are last,
    /// and content, with its size.
    fn evictable(&self, wanted: &BTreeSet<Digest>) -> (Vec<Digest>, Vec<(Digest, u64)>) {
        let idle = self.idle_partials().into_iter().filter(|digest| !wanted.contains(digest));
        let state = self.state();
        let is_pinned =
            |digest: &Digest| state.pins.pinned.as_ref().is_some_and(|pins| pins.contains(digest));
        let (later, mut partials): (Vec<Digest>, Vec<Digest>) = idle.partition(is_pinned);
        partials.extend(later);
        let mut content: Vec<(Digest, u64)> = state
            .sizes
            .iter()
            .filter(|(digest, _)| !wanted.contains(digest) && state.may_evict(digest))
            .map(|(digest, size)| (*digest, *size))
            .collect();
        content.sort_by_key(|(digest, _)| state.pins.last_use(digest));
        (partials, content)
    }

    fn evict_one(&self, digest: &Digest) -> Collected {
        // Under the lock, so that nobody begins to need it in between.
        let mut state = self.state();
        if !state.may_evict(digest) {
            return Collected::default();
        }
        let path = self.path_of(digest);
        if let Err(error) = durable_files::remove_if_there(&path) {
            tracing::warn!(%error, "content that no release needs can't be removed");
            return Collected::default();
        }
        fault::point("content.removed");
        Collected { removed: 1, bytes: state.forget(digest) }
    }

    /// Takes room of the budget if there is enough, there and on the disk.
    fn take_room(&self, bytes: u64, evicted: Collected, small: bool) -> Result<(), StoreError> {
        let mut state = self.state();
        let alone = state.used.saturating_add(state.promised).saturating_add(bytes);
        if small && alone <= self.budget.saturating_add(SMALL) {
            self.check_free(&state, bytes, evicted)?;
        } else {
            self.check_room(&state, bytes, evicted)?;
        }
        state.promised += bytes;
        Ok(())
    }

    /// How many bytes must go so that `bytes` more fit.
    pub(super) fn short_of(&self, state: &State, bytes: u64) -> u64 {
        // What can't be measured is found out by the write.
        let free = self.free_for_content(state).unwrap_or(u64::MAX);
        self.over_budget(state, bytes).max(bytes.saturating_sub(free))
    }

    /// By how much the budget is exceeded with `bytes` more.
    pub(super) fn over_budget(&self, state: &State, bytes: u64) -> u64 {
        self.used_in_all(state).saturating_add(bytes).saturating_sub(self.budget)
    }

    pub(super) fn check_budget(
        &self,
        state: &State,
        bytes: u64,
        evicted: Collected,
    ) -> Result<(), StoreError> {
        match self.over_budget(state, bytes) {
            0 => Ok(()),
            _ => {
                let used = self.used_in_all(state);
                Err(StoreError::OverBudget { size: bytes, used, budget: self.budget, evicted })
            }
        }
    }

    pub(super) fn check_room(&self, state: &State, bytes: u64, evicted: Collected) -> Result<(), StoreError> {
        self.check_budget(state, bytes, evicted)?;
        self.check_free(state, bytes, evicted)
    }

    fn check_free(&self, state: &State, bytes: u64, evicted: Collected) -> Result<(), StoreError> {
        match self.free_for_content(state) {
            Some(free) if bytes > free => Err(self.no_space(bytes, free, evicted)),
            _ => Ok(()),
        }
    }

    fn no_space(&self, size: u64, free: u64, evicted: Collected) -> StoreError {
        let path = self.pinned.parent().unwrap_or(&self.pinned).to_owned();
        StoreError::NoSpace { size, free, path, evicted }
    }

    /// What content, writes under way, and what lies beside it use.
    fn used_in_all(&self, state: &State) -> u64 {
        let beside: u64 = self.beside.iter().map(Beside::size).sum();
        state.used.saturating_add(state.promised).saturating_add(beside)
    }

    /// What is free on the file system, but for writes under way and the reserve.
    fn free_for_content(&self, state: &State) -> Option<u64> {
        let free = durable_files::FreeSpace::of(&self.pinned).ok()?.bytes;
        let reserve = self.reserve.as_ref().map_or(0, |reserve| reserve.missing());
        Some(free.saturating_sub(state.promised).saturating_sub(reserve))
    }
}

impl State {
    fn may_evict(&self, digest: &Digest) -> bool {
        let pinned = self.pins.pinned.as_ref().is_none_or(|pins| pins.contains(digest));
        !pinned && !self.pins.young.contains(digest) && !self.holds.contains_key(digest)
    }
}

impl Pins {
    /// Notes a use.
    pub(super) fn touch(&mut self, digest: &Digest) {
        self.uses += 1;
        self.used_at.insert(*digest, self.uses);
    }

    /// Notes that something came.
    pub(super) fn came(&mut self, digest: &Digest) {
        self.young.insert(*digest);
        self.touch(digest);
    }

    pub(super) fn forget(&mut self, digest: &Digest) {
        self.young.remove(digest);
        self.used_at.remove(digest);
    }

    fn last_use(&self, digest: &Digest) -> u64 {
        self.used_at.get(digest).copied().unwrap_or(0)
    }
}

/// The bytes of all files below `path`, as far as they can be seen.
fn size_of(path: &Path) -> u64 {
    let mut sum = 0u64;
    let mut folders: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => sum = sum.saturating_add(meta.len()),
                Err(_) => {}
            }
        }
    }
    sum
}
