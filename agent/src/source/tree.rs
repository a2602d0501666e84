//! The files of one revision as its source has them: some may not be here yet. What of them counts in a repository is
//! none of the source's business (`agent/src/daemon/gather.rs` makes a [`holdfast_core::tree::Tree`] of them).

use std::fmt;
use std::io::Read;

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link; [`SourceTree::read`] and [`SourceTree::list`] follow it.
    Link,
    /// A submodule; it can't be read.
    Submodule,
    /// Something whose name no file can have; it can't be read.
    Misnamed,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name in the folder.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// The size of a file, in bytes; `None` for the others, and for a file whose content isn't here.
    pub size: Option<u64>,
}

/// The content of a file, to be read piece by piece. One that is damaged gives an error before its end.
pub struct Stream<'a> {
    /// How many bytes it has.
    pub size: u64,
    /// The bytes.
    pub bytes: Box<dyn Read + 'a>,
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("size", &self.size).finish_non_exhaustive()
    }
}

/// The files of one revision. Paths are relative to its top, with `/` between names.
pub trait SourceTree {
    /// The entries of the folder at `path`, sorted by name; none if there is no such folder.
    ///
    /// # Errors
    /// [`ReadError`].
    fn list(&self, path: &str) -> Result<Vec<Entry>, ReadError>;

    /// The content of the file at `path`; `None` if there is nothing.
    ///
    /// # Errors
    /// [`ReadError`], among others when the file has more than `limit` bytes.
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ReadError>;

    /// The same as [`SourceTree::read`] for what may be large: it is not held in memory, as far as the source can do without.
    ///
    /// # Errors
    /// As of [`SourceTree::read`].
    fn open(&self, path: &str, limit: u64) -> Result<Option<Stream<'_>>, ReadError>;

    /// Looks whether the content of the file at `path` is here, without reading it.
    ///
    /// # Errors
    /// [`ReadError`], the same as of [`SourceTree::read`].
    fn reach(&self, path: &str) -> Result<(), ReadError>;

    /// What was looked for so far and isn't here, as the source calls it, sorted. Whoever reads goes on with what else
    /// it needs after [`ReadError::NotHere`], so that all of this can be brought at once.
    fn missing(&self) -> Vec<String>;
}

/// Why a file of a revision can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A submodule is in the way.
    #[error("{path}: a submodule; Holdfast reads one repository only: put the files into it")]
    Submodule {
        /// The path, from the repository's top.
        path: String,
    },
    /// The content is elsewhere.
    #[error(
        "{path}: only a Git LFS pointer is in the repository; Holdfast doesn't fetch from LFS: commit the file itself, or name it as an OCI artifact"
    )]
    LfsPointer {
        /// The path, from the repository's top.
        path: String,
    },
    /// A link to somewhere else.
    #[error(
        "{path}: a symbolic link to outside of the repository ({target:?}); link only to files in the repository"
    )]
    LinkLeaves {
        /// The path, from the repository's top.
        path: String,
        /// Where it points.
        target: String,
    },
    /// Links that never end.
    #[error("{path}: more than {limit} symbolic links on the way; they may form a loop")]
    LinkLoop {
        /// The path, from the repository's top.
        path: String,
        /// How many are followed.
        limit: usize,
    },
    /// A file where a folder was wanted, or the other way round.
    #[error("{path}: is not a {wanted}")]
    WrongKind {
        /// The path, from the repository's top.
        path: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// A file beyond what the reader takes.
    #[error("{path}: has {size} bytes, but at most {limit} are read")]
    TooLarge {
        /// The path, from the repository's top.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A large file that the source keeps as a difference to another one.
    #[error(
        "{path}: has {size} bytes and is stored as a delta of another file, but of such files at most {limit} \
         bytes are read; set core.bigFileThreshold on the Git server below its size and push it again"
    )]
    Difference {
        /// The path, from the repository's top.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A path that can't be meant.
    #[error("{path:?} is not a path inside the repository")]
    BadPath {
        /// The path.
        path: String,
    },
    /// It was left out when the revision was fetched. Whoever gathers what the box needs brings it.
    #[error("{path}: is not in the mirror yet; the agent, when it runs, fetches it with its next poll")]
    NotHere {
        /// The path, from the repository's top.
        path: String,
    },
    /// The mirror on disk is broken. The next fetch rebuilds it.
    #[error("{path}: the mirror is damaged ({why}); the next fetch rebuilds it from the source")]
    Damaged {
        /// The path, from the repository's top.
        path: String,
        /// What was found.
        why: String,
    },
}
