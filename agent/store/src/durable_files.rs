//! Durable writes: what is acknowledged here has reached the disk, and a name never shows half a file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{DiskError, at};

/// Makes `dir` for the agent alone (0700), parents included, and makes its name durable.
pub(crate) fn private_dir(dir: &Path) -> Result<(), DiskError> {
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("create the folder", dir))?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
    }
    let mode = fs::metadata(dir).map_err(at("read the permissions of", dir))?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))
            .map_err(at("restrict the permissions of", dir))?;
    }
    Ok(())
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    // The parent of a relative path of one part is "".
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|file| file.sync_all()).map_err(at("sync the folder", dir))
}

/// Lets go of what the kernel keeps of a synced file in memory. It keeps what was written at once in one piece, of up to
/// megabytes; of such a piece some file systems write all that was changed with it, and a process is charged for all of it.
pub(crate) fn forget_pages(file: &File) {
    let all = (0, 0);
    // Only advice: without it everything works as well.
    let _ =
        nix::fcntl::posix_fadvise(file, all.0, all.1, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// What is in `dir`.
pub(crate) fn names_in(dir: &Path) -> Result<BTreeSet<OsString>, DiskError> {
    let entries = fs::read_dir(dir).map_err(at("list", dir))?;
    entries.map(|entry| Ok(entry.map_err(at("list", dir))?.file_name())).collect()
}

/// A new file that only the agent may read.
pub(crate) fn create_private(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at("create", path))
}

/// Writes `bytes` to the new file `path` and syncs it; on failure the file is gone again.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    remove_if_there(path)?;
    let mut file = create_private(path)?;
    let written = file
        .write_all(bytes)
        .map_err(at("write", path))
        .and_then(|()| file.sync_all().map_err(at("sync", path)));
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// Renames within one folder, and makes it durable.
pub(crate) fn rename_synced(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(at("rename", from))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Removes a file that need not be there.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::new("remove", path, error)),
        _ => Ok(()),
    }
}

/// How many things of one name that were set aside are kept.
const KEPT_ASIDE: usize = 3;

/// Renames `path` to `path.damaged-N`, keeping only the newest few of these, so that somebody may look at it
/// later. Gives the new name.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, DiskError> {
    let mut earlier = set_aside_before(path);
    let next = earlier.last().map_or(1, |(number, _)| number.saturating_add(1));
    while earlier.len() >= KEPT_ASIDE {
        let (_, oldest) = earlier.remove(0);
        let removed = if oldest.is_dir() { fs::remove_dir_all(&oldest) } else { fs::remove_file(&oldest) };
        if let Err(error) = removed {
            tracing::warn!(path = %oldest.display(), %error, "cannot remove what was set aside before");
        }
    }
    let aside = with_suffix(path, &format!(".damaged-{next}"));
    rename_synced(path, &aside)?;
    Ok(aside)
}

/// What was set aside of `path` before, oldest first.
fn set_aside_before(path: &Path) -> Vec<(u64, PathBuf)> {
    let Some(parent) = path.parent() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let prefix = with_suffix(Path::new(path.file_name().unwrap_or_default()), ".damaged-");
    let mut found: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix(prefix.to_str()?)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// `path` with `suffix` behind its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What the file system of a path still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that the agent could still write.
    pub bytes: u64,
    /// Files that it could still make; none where they aren't counted.
    pub inodes: Option<u64>,
    /// It takes nothing at all.
    pub is_read_only: bool,
}

impl FreeSpace {
    pub(crate) fn of(path: &Path) -> Result<FreeSpace, DiskError> {
        let stat = nix::sys::statvfs::statvfs(path)
            .map_err(|errno| DiskError::new("measure", path, errno.into()))?;
        let blocks = if nix_is_root() { stat.blocks_free() } else { stat.blocks_available() };
        Ok(FreeSpace {
            bytes: (blocks as u64).saturating_mul(stat.fragment_size() as u64),
            inodes: (stat.files() > 0).then(|| stat.files_free() as u64),
            is_read_only: stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
        })
    }
}

/// Root may use the blocks that are kept back for it; whether we are root shows in what we own.
fn nix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_few_of_what_was_set_aside_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        for n in 0..12 {
            fs::write(&path, n.to_string()).unwrap();
            set_aside(&path).unwrap();
        }
        let kept: Vec<u64> = set_aside_before(&path).into_iter().map(|(n, _)| n).collect();
        assert_eq!(kept, [10, 11, 12]);
        assert_eq!(fs::read_to_string(dir.path().join("db.damaged-12")).unwrap(), "11");
    }

    #[test]
    fn a_folder_that_others_could_read_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
