//! Processes that end, and who still has files open.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// More than any process takes to end on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a process is gone with all that it had open: it isn't there, or waits for its parent to ask how it ended and
/// has no other thread. (Its own `/proc/PID/fd` is empty before: a process closes its files when the last of its
/// threads ends, and that is any of them.)
pub fn is_gone(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // proc_pid_stat(5): the state comes after the name, which may have anything in it.
    let ended = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    ended && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}

/// Waits until it is; it was killed before.
pub fn wait_until_gone(pid: i32) {
    let began = Instant::now();
    while !is_gone(pid) {
        assert!(began.elapsed() < PATIENCE, "process {pid} doesn't end: {}", name(pid));
        thread::sleep(Duration::from_millis(5));
    }
}

/// Who has something open below `dir`, a line for each process with what it is.
pub fn holders(dir: &Path) -> Vec<String> {
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let held = held_by(&entry.path(), dir);
        if !held.is_empty() {
            holders.push(format!("{pid} ({}): {held:?}", name(pid)));
        }
    }
    holders
}

fn held_by(process: &Path, dir: &Path) -> Vec<PathBuf> {
    let links = |folder: &str| {
        fs::read_dir(process.join(folder)).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let single = ["cwd", "root", "exe"].map(|name| process.join(name));
    let all = single.into_iter().chain(links("fd")).chain(links("map_files"));
    let mut held: Vec<PathBuf> =
        all.filter_map(|link| fs::read_link(link).ok()).filter(|to| to.starts_with(dir)).collect();
    held.dedup();
    held
}

/// State and command line.
fn name(pid: i32) -> String {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
    let status = text(read("status"));
    let lines = status.lines().filter(|line| line.starts_with("Name:") || line.starts_with("State:"));
    lines.chain([text(read("cmdline")).as_str()]).collect::<Vec<_>>().join(" ")
}
