//! Pinned content: bytes by their digest, in `content/sha256/<hex>`. What is there is whole: it is written to
//! `content/tmp`, synced, renamed, and the folder synced. Its digest is checked when it comes in and each time
//! that it is read; what doesn't fit any more counts as absent, so that it is fetched again.
//! Long downloads grow in `content/partial`, and what is in use is held. What isn't pinned goes when its room is
//! needed.
//!
//! Releases are content too: [`holdfast_core::release::Release::to_bytes`] has the release's name as digest.

mod allocation;
mod eviction;
mod hold;
mod partial;
mod reserve;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use holdfast_core::digest::Digest;
use holdfast_core::disk_trouble::Trouble;
use sha2::{Digest as _, Sha256};

use crate::durable_files;
use crate::error::{DiskError, StoreError, at};
use crate::fault;

pub use allocation::Allocation;
pub use eviction::Beside;
use eviction::{Pins, Promise};
pub use hold::Hold;
pub use partial::Partial;
pub use reserve::Reserve;

/// What is no larger, in bytes, is [small](Content::put_small): so that a box whose budget is used up can follow a
/// commit that needs less.
pub const SMALL: u64 = 1 << 20;
/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// With more than this, one sync of the file system takes less of the disk than one for each file.
const MANY: usize = 8;

/// A file that has no name yet, and goes unless it gets one.
struct Temp(PathBuf);

impl Temp {
    fn sync(&self) -> Result<(), DiskError> {
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(at("sync", &self.0))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many pieces were removed.
    pub removed: u64,
    /// How large they were together, in bytes.
    pub bytes: u64,
}

/// The pinned content.
#[derive(Debug)]
pub struct Content {
    pinned: PathBuf,
    temp: PathBuf,
    partial: PathBuf,
    budget: u64,
    /// What counts to the budget elsewhere.
    beside: Vec<Beside>,
    /// Whose room is nobody's.
    reserve: Option<Arc<Reserve>>,
    /// Sizes by digest. What is reserved for a write under way is in `promised`.
    state: Mutex<State>,
    /// Told when a download is no longer under way.
    closed: Condvar,
    next_temp: AtomicU64,
    /// Whether some of the names of what is pinned may not be on disk: a process that was killed may have left such.
    unsynced: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    sizes: BTreeMap<Digest, u64>,
    used: u64,
    promised: u64,
    partials: partial::Partials,
    holds: hold::Holds,
    pins: Pins,
}

impl Content {
    /// Opens the content in `dir`, which is made if it isn't there, and sweeps what a crash left over.
    /// `budget` is what all of it together may use, in bytes.
    pub fn open(dir: &Path, budget: u64) -> Result<Self, StoreError> {
        let (pinned, temp, partial) = (dir.join("sha256"), dir.join("tmp"), dir.join("partial"));
        for folder in [dir, &pinned, &temp, &partial] {
            durable_files::private_dir(folder)?;
        }
        sweep(&temp)?;
        let found = scan(&pinned)?;
        let partials = partial::Partials::of_disk(&partial)?;
        let mut state = State { partials, ..State::default() };
        for (digest, size, _) in found {
            // In the order of their age: older ones go first.
            state.pins.touch(&digest);
            state.sizes.insert(digest, size);
        }
        state.used = state.sizes.values().sum::<u64>().saturating_add(state.partials.used());
        let (state, closed) = (Mutex::new(state), Condvar::new());
        let (beside, reserve, next_temp) = (Vec::new(), None, AtomicU64::new(0));
        let unsynced = AtomicBool::new(true);
        Ok(Content { pinned, temp, partial, budget, beside, reserve, state, closed, next_temp, unsynced })
    }

    /// The same, where what lies `beside` it counts to the budget as well, and the room of `reserve` is left alone.
    #[must_use]
    pub fn within(self, beside: Vec<Beside>, reserve: Arc<Reserve>) -> Self {
        Content { beside, reserve: Some(reserve), ..self }
    }

    /// Keeps `bytes`, and gives their digest once they are on disk. What is there already is checked, and
    /// written again only if it is damaged.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        self.put_known(bytes, Some(digest), size, (size, false))
    }

    /// The same for what the agent needs to follow a commit: releases, secrets, small artifacts. What lies beside the
    /// content, such as a mirror beyond the budget, is no reason to refuse up to [`SMALL`] bytes of these, and content
    /// alone may be as much larger than the budget.
    pub fn put_small(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        self.put_known(bytes, Some(digest), size, (size, size <= SMALL))
    }

    /// The same for each of `all`. Many of them are brought to the disk in one go, with all else that the file system has not
    /// written yet; so that isn't done where others wait for it.
    pub fn put_small_all(&self, all: impl IntoIterator<Item = Vec<u8>>) -> Result<(), StoreError> {
        let mut written = Vec::new();
        // Opened first: whoever opens it later isn't told of what couldn't be written before.
        let dir = File::open(&self.temp).map_err(at("open", &self.temp))?;
        for bytes in all {
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            if self.verify(&digest)? {
                continue;
            }
            let temp = self.new_temp();
            let mut promise = Promise { small: size <= SMALL, ..Promise::of(self) };
            self.fill(&temp.0, bytes.as_slice(), Some(digest), (size, size), &mut promise)?;
            written.push((temp, digest, size, promise));
        }
        if written.len() > MANY {
            nix::unistd::syncfs(&dir)
                .map_err(|error| at("sync the file system of", &self.temp)(error.into()))?;
        } else {
            written.iter().try_for_each(|(temp, ..)| temp.sync())?;
        }
        fault::point("content.temp-synced");
        for (temp, digest, size, promise) in written {
            self.name(&temp.0, digest, size)?;
            drop(promise);
        }
        self.sync_names()
    }

    /// Keeps what `open` gives, with its size, without holding it in memory. It is opened twice: what is here already is
    /// not written again, and its digest is only known once all of it was read. A size of up to [`SMALL`] is small, as in
    /// [`Content::put_small`]. The inner error is that of `open`.
    pub fn put_stream<R: Read, E>(
        &self,
        mut open: impl FnMut() -> Result<(u64, R), E>,
    ) -> Result<Result<Digest, E>, StoreError> {
        let mut source = match open() {
            Ok((_, source)) => source,
            Err(error) => return Ok(Err(error)),
        };
        let digest = hash_of(&mut source).map_err(StoreError::Source)?;
        drop(source);
        if self.verify(&digest)? {
            return Ok(Ok(digest));
        }
        let (size, source) = match open() {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        self.put_known(source, Some(digest), size, (size, size <= SMALL)).map(Ok)
    }

    /// Keeps `bytes`, which must have the digest `expected`.
    pub fn put_expecting(&self, expected: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let got = Digest::of(bytes);
        if got != expected {
            return Err(StoreError::DigestMismatch { expected, got });
        }
        self.put(bytes).map(|_| ())
    }

    /// Keeps what `source` gives, up to `limit` bytes, without holding it in memory. With `expected`, other
    /// bytes are refused, and nothing is read if they are here already.
    pub fn put_reader(
        &self,
        source: impl Read,
        expected: Option<Digest>,
        limit: u64,
    ) -> Result<Digest, StoreError> {
        self.put_known(source, expected, limit, (0, false))
    }

    /// The same for `known` bytes, for which there must be room before anything is written; and whether they are small.
    fn put_known(
        &self,
        source: impl Read,
        expected: Option<Digest>,
        limit: u64,
        (known, small): (u64, bool),
    ) -> Result<Digest, StoreError> {
        if let Some(digest) = expected
            && self.verify(&digest)?
        {
            self.sync_names()?;
            return Ok(digest);
        }
        let temp = self.new_temp();
        let mut promise = Promise { small, ..Promise::of(self) };
        let (digest, size) = self.fill(&temp.0, source, expected, (limit, known), &mut promise)?;
        temp.sync()?;
        fault::point("content.temp-synced");
        self.pin(&temp.0, digest, size)?;
        Ok(digest)
    }

    fn new_temp(&self) -> Temp {
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        Temp(self.temp.join(format!("{}-{number}", std::process::id())))
    }

    /// Writes `source` to `temp`.
    fn fill(
        &self,
        temp: &Path,
        mut source: impl Read,
        expected: Option<Digest>,
        (limit, known): (u64, u64),
        promise: &mut Promise<'_>,
    ) -> Result<(Digest, u64), StoreError> {
        // Room comes before the first byte.
        promise.extend(known)?;
        let mut file = durable_files::create_private(temp)?;
        let mut size = 0;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(StoreError::Source(error)),
            };
            size += count as u64;
            if size > limit {
                let what = expected.map_or("content".to_owned(), |digest| digest.to_string());
                return Err(StoreError::ContentTooLarge { what, limit });
            }
            promise.extend(size.saturating_sub(promise.bytes))?;
            hasher.update(&chunk[..count]);
            file.write_all(&chunk[..count]).map_err(at("write", temp))?;
        }
        let got = Digest::from_bytes(hasher.finalize().into());
        if let Some(expected) = expected.filter(|expected| *expected != got) {
            return Err(StoreError::DigestMismatch { expected, got });
        }
        Ok((got, size))
    }

    /// Gives the file `temp` its name, for good.
    fn pin(&self, temp: &Path, digest: Digest, size: u64) -> Result<(), StoreError> {
        self.name(temp, digest, size)?;
        self.sync_names()
    }

    /// Gives the file `temp` its name.
    fn name(&self, temp: &Path, digest: Digest, size: u64) -> Result<(), StoreError> {
        let path = self.path_of(&digest);
        self.unsynced.store(true, Ordering::Relaxed);
        fs::rename(temp, &path).map_err(at("rename", temp))?;
        fault::point("content.renamed");
        // Known from here on, even if the sync of the folder fails: the next collection must see it.
        let mut state = self.state();
        let replaced = state.sizes.insert(digest, size).unwrap_or(0);
        state.pins.came(&digest);
        state.used = state.used.saturating_sub(replaced).saturating_add(size);
        Ok(())
    }

    /// Makes the names of what is pinned durable, if some may not be.
    fn sync_names(&self) -> Result<(), StoreError> {
        if self.unsynced.swap(false, Ordering::Relaxed)
            && let Err(error) = durable_files::sync_dir(&self.pinned)
        {
            self.unsynced.store(true, Ordering::Relaxed);
            return Err(error.into());
        }
        fault::point("content.pinned");
        Ok(())
    }

    /// The bytes of `digest`; `None` when they aren't here, or are damaged: then they are removed. More than
    /// `limit` bytes are an error.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path_of(digest);
        let Some(file) = open_existing(&path)? else {
            self.forget(digest);
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match file.take(limit.saturating_add(1)).read_to_end(&mut bytes) {
            Err(error) if is_medium(&error) => {
                self.discard(digest, "it can't be read: the medium is failing");
                return Ok(None);
            }
            Err(error) => return Err(DiskError::new("read", &path, error).into()),
            Ok(_) if bytes.len() as u64 > limit => {
                return Err(StoreError::ContentTooLarge { what: digest.to_string(), limit });
            }
            Ok(_) => {}
        }
        if Digest::of(&bytes) != *digest {
            self.discard(digest, "its content no longer matches its digest");
            return Ok(None);
        }
        self.state().pins.touch(digest);
        Ok(Some(bytes))
    }

    /// Whether `digest` is here and whole; reads all of it, but holds little of it in memory. What is damaged
    /// is removed.
    pub fn verify(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.path_of(digest);
        let Some(mut file) = open_existing(&path)? else {
            self.forget(digest);
            return Ok(false);
        };
        let whole = match hash_of(&mut file) {
            Ok(got) => got == *digest,
            Err(error) if is_medium(&error) => {
                self.discard(digest, "it can't be read: the medium is failing");
                return Ok(false);
            }
            Err(error) => return Err(DiskError::new("read", &path, error).into()),
        };
        match whole {
            true => self.state().pins.touch(digest),
            false => self.discard(digest, "its content no longer matches its digest"),
        }
        Ok(whole)
    }

    /// Whether `digest` is here, by its name alone: cheap, and no proof that it is whole.
    pub fn has(&self, digest: &Digest) -> bool {
        self.state().sizes.contains_key(digest)
    }

    /// Where `digest` is or would be, for handing its file on. [`Content::verify`] it first.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.pinned.join(digest.to_hex())
    }

    /// What is here, with sizes in bytes.
    pub fn list(&self) -> BTreeMap<Digest, u64> {
        self.state().sizes.clone()
    }

    /// What is used of the budget, in bytes.
    pub fn used(&self) -> u64 {
        self.state().used
    }

    /// What may be used, in bytes.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Removes everything but `keep` and what is [held](Content::hold). A crash in the middle leaves some of
    /// it for the next time. Must not run beside a `put` of something that isn't in `keep` or held yet.
    pub fn collect(&self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        self.set_pins(keep.clone());
        let found: Vec<Digest> =
            self.state().sizes.keys().filter(|digest| !keep.contains(digest)).copied().collect();
        let mut collected = Collected::default();
        for digest in &found {
            // Under the lock, so that nobody begins to hold it in between.
            let mut state = self.state();
            if state.holds.contains_key(digest) {
                continue;
            }
            durable_files::remove_if_there(&self.path_of(digest))?;
            fault::point("content.removed");
            collected.removed += 1;
            collected.bytes += state.forget(digest);
        }
        if collected.removed > 0 {
            durable_files::sync_dir(&self.pinned)?;
        }
        Ok(collected)
    }

    /// Removes what is damaged. That it can't be removed (a read-only disk) doesn't make it whole.
    fn discard(&self, digest: &Digest, why: &str) {
        tracing::warn!(%digest, why, "pinned content is damaged and removed");
        let path = self.path_of(digest);
        match durable_files::remove_if_there(&path) {
            Ok(()) => self.forget(digest),
            Err(error) => tracing::warn!(%error, "damaged content stays where it is"),
        }
    }

    fn forget(&self, digest: &Digest) {
        self.state().forget(digest);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes `digest` off the books; gives its size.
    fn forget(&mut self, digest: &Digest) -> u64 {
        let size = self.sizes.remove(digest).unwrap_or(0);
        self.pins.forget(digest);
        self.used = self.used.saturating_sub(size);
        size
    }
}

/// The digest of all that `source` gives.
fn hash_of(source: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens a file that need not be there.
fn open_existing(path: &Path) -> Result<Option<File>, DiskError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::new("open", path, error)),
    }
}

fn is_medium(error: &io::Error) -> bool {
    Trouble::of(error) == Trouble::Failing
}

/// Removes what writes left that never ended.
fn sweep(temp: &Path) -> Result<(), DiskError> {
    for entry in fs::read_dir(temp).map_err(at("list", temp))? {
        let path = entry.map_err(at("list", temp))?.path();
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot sweep what a crash left over");
        }
    }
    Ok(())
}

/// What is in a folder, by name and size and when it was written, oldest first. Names that are no digests aren't
/// ours, and stay.
fn scan(dir: &Path) -> Result<Vec<(Digest, u64, SystemTime)>, DiskError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let entry = entry.map_err(at("list", dir))?;
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| format!("sha256:{name}").parse::<Digest>().ok());
        let (Some(digest), Ok(meta)) = (digest, entry.metadata()) else { continue };
        if meta.is_file() {
            found.push((digest, meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
        }
    }
    found.sort_by_key(|(_, _, written)| *written);
    Ok(found)
}

#[cfg(test)]
mod eviction_tests;
#[cfg(test)]
mod partial_tests;
#[cfg(test)]
mod tests;
