//! The budget is used up, or too little of it is left: how much was used, and when there is more.

use std::fmt;

use holdfast_core::held::Held;
use holdfast_core::network::{ByteBudget, Size};
use jiff::Timestamp;

/// Why a download didn't begin, or was stopped. What came of it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedUp {
    /// Bytes used in this period.
    pub used: u64,
    /// Of what.
    pub budget: ByteBudget,
    /// How many bytes a download needs that wasn't begun for want of room; of files out of Git, how many weren't enough
    /// before.
    pub wanted: Option<u64>,
    /// When it is worth trying again.
    pub next: Timestamp,
}

impl fmt::Display for UsedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ByteBudget { bytes, per } = self.budget;
        let (used, bytes, per) = (Size(self.used), Size(bytes), per.word());
        match self.wanted.filter(|_| self.used < self.budget.bytes) {
            Some(wanted) => write!(
                f,
                "it needs {}, but {used} of the byte budget ({bytes} a {per}) are already used",
                Size(wanted)
            )?,
            None => write!(f, "the byte budget of this link is used up ({used} of {bytes} a {per})")?,
        }
        write!(f, "; it continues at {}", self.next)
    }
}

impl std::error::Error for UsedUp {}

impl UsedUp {
    /// What a person can do about it.
    pub const ADVICE: &str = "nothing to do: it continues when the next period of the byte budget begins; to \
                              continue earlier, raise policy.downloads.budget or mark the revision as urgent";

    /// What a person can do about a revision that doesn't come.
    pub const ADVICE_REVISION: &str = "nothing to do: it continues at that time. The revision needs more bytes \
                                       than its documents may use beyond the byte budget; if the Git server sends \
                                       whole commits, allow partial fetches on it (git config \
                                       uploadpack.allowFilter true)";

    /// The same, as what holds a revision that is described by `cause`: what it says of budgets and urgency isn't
    /// known yet.
    pub fn held_revision(&self, cause: impl Into<String>) -> Held {
        Held { cause: cause.into(), next: Some(self.next), unblock: Self::ADVICE_REVISION.to_owned() }
    }

    /// Whether a file needs more than a whole period's budget.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.wanted.is_some_and(|more_than| more_than >= self.budget.bytes)
    }

    /// The same, as what holds an app whose files wait. It stays the same while polls go on using bytes.
    pub fn held_files(&self) -> Held {
        let ByteBudget { bytes, per } = self.budget;
        let budget = format!("the byte budget of this link ({} a {})", Size(bytes), per.word());
        if self.is_hopeless() {
            let cause = format!(
                "one of its files needs more than all of {budget}, and Git can't resume an interrupted download"
            );
            let advice = "raise policy.downloads.budget, mark the revision as urgent, or put the file into an image \
                          of a registry";
            return Held::until_changed(cause, advice);
        }
        self.held(format!("its files wait for {budget}; it continues at {}", self.next))
    }

    /// The same, as what holds something that is described by `cause`.
    pub fn held(&self, cause: impl Into<String>) -> Held {
        Held { cause: cause.into(), next: Some(self.next), unblock: Self::ADVICE.to_owned() }
    }
}
