//! Nothing is left of the budget, or not enough: how much was used of how much, and when there is more.

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
    /// How many bytes a download needs that wasn't begun for want of room.
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
                "it needs {}, and {used} of {bytes} a {per} are used of the byte budget",
                Size(wanted)
            )?,
            None => write!(f, "the byte budget of this link is used up ({used} of {bytes} a {per})")?,
        }
        write!(f, "; it goes on from {} on", self.next)
    }
}

impl std::error::Error for UsedUp {}

impl UsedUp {
    /// What a person can do about it.
    pub const ADVICE: &str = "nothing to do: it goes on when the next period of the byte budget begins; or raise \
                              policy.downloads.budget, or mark the revision as urgent";

    /// The same, as what holds something that is described by `cause`.
    pub fn held(&self, cause: impl Into<String>) -> Held {
        Held { cause: cause.into(), next: Some(self.next), unblock: Self::ADVICE.to_owned() }
    }
}
