//! Named crash points: one after each durable write.
//!
//! With the feature `faults`, `HOLDFAST_FAULT=name` aborts the process the first time that it comes by, and
//! `HOLDFAST_FAULT=name:3` the third time. `HOLDFAST_FAULT=name:3@verdict.bad` counts from the first time that
//! the process came by that mark, one of [`MARKS`]. `HOLDFAST_FAULT_TRACE=file` appends the name of each point
//! and mark that it comes by, a line each: a test finds out there which points something passes.
//! `HOLDFAST_FAULT_HOLD=mark=file` has whoever comes by that mark wait there as long as the file exists: what would
//! come first once in a thousand times comes first each time. `HOLDFAST_FAULT_PANIC=mark` has the first that comes by that
//! mark panic. Without the feature, [`point`] and [`mark`] are empty functions and no name is in the binary. A test
//! starts the agent with each of [`names`] in turn and looks at what the next start makes of it.

/// The points of this crate.
pub const STORE_NAMES: &[&str] = &[
    "anchor.temp-synced",
    "anchor.created",
    "anchor.slot-written",
    "anchor.slot-synced",
    "audit.event-written",
    "audit.page-synced",
    "audit.page-renamed",
    "audit.page-removed",
    "content.temp-synced",
    "content.renamed",
    "content.pinned",
    "content.removed",
    "db.set-aside",
    "db.record-written",
    "db.flushed",
    "keys.temp-synced",
    "keys.renamed",
];

/// The points of the agent.
pub const AGENT_NAMES: &[&str] = &[
    "fetch.pack-synced",
    "fetch.pack-renamed",
    "fetch.objects-stored",
    "accept.floor-staged",
    "executor.intent-written",
    "executor.step-done",
    "executor.transaction-closed",
    "state.saved",
];

/// Where something begins that hits can be counted from, or that can be held. Nothing of it is on the disk yet.
pub const MARKS: &[&str] = &["mirror.collect", "render", "verdict.bad"];

/// Every point there is.
pub fn names() -> impl Iterator<Item = &'static str> {
    STORE_NAMES.iter().chain(AGENT_NAMES).copied()
}

/// Crashes here if the environment asks for it. See the module.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Something begins here. See the module.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn mark(_name: &'static str) {}

/// Crashes here if the environment asks for it. See the module.
#[cfg(feature = "faults")]
pub fn point(name: &'static str) {
    asked_for::came_by(name);
}

/// Something begins here. See the module.
#[cfg(feature = "faults")]
pub fn mark(name: &'static str) {
    asked_for::began(name);
}

/// What the environment asks for, and how far it has come.
#[cfg(feature = "faults")]
mod asked_for {
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use super::{MARKS, names};

    /// How often whoever is held looks whether the file is still there.
    const LOOK: Duration = Duration::from_millis(5);

    struct Wanted {
        name: String,
        hit: u64,
        /// The mark that it is counted from.
        after: Option<String>,
        armed: AtomicBool,
        hits: AtomicU64,
    }

    pub(super) fn came_by(name: &str) {
        trace(name);
        if let Some(wanted) = wanted()
            && wanted.name == name
            && wanted.armed.load(Ordering::SeqCst)
            && wanted.hits.fetch_add(1, Ordering::SeqCst) + 1 == wanted.hit
        {
            // Nothing may run after this: no destructor, no flush.
            std::process::abort();
        }
    }

    pub(super) fn began(mark: &str) {
        trace(mark);
        if let Some(wanted) = wanted()
            && wanted.after.as_deref() == Some(mark)
        {
            wanted.armed.store(true, Ordering::SeqCst);
        }
        if let Some((held, file)) = held()
            && held == mark
        {
            while file.exists() {
                std::thread::sleep(LOOK);
            }
        }
        static PANICKED: AtomicBool = AtomicBool::new(false);
        if panics() == Some(mark) && !PANICKED.swap(true, Ordering::SeqCst) {
            panic!("HOLDFAST_FAULT_PANIC={mark}");
        }
    }

    /// The mark at which to panic once.
    fn panics() -> Option<&'static str> {
        static PANICS: OnceLock<Option<String>> = OnceLock::new();
        let read = || {
            let mark = std::env::var("HOLDFAST_FAULT_PANIC").ok()?;
            if !MARKS.contains(&mark.as_str()) {
                refuse("HOLDFAST_FAULT_PANIC", &mark, "mark");
            }
            Some(mark)
        };
        PANICS.get_or_init(read).as_deref()
    }

    /// The mark at which to wait, and the file that keeps it waiting.
    fn held() -> Option<&'static (String, PathBuf)> {
        static HELD: OnceLock<Option<(String, PathBuf)>> = OnceLock::new();
        let read = || {
            let text = std::env::var("HOLDFAST_FAULT_HOLD").ok()?;
            let held = text.split_once('=').filter(|(mark, _)| MARKS.contains(mark));
            let Some((mark, file)) = held else { refuse("HOLDFAST_FAULT_HOLD", &text, "mark") };
            Some((mark.to_owned(), file.into()))
        };
        HELD.get_or_init(read).as_ref()
    }

    /// A name that doesn't exist ends the process at once: a test of something that never happens proves nothing.
    fn refuse(variable: &str, text: &str, what: &str) -> ! {
        let _ = writeln!(std::io::stderr(), "{variable}={text:?} names no fault {what}");
        std::process::exit(64);
    }

    fn wanted() -> Option<&'static Wanted> {
        static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
        let read = || std::env::var("HOLDFAST_FAULT").ok().map(|text| Wanted::of(&text));
        WANTED.get_or_init(read).as_ref()
    }

    /// One write for a line, so that threads don't mix theirs. A trace that can't be written is none.
    fn trace(name: &str) {
        static TRACE: OnceLock<Option<File>> = OnceLock::new();
        let open = || {
            let path = std::env::var_os("HOLDFAST_FAULT_TRACE")?;
            File::options().create(true).append(true).open(path).ok()
        };
        if let Some(mut file) = TRACE.get_or_init(open).as_ref() {
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
    }

    impl Wanted {
        fn of(text: &str) -> Wanted {
            Wanted::read(text).unwrap_or_else(|| refuse("HOLDFAST_FAULT", text, "point"))
        }

        fn read(text: &str) -> Option<Wanted> {
            let (point, after) = match text.split_once('@') {
                Some((point, mark)) => (point, Some(mark.to_owned())),
                None => (text, None),
            };
            let (name, hit) = point.split_once(':').unwrap_or((point, "1"));
            let hit = hit.parse().ok().filter(|&hit| hit > 0)?;
            let known = names().any(|known| known == name)
                && after.as_deref().is_none_or(|after| MARKS.contains(&after));
            let armed = AtomicBool::new(after.is_none());
            known.then(|| Wanted { name: name.to_owned(), hit, after, armed, hits: AtomicU64::new(0) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The names that the points in the sources under `dir` are called by; `function` is how such a call begins.
    fn used_under(dir: &Path, function: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                used_under(&path, function, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let names =
                    text.split(function).skip(1).filter_map(|call| call.trim_start().strip_prefix('"'));
                let names = names.filter_map(|name| name.split('"').next());
                // A name, and no call that stands in quotes itself, as below.
                let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || ".-".contains(c));
                found.extend(names.filter(is_name).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_point_in_the_store_is_in_the_list_and_every_name_in_the_list_is_a_point() {
        let mut used = BTreeSet::new();
        used_under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "fault::point(", &mut used);
        let listed: BTreeSet<String> = STORE_NAMES.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(used, listed);
    }

    #[test]
    fn every_point_in_the_agent_is_in_the_list_and_every_name_in_the_list_is_a_point() {
        let mut used = BTreeSet::new();
        used_under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), "fault::point(", &mut used);
        // The keeper knows its journal only.
        used_under(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/keeper"),
            "journal.passed(",
            &mut used,
        );
        let listed: BTreeSet<String> = AGENT_NAMES.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(used, listed);
    }

    #[test]
    fn every_mark_is_in_the_list_and_every_name_in_the_list_is_a_mark() {
        let mut used = BTreeSet::new();
        used_under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), "fault::mark(", &mut used);
        let listed: BTreeSet<String> = MARKS.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(used, listed);
    }
}
