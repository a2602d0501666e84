//! When this box may be changed: maintenance windows, gates that hold a change while the box is in use, download
//! limits, and the emergency stop. Pure: the time and what the gates said come in as values.
//!
//! None of these hold back what keeps the box as it is: drift is put right, and what fails goes back.

mod gate;
mod prune;
mod window;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

pub use gate::{Gate, GateAnswer, GateKind};
pub use prune::PruneLimit;
pub use window::{DailyWindow, TimeOfDay, Windows, Zone};

use crate::clock::Time;
use crate::held::Held;
use crate::name::{AppName, ObjectKey};
use crate::network::DownloadLimits;

/// What a revision's documents say about changing this box.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangePolicy {
    /// How much may be removed at once.
    pub prune: PruneLimit,
    /// How long what holds data stays after the last app let go of it.
    pub grace: Duration,
    /// What may go of that.
    pub purges: Vec<Purge>,
    /// Where the box's clocks hang, for windows and for the periods of budgets.
    pub zone: Zone,
    /// When changes are applied; empty is at any time.
    pub apply: Windows,
    /// When what they need is downloaded; empty is at any time.
    pub download: Windows,
    /// What must be free before a change.
    pub gates: Vec<Gate>,
    /// What downloads may use of a metered link.
    pub downloads: DownloadLimits,
    /// Why windows, gates and limits don't count at the moment.
    pub urgent: Option<String>,
    /// Everything is held at what runs.
    pub stop: Option<Stop>,
}

impl Default for ChangePolicy {
    fn default() -> Self {
        ChangePolicy {
            prune: PruneLimit::default(),
            grace: GRACE,
            purges: Vec::new(),
            zone: Zone::utc(),
            apply: Windows::default(),
            download: Windows::default(),
            gates: Vec::new(),
            downloads: DownloadLimits::default(),
            urgent: None,
            stop: None,
        }
    }
}

/// How long what holds data stays unless it is said.
pub const GRACE: Duration = Duration::from_secs(7 * 86_400);

/// Leave to remove what holds data and what no app wants any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Purge {
    /// The document's name.
    pub name: String,
    /// Why, for people.
    pub reason: String,
    /// The app that it was made for.
    pub app: AppName,
    /// What may go.
    pub object: ObjectKey,
}

/// An emergency stop, as a Stop document asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// The document's name.
    pub name: String,
    /// Why, for people.
    pub reason: String,
}

impl ChangePolicy {
    /// Why nothing may be downloaded at this time, if so.
    pub fn holds_download(&self, now: &Time) -> Option<Held> {
        if self.stop.is_some() || self.urgent.is_some() {
            return self.stopped();
        }
        closed(&self.download, "downloads for a change are allowed", now)
    }

    /// Why nothing may be changed at this time whatever the gates say, if so.
    pub fn holds_apply(&self, now: &Time) -> Option<Held> {
        if self.stop.is_some() || self.urgent.is_some() {
            return self.stopped();
        }
        closed(&self.apply, "changes are applied", now)
    }

    /// The gates that count now.
    pub fn gates(&self) -> &[Gate] {
        if self.urgent.is_some() { &[] } else { &self.gates }
    }

    /// Why a change must wait by what the gates said, in their order; `held` is for how long they have held it
    /// already, `next` when they are asked again.
    pub fn holds_gates(&self, answers: &[GateAnswer], held: Duration, next: Timestamp) -> Option<Held> {
        let holding = self.gates().iter().zip(answers).filter(|(gate, _)| held < gate.max_hold);
        let holding = holding.filter_map(|(gate, answer)| match answer {
            GateAnswer::InUse(why) => Some((gate, why)),
            GateAnswer::Free => None,
        });
        let (gates, reasons): (Vec<&Gate>, Vec<String>) =
            holding.map(|(gate, why)| (gate, format!("the gate {} says: {why}", gate.name))).unzip();
        let longest = gates.iter().map(|gate| gate.max_hold).max()?;
        Some(Held {
            cause: format!("the box is in use: {}", reasons.join("; ")),
            next: Some(next),
            unblock: format!(
                "nothing to do: the gates are asked again, and they hold a change for at most {}; policy.urgent \
                 overrides gates",
                shown(longest)
            ),
        })
    }

    /// What a Stop holds, if there is one for this box.
    pub fn stopped(&self) -> Option<Held> {
        self.stop.as_ref().map(|stop| {
            Held::until_changed(
                format!("all changes are stopped by stops/{}.yaml: {}", stop.name, stop.reason),
                format!("remove stops/{}.yaml from the repository", stop.name),
            )
        })
    }
}

fn closed(windows: &Windows, what: &str, now: &Time) -> Option<Held> {
    if windows.are_always_open() {
        return None;
    }
    let now = match now {
        Time::Known(now) => *now,
        // Nobody knows whether it is open.
        Time::Unknown(doubt) => {
            return Some(Held::until_changed(
                format!("{what} only in the windows {windows}, but {doubt}"),
                format!("{}; policy.urgent overrides it", doubt.unblock()),
            ));
        }
    };
    if windows.is_open(now) {
        return None;
    }
    Some(Held {
        cause: format!("{what} only in the windows {windows}"),
        next: windows.next_opening(now),
        unblock: "nothing to do: it continues when the window opens; policy.urgent overrides windows"
            .to_owned(),
    })
}

/// A span of time as documents write it.
fn shown(span: Duration) -> String {
    let mut left = span.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if left >= seconds {
            text.push_str(&format!("{}{unit}", left / seconds));
            left %= seconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Doubt, Suspicion};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn nightly() -> ChangePolicy {
        let apply =
            Windows { zone: Zone::utc(), daily: vec![DailyWindow::new(&[], "22:00", "04:00").unwrap()] };
        ChangePolicy { apply, ..ChangePolicy::default() }
    }

    #[test]
    fn outside_of_its_window_a_change_waits_for_the_next_opening() {
        let noon = &Time::Known(at("2026-11-21T12:00:00Z"));
        let held = nightly().holds_apply(noon).unwrap();
        assert_eq!(held.next, Some(at("2026-11-21T22:00:00Z")));
        assert!(held.cause.contains("22:00-04:00 UTC"), "{}", held.cause);
        assert_eq!(nightly().holds_apply(&Time::Known(at("2026-11-21T23:00:00Z"))), None);
        assert_eq!(nightly().holds_download(noon), None);
    }

    #[test]
    fn while_nobody_knows_the_time_windows_are_closed_and_what_needs_none_goes_on() {
        // By what it shows the window would be open.
        let shown = at("2099-11-21T23:00:00Z");
        let doubt = Doubt { shown, proven: at("2026-11-21T12:00:00Z"), why: Suspicion::Ahead };
        let unknown = &Time::Unknown(doubt);
        let held = nightly().holds_apply(unknown).unwrap();
        assert!(
            held.cause.contains("22:00-04:00 UTC, but the clock is not trusted: it shows 2099"),
            "{}",
            held.cause
        );
        assert_eq!(held.next, None);
        assert_eq!(nightly().holds_download(unknown), None, "it has no windows");
        let urgent = ChangePolicy { urgent: Some("CVE".into()), ..nightly() };
        assert_eq!(urgent.holds_apply(unknown), None);
    }

    #[test]
    fn what_is_urgent_waits_for_no_window_and_no_gate_but_a_stop_holds_it() {
        let gate = Gate {
            name: "sale".into(),
            probe: GateKind::File { path: "/x".into() },
            max_hold: Duration::from_secs(60),
        };
        let mut policy = ChangePolicy { urgent: Some("CVE".into()), gates: vec![gate], ..nightly() };
        let noon = &Time::Known(at("2026-11-21T12:00:00Z"));
        assert_eq!(policy.holds_apply(noon), None);
        assert!(policy.gates().is_empty());
        policy.stop = Some(Stop { name: "black-friday".into(), reason: "no changes".into() });
        let held = policy.holds_apply(noon).unwrap();
        assert_eq!(
            (held.cause.as_str(), held.next),
            ("all changes are stopped by stops/black-friday.yaml: no changes", None)
        );
        assert!(policy.holds_download(noon).is_some());
    }

    #[test]
    fn a_gate_holds_no_longer_than_it_may() {
        let gate = |name: &str, seconds| Gate {
            name: name.into(),
            probe: GateKind::File { path: "/x".into() },
            max_hold: Duration::from_secs(seconds),
        };
        let policy = ChangePolicy { gates: vec![gate("a", 60), gate("b", 3600)], ..ChangePolicy::default() };
        let in_use = || GateAnswer::InUse("it is there".into());
        let next = at("2026-11-21T12:00:30Z");
        let held = |answers: [GateAnswer; 2], seconds| {
            let held = policy.holds_gates(&answers, Duration::from_secs(seconds), next);
            held.map(|held| held.cause)
        };
        let both = "the box is in use: the gate a says: it is there; the gate b says: it is there";
        assert_eq!(held([in_use(), in_use()], 0).unwrap(), both);
        assert_eq!(
            held([in_use(), in_use()], 60).unwrap(),
            "the box is in use: the gate b says: it is there"
        );
        assert_eq!(held([in_use(), GateAnswer::Free], 60), None);
        assert_eq!(held([in_use(), in_use()], 3600), None);
        assert_eq!(held([GateAnswer::Free, GateAnswer::Free], 0), None);
    }

    #[test]
    fn spans_are_shown_as_they_are_written() {
        assert_eq!(shown(Duration::from_secs(90_061)), "1d1h1m1s");
        assert_eq!(shown(Duration::from_secs(12 * 3600)), "12h");
        assert_eq!(shown(Duration::ZERO), "0s");
    }
}
