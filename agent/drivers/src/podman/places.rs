//! Where a pod's volumes are on this box: made if they aren't there, and looked up so that no link of a workload's
//! leads out of them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use holdfast_core::pod::{HostPathKind, Mount, Pod, Volume};
use rustix::fs::FileType;

use super::change::Change;
use super::client::ApiError;
use super::marks;
use super::spec::{Places, place_key};
use super::{WantedPod, api};
use crate::{DriverError, beneath};

/// The permissions of what is made for a `hostPath` (kubelet's).
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
/// What the kernel shows there is its own to make.
const OF_THE_KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

impl Change<'_> {
    /// Has the pod's volumes there, and tells where those are that are folders of the box.
    pub(super) async fn places(&self) -> Result<Places, DriverError> {
        let mut places = Places::default();
        let of_the_box = self.spec.pod.volumes.values().any(|volume| matches!(volume, Volume::Host { .. }));
        let writable = if of_the_box { self.writable_paths().await? } else { Vec::new() };
        for (name, volume) in &self.spec.pod.volumes {
            match volume {
                Volume::Files(files) => {
                    let folder =
                        self.driver.files.write(self.spec.id, name, files, |secret| self.open(secret));
                    let folder = folder.map_err(|error| {
                        DriverError::Runtime(format!(
                            "the files of the volume {name} can't be written: {error}"
                        ))
                    })?;
                    self.place_parts(&mut places, name, &folder);
                }
                Volume::Host { path, kind } => {
                    self.place_host_path(&mut places, name, (path, *kind), &writable)?;
                }
                Volume::Claim(claim) => {
                    let found = self.driver.ensure_claim(self.spec.app, claim, self.spec.release).await?;
                    self.place_sub_paths(&mut places, name, Path::new(&found.mountpoint))?;
                }
                Volume::Empty { memory: false, .. } => {
                    let scratch = marks::scratch_name(self.spec.app, self.spec.key, name, self.spec.id);
                    let found = self.ensure_scratch(&scratch).await?;
                    self.place_sub_paths(&mut places, name, Path::new(&found.mountpoint))?;
                }
                Volume::Empty { memory: true, .. } => {}
            }
        }
        Ok(places)
    }

    async fn ensure_scratch(&self, name: &str) -> Result<api::Volume, DriverError> {
        if let Some(found) = self.driver.api.volume(name).await? {
            return Ok(found);
        }
        let mut labels = marks::labels(self.spec.owner, self.spec.app, self.spec.key, self.spec.release);
        labels.insert(marks::POD, self.spec.id.as_str().to_owned());
        Ok(self.driver.api.create_volume(name, &labels).await?)
    }

    fn mounts_of(&self, volume: &str) -> impl Iterator<Item = &Mount> {
        let all = self.spec.pod.all_containers().flat_map(|container| &container.mounts);
        all.filter(move |mount| mount.volume == volume)
    }

    /// Every mount of files is a folder or a file of the box, which only the agent writes.
    fn place_parts(&self, places: &mut Places, volume: &str, folder: &Path) {
        for mount in self.mounts_of(volume) {
            let part = mount.sub_path.as_deref().map_or(folder.to_owned(), |sub| folder.join(sub));
            places.folders.insert(place_key(mount), part.display().to_string());
        }
    }

    /// podman 4.3 passes over a volume's subPath in silence: the part is mounted as a folder of the box, and made
    /// if it isn't there, as Kubernetes does. Whoever mounts the volume whole can put anything in its place.
    fn place_sub_paths(&self, places: &mut Places, volume: &str, base: &Path) -> Result<(), DriverError> {
        for mount in self.mounts_of(volume) {
            let Some(sub) = &mount.sub_path else { continue };
            let part = base.join(sub);
            let meant = part_of(base, Path::new(sub)).map_err(|error| {
                DriverError::Runtime(format!(
                    "the subPath {sub} of the volume {volume} can't be used at {}: {error}",
                    part.display()
                ))
            })?;
            places.meant.insert(place_key(mount), meant);
            places.folders.insert(place_key(mount), part.display().to_string());
        }
        Ok(())
    }

    /// Has a `hostPath` be what it must be.
    fn place_host_path(
        &self,
        places: &mut Places,
        volume: &str,
        (path, kind): (&str, HostPathKind),
        writable: &[PathBuf],
    ) -> Result<(), DriverError> {
        let shared = written_above(writable, Path::new(path));
        let failed =
            |error: io::Error| DriverError::Runtime(format!("the hostPath {path} can't be used: {error}"));
        match &shared {
            None => host_path(Path::new(path), kind).map_err(failed)?,
            Some((base, rest)) => {
                let meant = host_path_below(base, rest, kind).map_err(failed)?;
                for mount in self.mounts_of(volume).filter(|mount| mount.sub_path.is_none()) {
                    places.folders.insert(place_key(mount), path.to_owned());
                    places.meant.insert(place_key(mount), meant.clone());
                }
            }
        }
        let Some((base, rest)) = shared else {
            return self.place_sub_paths(places, volume, Path::new(path));
        };
        // The whole way from there on is anybody's.
        for mount in self.mounts_of(volume) {
            let Some(sub) = &mount.sub_path else { continue };
            places.meant.insert(place_key(mount), part_of(&base, &rest.join(sub)).map_err(failed)?);
            places.folders.insert(place_key(mount), Path::new(path).join(sub).display().to_string());
        }
        Ok(())
    }

    /// The folders of the box that containers can write to: those that the release has, and all that podman has, whoever
    /// made them.
    async fn writable_paths(&self) -> Result<Vec<PathBuf>, DriverError> {
        let pods = self.driver.pods(self.release)?;
        let mut all: Vec<PathBuf> = pods.iter().flat_map(|WantedPod { pod, .. }| writable(pod)).collect();
        for listed in self.driver.api.containers(&[]).await? {
            let mounts = match self.driver.api.mounts(&listed.id).await {
                // One that podman itself can't tell of doesn't run.
                Err(ApiError::Refused { .. }) => continue,
                mounts => mounts?,
            };
            let written = mounts.into_iter().filter(|mount| mount.is_writable);
            all.extend(written.map(|mount| PathBuf::from(mount.source)));
        }
        // Who can write to the whole box needs no link, and what the kernel shows has links of its own.
        let of_the_kernel = |path: &PathBuf| OF_THE_KERNEL.iter().any(|folder| path.starts_with(folder));
        all.retain(|path| path.parent().is_some() && !of_the_kernel(path) && path.exists());
        Ok(all)
    }
}

fn writable<I>(pod: &Pod<I>) -> Vec<PathBuf> {
    let mounts = pod.all_containers().flat_map(|container| &container.mounts);
    let written = mounts.filter(|mount| !mount.read_only).filter_map(|mount| {
        let Some(Volume::Host { path, .. }) = pod.volumes.get(&mount.volume) else { return None };
        Some(Path::new(path).join(mount.sub_path.as_deref().unwrap_or_default()))
    });
    written.collect()
}

/// The topmost of `writable` that is above `path`, and the way from there.
fn written_above(writable: &[PathBuf], path: &Path) -> Option<(PathBuf, PathBuf)> {
    let above = writable.iter().filter_map(|base| {
        let rest = path.strip_prefix(base).ok()?.to_owned();
        (!rest.as_os_str().is_empty()).then(|| (base.clone(), rest))
    });
    above.min_by_key(|(base, _)| base.components().count())
}

/// What a mount of `rest` below `base` must show; it is made a folder if it isn't there.
fn part_of(base: &Path, rest: &Path) -> io::Result<beneath::Shown> {
    let base = beneath::base(base)?;
    match beneath::find(&base, rest) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            beneath::shown(&beneath::folder(&base, rest)?)
        }
        found => beneath::shown(&found?),
    }
}

/// A `hostPath` that only the box itself has a say in: links lead where the box's owner wants them to.
fn host_path(path: &Path, kind: HostPathKind) -> io::Result<()> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found?),
    };
    let mode = |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    match (found, to_be_made(path, kind)) {
        (Some(found), _) => {
            let of = found.file_type();
            let found = match () {
                () if of.is_dir() => FileType::Directory,
                () if of.is_file() => FileType::RegularFile,
                () if of.is_socket() => FileType::Socket,
                () if of.is_char_device() => FileType::CharacterDevice,
                () if of.is_block_device() => FileType::BlockDevice,
                () => FileType::Unknown,
            };
            check_kind(found, kind)
        }
        (None, Made::Folder) => fs::create_dir_all(path).and_then(|()| mode(FOLDER_MODE)),
        (None, Made::File) => fs::File::create_new(path).and_then(|_| mode(FILE_MODE)),
        (None, Made::Nothing) => Err(missing(path, kind)),
    }
}

/// The same below a folder that a workload can write: nothing on the way is a link.
fn host_path_below(base: &Path, rest: &Path, kind: HostPathKind) -> io::Result<beneath::Shown> {
    let folder = beneath::base(base)?;
    let found = match (beneath::find(&folder, rest), to_be_made(&base.join(rest), kind)) {
        (Err(error), Made::Folder) if error.kind() == io::ErrorKind::NotFound => {
            beneath::folder(&folder, rest)?
        }
        (Err(error), Made::File) if error.kind() == io::ErrorKind::NotFound => make_file(&folder, rest)?,
        (Err(error), Made::Nothing) if error.kind() == io::ErrorKind::NotFound => {
            return Err(missing(&base.join(rest), kind));
        }
        (found, _) => found?,
    };
    check_kind(FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode), kind)?;
    beneath::shown(&found)
}

fn make_file(base: &OwnedFd, rest: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, openat};
    let (Some(parent), Some(name)) = (rest.parent(), rest.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = beneath::find(base, parent)?;
    // Exclusive: never through a link.
    let made = openat(
        &parent,
        name,
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::from_raw_mode(FILE_MODE),
    )?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(FILE_MODE))?;
    beneath::find(&parent, Path::new(name))
}

/// What is made of a `hostPath` that isn't there.
enum Made {
    Folder,
    File,
    Nothing,
}

/// What Kubernetes calls any, it makes a folder of. A folder in the place of a device that is not plugged in would only
/// hide that.
fn to_be_made(path: &Path, kind: HostPathKind) -> Made {
    let of_the_kernel = OF_THE_KERNEL.iter().any(|folder| path.starts_with(folder));
    match kind {
        HostPathKind::Any if of_the_kernel => Made::Nothing,
        HostPathKind::Any | HostPathKind::DirectoryOrCreate => Made::Folder,
        HostPathKind::FileOrCreate => Made::File,
        _ => Made::Nothing,
    }
}

fn missing(path: &Path, kind: HostPathKind) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        match kind {
            HostPathKind::Any => format!(
                "{} does not exist on this box, and the agent creates nothing in /dev, /proc and /sys: connect the \
                 device, or load its driver",
                path.display()
            ),
            kind => {
                format!("{} does not exist on this box, and it must be {}", path.display(), word(kind))
            }
        },
    )
}

fn word(kind: HostPathKind) -> &'static str {
    match kind {
        HostPathKind::Any => "anything",
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => "a folder",
        HostPathKind::File | HostPathKind::FileOrCreate => "a file",
        HostPathKind::Socket => "a socket",
        HostPathKind::CharDevice => "a character device",
        HostPathKind::BlockDevice => "a block device",
    }
}

fn check_kind(found: FileType, kind: HostPathKind) -> io::Result<()> {
    let fits = match kind {
        HostPathKind::Any => true,
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => found == FileType::Directory,
        HostPathKind::File | HostPathKind::FileOrCreate => found == FileType::RegularFile,
        HostPathKind::Socket => found == FileType::Socket,
        HostPathKind::CharDevice => found == FileType::CharacterDevice,
        HostPathKind::BlockDevice => found == FileType::BlockDevice,
    };
    if fits { Ok(()) } else { Err(io::Error::other(format!("it exists, but is not {}", word(kind)))) }
}

#[cfg(test)]
mod tests;
