//! A disk that refuses writes: the agent says so, workloads keep running, and once there is space again it resumes
//! on its own, with what it couldn't take in meanwhile.

use std::time::Duration;

use holdfast_core::clock::{Moment, Now};
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::held::Held;
use holdfast_store::FreeSpace;

use super::journal::lock;
use super::{DISK_PAUSE, Daemon};
use crate::keeper::Scope;

/// With less than this a write that failed is taken for the disk's fault.
const LITTLE: FreeSpace = FreeSpace { bytes: 1 << 20, inodes: Some(16), is_read_only: false };

/// What the disk refuses.
#[derive(Default)]
pub(super) struct DiskTrouble {
    /// Until when nothing is written down, and why.
    pub(super) trouble: Option<(Moment, String)>,
    /// The database is a new one, and what is known isn't written down in it yet.
    pub(super) unwritten: bool,
    /// It refused something, for want of room as it seems.
    pub(super) low_space: Option<LowSpace>,
}

/// The disk refused something, and had no more room than this.
pub(super) struct LowSpace {
    lowest: FreeSpace,
    lacks_reserve: bool,
    cause: String,
    /// When it is looked at next.
    next: Moment,
}

impl LowSpace {
    /// Whether there is more room than when something was refused.
    fn is_over(&self, room: &FreeSpace, holds_reserve: bool) -> bool {
        let inodes = room
            .inodes
            .zip(self.lowest.inodes)
            .is_some_and(|(now, then)| now >= then.saturating_add(LITTLE.inodes.unwrap_or(0)));
        let bytes = room.bytes >= self.lowest.bytes.saturating_add(LITTLE.bytes);
        let reserve = self.lacks_reserve && holds_reserve;
        !room.is_read_only && (self.lowest.is_read_only || bytes || inodes || reserve)
    }
}

/// The word for it in the audit log.
fn kind(room: &FreeSpace) -> &'static str {
    if room.is_read_only { "disk.readonly" } else { "disk.full" }
}

impl Daemon {
    /// What is in the database can be found again, and the most of it is known here: one that turns out damaged is set aside,
    /// begun anew, and what is known is written down.
    pub(super) fn mend_database(&mut self, now: &Now) {
        let rebuilt = {
            let mut store = lock(&self.store);
            store.damage().map(|damage| store.rebuild_database(now.wall, &damage))
        };
        match rebuilt {
            Some(Ok(opened)) => {
                tracing::error!("{opened}");
                self.disk.unwritten = true;
            }
            Some(Err(error)) => return self.note_trouble(Err(error.into()), now),
            None => {}
        }
        if self.disk.unwritten {
            match self.keeper.write_all() {
                Ok(()) => {
                    self.disk.unwritten = false;
                    self.disk.trouble = None;
                    self.widen(Scope::All);
                }
                Err(error) => self.note_trouble(Err(error), now),
            }
        }
    }

    /// Something failed, for which the disk may be the reason.
    pub(super) fn note_disk(&mut self, cause: &str, trouble: Option<Trouble>, now: &Now) {
        let (room, lacks_reserve) = {
            let store = lock(&self.store);
            let Ok(room) = store.room() else { return };
            (room, !store.reserve().is_held())
        };
        let little = room.is_read_only
            || room.bytes < LITTLE.bytes
            || room.inodes.zip(LITTLE.inodes).is_some_and(|(now, little)| now < little);
        // Only what is kept in the state folder says so. Somebody else's disk may be full, too: what waits for that is tried
        // again by its own pauses.
        if !little && !trouble.is_some_and(Trouble::may_pass) {
            return;
        }
        let next = self.disk_pause(now);
        match &mut self.disk.low_space {
            Some(short) => {
                short.cause = cause.to_owned();
                short.lowest = lower(&short.lowest, &room);
                short.lacks_reserve |= lacks_reserve;
            }
            None => {
                self.disk.low_space =
                    Some(LowSpace { lowest: room, lacks_reserve, cause: cause.to_owned(), next });
                self.note(kind(&room), None, cause, now);
            }
        }
    }

    fn disk_pause(&self, now: &Now) -> Moment {
        now.moment_in(DISK_PAUSE)
    }

    /// When the disk is looked at next.
    pub(super) fn disk_is_due(&self) -> Option<Moment> {
        self.disk.low_space.as_ref().map(|short| short.next.clone())
    }

    /// Looks whether there is room again. Then everything is tried again at once: what waits for the source, for the
    /// disk, and each app.
    pub(super) fn look_at_disk(&mut self, now: &Now) {
        let Some(short) = self.disk.low_space.as_ref() else { return };
        if self.clock.until(&short.next) > Duration::ZERO {
            return;
        }
        let (room, held) = {
            let store = lock(&self.store);
            let held = store.reserve().restore();
            (store.room(), held.unwrap_or(false))
        };
        // Where nothing waits any more, it is over as well: somebody else's store may have been what was full.
        let over = self.nothing_waits() || room.as_ref().is_ok_and(|room| short.is_over(room, held));
        if !over {
            let next = self.disk_pause(now);
            if let Some(short) = &mut self.disk.low_space {
                short.next = next;
            }
            return;
        }
        self.disk.low_space = None;
        self.disk.trouble = None;
        self.note("disk.room", None, "the disk accepts writes again; everything that waited is retried", now);
        self.follow.progress.known = None;
        self.follow.poll_asked = true;
        self.keeper.try_all_now(now);
        self.widen(crate::keeper::Scope::All);
    }

    fn nothing_waits(&self) -> bool {
        let progress = &self.follow.progress;
        let followed = progress.accepted.as_ref().map(|floor| &floor.revision) == progress.resolved.as_ref();
        let well =
            progress.error.is_none() && progress.held().next().is_none() && self.disk.trouble.is_none();
        well && followed && self.keeper.converged()
    }

    /// Whether little of the disk budget is left: then what others may need comes before the wear of rewriting.
    pub(super) fn is_scarce(&self) -> bool {
        let content = lock(&self.store).shared_content();
        content.left() < content.budget() / 4
    }

    /// What is held because of the disk.
    pub(super) fn held_by_disk(&self) -> Option<Held> {
        let pause = Some(self.clock.now().wall_in(DISK_PAUSE));
        let held = |cause: String| Held {
            cause,
            next: pause,
            unblock: "free space on the disk, or repair it; the agent then continues automatically"
                .to_owned(),
        };
        match (&self.disk.trouble, &self.disk.low_space) {
            (Some((_, cause)), _) => Some(held(format!("the agent can't save its state: {cause}"))),
            (None, Some(short)) => Some(held(format!("the disk refuses writes: {}", short.cause))),
            (None, None) => None,
        }
    }
}

/// The least of both.
fn lower(a: &FreeSpace, b: &FreeSpace) -> FreeSpace {
    FreeSpace {
        bytes: a.bytes.min(b.bytes),
        inodes: a.inodes.zip(b.inodes).map(|(a, b)| a.min(b)),
        is_read_only: a.is_read_only || b.is_read_only,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(bytes: u64, inodes: u64, is_read_only: bool, lacks_reserve: bool) -> LowSpace {
        let lowest = FreeSpace { bytes, inodes: Some(inodes), is_read_only };
        let boot = holdfast_core::clock::BootId("b".into());
        let next = Moment { boot, uptime: Duration::ZERO };
        LowSpace { lowest, lacks_reserve, cause: String::new(), next }
    }

    fn room(bytes: u64, inodes: u64, is_read_only: bool) -> FreeSpace {
        FreeSpace { bytes, inodes: Some(inodes), is_read_only }
    }

    #[test]
    fn it_is_over_when_there_is_more_of_what_was_missing() {
        let full = short(4096, 1000, false, false);
        assert!(!full.is_over(&room(8192, 1000, false), true));
        assert!(full.is_over(&room(2 << 20, 1000, false), true));
        assert!(!full.is_over(&room(2 << 20, 1000, true), true));
        assert!(short(2 << 20, 0, false, false).is_over(&room(2 << 20, 16, false), true));
        assert!(short(2 << 20, 0, true, false).is_over(&room(0, 0, false), false));
        // The reserve took what was free.
        assert!(short(4096, 1000, false, true).is_over(&room(4096, 1000, false), true));
    }
}
