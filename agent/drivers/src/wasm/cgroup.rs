//! A cgroup for each workload's process, with limits that the kernel keeps: the fence behind the engine's own. systemd
//! gives the agent its unit's cgroup (`Delegate=`) and starts it in a leaf of that (`DelegateSubgroup=agent`):
//!
//! ```text
//! system.slice/holdfast.service/agent               the agent, and what it compiles
//! system.slice/holdfast.service/wasm/<app>.<pid>    a workload
//! ```
//!
//! Whoever has no such leaf (no systemd, one before 254, cgroups of version 1) gets no cgroups, and says so. The agent
//! doesn't move itself: systemd couldn't start it again in a cgroup that has others below it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_core::release::WasmLimits;

/// Where the kernel shows cgroups of version 2.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The leaf that the unit names.
const LEAF: &str = "agent";
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// What a process may use beside its guests: code, buffers, what the kernel keeps for it.
const OWN_MEMORY: u64 = 64 << 20;
/// The same of the processor, in thousandths: without it one that may use little would take seconds to load.
const OWN_CPU_MILLIS: u64 = 200;
/// In microseconds, as the kernel has it by default.
const PERIOD: u64 = 100_000;
/// Threads: processors, files and a few more.
const THREADS: u32 = 256;

/// The cgroup under which workloads have theirs.
#[derive(Clone, Debug)]
pub(super) struct Groups(Result<PathBuf, String>);

impl Groups {
    /// Makes it ready, where it is given to us.
    pub(super) fn open() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Groups(delegated(Path::new(CGROUPS), &own).and_then(|unit| {
            prepare(&unit).map_err(|error| format!("the cgroup {} can't be used: {error}", unit.display()))
        }))
    }

    /// Whether there are any; if not, why.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.0.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Puts a process into a cgroup of its own. Without cgroups, does nothing.
    pub(super) fn put(&self, app: &str, pid: u32, limits: &WasmLimits) -> io::Result<()> {
        let Ok(all) = &self.0 else { return Ok(()) };
        tidy(all);
        let group = all.join(format!("{app}.{pid}"));
        fs::create_dir(&group)?;
        let set = || {
            for (file, value) in settings(limits) {
                fs::write(group.join(file), value)?;
            }
            fs::write(group.join("cgroup.procs"), pid.to_string())
        };
        set().inspect_err(|_| drop(fs::remove_dir(&group)))
    }
}

fn settings(limits: &WasmLimits) -> [(&'static str, String); 4] {
    let cpu = limits.cpu_millis.map_or_else(
        || format!("max {PERIOD}"),
        |millis| format!("{} {PERIOD}", (u64::from(millis) + OWN_CPU_MILLIS) * PERIOD / 1000),
    );
    [
        ("memory.max", limits.memory.saturating_add(OWN_MEMORY).to_string()),
        ("memory.oom.group", "1".to_owned()),
        ("cpu.max", cpu),
        ("pids.max", THREADS.to_string()),
    ]
}

/// The unit's cgroup, if a process whose `/proc/self/cgroup` is `own` was put into the leaf of one.
fn delegated(root: &Path, own: &str) -> Result<PathBuf, String> {
    let has = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if let Some(lacking) = CONTROLLERS.iter().find(|name| !has.split_whitespace().any(|has| has == **name)) {
        return Err(format!("this system has no cgroups of version 2 with the controller {lacking}"));
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    match Path::new(path).parent().filter(|unit| Path::new(path).ends_with(LEAF) && *unit != Path::new("")) {
        Some(unit) => Ok(root.join(unit)),
        None => {
            Err("the agent does not run in a delegated cgroup: use a unit with DelegateSubgroup=agent, and systemd \
                 254 or newer"
                .into())
        }
    }
}

/// Has the controllers at work, and returns the folder of the workloads' cgroups.
fn prepare(unit: &Path) -> io::Result<PathBuf> {
    let all = unit.join("wasm");
    match fs::create_dir(&all) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let wanted = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    for group in [unit, &all] {
        fs::write(group.join("cgroup.subtree_control"), &wanted)?;
    }
    tidy(&all);
    Ok(all)
}

/// Removes the cgroups of processes that are gone; the kernel keeps those of others.
fn tidy(all: &Path) {
    for group in fs::read_dir(all).into_iter().flatten().flatten() {
        if group.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(group.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leaf_that_systemd_gave_is_used() {
        let root = tempfile::tempdir().unwrap();
        let unit = |own: &str| delegated(root.path(), own);
        assert!(unit("0::/system.slice/holdfast.service/agent\n").unwrap_err().contains("version 2"));
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        assert_eq!(
            unit("0::/system.slice/holdfast.service/agent\n"),
            Ok(root.path().join("system.slice/holdfast.service"))
        );
        for own in ["0::/system.slice/holdfast.service\n", "0::/\n", "0::/agent\n", "4:memory:/x/agent\n", ""]
        {
            assert!(unit(own).unwrap_err().contains("DelegateSubgroup"), "{own}");
        }
    }

    #[test]
    fn the_kernels_limits_leave_room_for_what_is_not_the_guests() {
        let limits = WasmLimits { memory: 64 << 20, cpu_millis: Some(500) };
        let found = settings(&limits);
        assert_eq!(found[0], ("memory.max", (128u64 << 20).to_string()));
        assert_eq!(found[2], ("cpu.max", "70000 100000".to_owned()));
        assert_eq!(settings(&WasmLimits::default())[2].1, "max 100000");
    }

    #[test]
    fn without_cgroups_a_process_is_left_where_it_is() {
        let none = Groups(Err("version 1".into()));
        none.put("pos", 1, &WasmLimits::default()).unwrap();
        assert_eq!(none.ready(), Err("version 1".to_owned()));
    }
}
