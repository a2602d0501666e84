//! What a podman leaves on the machine, found and removed: processes, mounts, namespaces, interfaces and rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The programs that run containers, in the order in which the tests take one, and the file in which each says of a container
/// where it came from.
const RUNTIMES: [(&str, &str); 2] = [("runc", "state.json"), ("crun", "status")];

/// The runtime that this machine has. runc takes every arrangement of cgroups, which crun 1.8 doesn't.
pub fn runtime() -> &'static str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there =
        |(name, _): &(&str, &str)| std::env::split_paths(&path).any(|folder| folder.join(name).exists());
    RUNTIMES.into_iter().find(there).unwrap_or(RUNTIMES[0]).0
}

/// What there was on the machine before this podman: nothing of it is touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before(BTreeSet<String>);

impl Before {
    /// Looks at what podman leaves for the whole machine, a line for each.
    pub fn look() -> Self {
        let mut seen = BTreeSet::new();
        for (kind, folder) in [("netns", "/run/netns"), ("link", "/sys/class/net")] {
            seen.extend(names(Path::new(folder)).into_iter().map(|name| format!("{kind} {name}")));
        }
        let dns = numbers("/proc").into_iter().filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "aardvark-dns")
        });
        seen.extend(dns.map(|pid| format!("dns {pid}")));
        // Netavark's chains stay by design; the ways to a container mustn't.
        let rules = Command::new("iptables").args(["-w", "-t", "nat", "-S"]).output();
        let rules =
            rules.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let ours = |line: &&str| {
            line.starts_with("-A NETAVARK-DN-") || line.starts_with("-A NETAVARK-HOSTPORT-DNAT ")
        };
        seen.extend(rules.lines().filter(ours).map(|line| format!("rule {line}")));
        Before(seen)
    }

    pub fn parse(text: &str) -> Self {
        Before(text.lines().map(str::to_owned).collect())
    }

    pub fn text(&self) -> String {
        self.0.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// What is there now and wasn't before.
    pub fn since(&self) -> Vec<String> {
        Self::look().0.difference(&self.0).cloned().collect()
    }
}

/// Removes every trace of the podman that had its store in this folder, too.
pub fn clear(dir: &Path, before: &Before) {
    clear_but_disk(dir, &dir.join("root"), before);
}

/// Kills what runs, unmounts, and takes back what is in the kernel; the store's files stay.
pub fn clear_but_disk(dir: &Path, store: &Path, before: &Before) {
    let containers = containers(store);
    let began = Instant::now();
    loop {
        let left = processes(dir, &containers);
        if left.is_empty() || began.elapsed() > Duration::from_secs(10) {
            break;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for container in &containers {
        for (runtime, _) in RUNTIMES {
            if Path::new("/run").join(runtime).join(container).exists() {
                let _ = Command::new(runtime).args(["delete", "--force", container]).output();
            }
        }
    }
    for trace in before.since() {
        let Some((kind, name)) = trace.split_once(' ') else { continue };
        match kind {
            "netns" if name.starts_with("netns-") => {
                // The interfaces in it go with it.
                let file = Path::new("/run/netns").join(name);
                let _ = Command::new("umount").arg("-l").arg(&file).output();
                let _ = fs::remove_file(file);
            }
            "rule" => {
                let rule = name.replacen("-A", "-D", 1);
                let _ = Command::new("sh").arg("-c").arg(format!("iptables -w -t nat {rule}")).output();
            }
            "dns" => {
                let _ = name.parse().map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
            }
            _ => {}
        }
    }
    // Bridges last, when nothing hangs on them. Pairs may be gone with their namespace a moment later.
    let bridge = |trace: &str| {
        let name =
            trace.strip_prefix("link ").filter(|name| name.starts_with("podman") || name.starts_with("veth"));
        name.map(str::to_owned)
    };
    for link in before.since().iter().filter_map(|trace| bridge(trace)) {
        let _ = Command::new("ip").args(["link", "delete", &link]).output();
    }
    unmount(dir);
    for container in &containers {
        remove_cgroups(container);
    }
}

/// Unmounts what is mounted below, the deepest first.
pub fn unmount(dir: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = below.filter(|mount| mount.starts_with(dir) && mount != dir).collect();
    below.sort_by_key(|mount| std::cmp::Reverse(mount.components().count()));
    for mount in below {
        let _ = Command::new("umount").arg("-l").arg(mount).output();
    }
}

/// The ids of the containers of this store: known to podman or not, down to what a service killed within a start
/// leaves after the container's removal, which is a conmon with a `runc init`.
pub fn containers(store: &Path) -> Vec<String> {
    let hex = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut ids: BTreeSet<String> = names(&store.join("overlay-containers")).into_iter().collect();
    let mark = store.to_string_lossy().into_owned();
    for pid in numbers("/proc") {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("conmon") && line.contains(&mark) {
            ids.extend(line.split('\0').map(str::to_owned));
        }
    }
    for (runtime, state) in RUNTIMES {
        let folder = Path::new("/run").join(runtime);
        ids.extend(names(&folder).into_iter().filter(|id| {
            fs::read_to_string(folder.join(id).join(state)).is_ok_and(|state| state.contains(&mark))
        }));
    }
    ids.retain(|id| hex(id));
    ids.into_iter().collect()
}

/// The processes whose command line names the folder, and those in a cgroup of one of the containers.
pub fn processes(dir: &Path, containers: &[String]) -> Vec<i32> {
    let mark = dir.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for pid in numbers("/proc") {
        // A process that has gone meanwhile can't be read; one that nobody waited for has no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let inside = || containers.iter().any(|id| cgroups.contains(id.as_str()));
        if !line.is_empty() && (String::from_utf8_lossy(&line).contains(&mark) || inside()) {
            found.push(pid);
        }
    }
    found
}

fn remove_cgroups(container: &str) {
    for controller in names(Path::new("/sys/fs/cgroup")).into_iter().chain([String::new()]) {
        for scope in [format!("libpod-{container}"), format!("libpod-conmon-{container}")] {
            let _ = fs::remove_dir(
                Path::new("/sys/fs/cgroup").join(&controller).join("libpod_parent").join(scope),
            );
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn numbers(folder: &str) -> Vec<i32> {
    names(Path::new(folder)).iter().filter_map(|name| name.parse().ok()).collect()
}
