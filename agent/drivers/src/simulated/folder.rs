//! The simulated runtime's folder. It outlives the agent's kill -9, as a real runtime would:
//!
//! ```text
//! objects/Pod:pos.json   one file per object: written elsewhere, then renamed
//! script.json            faults and delays, see `script`
//! log.jsonl              what was asked, a line each, see `log`
//! tmp/                   what is being written
//! ```
//!
//! All of it is kept in memory too. inotify tells what somebody else changed, and is read before each look:
//! the kernel queues an event before the change returns, so a look never misses one, and costs no scan.
//!
//! Nothing is synced: what this stands for lives in another process, and power is cut in other tests.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use holdfast_core::name::{AppName, DeviceName, ObjectKey};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::log::Line;
use super::script::Script;
use super::world::{Entry, Seen, StoredObject, World};

/// What the folder keeps its objects in.
const OBJECTS: &str = "objects";
const SCRIPT: &str = "script.json";
const LOG: &str = "log.jsonl";
const TMP: &str = "tmp";
/// How much of the log's end is shown, in bytes.
const SHOWN: u64 = 256 << 10;

/// The world as it lies in a folder.
pub(super) struct Folder {
    dir: PathBuf,
    pub(super) world: World,
    log: File,
    inotify: Inotify,
    /// The watches of the folder and of `objects`; none when one of them has gone away.
    watches: Option<[WatchDescriptor; 2]>,
    /// What was last logged as seen of each object, by this process.
    logged: BTreeMap<ObjectKey, Seen>,
    /// What somebody else changed and the loop has not been told of.
    changes: BTreeMap<Option<AppName>, String>,
}

impl Folder {
    /// Opens or makes the folder.
    pub(super) fn open(dir: &Path, device: DeviceName) -> io::Result<Self> {
        fs::create_dir_all(dir.join(TMP))?;
        // What a killed process was writing. Its name is used again, so that at most a few are ever there.
        for leftover in fs::read_dir(dir.join(TMP))? {
            fs::remove_file(leftover?.path())?;
        }
        let log = OpenOptions::new().create(true).append(true).open(dir.join(LOG))?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut folder = Folder {
            dir: dir.to_owned(),
            world: World::new(device),
            log,
            inotify,
            watches: None,
            logged: BTreeMap::new(),
            changes: BTreeMap::new(),
        };
        folder.refresh()?;
        folder.changes.clear();
        Ok(folder)
    }

    /// A second descriptor of the inotify queue, to wait on.
    pub(super) fn queue(&self) -> io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd as _;
        self.inotify.as_fd().try_clone_to_owned()
    }

    /// What somebody else changed since this was last asked.
    pub(super) fn take_changes(&mut self) -> BTreeMap<Option<AppName>, String> {
        std::mem::take(&mut self.changes)
    }

    /// Whether somebody else changed something that nobody took yet.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Takes in what was changed in the folder by others.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let mut everything = false;
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watches = None;
                }
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    everything = true;
                }
                let Some([own, objects]) = self.watches else { continue };
                let Some(name) = event.name.as_ref().and_then(|name| name.to_str()) else { continue };
                if event.wd == objects {
                    self.reload(name)?;
                } else if event.wd == own && name == SCRIPT {
                    self.reload_script()?;
                }
            }
        }
        if self.watches.is_none() || everything {
            self.start_over()?;
        }
        Ok(())
    }

    /// Watches the folder and reads all of it. The watch comes first: what changes in between is read twice.
    fn start_over(&mut self) -> io::Result<()> {
        let objects = self.dir.join(OBJECTS);
        fs::create_dir_all(&objects)?;
        fs::create_dir_all(self.dir.join(TMP))?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
        let mask = changes | AddWatchFlags::IN_ONLYDIR;
        self.watches =
            Some([self.inotify.add_watch(&self.dir, mask)?, self.inotify.add_watch(&objects, mask)?]);
        let known: Vec<String> = self.world.objects.keys().map(file_name).collect();
        for name in known {
            self.reload(&name)?;
        }
        for entry in fs::read_dir(&objects)? {
            if let Some(name) = entry?.file_name().to_str() {
                self.reload(name)?;
            }
        }
        self.reload_script()
    }

    fn reload_script(&mut self) -> io::Result<()> {
        let script = match fs::read(self.dir.join(SCRIPT)) {
            Ok(text) => Script::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Script::default(),
            Err(error) => return Err(error),
        };
        if script != self.world.script {
            self.changes.insert(None, "the script of the simulated runtime changed".to_owned());
            self.world.script = script;
        }
        Ok(())
    }

    /// Reads the file called `name` again, and notes whom a change concerns.
    fn reload(&mut self, name: &str) -> io::Result<()> {
        let Some(key) = key_of(name) else { return Ok(()) };
        let entry = self.read(&key)?;
        if self.world.objects.get(&key) == entry.as_ref() {
            return Ok(());
        }
        let what = match (&entry, self.world.objects.get(&key)) {
            (None, _) => format!("{key} was removed"),
            (_, None) => format!("{key} has appeared"),
            _ => format!("{key} was changed"),
        };
        let old = match entry {
            Some(entry) => self.world.objects.insert(key.clone(), entry),
            None => self.world.objects.remove(&key),
        };
        for entry in [old.as_ref(), self.world.objects.get(&key)].into_iter().flatten() {
            let app = match entry {
                Entry::Object(stored) => Some(stored.app.clone()),
                Entry::Unreadable(_) => None,
            };
            self.changes.insert(app, what.clone());
        }
        Ok(())
    }

    fn read(&self, key: &ObjectKey) -> io::Result<Option<Entry>> {
        let text = match fs::read(self.path(key)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A folder, say, that somebody made under this name.
            Err(error) => return Ok(Some(Entry::Unreadable(format!("its file cannot be read: {error}")))),
        };
        Ok(Some(match serde_json::from_slice::<StoredObject>(&text) {
            Ok(stored) => Entry::Object(Box::new(stored)),
            Err(error) => Entry::Unreadable(format!("its file is not an object's: {error}")),
        }))
    }

    /// Brings the file of `key` to what the world holds under it.
    pub(super) fn save(&mut self, key: &ObjectKey) -> io::Result<()> {
        let path = self.path(key);
        let saved = match self.world.objects.get(key) {
            Some(Entry::Object(stored)) => serde_json::to_vec_pretty(stored)
                .map_err(io::Error::from)
                .and_then(|text| replace(&self.dir.join(TMP), &path, &text)),
            Some(Entry::Unreadable(_)) => Ok(()),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if saved.is_err() {
            // What is on disk holds.
            match self.read(key)? {
                Some(entry) => self.world.objects.insert(key.clone(), entry),
                None => self.world.objects.remove(key),
            };
        }
        saved
    }

    /// Adds a line to the log: one write, so that a kill leaves a whole line or none.
    pub(super) fn note(&mut self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.log.write_all(&text)
    }

    /// Whether `seen` is news to the log. What is as it was is not logged again: a pass with nothing to do
    /// writes nothing.
    pub(super) fn is_news(&mut self, key: &ObjectKey, seen: Seen) -> bool {
        self.logged.insert(key.clone(), seen) != Some(seen)
    }

    /// Forgets what was logged of `key`: it was acted on.
    pub(super) fn acted_on(&mut self, key: &ObjectKey) {
        self.logged.remove(key);
    }

    /// The last lines of the log, for `logs`: all of it may be more than the memory of a box.
    pub(super) fn end_of_log(&self) -> io::Result<String> {
        let mut log = File::open(self.dir.join(LOG))?;
        let start = log.metadata()?.len().saturating_sub(SHOWN);
        // With the byte before it, which tells whether a line begins there.
        log.seek(SeekFrom::Start(start.saturating_sub(1)))?;
        let mut end = Vec::new();
        log.read_to_end(&mut end)?;
        let first = if start == 0 {
            0
        } else {
            end.iter().position(|&byte| byte == b'\n').map_or(end.len(), |at| at + 1)
        };
        Ok(String::from_utf8_lossy(&end[first..]).into_owned())
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.dir.join(OBJECTS).join(file_name(key))
    }
}

/// Writes `path` by way of a temporary file, so that it is never half written.
fn replace(tmp: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = tmp.join("object.json");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

/// The longest name of a file that Linux takes.
const LONGEST: usize = 255;

/// The file that an object is kept in: `Kind:namespace:name.json`, all but plain characters escaped with `%`.
pub(super) fn file_name(key: &ObjectKey) -> String {
    let mut name = escape(&key.kind);
    for part in key.namespace.iter().chain([&key.name]) {
        name.push(':');
        name.push_str(&escape(part));
    }
    name.push_str(".json");
    name
}

/// Whether a file can be called so.
pub(super) fn fits(key: &ObjectKey) -> bool {
    file_name(key).len() <= LONGEST
}

fn escape(part: &str) -> String {
    let mut out = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The object that a file of this name is about; `None` for a file that is none of ours.
fn key_of(name: &str) -> Option<ObjectKey> {
    let parts: Vec<String> = name.strip_suffix(".json")?.split(':').map(unescape).collect::<Option<_>>()?;
    let key = match parts.as_slice() {
        [kind, name] => ObjectKey::new(kind, name),
        [kind, namespace, name] => {
            ObjectKey { kind: kind.clone(), namespace: Some(namespace.clone()), name: name.clone() }
        }
        _ => return None,
    };
    (file_name(&key) == name).then_some(key)
}

fn unescape(part: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_one_file_whatever_its_name() {
        for text in ["Pod/pos", "Role/kube-system/system:node", "Pod/..", "X/a%b/ü"] {
            let key: ObjectKey = text.parse().unwrap();
            let name = file_name(&key);
            assert!(!name.contains('/') && name.is_ascii(), "{name}");
            assert_eq!(key_of(&name), Some(key), "{name}");
        }
    }

    #[test]
    fn a_file_that_no_object_is_kept_in_is_nobodys() {
        for name in ["readme.txt", "Pod.json", "a:b:c:d.json", "Pod:%.json", "Pod:%zz.json", "Pod:%61.json"] {
            assert_eq!(key_of(name), None, "{name}");
        }
    }
}
