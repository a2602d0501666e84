//! What there is to report after the store was opened.

use std::fmt;
use std::path::PathBuf;

use holdfast_core::event::Draft;
use holdfast_core::name::DeviceName;

use crate::anchor::{AnchorState, BadSlot};
use crate::audit::LogCut;
use crate::db::Rebuilt;
use crate::keystore::ReplacedKey;

/// Something that opening the store found, and that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was nothing: the box starts for the first time.
    FirstStart,
    /// The anchor was lost. What ran still runs; until a revision is accepted again, only the mirror knows
    /// what is too old.
    AnchorLost {
        /// Why.
        reason: String,
        /// Where the old file is now, if there was one.
        set_aside: Option<PathBuf>,
    },
    /// The last write of the anchor was cut off; the one before it holds.
    AnchorTorn(BadSlot),
    /// The database was set aside and begun anew.
    DatabaseRebuilt(Rebuilt),
    /// The folder of the audit log's older events was set aside and begun anew.
    PagesSetAside(Rebuilt),
    /// The audit log lacks what it must hold.
    AuditCut(LogCut),
    /// A key was made anew.
    KeyReplaced(ReplacedKey),
    /// The state folder was made for another device.
    OtherDevice {
        /// The name that the anchor knows.
        was: DeviceName,
        /// The name that the configuration gives.
        is: DeviceName,
    },
}

impl Opened {
    /// The word for it in the audit log.
    pub fn kind(&self) -> &'static str {
        match self {
            Opened::FirstStart => "store.created",
            Opened::AnchorLost { .. } => "store.anchor-lost",
            Opened::AnchorTorn(_) => "store.anchor-torn",
            Opened::DatabaseRebuilt(_) => "store.rebuilt",
            Opened::PagesSetAside(_) => "audit.pages-set-aside",
            Opened::AuditCut(_) => "audit.cut",
            Opened::KeyReplaced(_) => "store.key-replaced",
            Opened::OtherDevice { .. } => "store.other-device",
        }
    }

    /// The event that says it.
    pub fn draft(&self) -> Draft {
        Draft::new(self.kind(), self.to_string())
    }
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opened::FirstStart => write!(f, "the state folder was empty and is set up"),
            Opened::AnchorLost { reason, set_aside } => {
                write!(f, "the anchor was lost ({reason}); workloads keep running")?;
                kept_at(f, set_aside.as_ref())
            }
            Opened::AnchorTorn(why) => {
                write!(f, "one slot of the anchor is damaged ({why}); the newest intact slot is used")
            }
            Opened::DatabaseRebuilt(rebuilt) => {
                write!(f, "the database was damaged ({}) and was replaced by a new one", rebuilt.reason)?;
                kept_at(f, rebuilt.set_aside.as_ref())
            }
            Opened::PagesSetAside(lost) => {
                write!(f, "the older events of the audit log couldn't be read ({})", lost.reason)?;
                kept_at(f, lost.set_aside.as_ref())
            }
            Opened::AuditCut(cut) => cut.fmt(f),
            Opened::KeyReplaced(key) => {
                write!(
                    f,
                    "the box's {} key couldn't be read ({}) and was replaced by a new one; inform whoever relies \
                     on the old one",
                    key.key, key.reason
                )?;
                kept_at(f, Some(&key.set_aside))
            }
            Opened::OtherDevice { was, is } => {
                write!(f, "the state folder was created for the device {was}, but this is {is}")
            }
        }
    }
}

fn kept_at(f: &mut fmt::Formatter<'_>, path: Option<&PathBuf>) -> fmt::Result {
    path.map_or(Ok(()), |path| write!(f, "; the old one is kept at {}", path.display()))
}

pub(crate) fn of_anchor(state: AnchorState, others_exist: bool) -> Option<Opened> {
    match state {
        AnchorState::Intact => None,
        AnchorState::New if others_exist => {
            Some(Opened::AnchorLost { reason: "its file is missing".to_owned(), set_aside: None })
        }
        AnchorState::New => Some(Opened::FirstStart),
        AnchorState::OneSlotBad(why) => Some(Opened::AnchorTorn(why)),
        AnchorState::Lost { reason, set_aside } => Some(Opened::AnchorLost { reason, set_aside }),
    }
}

pub(crate) fn of_device(was: &DeviceName, is: &DeviceName) -> Option<Opened> {
    (was != is).then(|| Opened::OtherDevice { was: was.clone(), is: is.clone() })
}
