//! A repository in a folder, for `validate` and `render`: the same names, links and limits as a revision has on a box.
//!
//! Only what the agent would read is read. Nothing is followed out of the folder.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use holdfast_core::tree::{Entry, EntryKind, Kind, Tree, Unread, file_name, too_large};

/// What the agent takes of one file.
const MAX_FILE: u64 = 256 << 20;
/// An LFS pointer begins so, and is shorter than 1024 bytes.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// A folder with a repository in it.
pub(super) struct Folder {
    root: PathBuf,
    read: Cell<usize>,
}

impl Folder {
    /// The repository in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let root = fs::canonicalize(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        if !root.is_dir() {
            bail!("{} is not a folder: name the folder that holds holdfast.yaml", folder.display());
        }
        fs::read_dir(&root).with_context(|| format!("cannot read {}", folder.display()))?;
        Ok(Folder { root, read: Cell::new(0) })
    }

    /// How many files were read.
    pub(super) fn count(&self) -> usize {
        self.read.get()
    }

    /// Where `path` really is; none if nothing is there.
    fn find(&self, path: &str) -> Result<Option<PathBuf>, Unread> {
        let real = match fs::canonicalize(self.root.join(path)) {
            Ok(real) => real,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(cannot(&error)),
        };
        if !real.starts_with(&self.root) {
            return Err(Unread::Refused(
                "a symbolic link that leaves the repository; link inside of the repository only".to_owned(),
            ));
        }
        Ok(Some(real))
    }
}

/// A file where a folder would have to be is nothing either.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn cannot(error: &io::Error) -> Unread {
    Unread::Refused(format!("it can't be read: {error}"))
}

fn entry(folder: &Path, is_top: bool, entry: &fs::DirEntry) -> Option<Entry> {
    let bytes = entry.file_name();
    let name = bytes.to_string_lossy().into_owned();
    // Git keeps nothing of that name.
    if name == ".git" {
        return None;
    }
    let kind = match (file_name(bytes.as_bytes()), entry.file_type()) {
        (Err(why), _) => EntryKind::Unreadable(why),
        (_, Err(error)) => EntryKind::Unreadable(format!("it can't be read: {error}")),
        (_, Ok(kind)) if kind.is_symlink() => EntryKind::Link,
        (_, Ok(kind)) if kind.is_dir() && !is_top && folder.join(&bytes).join(".git").exists() => {
            EntryKind::Unreadable(
                "a submodule; Holdfast reads one repository only: put the files into it".to_owned(),
            )
        }
        (_, Ok(kind)) if kind.is_dir() => EntryKind::Is(Kind::Folder),
        (_, Ok(kind)) if kind.is_file() => EntryKind::Is(Kind::File),
        // Sockets and the like: Git doesn't see them.
        _ => return None,
    };
    Some(Entry { name, kind })
}

impl Tree for Folder {
    fn list(&self, folder: &str) -> Result<Vec<Entry>, Unread> {
        let Some(real) = self.find(folder)? else { return Ok(Vec::new()) };
        let listed = match fs::read_dir(&real) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(Unread::Refused("is not a folder".to_owned()));
            }
            Err(error) => return Err(cannot(&error)),
        };
        let mut entries = Vec::new();
        for found in listed {
            let found = found.map_err(|error| cannot(&error))?;
            entries.extend(entry(&real, folder.is_empty(), &found));
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unread> {
        let Some(real) = self.find(path)? else { return Ok(None) };
        let about = fs::metadata(&real).map_err(|error| cannot(&error))?;
        if !about.is_file() {
            return Err(Unread::Refused("is not a file".to_owned()));
        }
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).min(MAX_FILE);
        if about.len() > limit {
            return Err(Unread::Refused(too_large(
                about.len(),
                usize::try_from(limit).unwrap_or(usize::MAX),
            )));
        }
        let bytes = fs::read(&real).map_err(|error| cannot(&error))?;
        self.read.set(self.read.get() + 1);
        if bytes.len() < 1024 && bytes.starts_with(LFS_POINTER) {
            return Err(Unread::Refused(
                "only a Git LFS pointer is in the repository; Holdfast doesn't fetch from LFS: commit the file \
                 itself, or name it as an OCI artifact"
                    .to_owned(),
            ));
        }
        Ok(Some(bytes))
    }

    fn follow(&self, path: &str) -> Result<Kind, Unread> {
        match self.find(path)? {
            Some(real) if real.is_dir() => Ok(Kind::Folder),
            Some(_) => Ok(Kind::File),
            None => Err(Unread::Refused("a symbolic link whose target does not exist".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("apps/pos/manifests")).unwrap();
        fs::create_dir_all(dir.path().join(".git")).unwrap();
        for path in ["holdfast.yaml", "apps/pos/app.yaml", ".git/HEAD"] {
            fs::write(dir.path().join(path), path).unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    #[test]
    fn files_are_read_by_their_paths_and_git_is_left_out() {
        let (_dir, folder) = folder();
        let names: Vec<String> = folder.list("").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["apps", "holdfast.yaml"]);
        assert_eq!(folder.read("holdfast.yaml", 100).unwrap().unwrap(), b"holdfast.yaml");
        assert_eq!(folder.read("nothing", 100), Ok(None));
        assert_eq!(folder.read("holdfast.yaml/below", 100), Ok(None));
        assert!(matches!(folder.read("holdfast.yaml", 1), Err(Unread::Refused(_))));
        assert!(folder.list("nothing").unwrap().is_empty());
    }

    #[test]
    fn links_are_followed_inside_of_the_repository_only() {
        let (dir, folder) = folder();
        let link = |target: &str, name: &str| symlink(target, dir.path().join(name)).unwrap();
        link("apps/pos", "inside");
        link("/etc", "outside");
        link("nowhere", "dangling");
        link("round", "round");
        assert_eq!(folder.follow("inside"), Ok(Kind::Folder));
        for name in ["outside", "dangling", "round"] {
            assert!(matches!(folder.follow(name), Err(Unread::Refused(_))), "{name}");
        }
        assert_eq!(folder.list("inside").unwrap().len(), 2);
    }

    #[test]
    fn what_a_box_could_not_read_is_shown_as_such() {
        let (dir, folder) = folder();
        fs::write(dir.path().join("apps/pos").join(std::ffi::OsStr::from_bytes(b"\xff.yaml")), "").unwrap();
        fs::create_dir_all(dir.path().join("apps/sub")).unwrap();
        fs::write(dir.path().join("apps/sub/.git"), "gitdir: x").unwrap();
        fs::write(dir.path().join("apps/pos/lfs"), LFS_POINTER).unwrap();
        let unreadable = |path: &str, name: &str| {
            let entries = folder.list(path).unwrap();
            let entry = entries.iter().find(|entry| entry.name == name).unwrap();
            assert!(matches!(entry.kind, EntryKind::Unreadable(_)), "{entry:?}");
        };
        unreadable("apps/pos", "\u{fffd}.yaml");
        unreadable("apps", "sub");
        assert!(matches!(folder.read("apps/pos/lfs", 1000), Err(Unread::Refused(_))));
    }

    #[test]
    fn a_folder_that_is_none_is_said_to_be_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = Folder::open(file.path()).err().unwrap().to_string();
        assert!(told.contains("holds holdfast.yaml"));
        assert!(Folder::open(Path::new("/nowhere")).is_err());
    }
}
