//! The diagnosis of an app that failed: what was seen of it, saved before anything is rolled back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::{ReleaseId, Revision};
use crate::name::{AppName, ObjectKey};
use crate::runtime::DriverName;

/// How many lines of an app's log are kept.
pub const LOG_LINES: usize = 200;
/// The longest line that is kept, in bytes; more is cut.
const LINE_LIMIT: usize = 1024;
/// All lines together, in bytes; the oldest go first.
const LOG_LIMIT: usize = 48 * 1024;

/// One app's failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// The app.
    pub app: AppName,
    /// What failed.
    pub release: ReleaseId,
    /// What that was rendered from.
    pub revision: Revision,
    /// What ran it.
    pub driver: DriverName,
    /// When it was found to have failed.
    pub time: Timestamp,
    /// Why, as `status` says it.
    pub reason: String,
    /// The last looks at it, oldest first.
    pub looks: Vec<LookRecord>,
    /// What the runtime held of it. While it is taken back, objects differ from what they are taken back to.
    pub objects: BTreeMap<ObjectKey, String>,
    /// The last lines of its log. The app wrote them: they are as secret as the app is.
    pub logs: Vec<String>,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_logs: Option<String>,
    /// What the box did with it before, from the audit log.
    #[serde(default)]
    pub events: Vec<String>,
}

/// What a look saw, and how often in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LookRecord {
    /// When it was first seen so.
    pub time: Timestamp,
    /// How many looks in a row saw the same.
    pub times: u32,
    /// Unknown, Starting, Healthy or Unhealthy.
    pub health: String,
    /// Why it isn't healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often its runtime had started something of it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
}

impl Diagnosis {
    /// Cut to what is kept.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.reason = cut(&self.reason).to_owned();
        for look in &mut self.looks {
            look.reason = look.reason.as_deref().map(|reason| cut(reason).to_owned());
        }
        let mut left = LOG_LIMIT;
        let lines: Vec<String> =
            self.logs.iter().rev().take(LOG_LINES).map(|line| cut(line).to_owned()).collect();
        let fit = lines.into_iter().take_while(|line| {
            let fits = line.len() < left;
            left = left.saturating_sub(line.len() + 1);
            fits
        });
        self.logs = fit.collect();
        self.logs.reverse();
        self
    }
}

fn cut(line: &str) -> &str {
    &line[..line.floor_char_boundary(LINE_LIMIT)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn diagnosis(logs: Vec<String>) -> Diagnosis {
        Diagnosis {
            app: "pos".parse().unwrap(),
            release: ReleaseId(Digest::of(b"x")),
            revision: Revision("r".into()),
            driver: DriverName::SIMULATED,
            time: Timestamp::UNIX_EPOCH,
            reason: "é".repeat(LINE_LIMIT),
            looks: Vec::new(),
            objects: BTreeMap::new(),
            logs,
            no_logs: None,
            events: Vec::new(),
        }
    }

    #[test]
    fn the_newest_lines_are_kept_and_long_ones_are_cut() {
        let kept = diagnosis((0..1000).map(|n| format!("{n} {}", "é".repeat(400))).collect()).bounded();
        assert!(kept.logs.iter().map(|line| line.len() + 1).sum::<usize>() <= LOG_LIMIT);
        assert!(kept.logs.last().unwrap().starts_with("999 "));
        assert_eq!(kept.reason.len(), LINE_LIMIT);
        let short = diagnosis((0..300).map(|n| n.to_string()).collect()).bounded();
        assert_eq!((short.logs.len(), short.logs[0].as_str()), (LOG_LINES, "100"));
    }
}
