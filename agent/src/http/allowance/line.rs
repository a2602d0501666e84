//! One client's way through the allowance.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Allowance, Purpose, UsedUp};

/// What the sockets of one client share. One operation at a time uses it.
#[derive(Clone)]
pub(crate) struct Line {
    allowance: Allowance,
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    purpose: Purpose,
    /// Bytes since this purpose began.
    taken: u64,
    /// How long it was held up, ever.
    waited: Duration,
}

impl Line {
    pub(super) fn new(allowance: Allowance) -> Self {
        let now = Now { purpose: Purpose::Poll, taken: 0, waited: Duration::ZERO };
        Line { allowance, now: Arc::new(Mutex::new(now)) }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to download for `purpose`, unless nothing is left for that. Nobody has been asked yet.
    pub(crate) fn begin(&self, purpose: Purpose) -> Result<Transfer, UsedUp> {
        self.now().taken = 0;
        self.allowance.may_begin(purpose)?;
        self.now().purpose = purpose;
        Ok(Transfer(self.clone()))
    }

    /// Bytes that came and went since the last download was to begin.
    pub(crate) fn taken(&self) -> u64 {
        self.now().taken
    }

    /// The documents that are downloaded from now on are those of `revision`.
    pub(crate) fn documents_of(&self, revision: &str) {
        self.allowance.documents_of(revision);
    }

    /// Whether there is a budget to keep to.
    pub(crate) fn has_budget(&self) -> bool {
        self.allowance.has_budget()
    }

    /// Waits until it is this one's turn at the rate.
    pub(crate) fn wait(&self) {
        let waited = self.allowance.wait();
        self.now().waited += waited;
    }

    /// How long it was held up until now. That is nobody's slowness but our own.
    pub(crate) fn waited(&self) -> Duration {
        self.now().waited
    }

    /// Whether it is held up, so that how long a download takes can't be said before.
    pub(crate) fn is_slowed(&self) -> bool {
        self.allowance.has_rate()
    }

    /// Whether more may be read.
    pub(super) fn may_go_on(&self) -> Result<(), UsedUp> {
        let (purpose, taken) = {
            let now = self.now();
            (now.purpose, now.taken)
        };
        self.allowance.may_go_on(purpose, taken)
    }

    /// Books what passed a socket.
    pub(super) fn book(&self, bytes: usize) {
        let purpose = {
            let mut now = self.now();
            now.taken += bytes as u64;
            now.purpose
        };
        self.allowance.book(purpose, bytes as u64);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("now", &*self.now()).finish_non_exhaustive()
    }
}

/// A download; once it is dropped, what it used is written down.
#[derive(Debug)]
pub(crate) struct Transfer(Line);

impl Drop for Transfer {
    fn drop(&mut self) {
        let purpose = self.0.now().purpose;
        self.0.allowance.ended(purpose);
    }
}
