//! What the agent's own sandbox hides from it. A service may have a file system of its own (`ProtectHome=`,
//! `PrivateTmp=` and their like): what isn't there for the agent may be there for the box. The mounts of process 1 are
//! the box's, and any process may read them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::{fmt, fs, io};

use thiserror::Error;

/// Links that are followed on the way to a file, as many as the kernel does.
const LINKS: usize = 40;
/// What systemd gives to every service of its own: nothing of the box is hidden by it.
const OF_THE_MANAGER: [&str; 2] = ["/run/credentials", "/run/systemd"];
/// What the shipped unit hides, or lets nobody write, and no workload needs of the agent.
const OF_THE_SYSTEM: [&str; 9] =
    ["/boot", "/dev/kmsg", "/efi", "/etc", "/lib/modules", "/proc", "/sys", "/usr", "/dev/mqueue"];

/// Why the agent can't say whether a file is there.
#[derive(Debug, Error)]
pub enum Unseen {
    /// The way to it can't be gone.
    #[error("could not check whether {} exists: {error}", path.display())]
    Unreadable {
        /// The file, or a folder on the way to it.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The agent has another file system there than the box.
    #[error("the agent can't see the box's files at {}: its unit hides them by ProtectHome=, PrivateTmp=, \
             InaccessiblePaths= or similar; remove that setting from the unit (systemctl edit holdfast; systemctl \
             restart holdfast)", .0.display())]
    Hidden(PathBuf),
    /// Nobody knows what the box has.
    #[error("could not check whether the agent sees the box's files: {file}: {error}")]
    Unknown {
        /// The file that would tell.
        file: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

/// Whether there is such a file on the box. That there is none is said only where the agent sees what the box sees.
///
/// # Errors
/// It can't be said.
pub fn is_there(path: &Path) -> Result<bool, Unseen> {
    let way = walk(path)?;
    if way.found {
        return Ok(true);
    }
    let (own, box_) = (Mounts::of("self")?, Mounts::of("1")?);
    match way.passed.iter().find(|place| own.place(place) != box_.place(place)) {
        Some(hidden) => Err(Unseen::Hidden(hidden.clone())),
        None => Ok(false),
    }
}

/// The places at which the agent sees another file system than the box does, by mounts of its own. What others mount for
/// themselves later, as podman does, may be unseen as well, and hides nothing.
///
/// # Errors
/// It can't be said.
pub fn hidden() -> Result<Vec<PathBuf>, Unseen> {
    Ok(Mounts::of("self")?.other_than(&Mounts::of("1")?))
}

/// What the box has and the agent hasn't, but for what the shipped unit keeps from it on purpose.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    hidden: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
}

impl Kept {
    /// For tests of what is said about it.
    #[cfg(all(test, feature = "kubernetes"))]
    pub(crate) fn of(hidden: &[&str], read_only: &[&str]) -> Self {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Kept { hidden: paths(hidden), read_only: paths(read_only) }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Kept::default()
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[PathBuf]| {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            shown.join(", ")
        };
        match (self.hidden.is_empty(), self.read_only.is_empty()) {
            (false, true) => write!(f, "it can't see the box's files at {}", list(&self.hidden)),
            (true, _) => write!(f, "it may not write to {}", list(&self.read_only)),
            (false, false) => write!(
                f,
                "it can't see the box's files at {}, and may not write to {}",
                list(&self.hidden),
                list(&self.read_only)
            ),
        }
    }
}

/// What the agent's unit keeps from it that isn't only the system's.
///
/// # Errors
/// It can't be said.
pub fn kept_from_us() -> Result<Kept, Unseen> {
    let (own, box_) = (Mounts::of("self")?, Mounts::of("1")?);
    let is_the_systems = |path: &PathBuf| OF_THE_SYSTEM.iter().any(|folder| path.starts_with(folder));
    let mut kept = Kept { hidden: own.other_than(&box_), read_only: own.read_only_beside(&box_) };
    for paths in [&mut kept.hidden, &mut kept.read_only] {
        paths.retain(|path| !is_the_systems(path));
    }
    Ok(kept)
}

/// Whether a program that the agent starts is kept from more than one that the box's first process starts: by mounts,
/// by capabilities that it can't get, or by a filter of system calls.
///
/// # Errors
/// It can't be said.
pub fn is_narrower_than_the_box() -> Result<bool, Unseen> {
    Ok(Bounds::of("self")?.are_narrower_than(&Bounds::of("1")?) || !hidden()?.is_empty())
}

fn read(process: &str, file: &str) -> Result<String, Unseen> {
    let file = format!("/proc/{process}/{file}");
    let bytes = fs::read(&file).map_err(|error| Unseen::Unknown { file, error })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a process and those that it starts can get (proc_pid_status(5)).
#[derive(Debug, Default)]
struct Bounds {
    capabilities: u64,
    no_new_privileges: u64,
    filters: u64,
}

impl Bounds {
    fn of(process: &str) -> Result<Self, Unseen> {
        Ok(Self::parse(&read(process, "status")?))
    }

    fn parse(status: &str) -> Self {
        let number = |key: &str, radix| {
            let value = status.lines().find_map(|line| line.strip_prefix(key))?;
            u64::from_str_radix(value.trim(), radix).ok()
        };
        // An old kernel, which doesn't tell of one of them, tells it of no process.
        Bounds {
            capabilities: number("CapBnd:", 16).unwrap_or(0),
            no_new_privileges: number("NoNewPrivs:", 10).unwrap_or(0),
            filters: number("Seccomp:", 10).unwrap_or(0),
        }
    }

    fn are_narrower_than(&self, other: &Bounds) -> bool {
        self.capabilities & other.capabilities != other.capabilities
            || self.no_new_privileges > other.no_new_privileges
            || self.filters > other.filters
    }
}

/// The way to a file.
struct Way {
    /// Every place on it, none of them a link; the last is the file's own, or that of the first part that is missing.
    passed: Vec<PathBuf>,
    found: bool,
}

/// Goes the way to a file as the kernel would, and writes down where it leads. A last part that is a link counts as
/// found, wherever it leads: a lock is often a link to nowhere.
fn walk(path: &Path) -> Result<Way, Unseen> {
    let unreadable = |path: &Path, error| Unseen::Unreadable { path: path.to_owned(), error };
    let mut todo: VecDeque<OsString> = parts(path);
    let mut links = 0;
    let mut place = PathBuf::from("/");
    let mut passed = vec![place.clone()];
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            place.pop();
            continue;
        }
        let next = place.join(part);
        match fs::symlink_metadata(&next) {
            Ok(found) if found.is_symlink() && !todo.is_empty() => {
                links += 1;
                if links > LINKS {
                    return Err(unreadable(path, io::Error::other("too many links lead to it")));
                }
                let target = fs::read_link(&next).map_err(|error| unreadable(&next, error))?;
                if target.is_absolute() {
                    place = PathBuf::from("/");
                }
                parts(&target).into_iter().rev().for_each(|part| todo.push_front(part));
            }
            Ok(_) => {
                place = next;
                passed.push(place.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                passed.push(next);
                return Ok(Way { passed, found: false });
            }
            Err(error) => return Err(unreadable(&next, error)),
        }
    }
    Ok(Way { passed, found: true })
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// A mount (proc_pid_mountinfo(5)).
#[derive(Debug)]
struct Mount {
    id: u64,
    parent: u64,
    /// The file system, by its device's number.
    device: String,
    /// The part of the file system that is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
    /// Whether nobody may write here.
    read_only: bool,
    /// Whether it is one folder laid over others, as the root of a container is.
    is_overlay: bool,
}

/// All mounts that a process sees.
#[derive(Debug)]
struct Mounts(Vec<Mount>);

impl Mounts {
    fn of(process: &str) -> Result<Self, Unseen> {
        Ok(Self::parse(&read(process, "mountinfo")?))
    }

    fn parse(text: &str) -> Self {
        let mount = |line: &str| {
            let (of_the_mount, of_the_files) = line.split_once(" - ")?;
            let mut fields = of_the_mount.split(' ');
            let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let device = device(fields.next()?, of_the_files);
            let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
            let read_only = fields.next()?.split(',').any(|option| option == "ro");
            let is_overlay = of_the_files.starts_with("overlay ");
            Some(Mount { id, parent, device, root, point, read_only, is_overlay })
        };
        Mounts(text.lines().filter_map(mount).collect())
    }

    /// Where a place without links really is: its file system, and where in that.
    fn place(&self, path: &Path) -> Option<(&str, PathBuf)> {
        let on = self.mount_of(path)?;
        Some((&on.device, on.root.join(path.strip_prefix(&on.point).ok()?)))
    }

    /// The mount that a place without links is on.
    fn mount_of(&self, path: &Path) -> Option<&Mount> {
        let is_first =
            |mount: &&Mount| self.0.iter().all(|other| other.id != mount.parent || other.id == mount.id);
        let mut on = self.0.iter().find(is_first)?;
        // From mount to mount, as the kernel goes: what lies below a mount that was mounted over isn't seen.
        let next = |on: &Mount| {
            let below = self.0.iter().filter(|mount| mount.parent == on.id && mount.id != on.id);
            below
                .filter(|mount| path.starts_with(&mount.point))
                .min_by_key(|mount| mount.point.components().count())
        };
        for _ in 0..self.0.len() {
            match next(on) {
                Some(mount) => on = mount,
                None => break,
            }
        }
        Some(on)
    }

    /// The mounts that are for reading only here and not in `other`.
    fn read_only_beside(&self, other: &Mounts) -> Vec<PathBuf> {
        let writable = |path: &Path| other.mount_of(path).is_some_and(|mount| !mount.read_only);
        let own = self.0.iter().filter(|mount| mount.read_only && writable(&mount.point));
        // One that is hidden is named as such.
        let own = own.filter(|mount| self.place(&mount.point) == other.place(&mount.point));
        let mut all: Vec<PathBuf> = own.map(|mount| mount.point.clone()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn other_than(&self, other: &Mounts) -> Vec<PathBuf> {
        // The root of a container that ended is still mounted here for a while, and hides nothing of the box.
        let points = self.0.iter().filter(|mount| !mount.is_overlay).map(|mount| &mount.point);
        let mut hidden: Vec<PathBuf> = points
            .filter(|point| !OF_THE_MANAGER.iter().any(|own| point.starts_with(own)))
            .filter(|point| self.place(point) != other.place(point))
            .cloned()
            .collect();
        hidden.sort_unstable();
        hidden.dedup();
        hidden
    }
}

/// What tells a file system from others. A service with `ProtectKernelTunables=` has a /proc of its own, which shows
/// the same processes unless its options say otherwise.
fn device(number: &str, of_the_files: &str) -> String {
    let mut fields = of_the_files.split(' ');
    match (fields.next(), fields.nth(1)) {
        (Some("proc"), Some(options)) => {
            let kept = options.split(',').filter(|option| !matches!(*option, "rw" | "ro"));
            format!("proc {}", kept.collect::<Vec<_>>().join(","))
        }
        _ => number.to_owned(),
    }
}

/// The kernel writes blanks and the like as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match after.get(..3).filter(|_| first == b'\\').and_then(octal) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box with a second disk at /srv, and a session's folder.
    const BOX: &str = "\
22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw shared:5 - proc proc rw
24 22 0:22 / /run rw shared:6 - tmpfs tmpfs rw
25 22 254:16 / /srv rw shared:7 - ext4 /dev/vdb rw
26 24 0:40 / /run/user/1000 rw shared:8 - tmpfs tmpfs rw
27 22 0:23 / /tmp rw shared:9 - tmpfs tmpfs rw
28 25 254:32 / /srv/my\\040shop rw shared:10 - ext4 /dev/vdc rw
";

    fn mounts(more: &str) -> Mounts {
        let own = BOX.lines().map(|line| format!("{}\n", line.replace("shared", "master")));
        Mounts::parse(&(own.collect::<String>() + more))
    }

    fn differs(own: &Mounts, path: &str) -> bool {
        own.place(Path::new(path)) != Mounts::parse(BOX).place(Path::new(path))
    }

    #[test]
    fn what_a_unit_mounts_over_a_folder_hides_what_the_box_has_there() {
        for (more, hidden, seen) in [
            // ProtectHome=yes
            (
                "50 22 0:22 /systemd/inaccessible/dir /home ro - tmpfs tmpfs rw\n",
                "/home/pos/sale",
                "/srv/sale",
            ),
            // ProtectHome=tmpfs
            ("50 24 0:77 / /run/user ro - tmpfs tmpfs rw\n", "/run/user/1000/sale", "/run/sale"),
            // PrivateTmp=yes
            (
                "50 27 254:0 /tmp/systemd-private-1/tmp /tmp rw - ext4 /dev/vda rw\n",
                "/tmp/sale",
                "/tmp2/sale",
            ),
            // What is mounted below is hidden with it.
            ("50 25 0:77 / /srv ro - tmpfs tmpfs rw\n", "/srv/my shop/sale", "/run/user/1000/sale"),
        ] {
            let own = mounts(more);
            assert!(differs(&own, hidden), "{more}");
            assert!(!differs(&own, seen), "{more}");
            let places = own.other_than(&Mounts::parse(BOX));
            assert!(places.iter().any(|place| Path::new(hidden).starts_with(place)), "{more}: {places:?}");
            assert!(!places.iter().any(|place| Path::new(seen).starts_with(place)), "{more}: {places:?}");
        }
    }

    #[test]
    fn what_a_unit_mounts_onto_itself_is_what_the_box_has() {
        // ProtectSystem=, ReadWritePaths= and StateDirectory= do so.
        let own = mounts(
            "50 22 254:0 /var/lib/holdfast /var/lib/holdfast rw - ext4 /dev/vda rw\n\
             51 22 254:0 /usr /usr ro - ext4 /dev/vda rw\n",
        );
        assert!(!differs(&own, "/var/lib/holdfast/x"));
        assert!(!differs(&own, "/usr/lib/x"));
        assert_eq!(own.other_than(&Mounts::parse(BOX)), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_proc_of_its_own_hides_nothing_unless_its_options_do() {
        for (options, hides) in [("rw", false), ("rw,hidepid=invisible", true), ("rw,subset=pid", true)] {
            let own = mounts(&format!("50 22 0:49 / /proc rw - proc proc {options}\n"));
            let own = Mounts(own.0.into_iter().filter(|mount| mount.id != 23).collect());
            assert_eq!(differs(&own, "/proc/driver/rtc"), hides, "{options}");
        }
    }

    #[test]
    fn what_a_unit_lets_nobody_write_is_told() {
        // ProtectSystem=strict: all but the unit's own folders.
        let strict = BOX.replace("/ / rw,", "/ / ro,");
        let own = Mounts::parse(
            &(strict + "51 22 254:0 /var/lib/holdfast /var/lib/holdfast rw - ext4 /dev/vda rw\n"),
        );
        assert_eq!(own.read_only_beside(&Mounts::parse(BOX)), [Path::new("/")]);
        assert_eq!(mounts("").read_only_beside(&Mounts::parse(BOX)), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_podman_mounts_for_a_container_is_nothing_that_a_unit_hides() {
        let merged = "60 22 0:50 / /var/lib/containers/storage/overlay/abc/merged rw - overlay overlay rw\n";
        // Of one that started later than the agent, and of one that ended since the agent started.
        let box_ = Mounts::parse(&format!("{BOX}{merged}"));
        assert_eq!(mounts("").other_than(&box_), Vec::<PathBuf>::new());
        assert_eq!(mounts(merged).other_than(&Mounts::parse(BOX)), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_is_mounted_for_the_box_alone_is_hidden() {
        let text = BOX.lines().filter(|line| !line.contains("/run/user")).collect::<Vec<_>>().join("\n");
        let own = Mounts::parse(&text);
        assert!(differs(&own, "/run/user/1000/sale"));
        assert!(!differs(&own, "/run/sale"));
    }

    #[test]
    fn a_blank_in_a_mounts_name_is_a_blank() {
        let found = Mounts::parse(BOX);
        assert_eq!(found.place(Path::new("/srv/my shop/a/b")), Some(("254:32", PathBuf::from("/a/b"))));
    }

    #[test]
    fn the_way_to_a_file_leads_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink("real/../real", dir.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("lock")).unwrap();
        std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
        let way = walk(&dir.join("link/sale")).unwrap();
        assert!(!way.found);
        assert_eq!(way.passed.last(), Some(&dir.join("real/sale")));
        fs::write(dir.join("real/sale"), "").unwrap();
        assert!(is_there(&dir.join("link/sale")).unwrap());
        assert!(is_there(&dir.join("lock")).unwrap(), "a lock is often a link to nowhere");
        assert!(!is_there(&dir.join("lock/x")).unwrap());
        assert!(is_there(&dir.join("loop/x")).is_err());
        assert!(is_there(&dir.join("real/sale/x")).is_err());
    }

    #[test]
    fn what_a_unit_takes_away_makes_the_agent_narrower() {
        let first = "Name:\tsystemd\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0\n";
        let is_narrower = |status: &str| Bounds::parse(status).are_narrower_than(&Bounds::parse(first));
        assert!(!is_narrower(first));
        for (all, less) in
            [("CapBnd:\t000001ff", "CapBnd:\t000001fe"), ("Privs:\t0", "Privs:\t1"), ("comp:\t0", "comp:\t2")]
        {
            assert!(is_narrower(&first.replace(all, less)), "{less}");
        }
        // A box in a container, whose first process is as narrow.
        let inside = first.replace("Seccomp:\t0", "Seccomp:\t2");
        assert!(!Bounds::parse(&inside).are_narrower_than(&Bounds::parse(&inside)));
    }
}
