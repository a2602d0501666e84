//! What downloads may use of the box's link: a rate, and a budget of bytes for each day, week or month.
//!
//! All of it is arithmetic; who reads clocks, counts bytes and sleeps is the agent's `http::allowance`.

mod bucket;
mod period;
mod size;
mod usage;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::bucket::Bucket;
pub use self::period::BudgetPeriod;
pub use self::size::Size;
pub use self::usage::Usage;

/// What downloads may use. The default is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DownloadLimits {
    /// Bytes a second that all downloads share, in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// How much may be used in a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<ByteBudget>,
}

impl DownloadLimits {
    /// Whether there is nothing to keep to.
    pub fn is_none(&self) -> bool {
        self.rate.is_none() && self.budget.is_none()
    }
}

impl fmt::Display for DownloadLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            Some(rate) => write!(f, "{} a second", Size(rate))?,
            None => f.write_str("any rate")?,
        }
        match self.budget {
            Some(budget) => write!(f, ", {} a {}", Size(budget.bytes), budget.per.word()),
            None => f.write_str(", without a budget"),
        }
    }
}

/// So many bytes for each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ByteBudget {
    /// How many, received and sent together.
    pub bytes: u64,
    /// For how long.
    pub per: BudgetPeriod,
}

impl ByteBudget {
    /// What is left of it after `used` bytes.
    pub fn left(&self, used: u64) -> u64 {
        self.bytes.saturating_sub(used)
    }

    /// Whether a download of `size` bytes should be begun with `left` bytes left. One that no period has room for
    /// is begun with whatever is left, since it needs several of them; every other waits for room for all of it.
    pub fn has_room(&self, left: u64, size: u64) -> bool {
        left > 0 && (size <= left || size > self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written_and_none_is_the_default() {
        let limits = DownloadLimits {
            rate: Some(1 << 20),
            budget: Some(ByteBudget { bytes: 500 << 20, per: BudgetPeriod::Month }),
        };
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(text, r#"{"rate":1048576,"budget":{"bytes":524288000,"per":"month"}}"#);
        assert_eq!(serde_json::from_str::<DownloadLimits>(&text).unwrap(), limits);
        assert_eq!(serde_json::from_str::<DownloadLimits>("{}").unwrap(), DownloadLimits::default());
        assert!(DownloadLimits::default().is_none() && !limits.is_none());
        assert!(serde_json::from_str::<DownloadLimits>(r#"{"budged":{}}"#).is_err());
    }

    #[test]
    fn a_download_waits_for_room_unless_no_period_has_any() {
        let budget = ByteBudget { bytes: 100, per: BudgetPeriod::Day };
        assert!(budget.has_room(60, 60) && !budget.has_room(59, 60));
        assert!(budget.has_room(1, 101), "it needs several periods in any case");
        assert!(!budget.has_room(0, 101) && !budget.has_room(0, 0));
        assert_eq!((budget.left(30), budget.left(130)), (70, 0));
    }
}
