//! The anchor's file: created in full under another name, then written in place, slot by slot.
//!
//! The file has its full size from the beginning, so that on file systems that write in place no later write
//! can fail for want of space.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{self, Decoded, HEADER, SLOT_COUNT, SLOT_SIZE};
use super::{Anchor, BadSlot};
use crate::durable_files;
use crate::error::{DiskError, StoreError, at};
use crate::fault;

/// What was found when the anchor was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnchorState {
    /// There was none.
    New,
    /// It was whole.
    Intact,
    /// The newest slot that is whole was taken; the other one is not. After a power cut in the middle of a
    /// write this is as it should be.
    OneSlotBad(BadSlot),
    /// Neither slot could be read: a fresh anchor was made, and the file, if there was one, set aside.
    Lost {
        /// Why each slot couldn't be read.
        reason: String,
        /// Where the old file is now.
        set_aside: Option<PathBuf>,
    },
}

/// The anchor and its file.
#[derive(Debug)]
pub struct AnchorFile {
    path: PathBuf,
    file: File,
    current: Anchor,
    sequence: u64,
    /// The slot that holds `current`.
    slot: usize,
}

impl AnchorFile {
    /// Opens the anchor at `path`, or makes it from `fresh`.
    pub fn open(path: &Path, fresh: Anchor) -> Result<(Self, AnchorState), StoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::create(path, fresh)?, AnchorState::New));
            }
            Err(error) => return Err(DiskError::new("open the anchor", path, error).into()),
        };
        let Decoded { newest, mut bad } = read(&file, path)?;
        let Some((slot, sequence, current)) = newest else {
            let reason = bad.iter().map(|(slot, why)| format!("slot {slot}: {why}")).collect::<Vec<_>>();
            let aside = durable_files::set_aside(path)?;
            let state = AnchorState::Lost { reason: reason.join("; "), set_aside: Some(aside) };
            return Ok((Self::create(path, fresh)?, state));
        };
        // What a killed process wrote may be there to be read, and not on disk.
        if let Err(error) = file.sync_all() {
            tracing::warn!(path = %path.display(), %error, "the anchor can't be synced");
        }
        let state = match bad.pop() {
            // Only before the second write of all is a slot empty.
            None => AnchorState::Intact,
            Some((_, BadSlot::Empty)) if sequence == 1 => AnchorState::Intact,
            Some((_, why)) => AnchorState::OneSlotBad(why),
        };
        Ok((AnchorFile { path: path.to_owned(), file, current, sequence, slot }, state))
    }

    fn create(path: &Path, mut current: Anchor) -> Result<Self, StoreError> {
        current.bound();
        let mut bytes = format::encode_slot(1, &current)?;
        bytes.resize(SLOT_SIZE * SLOT_COUNT, 0);
        let temp = durable_files::with_suffix(path, ".new");
        durable_files::write_new(&temp, &bytes)?;
        fault::point("anchor.temp-synced");
        durable_files::rename_synced(&temp, path)?;
        fault::point("anchor.created");
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(at("open the anchor", path))?;
        Ok(AnchorFile { path: path.to_owned(), file, current, sequence: 1, slot: 0 })
    }

    /// The anchor as it is on disk.
    pub fn get(&self) -> &Anchor {
        &self.current
    }

    /// Changes the anchor and returns once that is on disk; gives whether there was something to change. On
    /// an error the anchor stays as it was, here; on disk it is as it was or, if only the sync failed,
    /// maybe as it should have become.
    pub fn update(&mut self, change: impl FnOnce(&mut Anchor)) -> Result<bool, StoreError> {
        let mut next = self.current.clone();
        change(&mut next);
        next.bound();
        if next == self.current {
            return Ok(false);
        }
        // A write that failed is repeated in the same slot: the other one holds what is known to be whole.
        let slot = (self.slot + 1) % SLOT_COUNT;
        let sequence = self.sequence.saturating_add(1);
        let bytes = format::encode_slot(sequence, &next)?;
        let offset = (slot * SLOT_SIZE) as u64;
        self.file.write_all_at(&bytes, offset).map_err(at("write the anchor", &self.path))?;
        fault::point("anchor.slot-written");
        self.file.sync_all().map_err(at("sync the anchor", &self.path))?;
        fault::point("anchor.slot-synced");
        durable_files::forget_pages(&self.file);
        (self.current, self.sequence, self.slot) = (next, sequence, slot);
        Ok(true)
    }
}

/// Reads both slots, of each no more than it uses.
fn read(file: &File, path: &Path) -> Result<Decoded, DiskError> {
    let mut slots = Vec::with_capacity(SLOT_COUNT);
    for slot in 0..SLOT_COUNT {
        let offset = (slot * SLOT_SIZE) as u64;
        let mut bytes = read_at(file, offset, HEADER).map_err(at("read the anchor", path))?;
        if let Some(len) = format::payload_len(&bytes) {
            let payload = read_at(file, offset + HEADER as u64, len).map_err(at("read the anchor", path))?;
            bytes.extend(payload);
        }
        slots.push(bytes);
    }
    Ok(format::decode_slots(slots.iter().map(Vec::as_slice)))
}

/// Up to `len` bytes; fewer at the end of the file, and none where the medium fails: then the other slot
/// must do.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => break,
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use holdfast_core::generation::Failure;
    use jiff::Timestamp;

    use super::*;

    fn failure() -> Failure {
        Failure { reason: "why".to_owned(), judged_by: None }
    }

    fn fresh() -> Anchor {
        Anchor::new("box".parse().unwrap(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH)
    }

    fn opened(path: &Path) -> (AnchorFile, AnchorState) {
        AnchorFile::open(path, fresh()).unwrap()
    }

    fn to(n: i64) -> impl FnOnce(&mut Anchor) {
        move |anchor| anchor.time_floor = Timestamp::from_second(n).unwrap()
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        let (mut anchor, state) = opened(&path);
        assert_eq!(state, AnchorState::New);
        for n in 1..6 {
            assert!(anchor.update(to(n)).unwrap());
            let (again, state) = opened(&path);
            assert_eq!((again.get(), state), (anchor.get(), AnchorState::Intact));
        }
    }

    #[test]
    fn a_write_that_changes_nothing_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        let (mut anchor, _) = opened(&path);
        anchor.update(to(1)).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(!anchor.update(to(1)).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn an_anchor_of_which_nothing_is_readable_is_set_aside_and_said_to_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        std::fs::write(&path, b"garbage").unwrap();
        let (anchor, state) = opened(&path);
        let AnchorState::Lost { set_aside: Some(aside), .. } = state else { panic!("{state:?}") };
        assert_eq!(std::fs::read(aside).unwrap(), b"garbage");
        assert_eq!(anchor.get(), &fresh());
        assert_eq!(opened(&path).1, AnchorState::Intact);
    }

    /// Everything that a torn write can leave of the newest slot: cut off, zeroed, or its old bytes from
    /// some sector on or up to some sector.
    #[test]
    fn a_torn_write_leaves_the_new_or_the_previous_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        let (mut anchor, _) = opened(&path);
        let app = |n: usize| format!("app-{n}").parse().unwrap();
        let release = holdfast_core::digest::ReleaseId(holdfast_core::digest::Digest::of(b"x"));
        // Large enough for several sectors.
        for n in 0..40 {
            anchor
                .update(|anchor| anchor.remember_failed(&app(n), release, &failure(), fresh().time_floor))
                .unwrap();
        }
        let old_file = std::fs::read(&path).unwrap();
        let previous = anchor.get().clone();
        anchor
            .update(|anchor| anchor.remember_failed(&app(99), release, &failure(), fresh().time_floor))
            .unwrap();
        let new_file = std::fs::read(&path).unwrap();
        let new = anchor.get().clone();
        let start = anchor.slot * SLOT_SIZE;
        let length = format::encode_slot(anchor.sequence, &new).unwrap().len();

        let check = |bytes: &[u8], what: &str| {
            std::fs::write(&path, bytes).unwrap();
            let (after, state) = opened(&path);
            assert!(*after.get() == new || *after.get() == previous, "{what}: {state:?}");
            assert!(!matches!(state, AnchorState::Lost { .. }), "{what}");
        };
        for cut in (0..=length + 1).step_by(97) {
            check(&new_file[..start + cut], &format!("truncated at {cut}"));
            let mut zeroed = new_file.clone();
            zeroed[start + cut..start + SLOT_SIZE].fill(0);
            check(&zeroed, &format!("zeroed from {cut}"));
        }
        for sector in [512, 4096] {
            for torn in (0..length).step_by(sector) {
                let (torn, end) = (start + torn, (start + torn + sector).min(start + SLOT_SIZE));
                let mut one_old = new_file.clone();
                one_old[torn..end].copy_from_slice(&old_file[torn..end]);
                check(&one_old, &format!("sector at {torn} old"));
                let mut rest_old = new_file.clone();
                rest_old[torn..start + SLOT_SIZE].copy_from_slice(&old_file[torn..start + SLOT_SIZE]);
                check(&rest_old, &format!("old from {torn} on"));
                let mut garbage = new_file.clone();
                garbage[torn..end].fill(0xA5);
                check(&garbage, &format!("garbage at {torn}"));
            }
        }
    }

    #[test]
    fn after_a_torn_slot_the_next_write_spares_the_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        let (mut anchor, _) = opened(&path);
        anchor.update(to(1)).unwrap();
        anchor.update(to(2)).unwrap();
        let newest = anchor.slot * SLOT_SIZE;
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[newest + 60] ^= 1;
        std::fs::write(&path, &bytes).unwrap();

        let (mut anchor, state) = opened(&path);
        assert_eq!(state, AnchorState::OneSlotBad(BadSlot::Torn));
        assert_eq!(anchor.get().time_floor.as_second(), 1);
        anchor.update(to(3)).unwrap();
        let (anchor, state) = opened(&path);
        assert_eq!((anchor.get().time_floor.as_second(), state), (3, AnchorState::Intact));
    }
}
