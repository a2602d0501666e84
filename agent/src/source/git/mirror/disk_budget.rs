//! Room: how many bytes a fetch may add to the mirror, so that the state folder keeps to its disk budget. How large a
//! fetch is nobody knows before, so that it is counted while it comes.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use gix::ObjectId;
use holdfast_store::content::Beside;

use super::Mirror;
use super::pack::Indexed;
use crate::source::error::SourceError;

/// A commit that didn't fit, and the room that there was for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    id: ObjectId,
    room: u64,
}

impl Mirror {
    /// Says how many bytes may be added. What is aside goes once the mirror is whole, so its room is counted twice
    /// until then.
    pub(crate) fn set_room(&self, room: u64) {
        let aside = Beside::all_in(self.dir.join("aside")).size();
        self.room.store(room.saturating_add(aside), Ordering::Relaxed);
    }

    /// How many bytes may be added.
    pub(crate) fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    pub(super) fn widen_room(&self, more: u64) {
        self.room.store(self.room().saturating_add(more), Ordering::Relaxed);
    }

    fn refused(&self) -> MutexGuard<'_, Option<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error for a commit that didn't fit into as much room before: to fetch it again would cost as much as the
    /// first time, at each poll.
    pub(crate) fn check_refused(&self, id: &ObjectId) -> Result<(), SourceError> {
        match *self.refused() {
            Some(refused) if refused.id == *id && self.room() <= refused.room => {
                Err(SourceError::OverBudget { room: self.room() })
            }
            _ => Ok(()),
        }
    }

    /// Remembers that the commit didn't fit, if that is why it isn't here.
    pub(crate) fn note_refused<T>(&self, id: &ObjectId, done: &Result<T, SourceError>) {
        match done {
            Err(SourceError::OverBudget { room }) => *self.refused() = Some(Refused { id: *id, room: *room }),
            Ok(_) => *self.refused() = None,
            Err(_) => {}
        }
    }

    /// `pack`, as far as there is room for it.
    pub(super) fn bounded<'a>(&self, pack: &'a mut dyn BufRead, room: u64) -> Bounded<'a> {
        Bounded { pack, room, left: room, exceeded: false }
    }

    /// Takes the room of an indexed pack, to which the objects it builds on may have been added.
    pub(super) fn take_room(&self, indexed: &Indexed) -> Result<(), SourceError> {
        let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |data| data.len());
        let bytes: u64 = indexed.iter().map(size).sum();
        let room = self.room();
        // Indexes are small beside what they list, and weren't counted while the pack came.
        if indexed.iter().next().map_or(0, size) > room {
            return Err(SourceError::OverBudget { room });
        }
        if room != u64::MAX {
            self.room.store(room.saturating_sub(bytes), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A pack of which so much is read and no more.
pub(super) struct Bounded<'a> {
    pack: &'a mut dyn BufRead,
    room: u64,
    left: u64,
    exceeded: bool,
}

impl Bounded<'_> {
    /// What went wrong, where the room is the reason: readers in between tell it as their own trouble.
    pub(super) fn explain<T>(&self, done: Result<T, SourceError>) -> Result<T, SourceError> {
        match done {
            Err(_) if self.exceeded => Err(SourceError::OverBudget { room: self.room }),
            done => done,
        }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl BufRead for Bounded<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let there = self.pack.fill_buf()?;
        if self.left == 0 && !there.is_empty() {
            self.exceeded = true;
            return Err(io::Error::other("it does not fit into the disk budget"));
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(&there[..there.len().min(left)])
    }

    fn consume(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
        self.pack.consume(bytes);
    }
}
