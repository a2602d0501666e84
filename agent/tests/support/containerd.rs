//! A real containerd, for what it makes of image archives. It runs nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::tools::{Daemon, printed, run};

/// The namespace that Kubernetes' images are in, k3s's too.
const NAMESPACE: &str = "k8s.io";

/// The daemon; it ends when this is dropped, with all that it holds.
pub struct Containerd {
    _daemon: Daemon,
    dir: TempDir,
}

impl Containerd {
    /// Starts one with a store of its own.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("hf-containerd-").tempdir().unwrap();
        let at = dir.path().display();
        // Snapshots and pods are for who runs something.
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\", \
             \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.overlayfs\", \
             \"io.containerd.snapshotter.v1.zfs\"]\n\
             [grpc]\naddress = \"{at}/grpc.sock\"\n[ttrpc]\naddress = \"{at}/ttrpc.sock\"\n"
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut daemon = Daemon::start("containerd", |command| {
            command.arg("--config").arg(dir.path().join("config.toml"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        });
        let answers = || ctr(&dir).args(["images", "ls", "-q"]).output().is_ok_and(|it| it.status.success());
        daemon.wait_until("containerd", answers);
        Containerd { _daemon: daemon, dir }
    }

    /// Imports an archive as k3s does: for all platforms, and without unpacking it.
    pub fn import(&self, archive: &Path) {
        run(ctr(&self.dir).args(["images", "import", "--all-platforms", "--no-unpack"]).arg(archive));
    }

    /// What the images are called.
    pub fn images(&self) -> Vec<String> {
        printed(ctr(&self.dir).args(["images", "ls", "-q"])).lines().map(str::to_owned).collect()
    }

    /// Whether all of an image is there, as containerd sees it.
    pub fn is_complete(&self, image: &str) -> bool {
        let checked = printed(ctr(&self.dir).args(["images", "check"]).arg(format!("name=={image}")));
        checked.lines().any(|line| line.starts_with(image) && line.contains(" complete "))
    }

    /// A document that is kept.
    pub fn content(&self, digest: &str) -> Value {
        serde_json::from_str(&printed(ctr(&self.dir).args(["content", "get", digest]))).unwrap()
    }
}

fn ctr(dir: &TempDir) -> Command {
    let mut command = Command::new("ctr");
    // Only what has a snapshotter can say what is there.
    command.env("CONTAINERD_SNAPSHOTTER", "native");
    command.arg("--address").arg(dir.path().join("grpc.sock")).args(["--namespace", NAMESPACE]);
    command
}
