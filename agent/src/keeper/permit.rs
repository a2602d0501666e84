//! Leave to change the box: what the loop allows by the policy, the clock and the gates, and what waits for it.

use holdfast_core::app::Phase;
use holdfast_core::change::ChangePolicy;
use holdfast_core::clock::Now;
use holdfast_core::generation::is_ready;
use holdfast_core::held::Held;
use jiff::Timestamp;

use super::Keeper;
use super::journal::Journal;

/// What may be done now. What keeps the box as it is, and what brings it back, needs none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Permit {
    /// Why nothing may be downloaded.
    pub download: Option<Held>,
    /// Why nothing may be changed.
    pub apply: Option<Held>,
}

impl Permit {
    /// What `policy` and the clock on the wall allow, whatever gates say. Nobody uses a box that never ran anything; a
    /// stop counts all the same.
    pub fn by_clock(policy: &ChangePolicy, is_in_use: bool, wall: Timestamp) -> Self {
        if !is_in_use && policy.stop.is_none() {
            return Permit::default();
        }
        Permit { download: policy.holds_download(wall), apply: policy.holds_apply(wall) }
    }

    /// Nothing, until somebody has looked at what the revision says.
    pub(super) fn unknown() -> Self {
        let cause = "it is not known yet when the revision allows changes";
        let held = Held::until_changed(cause, "nothing to do: it goes on once the revision was read");
        Permit { download: Some(held.clone()), apply: Some(held) }
    }
}

impl<J: Journal> Keeper<J> {
    /// Says what may be done from now on.
    pub fn permit(&mut self, permit: Permit) {
        self.permit = permit;
    }

    /// Whether a change may begin.
    pub(super) fn may_change(&self) -> bool {
        self.permit.apply.is_none()
    }

    /// Whether something would be changed now if it were allowed.
    pub fn wants_change(&self, now: &Now) -> bool {
        let faulty = self.faulty_apps();
        self.withheld
            || !self.due_purges(now).is_empty()
            || self.apps.values().any(|app| is_ready(app, &self.apps, faulty, now))
    }

    /// Whether an app would get ready for its change now if it were allowed.
    pub fn wants_download(&self) -> bool {
        self.permit.download.is_some() && self.apps.values().any(|app| app.phase == Phase::Preparing)
    }

    /// Whether anything was ever good here. If not, nobody uses the box yet.
    pub fn is_in_use(&self) -> bool {
        self.apps.values().any(|app| app.good.is_some())
    }

    /// What the newest revision says about changing the box, once that is known.
    pub fn policy(&self) -> Option<&ChangePolicy> {
        self.resolved.as_ref().map(|resolved| &resolved.policy)
    }
}
