//! Paths below a folder that a workload can write: never followed through a link, and never believed to be still the
//! same when somebody else resolves them again.
//!
//! A workload may put a link to `/` where the agent expects a folder. So nothing below such a folder is opened, made
//! or given away by its path alone: the kernel is asked to refuse links (openat2(2)), and what a runtime mounted by
//! path in the end is compared with what was meant, before anything of the workload runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fstat, mkdirat, open, openat2};
use rustix::io::Errno;

/// A folder is only looked up through, never read.
const LOOK_UP: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// A folder that is changed itself.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A folder that is trusted up to its own path: what is below it may be anybody's.
pub(crate) fn base(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, LOOK_UP | OFlags::DIRECTORY, Mode::empty())?)
}

/// What is at `rest` below `base`, be it a folder or a file.
pub(crate) fn find(base: impl AsFd, rest: &Path) -> io::Result<OwnedFd> {
    openat2(base, rest, LOOK_UP, Mode::empty(), NO_LINKS).map_err(|errno| refused(errno, rest))
}

/// The folder at `rest` below `base`. What of it isn't there is made, with the permissions and the owner of the folder
/// that it is in, as Kubernetes does.
pub(crate) fn folder(base: impl AsFd, rest: &Path) -> io::Result<OwnedFd> {
    let mut at = openat2(base, ".", FOLDER, Mode::empty(), NO_LINKS).map_err(|errno| refused(errno, rest))?;
    for part in rest.components() {
        let Component::Normal(part) = part else { continue };
        let part = Path::new(part);
        let open = |at: &OwnedFd| openat2(at, part, FOLDER, Mode::empty(), NO_LINKS);
        at = match open(&at) {
            Err(Errno::NOENT) => {
                let like = fstat(&at)?;
                match mkdirat(&at, part, Mode::RWXU) {
                    // Somebody else made it in this moment: it is as they made it.
                    Err(Errno::EXIST) => open(&at),
                    made => made.and_then(|()| open(&at)).and_then(|made| like_its_parent(made, &like)),
                }
            }
            found => found,
        }
        .map_err(|errno| refused(errno, rest))?;
    }
    Ok(at)
}

fn like_its_parent(made: OwnedFd, parent: &Stat) -> rustix::io::Result<OwnedFd> {
    let own = fstat(&made)?;
    if (own.st_uid, own.st_gid) != (parent.st_uid, parent.st_gid) {
        fchown(&made, Some(Uid::from_raw(parent.st_uid)), Some(Gid::from_raw(parent.st_gid)))?;
    }
    fchmod(&made, Mode::from_raw_mode(parent.st_mode & 0o7777))?;
    Ok(made)
}

/// The kernel's answer to a link is "too many levels of symbolic links", which helps nobody.
fn refused(errno: Errno, rest: &Path) -> io::Error {
    match errno {
        Errno::LOOP | Errno::XDEV => io::Error::other(format!(
            "there is a symbolic link in {}, and the agent follows no links in folders that a workload can write: \
             remove the link",
            rest.display()
        )),
        // systemd's filter takes the whole call away, since it can't see into its arguments.
        Errno::NOSYS => io::Error::other(format!(
            "openat2(2) is not available, without which {} might lead through a symbolic link of a workload: \
             remove RestrictSUIDSGID= from the agent's unit, or install a kernel of version 5.6 or newer",
            rest.display()
        )),
        errno => errno.into(),
    }
}

/// What a mount shows: a folder or file of a file system, as the kernel calls it (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shown {
    /// The file system, as `major:minor`.
    device: String,
    /// The path in the file system.
    path: PathBuf,
}

/// A line of `/proc/PID/mountinfo`.
struct Line {
    id: u64,
    shows: Shown,
    at: PathBuf,
}

impl Line {
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let device = fields.nth(1)?.to_owned();
        let (path, at) = (unescaped(fields.next()?), unescaped(fields.next()?));
        Some(Line { id, shows: Shown { device, path }, at })
    }
}

/// Blanks and the like stand as `\040`.
fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn lines(process: &str) -> io::Result<Vec<Line>> {
    Ok(fs::read_to_string(format!("/proc/{process}/mountinfo"))?.lines().filter_map(Line::read).collect())
}

/// What a mount of this very file or folder shows, whoever makes it.
pub(crate) fn shown(file: &OwnedFd) -> io::Result<Shown> {
    let number = file.as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    let line = lines("self")?.into_iter().find(|line| Some(line.id) == mount);
    let line = line.ok_or_else(|| io::Error::other("the kernel doesn't say on which mount it is"))?;
    let path = fs::read_link(format!("/proc/self/fd/{number}"))?;
    let below = path.strip_prefix(&line.at).map_err(|_| io::Error::other("it was moved away meanwhile"))?;
    // What is joined with nothing would end in a slash.
    let whole = if below.as_os_str().is_empty() { line.shows.path } else { line.shows.path.join(below) };
    Ok(Shown { device: line.shows.device, path: whole })
}

/// Whether the process `pid` has every one of these mounted, each as often as it is here. Whoever exchanged a folder
/// for a link after it was looked up has another one mounted in its place, so that one of these is missing.
pub(crate) fn has_mounted(pid: i32, wanted: &[Shown]) -> io::Result<()> {
    let mut there: BTreeMap<Shown, usize> = BTreeMap::new();
    for line in lines(&pid.to_string())? {
        *there.entry(line.shows).or_default() += 1;
    }
    for wanted in wanted {
        match there.get_mut(wanted).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => {
                return Err(io::Error::other(format!(
                    "{} is not what was mounted: it was replaced by something else in the meantime",
                    wanted.path.display()
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_made_like_the_folder_that_it_is_in() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2771)).unwrap();
        folder(base(dir.path()).unwrap(), Path::new("a/b")).unwrap();
        let meta = fs::metadata(dir.path().join("a/b")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o2771);
        assert_eq!(meta.uid(), fs::metadata(dir.path()).unwrap().uid());
        folder(base(dir.path()).unwrap(), Path::new("a/b")).unwrap();
    }

    #[test]
    fn no_link_is_followed_wherever_it_stands_and_wherever_it_leads() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("real", dir.path().join("inside")).unwrap();
        symlink("/", dir.path().join("real/root")).unwrap();
        for path in ["out", "out/new", "inside", "inside/new", "real/root", "real/root/tmp", "../x"] {
            let base = base(dir.path()).unwrap();
            assert!(find(&base, Path::new(path)).is_err(), "{path} was found");
        }
        for path in ["out/new", "inside/new", "real/root/hf-beneath"] {
            let base = base(dir.path()).unwrap();
            let why = folder(&base, Path::new(path)).unwrap_err().to_string();
            assert!(why.contains("symbolic link"), "{path}: {why}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(!Path::new("/hf-beneath").exists());
        assert!(!dir.path().join("real/new").exists());
    }

    #[test]
    fn where_the_kernel_does_not_look_out_for_links_it_is_said_what_takes_that_away() {
        let why = refused(Errno::NOSYS, Path::new("data/part")).to_string();
        assert!(why.contains("data/part") && why.contains("RestrictSUIDSGID="), "{why}");
    }

    #[test]
    fn what_a_process_has_mounted_is_compared_with_what_was_meant() {
        let own = i32::try_from(std::process::id()).unwrap();
        let root = shown(&base(Path::new("/")).unwrap()).unwrap();
        has_mounted(own, std::slice::from_ref(&root)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let other = shown(&base(dir.path()).unwrap()).unwrap();
        assert!(other.path.ends_with(dir.path().file_name().unwrap()), "{other:?}");
        let why = has_mounted(own, &[root, other]).unwrap_err().to_string();
        assert!(why.contains("it was replaced by something else"), "{why}");
    }

    #[test]
    fn the_kernels_lines_are_read_with_their_escapes() {
        let line = r"36 35 98:0 /mnt\0401 /a\134b rw,noatime master:1 - ext3 /dev/root rw";
        let line = Line::read(line).unwrap();
        let shows = Shown { device: "98:0".into(), path: "/mnt 1".into() };
        assert_eq!((line.id, line.shows, line.at), (36, shows, PathBuf::from("/a\\b")));
        assert!(Line::read("36 35").is_none());
    }
}
