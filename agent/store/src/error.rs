//! What can go wrong with what is kept on disk.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;
use holdfast_core::disk_trouble::Trouble;

use crate::content::Collected;

/// The operating system refused something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {cause}{}", path.display(), self.trouble().advice())]
pub struct DiskError {
    /// What was being done: "write", "sync".
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why it failed.
    pub cause: io::Error,
}

impl DiskError {
    pub(crate) fn new(doing: &'static str, path: &Path, cause: io::Error) -> Self {
        DiskError { doing, path: path.to_owned(), cause }
    }

    /// What kind of trouble the disk is in.
    pub fn trouble(&self) -> Trouble {
        Trouble::of(&self.cause)
    }
}

/// For `map_err` on what std gives.
pub(crate) fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DiskError + 'a {
    move |cause| DiskError::new(doing, path, cause)
}

/// Why the store could not do something. What was there before is still there and still readable.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process uses the state folder.
    #[error(
        "cannot use the state folder {}: {holder} holds its lock; stop that process, or query it through its socket",
        path.display()
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// Who holds it, as far as that can be told.
        holder: String,
    },
    /// sled could not do it, and not for what it found on disk.
    #[error("cannot {doing} in the database: {cause}")]
    Database {
        /// What was being done.
        doing: String,
        /// What sled said.
        cause: String,
    },
    /// What is in the database is damaged. [`crate::Store::rebuild_database`] helps.
    #[error("cannot {doing} in the database: {cause}; the agent must set the database aside and rebuild it")]
    Damaged {
        /// What was being done.
        doing: String,
        /// What is damaged.
        cause: String,
    },
    /// A record is too large to be kept.
    #[error("cannot keep a record of {size} bytes in {table}: at most {limit} are allowed")]
    RecordTooLarge {
        /// The table.
        table: &'static str,
        /// The record's size in bytes.
        size: usize,
        /// The largest allowed, in bytes.
        limit: usize,
    },
    /// The anchor would no longer fit into its slot.
    #[error("cannot write the anchor: {size} bytes, and its slot holds {limit}")]
    AnchorTooLarge {
        /// The size of its content in bytes.
        size: usize,
        /// The largest allowed, in bytes.
        limit: usize,
    },
    /// A value has no JSON form. Never for the types that are kept.
    #[error("cannot write {what} as JSON: {cause}")]
    Encode {
        /// What.
        what: &'static str,
        /// Why.
        cause: serde_json::Error,
    },
    /// Content is larger than what the caller allows.
    #[error("cannot keep {what}: it is larger than {limit} bytes")]
    ContentTooLarge {
        /// Which content.
        what: String,
        /// The largest allowed, in bytes.
        limit: u64,
    },
    /// Content isn't what it is said to be.
    #[error("cannot store {expected}: the received bytes have the digest {got}; fetch them again")]
    DigestMismatch {
        /// What it should be.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// The disk budget is used up.
    #[error(
        "cannot store {size} more bytes of content: {used} of {budget} are in use{}; raise state.disk_budget, or \
         remove apps from this box",
        after(evicted)
    )]
    OverBudget {
        /// What should be added, in bytes.
        size: u64,
        /// What is used, in bytes.
        used: u64,
        /// What may be used, in bytes.
        budget: u64,
        /// What was evicted for it in vain.
        evicted: Collected,
    },
    /// The file system has too little room.
    #[error(
        "cannot store {size} more bytes of content: {free} are free on the file system of {}, not counting the \
         reserve for a rollback{}; free some space there, or remove apps from this box", path.display(), after(evicted)
    )]
    NoSpace {
        /// The size of what should be added, in bytes.
        size: u64,
        /// What is free for content, in bytes.
        free: u64,
        /// Where.
        path: PathBuf,
        /// What was evicted for it in vain.
        evicted: Collected,
    },
    /// Another thread downloads the same for longer than anybody waits.
    #[error(
        "cannot download {digest}: another download of it is still in progress; the agent retries automatically"
    )]
    Busy {
        /// Which content.
        digest: Digest,
    },
    /// The source of the bytes failed, not the disk.
    #[error("cannot read what should be kept: {0}")]
    Source(io::Error),
    /// A key can't be made or used.
    #[error("cannot {doing} the box's {key} key: {cause}")]
    Key {
        /// What was being done.
        doing: &'static str,
        /// Which key.
        key: &'static str,
        /// Why it failed. Never part of a key.
        cause: String,
    },
}

/// What was tried before.
fn after(evicted: &Collected) -> String {
    match evicted {
        Collected { removed: 0, .. } => ", and nothing could be garbage-collected".to_owned(),
        Collected { removed, bytes } => {
            format!(", after {removed} unneeded files with {bytes} bytes were garbage-collected")
        }
    }
}

impl StoreError {
    /// Whether the database on disk is damaged, so that only [`crate::Store::rebuild_database`] helps.
    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Damaged { .. })
    }

    /// Whether the disk is full, so that making room helps.
    pub fn is_full(&self) -> bool {
        self.trouble() == Some(Trouble::Full)
    }

    /// What kind of trouble the disk is in, if that is the reason.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            StoreError::Disk(error) => Some(error.trouble()),
            StoreError::NoSpace { .. } => Some(Trouble::Full),
            _ => None,
        }
    }
}
