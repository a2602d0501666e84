//! What a driver observes of the objects that the box should have. The driver compares, since it knows its
//! own defaulting; the planner only reads the result.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::ReleaseId;
use crate::name::{AppName, ObjectKey};
use crate::runtime::DriverName;

/// One object as the driver found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Observed {
    /// It is ours and as it should be.
    Same,
    /// It is ours and differs.
    Drift {
        /// What differs, for people; no secret in it.
        difference: String,
        /// Whether it must be removed and made again, as it cannot be changed in place.
        recreate: bool,
    },
    /// It is ours and differs in what the runtime doesn't let change in place. What becomes of that is the policy's
    /// to say.
    Immutable {
        /// What differs, for people; no secret in it.
        difference: String,
    },
    /// It isn't there.
    Absent,
    /// Something of that name is there, and it isn't ours. It is left alone.
    Foreign {
        /// Whose it is, as far as can be seen.
        owner: String,
    },
    /// Something of that name is there that this box made for another of its apps.
    Another {
        /// Which one.
        app: AppName,
        /// What the runtime wouldn't let be changed in place if it were this app's, for people.
        immutable: Option<String>,
    },
    /// It is there with our mark, and was not asked for: left over from another release.
    Extra {
        /// The release in its mark, if it can be read.
        release: Option<ReleaseId>,
    },
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observed::Same => f.write_str("as it should be"),
            Observed::Drift { difference, .. } => write!(f, "differs: {difference}"),
            Observed::Immutable { difference } => {
                write!(f, "differs, and can't be changed in place: {difference}")
            }
            Observed::Absent => f.write_str("absent"),
            Observed::Foreign { owner } => write!(f, "belongs to {owner}"),
            Observed::Another { app, .. } => write!(f, "belongs to the app {app}"),
            Observed::Extra { .. } => f.write_str("left over"),
        }
    }
}

/// Everything that one driver has of one app.
pub type AppObservation = BTreeMap<ObjectKey, Observed>;

/// Everything that was observed in one pass, by app and by driver. What is missing was not observed: the
/// driver didn't answer, and nothing is planned for what it holds.
pub type Observations = BTreeMap<AppName, BTreeMap<DriverName, AppObservation>>;
