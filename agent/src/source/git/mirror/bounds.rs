//! How large what a pack holds may be. Nothing of a pack is signed but its commits and tags, and whether these are good is
//! known only once they are here; so no memory is had for an object before what it says of its size is known to be small.
//! A file that lies undivided costs none: it is hashed as it comes, and read piece by piece.

use std::io;

use gix::objs::Kind;

use super::objects::Damage;

/// The largest commit or tag, in bytes: its message, its parents and its signature. git's own history has none of 32 KiB.
pub(crate) const MAX_COMMIT: u64 = 1 << 20;

/// The largest folder, in bytes: about 200,000 entries.
pub(crate) const MAX_TREE: u64 = 8 << 20;

/// What may be held in memory while differences are put together, in bytes: everything on the way from a whole object to
/// what is built on it. A box of 256 MB goes on.
pub(crate) const MAX_HELD: u64 = 64 << 20;

/// The most objects of a pack: each takes some 60 bytes of memory until the pack is indexed.
pub(super) const MAX_OBJECTS: u32 = 1 << 19;

/// What any pack may have when all of it is unpacked, in bytes: some seconds of a small box's time.
const MAX_UNPACKED: u64 = if cfg!(test) { 256 << 20 } else { 4 << 30 };

/// And how much more for each byte that came. The history of Linux as a whole has about 100.
const UNPACKED_PER_BYTE: u64 = 100;

/// How large an object of each kind may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    commit: u64,
    tree: u64,
    blob: u64,
}

impl Bounds {
    /// Of a pack that was to have commits only.
    pub(crate) const COMMITS: Bounds = Bounds { commit: MAX_COMMIT, tree: MAX_COMMIT, blob: MAX_COMMIT };

    /// Of any other, with files of at most `blob` bytes.
    pub(crate) fn up_to(blob: u64) -> Bounds {
        Bounds { commit: MAX_COMMIT.min(blob), tree: MAX_TREE.min(blob), blob }
    }

    pub(crate) fn of(self, kind: Kind) -> u64 {
        match kind {
            Kind::Commit | Kind::Tag => self.commit,
            Kind::Tree => self.tree,
            Kind::Blob => self.blob,
        }
    }

    pub(super) fn check(self, kind: Kind, size: u64) -> Result<(), Failure> {
        let limit = self.of(kind);
        if size <= limit {
            return Ok(());
        }
        let what = match kind {
            Kind::Commit | Kind::Tag => "a commit or tag",
            Kind::Tree => "a folder",
            Kind::Blob => "a file",
        };
        Err(Failure::too_large(&format!("{what} in the pack"), size, limit))
    }

    /// The same of a difference, or what it makes, where it isn't known yet what kind of object that is.
    pub(super) fn check_difference(self, size: u64) -> Result<(), Failure> {
        let limit = self.commit.max(self.tree).max(self.blob).min(MAX_HELD);
        if size <= limit {
            return Ok(());
        }
        Err(Failure::too_large("an object in the pack, a difference to another one", size, limit))
    }
}

/// Whether it is too much to unpack `bytes` of a pack of which so many came: hashing them takes time.
pub(super) fn check_effort(bytes: u64, came: u64) -> Result<(), Failure> {
    let limit = MAX_UNPACKED.saturating_add(came.saturating_mul(UNPACKED_PER_BYTE));
    if bytes <= limit {
        return Ok(());
    }
    Err(Failure::TooLarge { what: format!("what {came} bytes of the pack unpack to"), limit })
}

/// Why a pack is not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Something is larger than it may be.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    /// It is no pack, or not all of it is there.
    #[error("{0}")]
    Broken(String),
    /// It ended, or whoever reads it says why not.
    #[error("{0}")]
    Read(#[source] io::Error),
    /// It can't be written.
    #[error("{0}")]
    Disk(#[source] io::Error),
    /// What it builds on is in the mirror and can't be read.
    #[error("{0}")]
    Base(#[source] Damage),
}

impl Failure {
    fn too_large(what: &str, size: u64, limit: u64) -> Failure {
        Failure::TooLarge { what: format!("{what}, which says that it has {size} bytes,"), limit }
    }
}
