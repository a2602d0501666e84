//! The simulated runtime's log: one line of JSON for each thing that was asked of it, and what it proves.

use std::borrow::Cow;
use std::collections::BTreeSet;

use holdfast_core::digest::ReleaseId;
use holdfast_core::name::{AppName, ObjectKey};
use serde::{Deserialize, Serialize};

use super::world::Seen;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line<'a> {
    /// `observe`, `prepare`, `held`, or the step's action.
    pub op: Cow<'a, str>,
    /// For which app; none for a call that is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Cow<'a, AppName>>,
    /// On which object; none for `prepare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Cow<'a, ObjectKey>>,
    /// For which release; none for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// `ok`, `exists`, `absent`, `foreign`, `failed`, `retry`, `hang` or `crash`; for a call that is held, which one.
    pub outcome: Cow<'a, str>,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Seen>,
    /// The process that asked.
    pub pid: u32,
    /// Seconds on the boot clock when it was answered.
    pub uptime: f64,
}

/// The log's lines. A line that cannot be read is an error with its number: the log is written whole.
pub fn parse(log: &str) -> Result<Vec<Line<'static>>, String> {
    log.lines()
        .enumerate()
        .map(|(index, line)| serde_json::from_str(line).map_err(|why| format!("line {}: {why}", index + 1)))
        .collect()
}

/// Every create whose process had not seen that the object was absent, since whatever was last done to it.
/// There must be none: an agent that creates on the strength of what it remembers makes things twice.
pub fn creates_without_absence<'a, 'b>(lines: &'a [Line<'b>]) -> Vec<&'a Line<'b>> {
    let mut absent = BTreeSet::new();
    let mut guilty = Vec::new();
    for line in lines {
        let Some(object) = &line.object else { continue };
        let seen_by = (object.as_ref(), line.pid);
        if line.op == "observe" && line.observed == Some(Seen::Absent) {
            absent.insert(seen_by);
            continue;
        }
        let had_seen = absent.contains(&seen_by);
        // Whoever saw it before has old news now.
        absent.retain(|(key, _)| *key != object.as_ref());
        if line.op == "create" && !had_seen {
            guilty.push(line);
        }
    }
    guilty
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[(&str, Option<Seen>, u32)]) -> Vec<Line<'static>> {
        let line = |(op, observed, pid): &(&str, Option<Seen>, u32)| Line {
            op: Cow::Owned((*op).to_owned()),
            app: Some(Cow::Owned("pos".parse().unwrap())),
            object: Some(Cow::Owned(ObjectKey::new("Pod", "pos"))),
            release: None,
            outcome: Cow::Borrowed("ok"),
            observed: *observed,
            pid: *pid,
            uptime: 1.5,
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let lines = log(&[("observe", Some(Seen::Absent), 1), ("create", None, 1)]);
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        assert_eq!(parse(&text).unwrap(), lines);
        assert!(parse("{\"op\":").unwrap_err().starts_with("line 1"));
    }

    #[test]
    fn a_create_after_an_observed_absence_is_in_order() {
        let lines = log(&[
            ("observe", Some(Seen::Absent), 1),
            ("create", Some(Seen::Absent), 1),
            ("observe", Some(Seen::Absent), 1),
            ("create", Some(Seen::Absent), 1),
        ]);
        assert!(creates_without_absence(&lines).is_empty());
    }

    #[test]
    fn a_second_create_on_the_same_look_is_not() {
        let lines =
            log(&[("observe", Some(Seen::Absent), 1), ("create", None, 1), ("create", Some(Seen::Same), 1)]);
        assert_eq!(creates_without_absence(&lines).len(), 1);
    }

    #[test]
    fn what_the_process_before_the_kill_has_seen_does_not_count() {
        let lines = log(&[("observe", Some(Seen::Absent), 1), ("create", Some(Seen::Absent), 2)]);
        assert_eq!(creates_without_absence(&lines).len(), 1);
    }
}
