//! How large the contents of a pack may be. Nothing of a pack is signed but its commits and tags, and whether these are
//! good is known only once they are here; so no memory is had for an object before what it says of its size is known to
//! be small. A file that lies undivided costs none: it is hashed as it comes, and read piece by piece.

use std::io;

use gix::objs::Kind;

use super::objects::Damage;
use crate::source::error::Limit;

/// The largest commit or tag, in bytes: its message, its parents and its signature. git's own history has none of 32 KiB.
pub(crate) const MAX_COMMIT: u64 = 1 << 20;

/// The largest folder, in bytes: about 200,000 entries.
pub(crate) const MAX_TREE: u64 = 8 << 20;

/// What may be held in memory while differences are put together, in bytes: everything on the way from a whole object to
/// what is built on it. A box of 256 MB goes on.
pub(crate) const MAX_HELD: u64 = 64 << 20;

/// The most objects of a pack: each takes some 60 bytes of memory until the pack is indexed, and 24 more where it is a
/// difference to an object that is named by its id.
pub(super) const MAX_OBJECTS: u32 = 1 << 19;

/// The same where only commits were asked for: the default of `limits.commits`, of which no more are looked
/// at, is less.
const MAX_COMMITS: u32 = 1 << 18;

/// So many differences may be built on each other, as git says too.
pub(super) const MAX_DEPTH: u32 = 4095;

/// What any pack may have when all of it is unpacked, in bytes: some seconds of a small box's time.
const MAX_UNPACKED: u64 = if cfg!(test) { 256 << 20 } else { 4 << 30 };

/// And how much more for each byte that came. The history of Linux as a whole has about 100.
const UNPACKED_PER_BYTE: u64 = 100;

/// However much came: 32 times the largest pack, and some minutes of a small box's time.
const MOST_UNPACKED: u64 = 64 << 30;

/// What reading all differences of a pack once may go through, in bytes: each is read with all that it is built on. git
/// builds no more than 50 on each other where it isn't told to, and on nothing that is 32 times as large as what comes of it.
/// What is read of one is about as large as the others on its way, so that a pack with 25 on the way of each, on the average,
/// goes through 25 times what it unpacks to. Half a million objects of 2 KB are 37 GiB so, and 64 GiB may be.
const MAX_READ: u64 = 16 << 30;

/// How much more for each byte that the pack unpacks to.
const READ_PER_BYTE: u64 = 16;

/// And for each of its objects, however small.
const READ_PER_OBJECT: u64 = 64 << 10;

/// What beginning to inflate costs, in bytes that are inflated in that time.
const READ_AT_LEAST: u64 = 1 << 10;

/// How large an object of each kind may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    commit: u64,
    tree: u64,
    blob: u64,
    /// The most objects.
    pub(super) objects: u32,
}

impl Bounds {
    /// Of a pack that was to have commits only.
    pub(crate) const COMMITS: Bounds =
        Bounds { commit: MAX_COMMIT, tree: MAX_COMMIT, blob: MAX_COMMIT, objects: MAX_COMMITS };

    /// Of any other, with files of at most `blob` bytes.
    pub(crate) fn up_to(blob: u64) -> Bounds {
        Bounds { commit: MAX_COMMIT.min(blob), tree: MAX_TREE.min(blob), blob, objects: MAX_OBJECTS }
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
        let limit = self.commit.max(self.tree).max(self.blob);
        let what = "a delta in the pack, or its result";
        match size {
            _ if size > limit => Err(Failure::too_large(what, size, limit)),
            _ if size > MAX_HELD => Err(Failure::TooMuch {
                what: format!("{what}, announced with {size} bytes,"),
                limit: Limit::Bytes(MAX_HELD),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether it is too much to unpack `bytes` of a pack of which so many came: hashing them takes time.
pub(super) fn check_effort(bytes: u64, came: u64) -> Result<(), Failure> {
    let limit = MAX_UNPACKED.saturating_add(came.saturating_mul(UNPACKED_PER_BYTE)).min(MOST_UNPACKED);
    if bytes <= limit {
        return Ok(());
    }
    Err(Failure::TooLarge {
        what: format!("what {came} bytes of the pack unpack to"),
        limit: Limit::Bytes(limit),
    })
}

/// Whether it is too much to go through `bytes` to read each difference of a pack, which unpacks to so much.
pub(super) fn check_reading(bytes: u64, unpacked: u64, objects: u64) -> Result<(), Failure> {
    let more = unpacked.saturating_mul(READ_PER_BYTE).saturating_add(objects.saturating_mul(READ_PER_OBJECT));
    let limit = MAX_READ.saturating_add(more);
    if bytes <= limit {
        return Ok(());
    }
    let what = "what has to be read for all objects of the pack, because of its chains of deltas,";
    Err(Failure::TooMuch { what: what.to_owned(), limit: Limit::Bytes(limit) })
}

/// What lies on the way from a whole object to something that is built on it. Whoever reads that, which is gix, has all of the
/// instructions in memory at once, and twice as much as the largest object on the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    instructions: u64,
    largest: u64,
    depth: u32,
    /// How much is inflated and put together when it is read.
    pub(super) cost: u64,
}

impl Chain {
    /// That of a whole object.
    pub(super) fn of(size: u64) -> Chain {
        Chain { instructions: 0, largest: size, depth: 0, cost: size.saturating_add(READ_AT_LEAST) }
    }

    /// With one more difference, which makes an object of `size` bytes.
    pub(super) fn and(self, difference: u64, size: u64) -> Chain {
        let more = difference.saturating_add(size).saturating_add(READ_AT_LEAST);
        Chain {
            instructions: self.instructions.saturating_add(difference),
            largest: self.largest.max(size),
            depth: self.depth.saturating_add(1),
            cost: self.cost.saturating_add(more),
        }
    }

    /// Whether it can be read within so many bytes of memory.
    pub(super) fn check(self, most: u64) -> Result<(), Failure> {
        if self.depth > MAX_DEPTH {
            let what = "the longest chain of deltas in the pack".to_owned();
            return Err(Failure::TooMuch { what, limit: Limit::Deltas(MAX_DEPTH) });
        }
        let bytes = self.instructions.saturating_add(self.largest.saturating_mul(2));
        if bytes <= most {
            return Ok(());
        }
        let what = format!("what the pack sends as deltas, which takes {bytes} bytes of memory to read,");
        Err(Failure::TooMuch { what, limit: Limit::Bytes(most) })
    }
}

/// Why a pack is not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Something is larger than it may be.
    #[error("{what} is larger than {limit}")]
    TooLarge { what: String, limit: Limit },
    /// Too much is built on other objects; if these are sent by themselves, or whole, they may be taken.
    #[error("{what} is larger than {limit}")]
    TooMuch { what: String, limit: Limit },
    /// There is no room on the disk for what it builds on.
    #[error("there is no space for it")]
    NoRoom,
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
        Failure::TooLarge {
            what: format!("{what}, announced with {size} bytes,"),
            limit: Limit::Bytes(limit),
        }
    }
}
