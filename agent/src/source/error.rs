//! Why the source could not be asked, or its answer could not be used.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use holdfast_core::disk_trouble::Trouble;

use crate::http::allowance::UsedUp;

/// Why a poll or a fetch failed. What the box has stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is no way to the server.
    #[error(
        "{url} cannot be reached: {why}; check the network, the host name and the proxy (the agent retries \
         automatically)"
    )]
    Unreachable {
        /// The source, without credentials.
        url: String,
        /// What failed.
        why: String,
    },
    /// The server says that it can't answer now.
    #[error("{url} cannot answer now: {why}{} (the agent retries automatically)", later(*.retry_after))]
    Busy {
        /// The source, without credentials.
        url: String,
        /// What the server said.
        why: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server was too slow.
    #[error(
        "{url} took too long: {why}; check the network and the server, or raise source.timeout (the agent retries \
         automatically)"
    )]
    TimedOut {
        /// The source, without credentials.
        url: String,
        /// Which limit was hit, where.
        why: String,
    },
    /// Nothing is left of the box's byte budget.
    #[error("nothing can be downloaded from {url} for now: {cause}")]
    UsedUp {
        /// The source, without credentials.
        url: String,
        /// How much was used, and when there is more.
        cause: UsedUp,
    },
    /// The server can't be trusted to be the one that was meant.
    #[error(
        "{url} cannot be trusted: {why}; if it has a private certificate authority, name its certificates in source.ca_file, and check the box's clock"
    )]
    Untrusted {
        /// The source, without credentials.
        url: String,
        /// What is wrong with its certificate.
        why: String,
    },
    /// The server wants to know who asks, or didn't like the answer.
    #[error(
        "{url} refuses the box ({why}): check source.username and the content of source.password_file or source.token_file"
    )]
    Unauthorized {
        /// The source, without credentials.
        url: String,
        /// What the server said.
        why: String,
    },
    /// The repository or the reference isn't there.
    #[error("{what} does not exist: check source.url and source.branch, tag or revision")]
    NotFound {
        /// What was looked for, where.
        what: String,
    },
    /// The server said something that is not Git.
    #[error("{url} does not answer like a Git server: {why}; check source.url")]
    Protocol {
        /// The source, without credentials.
        url: String,
        /// What was wrong.
        why: String,
    },
    /// The server sent all that it had to send, and it isn't all of the commit.
    #[error(
        "{url} sent an incomplete commit: {why}; check the repository on the server (git fsck), and any proxy between it \
         and the box"
    )]
    NotWhole {
        /// The source, without credentials.
        url: String,
        /// What is missing.
        why: String,
    },
    /// The commit is what its id says, and no commit that can be read.
    #[error("commit {revision} cannot be used: {why}; push a corrected commit on top of its parent")]
    Unusable {
        /// Which.
        revision: String,
        /// What is wrong with it.
        why: String,
    },
    /// More was sent than the box takes.
    #[error("{what} is larger than the limit of {limit} and was discarded")]
    TooLarge {
        /// What.
        what: String,
        /// The limit.
        limit: Limit,
    },
    /// What was sent doesn't fit into the disk budget.
    #[error(
        "the files of the revision that this box needs are larger than the {room} bytes that state.disk_budget \
         leaves for them, and were discarded; make them smaller in a new commit, remove apps from this box, or \
         raise state.disk_budget"
    )]
    OverBudget {
        /// How many bytes there was room for.
        room: u64,
    },
    /// The configuration can't work.
    #[error("the configuration of the source cannot work: {0}")]
    Config(String),
    /// What this box needs of a revision isn't all here, and nobody may be asked now.
    #[error(
        "{count} files or folders of revision {revision} that this box needs are not in the mirror yet; a running agent fetches them with its next poll"
    )]
    Incomplete {
        /// The revision.
        revision: String,
        /// How many are known to be missing; more may be below them.
        count: usize,
    },
    /// The mirror on disk is broken. The next fetch rebuilds it from the source.
    #[error("the mirror is damaged ({0}); the next fetch rebuilds it from the source")]
    Damaged(String),
    /// The box's own disk or files.
    #[error("{cause}")]
    Local {
        /// What failed, and why.
        cause: String,
        /// What the disk said, if it is the reason.
        trouble: Option<Trouble>,
    },
}

impl SourceError {
    /// A failure of the box's own files.
    pub(crate) fn local(doing: &str, path: &Path, why: impl std::error::Error + 'static) -> Self {
        SourceError::of_disk(doing, path, &why, Trouble::in_chain(&why))
    }

    /// The same where the error that says why is no longer at hand.
    pub(crate) fn of_disk(
        doing: &str,
        path: &Path,
        why: &dyn std::fmt::Display,
        trouble: Option<Trouble>,
    ) -> Self {
        let path = path.display();
        let cause = format!("{doing} {path} failed: {why}; check the disk's free space and health");
        SourceError::Local { cause, trouble }
    }

    /// A failure on this box that isn't the disk's.
    pub(crate) fn here(cause: impl Into<String>) -> Self {
        SourceError::Local { cause: cause.into(), trouble: None }
    }

    /// What the disk said, if it is the reason.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            SourceError::Local { trouble, .. } => *trouble,
            _ => None,
        }
    }

    /// Whether the network or the server is the reason, so that trying again soon may help.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            SourceError::Unreachable { .. } | SourceError::Busy { .. } | SourceError::TimedOut { .. }
        )
    }

    /// Whether the server was asked. Where there was no way to it, or the box's own files were the reason, another try
    /// costs it nothing.
    pub fn was_asked(&self) -> bool {
        !matches!(self, SourceError::Unreachable { .. } | SourceError::Local { .. } | SourceError::Config(_))
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            SourceError::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn later(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |after| format!("; it asks for no further request within {after:?}"))
}

/// How much the box takes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes.
    Bytes(u64),
    /// So many Git objects.
    Objects(u32),
    /// So many deltas, each built on the one before.
    Deltas(u32),
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Bytes(bytes) => write!(out, "{bytes} bytes"),
            Limit::Objects(objects) => write!(out, "{objects} objects"),
            Limit::Deltas(deltas) => write!(out, "{deltas} deltas"),
        }
    }
}
