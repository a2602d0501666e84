//! How much one revision may remove: a typo that empties a selector must not empty a box.

use serde::{Deserialize, Serialize};

/// How much a plan may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneLimit {
    /// So many apps may always go at once.
    pub max_apps: usize,
    /// And so many in a hundred of those that are here.
    pub max_share_percent: u32,
}

impl Default for PruneLimit {
    fn default() -> Self {
        PruneLimit { max_apps: 1, max_share_percent: 25 }
    }
}

impl PruneLimit {
    /// Whether `going` apps of `present` may be removed: only what is over both limits is held.
    pub fn allows(&self, going: usize, present: usize) -> bool {
        going <= self.max_apps || going * 100 <= present * self.max_share_percent as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prune_limit_holds_only_what_is_over_both_bounds() {
        let limit = PruneLimit::default();
        assert!(limit.allows(1, 1));
        assert!(limit.allows(2, 8));
        assert!(!limit.allows(2, 7));
        assert!(limit.allows(0, 0));
    }
}
