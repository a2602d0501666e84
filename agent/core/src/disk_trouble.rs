//! Why the disk refused something: classified by type where it happens, so that nobody has to parse messages.

use std::error::Error;
use std::io;

/// What a medium that fails answers, and a file system that finds itself damaged (ext4 and XFS: a checksum that is wrong,
/// a structure that can't be): EIO, EBADMSG and EUCLEAN of Linux.
const FAILING: [i32; 3] = [5, 74, 117];

/// What kind of trouble the disk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No space, no inodes or no quota left.
    Full,
    /// Mounted read-only, often by the kernel after an error.
    ReadOnly,
    /// The medium itself fails.
    Failing,
    /// The agent may not do this.
    Denied,
    /// Something else.
    Other,
}

impl Trouble {
    /// What `cause` says about the disk.
    pub fn of(cause: &io::Error) -> Trouble {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::Full,
            io::ErrorKind::ReadOnlyFilesystem => Trouble::ReadOnly,
            io::ErrorKind::PermissionDenied => Trouble::Denied,
            _ if cause.raw_os_error().is_some_and(|number| FAILING.contains(&number)) => Trouble::Failing,
            _ => Trouble::Other,
        }
    }

    /// The same of the first error of the operating system that `error` comes from, itself among them.
    pub fn in_chain(error: &(dyn Error + 'static)) -> Option<Trouble> {
        let chain = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
        chain.filter_map(|error| error.downcast_ref::<io::Error>()).map(Trouble::of).next()
    }

    /// Whether it may end without anybody touching the agent.
    pub fn may_pass(self) -> bool {
        matches!(self, Trouble::Full | Trouble::ReadOnly | Trouble::Failing)
    }

    /// What to do about it, as the end of a message; empty where nothing is known.
    pub fn advice(self) -> &'static str {
        match self {
            Trouble::Full => "; free some space on this file system, or lower state.disk_budget",
            Trouble::ReadOnly => {
                "; the file system is read-only: look at the kernel log for why, then remount it"
            }
            Trouble::Failing => "; the medium is failing: look at the kernel log, and replace it",
            Trouble::Denied => "; the agent must own its state folder: check owner and mode",
            Trouble::Other => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot unpack")]
    struct Outer(#[source] io::Error);

    #[test]
    fn trouble_is_found_however_deep_the_error_of_the_system_lies() {
        for (number, trouble) in [
            (28, Trouble::Full),
            (122, Trouble::Full),
            (30, Trouble::ReadOnly),
            (5, Trouble::Failing),
            (74, Trouble::Failing),
            (117, Trouble::Failing),
            (13, Trouble::Denied),
            (2, Trouble::Other),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(Trouble::of(&error), trouble, "{number}");
            assert_eq!(Trouble::in_chain(&Outer(error)), Some(trouble), "{number}");
        }
        assert_eq!(Trouble::in_chain(&std::fmt::Error), None);
    }
}
