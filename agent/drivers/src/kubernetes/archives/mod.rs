//! Images for nodes that reach no registry: archives of what manifests name by digest, in the folder from which k3s
//! imports images (`images` under `agent` in its data folder).
//!
//! What k3s does with that folder (its pkg/agent/containerd/watcher.go and containerd.go, v1.36): it imports each file
//! in it when it starts, and since the releases of January 2025 also two seconds after it sees one come. It takes what
//! is called `.tar`, `.tar.gz` and the like; a name that ends otherwise is nothing to it. A file that it knows is
//! imported anew only when its size has changed. What it imported is pinned, so that the kubelet doesn't remove it.
//!
//! What an import calls an image is the annotation `io.containerd.image.name` of the archive's index, and else
//! `org.opencontainers.image.ref.name` (containerd's client/import.go). What the kubelet asks for is
//! `registry/repository@digest`, whatever tag stands beside the digest (containerd's `ParseDockerRef`), and so that
//! alone is the name: a tag would be taken from another image that has it, which a pull by digest doesn't do either.
//! k3s wants to give what it imported more names, and says of one without a tag that it "can't cast" it: that comes
//! after the import, and takes nothing from it.

mod check;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_core::digest::Digest;
use holdfast_core::pod::PinnedImage;

use crate::DriverError;
use crate::image::{Archive, BLOCK, ImageOnDisk, ImageSource, REF_NAME, SpaceAllocator};
use crate::keyed_locks::KeyedLocks;

/// What every archive of ours is called by.
const PREFIX: &str = "holdfast-";
const SUFFIX: &str = ".tar";
/// What one is called while it is written: k3s doesn't import it.
const UNFINISHED: (&str, &str) = (".", ".partial");
/// How many digits of the name's digest tell apart images of one digest that are called differently.
const NAME_DIGITS: usize = 8;
/// What containerd calls an image after an import.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// The archives in one folder.
pub struct Archives {
    dir: PathBuf,
    source: Arc<dyn ImageSource>,
    room: Arc<dyn SpaceAllocator>,
    /// One writes an archive, and nobody removes it meanwhile.
    locks: Arc<KeyedLocks>,
    /// The archives that were found or made whole, as they were then.
    whole: Arc<Mutex<BTreeMap<String, Stamp>>>,
}

/// By what a file is seen to have changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Stamp {
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Whether a file in the folder is an archive of ours, whole or half written: these count to the disk budget.
pub fn is_ours(file_name: &OsStr) -> bool {
    file_name.to_str().is_some_and(|name| digest_in(finished(name).unwrap_or(name)).is_some())
}

/// The archive's name, if this is that of one that is being written.
fn finished(name: &str) -> Option<&str> {
    name.strip_prefix(UNFINISHED.0)?.strip_suffix(UNFINISHED.1)
}

/// The digest of the image whose archive is called so; none if it isn't one of ours.
fn digest_in(name: &str) -> Option<Digest> {
    let (hex, tail) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
    let is_ours = tail.len() == NAME_DIGITS && tail.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| format!("sha256:{hex}").parse().ok()).flatten()
}

/// One archive.
#[derive(Clone)]
struct Place {
    dir: PathBuf,
    /// What the image is called in it, and is to be called by containerd.
    image: String,
    file_name: String,
}

impl Place {
    fn of(dir: &Path, image: &PinnedImage) -> Self {
        let name = image.reference.pinned(image.digest).to_string();
        let tail = &Digest::of(name.as_bytes()).to_hex()[..NAME_DIGITS];
        let file_name = format!("{PREFIX}{}-{tail}{SUFFIX}", image.digest.to_hex());
        Place { dir: dir.to_owned(), image: name, file_name }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(&self.file_name)
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join(format!("{}{}{}", UNFINISHED.0, self.file_name, UNFINISHED.1))
    }
}

impl Archives {
    /// Archives in `dir`, which is made if it isn't there, of images that `source` has, within what `room` gives.
    pub fn new(dir: PathBuf, source: Arc<dyn ImageSource>, room: Arc<dyn SpaceAllocator>) -> Self {
        Archives { dir, source, room, locks: Arc::default(), whole: Arc::default() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes sure that there is a whole archive of `image`, and that it stays there over a power cut. One that is there
    /// is read through once in the agent's life, and again when the file has changed; then nobody is asked for anything.
    ///
    /// # Errors
    /// [`DriverError::Release`] for an image that is none; [`DriverError::Runtime`] where the registry, the disk or the
    /// disk budget is the reason. Nothing half made is left then.
    pub async fn ensure(&self, image: &PinnedImage) -> Result<(), DriverError> {
        let place = Place::of(&self.dir, image);
        // Held by whoever writes, who may outlive this call.
        let turn = self.locks.lock_of(&place.file_name).lock_owned().await;
        let (looked_at, whole) = (place.clone(), Arc::clone(&self.whole));
        if blocking(move || is_whole(&looked_at, &whole)).await? {
            return Ok(());
        }
        let disk = self.source.fetch(image).await?;
        let (room, whole) = (Arc::clone(&self.room), Arc::clone(&self.whole));
        blocking(move || {
            let _turn = turn;
            let bytes = write(&place, &disk, &*room)?;
            tracing::info!(image = place.image, bytes, "an image was put where the node imports it from");
            note_whole(&place, &whole);
            Ok(())
        })
        .await?
    }

    /// Removes the archives of images whose digests aren't among `keep`, and what a crash left half written. Nothing
    /// else in the folder is touched. The node keeps what it has imported.
    pub async fn collect(&self, keep: &BTreeSet<Digest>) {
        let (dir, locks, whole) = (self.dir.clone(), Arc::clone(&self.locks), Arc::clone(&self.whole));
        let keep = keep.clone();
        if let Err(error) = blocking(move || collect(&dir, &locks, &whole, &keep)).await {
            tracing::warn!(%error, "image archives can't be tidied up");
        }
    }
}

/// Runs what reads and writes files where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DriverError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| DriverError::Runtime(format!("work on an image archive was interrupted: {error}")))
}

type Whole = Mutex<BTreeMap<String, Stamp>>;

fn is_whole(place: &Place, whole: &Whole) -> bool {
    let path = place.path();
    let Some(stamp) = Stamp::of(&path) else { return false };
    let known = whole.lock().unwrap_or_else(PoisonError::into_inner).get(&place.file_name).copied();
    if known == Some(stamp) {
        return true;
    }
    match check::check(&path, IMAGE_NAME, &place.image) {
        Ok(()) => {
            note_whole(place, whole);
            true
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an image archive is damaged and is rewritten");
            false
        }
    }
}

fn note_whole(place: &Place, whole: &Whole) {
    if let Some(stamp) = Stamp::of(&place.path()) {
        whole.lock().unwrap_or_else(PoisonError::into_inner).insert(place.file_name.clone(), stamp);
    }
}

/// Writes the archive under another name, and gives it its own once it is on disk. Gives its size in bytes.
fn write(place: &Place, image: &ImageOnDisk, room: &dyn SpaceAllocator) -> Result<u64, DriverError> {
    make_folder(&place.dir).map_err(|error| no_folder(&place.dir, &error))?;
    let archive = Archive::new(image, &[(IMAGE_NAME, &place.image), (REF_NAME, &place.image)]);
    // k3s takes no notice of a file that is replaced by one of the same size.
    let replaces_its_like = fs::metadata(place.path()).is_ok_and(|meta| meta.len() == archive.size());
    let padding = if replaces_its_like { BLOCK } else { 0 };
    let size = archive.size() + padding;
    let failed = |why: String| {
        DriverError::Runtime(format!(
            "the image {} can't be put into {} for the node: {why}",
            place.image,
            place.dir.display()
        ))
    };
    let unfinished = place.unfinished();
    // What a crash left there would be counted.
    remove_if_there(&unfinished).map_err(|error| failed(error.to_string()))?;
    let mut taken = room.take(&place.dir, size).map_err(&failed)?;
    let mut used = |bytes| taken.used(bytes);
    let written = fill(&unfinished, &archive, padding, &mut used).and_then(|()| {
        fs::rename(&unfinished, place.path())?;
        sync(&place.dir)
    });
    written.map(|()| size).map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        failed(format!("{error}; free space on that disk, or repair it"))
    })
}

/// Writes all of `archive` to the new file `path`, and syncs it.
fn fill(path: &Path, archive: &Archive<'_>, padding: u64, used: &mut dyn FnMut(u64)) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    give_to_owner_of_folder(&file, path);
    archive.write(&mut |piece| {
        file.write_all(&piece)?;
        used(piece.len() as u64);
        Ok(())
    })?;
    // At most a block.
    file.write_all(&vec![0; padding as usize])?;
    file.sync_all()
}

/// A k3s that isn't root's must be able to read it.
fn give_to_owner_of_folder(file: &File, path: &Path) {
    let owner = |meta: fs::Metadata| (meta.uid(), meta.gid());
    let folder = path.parent().and_then(|dir| fs::metadata(dir).ok()).map(owner);
    let own = file.metadata().ok().map(owner);
    if let Some((uid, gid)) = folder.filter(|folder| Some(*folder) != own)
        && let Err(error) = fchown(file, Some(uid), Some(gid))
    {
        tracing::warn!(path = %path.display(), %error, "the owner of the folder may be unable to read an image archive");
    }
}

/// Makes the folder and those above it, as k3s itself would, and makes their names durable.
fn make_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match DirBuilder::new().mode(0o755).create(dir) {
        // k3s may have been started meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => return Ok(()),
        made => made?,
    }
    // Whatever the umask is.
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    sync(parent)
}

fn no_folder(dir: &Path, error: &io::Error) -> DriverError {
    let shown = dir.display();
    DriverError::Runtime(format!(
        "the folder {shown} for images can't be created: {error}; create it, allow the agent to write there \
         (ReadWritePaths={shown} in its unit) and restart the agent, or correct drivers.kubernetes.images_dir"
    ))
}

fn collect(dir: &Path, locks: &KeyedLocks, whole: &Whole, keep: &BTreeSet<Digest>) {
    let mut removed = false;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str() else { continue };
        let archive = finished(name).unwrap_or(name);
        let is_unfinished = archive.len() != name.len();
        if digest_in(archive).is_none_or(|digest| !is_unfinished && keep.contains(&digest)) {
            continue;
        }
        // What is being written stays.
        let Ok(_turn) = locks.lock_of(archive).try_lock_owned() else { continue };
        match fs::remove_file(entry.path()) {
            Ok(()) => {
                removed = true;
                whole.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                tracing::info!(path = %entry.path().display(), "an image archive that no release needs was removed");
            }
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "an image archive can't be removed");
            }
        }
    }
    if removed && let Err(error) = sync(dir) {
        tracing::warn!(%error, "image archives that were removed may come back after a power cut");
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
