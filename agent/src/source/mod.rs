//! Where the state comes from, whatever kind of place that is: [`Source`] is all that the daemon knows of it. So far
//! there is Git (`git/`). What it brings is named by a revision, and carries the proof that core decides on.
//!
//! The calls block; the loop runs them on a thread of their own. Every one of them ends within the limits of its
//! configuration, whatever the server does.

mod error;
mod gathering;
mod git;
mod tree;

use holdfast_core::digest::Revision;
use holdfast_core::verify::{Fetched, Verified};

pub use self::error::{Limit, SourceError};
pub use self::gathering::Gathering;
pub use self::git::{GitConfig, GitSource, Limits, Reference, Snapshot};
pub use self::tree::{Entry, EntryKind, ReadError, SourceTree, Stream};

/// A place that the box's state comes from, and what was fetched from there.
pub trait Source: Send {
    /// The revision that is the newest there now. Nothing is fetched, and nothing written to disk.
    ///
    /// # Errors
    /// [`SourceError`].
    fn poll(&mut self) -> Result<Revision, SourceError>;

    /// Brings `revision`, unless it is here, as far as it takes to tell what it can show for itself, on top of what is
    /// `accepted`. When this returns, what was fetched survives a power cut.
    ///
    /// # Errors
    /// [`SourceError`]; what was here is as it was.
    fn fetch(&mut self, revision: &Revision, accepted: Option<&Revision>) -> Result<Fetched, SourceError>;

    /// Has the next fetch ask for what couldn't be had before, however short ago that was.
    fn forget_failed_tip(&mut self);

    /// What [`Source::fetch`] gave for the revision that is `accepted` by now: to verify it again without asking
    /// anybody.
    ///
    /// # Errors
    /// [`SourceError::Damaged`] if the revision isn't here: fetch it (again).
    fn recall(&self, accepted: &Revision) -> Result<Fetched, SourceError>;

    /// Begins to read a revision that may be used. Without `ask` nobody is asked: what is missing is an error.
    ///
    /// # Errors
    /// [`SourceError::Damaged`] if the revision isn't here: fetch it (again).
    fn begin(&mut self, verified: &Verified, ask: bool) -> Result<Box<dyn Reading + '_>, SourceError>;

    /// Forgets all revisions but `keep`. What that frees is given back once it is worth the work; at once where room is
    /// `scarce`. Trees that are open go on working.
    ///
    /// # Errors
    /// [`SourceError::Local`] or [`SourceError::Damaged`].
    fn collect(&mut self, keep: &[Revision], scarce: bool) -> Result<(), SourceError>;

    /// Says how many bytes may be added on disk from here on. What would be more is given up with
    /// [`SourceError::OverBudget`], and nothing of it stays. Without this there is no bound.
    fn set_room(&mut self, room: u64);

    /// Reads a revision that may be used, fetching what is missing as it is met.
    ///
    /// # Errors
    /// As [`Source::begin`].
    fn gather(&mut self, verified: &Verified, ask: bool) -> Result<Gathering<'_>, SourceError> {
        self.begin(verified, ask).map(Gathering::new)
    }
}

/// A revision that is being read.
pub trait Reading {
    /// Its files, as far as they are here.
    fn tree(&self) -> &dyn SourceTree;

    /// Brings what the tree was found to miss; the tree is another one afterwards.
    ///
    /// # Errors
    /// [`SourceError`]. After [`SourceError::UsedUp`] too, the tree has what came.
    fn bring(&mut self, what: FileClass) -> Result<(), SourceError>;

    /// What was brought is missing still: the error for that.
    fn brought_in_vain(&self) -> SourceError;

    /// Ends reading. `whole` says that all that the box needs was read: from here on it is known to be here.
    ///
    /// # Errors
    /// [`SourceError::Local`].
    fn finish(self: Box<Self>, whole: bool) -> Result<Box<dyn SourceTree>, SourceError>;
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileClass {
    /// What decides: it is small, and comes whatever was used of a byte budget.
    Documents,
    /// Files of apps: they wait for the byte budget.
    Files,
}
