//! The reserve: a file that occupies some space, and a few empty ones that occupy inodes, so that a box with a full
//! disk can still roll back and log.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::durable_files;
use crate::error::{DiskError, at};

/// How many inodes are kept: for what the database, the runtimes and the log make in files.
const SPARE_INODES: u64 = 16;

/// The room that is kept free. It is there, or it was released and is made again once there is room.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    /// The folder of empty files.
    spare: PathBuf,
    size: u64,
}

impl Reserve {
    /// The reserve at `path`, of `size` bytes; it is made if it isn't there. A disk that is too full for it
    /// is an error with which the rest can go on.
    pub fn open(path: &Path, size: u64) -> (Self, Result<(), DiskError>) {
        let spare = durable_files::with_suffix(path, ".inodes");
        let reserve = Reserve { path: path.to_owned(), spare, size };
        let made = reserve.restore().map(|_| ());
        (reserve, made)
    }

    /// Whether it is there in full.
    pub fn is_held(&self) -> bool {
        self.missing() == 0 && self.spare_files().count() as u64 >= SPARE_INODES
    }

    /// How many bytes must stay free as they were given away.
    pub(super) fn missing(&self) -> u64 {
        let there = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        self.size.saturating_sub(there)
    }

    /// Gives the room away. Gives whether there was any.
    pub fn release(&self) -> Result<bool, DiskError> {
        let spare: Vec<PathBuf> = self.spare_files().collect();
        if !self.path.exists() && spare.is_empty() {
            return Ok(false);
        }
        tracing::warn!(bytes = self.size, "the disk is full: the reserve is released");
        durable_files::remove_if_there(&self.path)?;
        spare.iter().try_for_each(|file| durable_files::remove_if_there(file))?;
        Ok(true)
    }

    /// Takes the room back if it was given away, and only if as much again stays free. Gives whether the
    /// reserve is held now.
    pub fn restore(&self) -> Result<bool, DiskError> {
        self.take_back(2)
    }

    /// Takes back at once what was lent for a moment, if it is still free.
    pub(crate) fn take_back_now(&self) {
        if let Err(error) = self.take_back(1) {
            tracing::warn!(%error, "what is kept for a start on a full disk is used up");
        }
    }

    /// Takes the room back if `times` as much is free.
    fn take_back(&self, times: u64) -> Result<bool, DiskError> {
        if self.is_held() {
            return Ok(true);
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let room = durable_files::FreeSpace::of(folder)?;
        let inodes = room.inodes.is_none_or(|free| free >= times * SPARE_INODES);
        if room.is_read_only || !inodes || room.bytes < self.missing().saturating_mul(times) {
            return Ok(false);
        }
        self.take_inodes()?;
        if self.missing() == 0 {
            return Ok(true);
        }
        durable_files::remove_if_there(&self.path)?;
        let file = durable_files::create_private(&self.path)?;
        let made = allocate(&file, &self.path, self.size);
        if made.is_err() {
            let _ = fs::remove_file(&self.path);
        }
        made.map(|()| true)
    }

    fn take_inodes(&self) -> Result<(), DiskError> {
        durable_files::private_dir(&self.spare)?;
        for number in 0..SPARE_INODES {
            let path = self.spare.join(number.to_string());
            if !path.exists() {
                durable_files::create_private(&path)?;
            }
        }
        Ok(())
    }

    fn spare_files(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(&self.spare).into_iter().flatten().flatten().map(|entry| entry.path())
    }
}

/// Takes real blocks: a file with holes would reserve nothing.
fn allocate(mut file: &File, path: &Path, size: u64) -> Result<(), DiskError> {
    match fallocate(file, FallocateFlags::empty(), 0, i64::try_from(size).unwrap_or(i64::MAX)) {
        Ok(()) => return Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
        Err(errno) => return Err(DiskError::new("reserve room in", path, errno.into())),
    }
    let chunk = vec![0x48; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let count = left.min(chunk.len() as u64);
        file.write_all(&chunk[..count as usize]).map_err(at("reserve room in", path))?;
        left -= count;
    }
    Ok(())
}
