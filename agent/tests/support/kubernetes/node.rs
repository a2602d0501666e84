//! A real node: kubelet, containerd and runc, with a scheduler beside them, in namespaces of its own. Pods run, and have
//! addresses; there is no proxy for Services, no DNS, and nothing that makes volumes.
//!
//! The whole cluster is in the node's network namespace, where the agent has to be as well: a test's thread goes there
//! with [`Node::enter`], and whatever it starts is there.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::podman_image::{Image, Wishes};
use super::super::tools::{printed, run};
use super::process::Process;

/// More than the slowest start takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);
const SCRIPT: &str = include_str!("node.sh");
/// The node's address, and that of the bridge that its pods are at: it is there in the node's namespace only.
pub(super) const ADDRESS: &str = "10.88.7.1";
/// What a pod's first container does: nothing.
const PAUSE: &str = "holdfast.test/pause:1";

/// A node. Dropped, all that runs on it ends.
pub(super) struct Node {
    process: Process,
    dir: PathBuf,
    cgroup: String,
}

/// A thread in the network of a node. Dropped, it is back in its own.
pub struct Inside {
    own: File,
}

impl Node {
    /// Makes the namespaces and starts what runs in them. The kubelet waits for its kubeconfig's server.
    pub(super) fn start(program: &Path, dir: &Path, cgroup: &str) -> Self {
        let write = |name: &str, content: &str| fs::write(dir.join(name), content).unwrap();
        write("node.sh", SCRIPT);
        write("containerd.toml", &containerd(dir));
        write("kubelet.yaml", &kubelet(dir, cgroup));
        fs::create_dir_all(dir.join("cni")).unwrap();
        write("cni/10-bridge.conflist", &network(dir));
        let pause =
            Image::new(&Wishes { version: "pause".into(), args: vec!["sleep".into()], ..Wishes::default() });
        fs::write(dir.join("pause.tar"), pause.oci_archive(Some(PAUSE))).unwrap();

        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"]);
        command.arg(dir.join("node.sh")).arg(program).arg(dir).args([cgroup, ADDRESS]);
        let mut node = Node {
            process: Process::run("node", dir, command, None),
            dir: dir.to_owned(),
            cgroup: cgroup.to_owned(),
        };
        node.wait_for("network");
        node
    }

    /// Waits until containerd answers and has what every pod needs.
    pub(super) fn wait_for_runtime(&mut self) {
        self.wait_for("runtime");
    }

    fn wait_for(&mut self, what: &str) {
        let began = Instant::now();
        while !self.dir.join(what).exists() {
            let said = || {
                let log = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
                format!("{}{}{}", log("node.log"), log("import.log"), log("containerd.log"))
            };
            assert!(
                self.process.ended().is_none(),
                "the node ended before its {what} was there:\n{}",
                said()
            );
            assert!(began.elapsed() < PATIENCE, "the node's {what} is not there:\n{}", said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The file that names its network namespace.
    pub(super) fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.process.pid()).into()
    }

    /// Has this thread be in the node's network.
    pub(super) fn enter(&self) -> Inside {
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        setns(File::open(self.network()).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        Inside { own }
    }

    /// Stops the kubelet, as a node that hangs.
    pub(super) fn hang_kubelet(&self) {
        let folder = self.dir.to_str().unwrap();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let arguments = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if arguments.contains("\0real-kubelet\0") && arguments.contains(folder) {
                let pid = entry.file_name().to_str().unwrap().parse().unwrap();
                kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
            }
        }
    }

    /// Puts an image there, under this name, as k3s's importer does.
    pub(super) fn import(&self, image: &Image, name: &str) {
        let mut archive = tempfile::NamedTempFile::new().unwrap();
        archive.write_all(&image.oci_archive(Some(name))).unwrap();
        self.import_archive(archive.path());
    }

    /// The same with an archive.
    pub(super) fn import_archive(&self, archive: &Path) {
        run(self.containerd().args(["images", "import"]).arg(archive));
    }

    /// The names of its images.
    pub(super) fn images(&self) -> String {
        printed(self.containerd().args(["images", "list", "--quiet"]))
    }

    fn containerd(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("containerd.sock")).args(["--namespace", "k8s.io"]);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill();
        remove_cgroups(&self.cgroup);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = setns(&self.own, CloneFlags::CLONE_NEWNET);
    }
}

/// The control groups of what has ended, the innermost first.
fn remove_cgroups(name: &str) {
    let began = Instant::now();
    let remove = || {
        let script = r#"for at in /sys/fs/cgroup/"$0" /sys/fs/cgroup/*/"$0"; do
            [ -d "$at" ] && find "$at" -depth -type d -exec rmdir {} + && exit 1; done; exit 0"#;
        Command::new("sh").args(["-c", script, name]).output().is_ok_and(|done| done.status.success())
    };
    while !remove() && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(100));
    }
}

fn containerd(dir: &Path) -> String {
    let at = dir.display();
    format!(
        r#"version = 2
root = "{at}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{at}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
# The machine of the tests may lack the right to lower it.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{at}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
# The folder may be on an overlay itself.
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

fn kubelet(dir: &Path, cgroup: &str) -> String {
    let at = dir.display();
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {ADDRESS}
# Nobody else is in its network.
authentication: {{ anonymous: {{ enabled: true }}, webhook: {{ enabled: false }} }}
authorization: {{ mode: AlwaysAllow }}
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://{at}/containerd.sock
volumePluginDir: {at}/plugins
failSwapOn: false
localStorageCapacityIsolation: false
# The machine of the tests may be full for others' sake.
evictionHard: {{ memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%" }}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
# Within a test somebody waits for all of these.
syncFrequency: 5s
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
"#
    )
}

fn network(dir: &Path) -> String {
    let at = dir.display();
    format!(
        r#"{{ "cniVersion": "0.4.0", "name": "pods", "plugins": [ {{ "type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {{ "type": "host-local", "dataDir": "{at}/addresses", "ranges": [ [ {{ "subnet": "10.88.7.0/24", "rangeStart":
  "10.88.7.10", "gateway": "{ADDRESS}" }} ] ], "routes": [ {{ "dst": "0.0.0.0/0" }} ] }} }} ] }}
"#
    )
}
