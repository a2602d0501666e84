//! The files of the driver: names, atomic writing, the agent's lock of an app.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::durable_file::publish;

/// In an app's folder: which process it is.
pub(super) const RECORD: &str = "workload.json";
/// In an app's folder: the socket on which the process answers.
pub(super) const CONTROL_SOCKET: &str = "control.sock";
/// In an app's folder: locked by the process for as long as it lives.
pub(super) const LIFE_LOCK: &str = "life.lock";
/// In an app's folder: locked by an agent while it changes something.
pub(super) const AGENT_LOCK: &str = "agent.lock";
/// In an app's folder: what the process itself said before it died, such as why it aborted.
pub(super) const LAST_WORDS: &str = "stderr";

/// How long an agent waits for another one.
const LOCK_LIMIT: Duration = Duration::from_secs(20);
/// Nothing that is read as a whole is larger.
const LARGEST_FILE: u64 = 1 << 20;

/// Makes a folder and those above it, for the agent's user alone.
pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file under another name, and renames it once it is on the disk.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (temporary, mut file) = create_temporary(path)?;
    let done = file.write_all(bytes).and_then(|()| publish(&file, &temporary, path));
    if done.is_err() {
        // What stands in the way of the next one is overwritten anyway.
        let _ = fs::remove_file(&temporary);
    }
    done
}

/// A new file beside `path`, for one that is to become it.
pub(super) fn create_temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let temporary = path.with_file_name(name);
    let file =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&temporary)?;
    Ok((temporary, file))
}

/// Reads a small JSON file. One that isn't there, or is damaged, is `None`: all of them can be made again.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let meta = fs::metadata(path).ok()?;
    if !meta.is_file() || meta.len() > LARGEST_FILE {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Removes a file that may be gone already.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The right to change an app, held by one agent at a time.
pub(super) struct AppLock {
    _file: File,
}

/// Takes the lock of the app whose folder is `dir`, and makes the folder if need be.
pub(super) async fn lock_app(dir: &Path) -> io::Result<AppLock> {
    let path = dir.join(AGENT_LOCK);
    let begun = Instant::now();
    loop {
        make_private_dir(dir)?;
        match OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path) {
            Ok(file) => match file.try_lock() {
                // The folder may have been removed, and made again, by the one who held the lock before.
                Ok(()) if fs::metadata(&path).is_ok_and(|now| same_file(&now, &file)) => {
                    return Ok(AppLock { _file: file });
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(e),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        if begun.elapsed() > LOCK_LIMIT {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "another agent holds the lock"));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn same_file(now: &fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|held| held.ino() == now.ino() && held.dev() == now.dev())
}
