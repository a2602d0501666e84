//! Files that are there whole or not at all, also after a power cut.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Gives a finished file its name, durably.
pub(crate) fn publish(file: &File, temporary: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
