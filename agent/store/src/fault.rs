//! Named crash points: one at each place after which the disk holds something that it didn't hold before.
//!
//! With the feature `faults`, `HOLDFAST_FAULT=name` aborts the process the first time that it comes by, and
//! `HOLDFAST_FAULT=name:3` the third time. Without the feature, [`point`] is an empty function and no name is
//! in the binary. A test starts the agent with each of [`NAMES`] in turn and looks at what the next start
//! makes of it.

/// The points of this crate.
pub const STORE_NAMES: &[&str] = &[
    "anchor.temp-synced",
    "anchor.created",
    "anchor.slot-written",
    "anchor.slot-synced",
    "audit.event-written",
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
    "accept.floor-written",
    "executor.intent-written",
    "executor.step-done",
    "executor.transaction-closed",
    "state.saved",
];

/// Every point there is.
pub fn names() -> impl Iterator<Item = &'static str> {
    STORE_NAMES.iter().chain(AGENT_NAMES).copied()
}

/// Crashes here if the environment asks for it. See the module.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Crashes here if the environment asks for it. See the module.
#[cfg(feature = "faults")]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    let wanted = WANTED.get_or_init(|| std::env::var("HOLDFAST_FAULT").ok().map(|text| Wanted::of(&text)));
    if let Some(wanted) = wanted
        && wanted.name == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == wanted.hit
    {
        // Nothing may run after this: no destructor, no flush.
        std::process::abort();
    }
}

/// What `HOLDFAST_FAULT` asks for.
#[cfg(feature = "faults")]
struct Wanted {
    name: String,
    hit: u64,
}

#[cfg(feature = "faults")]
impl Wanted {
    /// A name that doesn't exist ends the process at once: a crash test that never crashes proves nothing.
    fn of(text: &str) -> Wanted {
        let (name, hit) = text.split_once(':').unwrap_or((text, "1"));
        match hit.parse() {
            Ok(hit) if hit > 0 && names().any(|known| known == name) => Wanted { name: name.to_owned(), hit },
            _ => {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "HOLDFAST_FAULT={text:?} names no fault point");
                std::process::exit(64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The names that the points in the sources under `dir` are called by.
    fn used_under(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                used_under(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let calls = text.split(concat!("fault::", "point(")).skip(1);
                found.extend(calls.filter_map(|call| Some(call.trim_start().split('"').nth(1)?.to_owned())));
            }
        }
    }

    #[test]
    fn every_point_in_the_store_is_in_the_list_and_every_name_in_the_list_is_a_point() {
        let mut used = BTreeSet::new();
        used_under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut used);
        let listed: BTreeSet<String> = STORE_NAMES.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(used, listed);
    }

    #[test]
    fn every_point_in_the_agent_is_in_the_list_and_every_name_in_the_list_is_a_point() {
        let mut used = BTreeSet::new();
        used_under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut used);
        let listed: BTreeSet<String> = AGENT_NAMES.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(used, listed);
    }
}
