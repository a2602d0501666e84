//! Opening a sled database that may be damaged: on a thread of its own, with a time limit, counting
//! starts that never finished.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::DbOptions;
use crate::durable_files;
use holdfast_core::disk_trouble::Trouble;

use crate::error::{DiskError, StoreError, at};

/// How often the process may die while it opens the database before that counts as damage. Power cuts and
/// kills happen too, hence not at the first.
const DEATHS: u32 = 5;
/// The size of sled's segments and write buffers in bytes: a quarter of its default, for a megabyte less of
/// memory. A database with another size is refused by sled, and then rebuilt.
const SEGMENT: usize = 128 * 1024;
/// How long a lock that a dying process still holds is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Why the database couldn't be opened.
pub(super) enum OpenFailure {
    /// What is on disk is damaged.
    Damaged(String),
    /// The disk or another process is the reason; what is there may be whole.
    Refused(StoreError),
}

/// Opens the database in `dir`, and looks at all its pages but those of events, which are many.
pub(super) fn guarded(dir: &Path, options: &DbOptions) -> Result<sled::Db, OpenFailure> {
    if fs::symlink_metadata(dir).is_ok_and(|found| !found.is_dir()) {
        return Err(OpenFailure::Damaged("its path is not a folder".to_owned()));
    }
    durable_files::private_dir(dir).map_err(refused)?;
    sweep_snapshots(dir).map_err(refused)?;
    let attempts = durable_files::with_suffix(dir, ".opening");
    let deaths = deaths(&attempts);
    if deaths >= DEATHS {
        let _ = fs::remove_file(&attempts);
        return Err(OpenFailure::Damaged(format!("the agent died {deaths} times while opening it")));
    }
    // Not synced: a power cut is no sign of damage, and need not be counted. Nor is a full disk.
    let _ = fs::write(&attempts, (deaths + 1).to_string());
    let opened = open_on_thread(dir, options);
    let _ = fs::remove_file(&attempts);
    let db = opened?;
    for folder in [&dir.join("blobs"), dir] {
        durable_files::sync_dir(folder).map_err(refused)?;
    }
    Ok(db)
}

/// What can't be read of the folder for good is as damaged as what is in it.
fn refused(error: DiskError) -> OpenFailure {
    if error.trouble() == Trouble::Failing {
        OpenFailure::Damaged(error.to_string())
    } else {
        OpenFailure::Refused(error.into())
    }
}

fn deaths(attempts: &Path) -> u32 {
    fs::read_to_string(attempts).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// sled 0.34.7 takes `snap.N.generating`, which a crash leaves, for a snapshot, finds it damaged, and refuses
/// to open.
fn sweep_snapshots(dir: &Path) -> Result<(), DiskError> {
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let path = entry.map_err(at("list", dir))?.path();
        if path.extension().is_some_and(|ext| ext == "generating") {
            durable_files::remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn open_on_thread(dir: &Path, options: &DbOptions) -> Result<sled::Db, OpenFailure> {
    let (send, receive) = mpsc::sync_channel(1);
    let (path, cache) = (dir.to_owned(), options.cache);
    let spawned = thread::Builder::new().name("db-open".to_owned()).spawn(move || {
        let opened = catch_unwind(AssertUnwindSafe(|| open_and_scan(&path, cache)));
        // Nobody listens any more if it took too long; sled is dropped here then.
        let _ = send.send(opened);
    });
    let thread = spawned.map_err(|cause| refused(DiskError::new("start a thread to open", dir, cause)))?;
    let opened = receive.recv_timeout(options.open_limit);
    if opened.is_ok() {
        let _ = thread.join();
    }
    match opened {
        Ok(Ok(Ok(db))) => Ok(db),
        Ok(Ok(Err(sled::Error::Io(cause)))) if !means_damage(&cause) => {
            Err(refused(DiskError::new("open the database in", dir, cause)))
        }
        Ok(Ok(Err(error))) => Err(OpenFailure::Damaged(error.to_string())),
        Ok(Err(panic)) => Err(OpenFailure::Damaged(panic_text(panic.as_ref()))),
        Err(_) => Err(OpenFailure::Damaged(format!("opening it took longer than {:?}", options.open_limit))),
    }
}

fn open_and_scan(dir: &Path, cache: u64) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(dir)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(cache)
        .segment_size(SEGMENT)
        .flush_every_ms(None);
    let started = Instant::now();
    let db = loop {
        match config.open() {
            Err(sled::Error::Io(cause)) if is_locked(&cause) && started.elapsed() < LOCK_WAIT => {
                thread::sleep(Duration::from_millis(10));
            }
            other => break other?,
        }
    };
    for name in db.tree_names() {
        if name != crate::EVENTS.as_bytes() {
            for entry in db.open_tree(name)?.iter() {
                entry?;
            }
        }
    }
    Ok(db)
}

/// Another handle still holds sled's lock: a process that is just dying, or the one that was just closed. The
/// state folder's lock says that nobody else uses it in earnest.
fn is_locked(cause: &io::Error) -> bool {
    cause.to_string().contains("could not acquire lock")
}

/// Whether an error of the file system says that the file's content is bad, rather than that something can't
/// be done now.
pub(super) fn means_damage(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    ) || Trouble::of(cause) == Trouble::Failing
        // sled hands on copies of errors that have lost their number.
        || ["code: 5,", "code: 74,", "code: 117,"].iter().any(|code| cause.to_string().contains(code))
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "sled panicked: {}",
        text.as_deref().unwrap_or("without a message").chars().take(300).collect::<String>()
    )
}
