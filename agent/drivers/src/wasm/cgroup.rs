//! A cgroup for each workload's process, with limits that the kernel enforces, behind the engine's own. A unit beside the
//! agent's has the cgroup that they are in, which is given to us (`Delegate=`), and a process that keeps it there:
//!
//! ```text
//! system.slice/holdfast.service                         the agent, and what it compiles
//! system.slice/holdfast-workloads.service/hold          what keeps the unit there: it sleeps
//! system.slice/holdfast-workloads.service/<app>.<pid>   a workload
//! ```
//!
//! They can't be in the agent's own unit: a service is started in the unit's cgroup, and the kernel lets nobody into one
//! that has others with controllers below it, so the agent could not be started again while a workload runs (systemd since
//! 258, and each where the agent isn't in a leaf). Whoever has no such unit gets no cgroups, and says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use holdfast_core::release::WasmLimits;
use nix::errno::Errno;

/// Where the kernel shows cgroups of version 2.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The unit whose cgroup is given to us, beside the agent's own.
const UNIT: &str = "holdfast-workloads.service";
/// The leaf that its process is in.
const LEAF: &str = "hold";
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// What a process may use beside its guests: code, buffers, what the kernel keeps for it.
const OWN_MEMORY: u64 = 64 << 20;
/// The same of the processor, in thousandths: without it one that may use little would take seconds to load.
const OWN_CPU_MILLIS: u64 = 200;
/// In microseconds, as the kernel has it by default.
const PERIOD: u64 = 100_000;
/// Threads: processors, files and a few more.
const THREADS: u32 = 256;

/// Held while a cgroup is made, and while those of processes that are gone are removed.
static MAKING: Mutex<()> = Mutex::new(());

/// The cgroup under which workloads have theirs.
#[derive(Clone, Debug)]
pub(super) struct Groups(Result<PathBuf, String>);

impl Groups {
    /// Makes it ready, where it is given to us.
    pub(super) fn open() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Groups(delegated(Path::new(CGROUPS), &own).and_then(|unit| match prepare(&unit) {
            Ok(()) => Ok(unit),
            Err(error) => Err(format!("the cgroup {} can't be used: {error}", unit.display())),
        }))
    }

    /// Whether there are any; if not, why.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.0.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Puts a process into a cgroup of its own. Without cgroups, does nothing.
    pub(super) fn put(&self, app: &str, pid: u32, limits: &WasmLimits) -> io::Result<()> {
        let Ok(all) = &self.0 else { return Ok(()) };
        // One that is being made is as empty as one whose process is gone.
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
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

/// The cgroup of the workloads' unit, which is beside that of the agent, whose `/proc/self/cgroup` is `own`; the agent may
/// be in a leaf of its unit.
fn delegated(root: &Path, own: &str) -> Result<PathBuf, String> {
    let has = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if let Some(lacking) = CONTROLLERS.iter().find(|name| !has.split_whitespace().any(|has| has == **name)) {
        return Err(format!("this system has no cgroups of version 2 with the controller {lacking}"));
    }
    let path = Path::new(own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default());
    let beside = path.ancestors().skip(1).take(2).map(|above| root.join(above).join(UNIT));
    let mut running = beside.filter(|unit| unit.is_dir());
    running.next().ok_or_else(|| format!("{UNIT} is not running beside the agent"))
}

/// Has the controllers at work below the unit, whose own process must be in a leaf for that.
fn prepare(unit: &Path) -> io::Result<()> {
    let leaf = unit.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for pid in fs::read_to_string(unit.join("cgroup.procs"))?.lines() {
        match fs::write(leaf.join("cgroup.procs"), pid) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
            moved => moved?,
        }
    }
    let wanted = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    fs::write(unit.join("cgroup.subtree_control"), &wanted)
}

/// Removes the cgroups of processes that are gone; the kernel keeps those of others.
fn tidy(all: &Path) {
    for group in fs::read_dir(all).into_iter().flatten().flatten() {
        if group.file_name() != LEAF && group.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(group.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_put_beside_the_agents_unit_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let unit = |own: &str| delegated(root.path(), own);
        assert!(unit("0::/system.slice/holdfast.service\n").unwrap_err().contains("version 2"));
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        assert!(unit("0::/system.slice/holdfast.service\n").unwrap_err().contains(UNIT));
        let given = root.path().join("system.slice").join(UNIT);
        fs::create_dir_all(&given).unwrap();
        for own in ["0::/system.slice/holdfast.service\n", "0::/system.slice/holdfast.service/agent\n"] {
            assert_eq!(unit(own), Ok(given.clone()), "{own}");
        }
        for own in [
            "0::/user.slice/a.scope\n",
            "0::/system.slice/a/b/c\n",
            "0::/\n",
            "4:memory:/system.slice/a\n",
            "",
        ] {
            assert!(unit(own).unwrap_err().contains(UNIT), "{own}");
        }
    }

    #[test]
    fn the_units_own_process_is_moved_into_a_leaf_which_stays() {
        let unit = tempfile::tempdir().unwrap();
        fs::write(unit.path().join("cgroup.procs"), "17\n").unwrap();
        fs::create_dir(unit.path().join("gone.9")).unwrap();
        prepare(unit.path()).unwrap();
        assert_eq!(fs::read_to_string(unit.path().join("hold/cgroup.procs")).unwrap(), "17");
        assert_eq!(
            fs::read_to_string(unit.path().join("cgroup.subtree_control")).unwrap(),
            "+memory +cpu +pids"
        );
        assert!(unit.path().join("gone.9").exists(), "it may be one that is being made");
        tidy(unit.path());
        assert!(unit.path().join("hold").exists() && !unit.path().join("gone.9").exists());
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
