//! podman without root: its service and its containers are another user's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chown};
use tempfile::TempDir;

use crate::shop::{get, wait_for, web_server};
use crate::support::agent_box::AgentBox;
use crate::support::git_repo::Signer;
use crate::support::ports::free_port;
use crate::support::registry::Registry;

/// The user; no account has the number.
const USER: u32 = 1_234_567;

/// Without `/etc/subuid` podman maps the one user, which is enough for images whose files are root's.
const CONTAINERS_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\"]\nlog_driver = \"k8s-file\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n[network]\nnetwork_backend = \"netavark\"\n";

/// A podman service of that user. Dropped, it takes all of the user's processes with it.
struct Rootless {
    dir: TempDir,
    service: Child,
}

impl Rootless {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("containers.conf"), CONTAINERS_CONF).unwrap();
        for folder in ["home", "run"] {
            let folder = dir.path().join(folder);
            fs::create_dir(&folder).unwrap();
            chown(&folder, Some(USER.into()), Some(USER.into())).unwrap();
        }
        let socket = format!("unix://{}", dir.path().join("run/podman.sock").display());
        let service = Command::new("setpriv")
            .args([
                &format!("--reuid={USER}"),
                &format!("--regid={USER}"),
                "--clear-groups",
                "--pdeathsig=KILL",
            ])
            .args(["--", "podman", "system", "service", "--time", "0", &socket])
            .current_dir("/")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", dir.path().join("home"))
            .env("XDG_RUNTIME_DIR", dir.path().join("run"))
            .env("CONTAINERS_CONF", dir.path().join("containers.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let rootless = Rootless { dir, service };
        wait_for("podman serves", || std::os::unix::net::UnixStream::connect(rootless.socket()).ok());
        rootless
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("run/podman.sock")
    }

    /// The user's processes whose command line has `word`.
    fn processes(&self, word: &str) -> Vec<i32> {
        let ours = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|found| found.uid() == USER);
        let named = |entry: &fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let found = entries.filter(|entry| ours(entry) && named(entry));
        found.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let _ = self.service.kill();
        for pid in self.processes("") {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.service.wait();
    }
}

#[test]
fn an_app_runs_changes_and_is_put_right_on_a_podman_without_root() {
    let (podman, registry, port) = (Rootless::start(), Registry::start(), free_port());
    let more = format!(
        "[drivers.podman]\nsocket = \"{}\"\nrun_dir = \"{{dir}}/podman\"\n[registries.\"{}\"]\nplain_http = true\n",
        podman.socket().display(),
        registry.host()
    );
    let mut agent = AgentBox::with(&more);
    let write = |agent: &AgentBox, version: &str| {
        let digest = registry.push("pos", version, &web_server(version));
        let image = format!("{}/pos@{digest}", registry.host());
        let app = "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: { name: pos }\nspec:\n  placement: {}\n  container: { driver: podman }\n  health: { startup: 5s, deadline: 30s, soak: 300ms }\n";
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: pos }}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 5\n  containers:\n    - name: pos\n      image: {image}\n      env: [ {{ name: PORT, value: \"{port}\" }} ]\n      readinessProbe: {{ httpGet: {{ path: /healthz, port: {port} }}, periodSeconds: 1 }}\n"
        );
        agent.repo.write(&[("apps/pos/app.yaml", app), ("apps/pos/manifests/pod.yaml", &manifest)]);
        agent.repo.commit(&[], Signer::Ops)
    };
    let address = format!("127.0.0.1:{port}");
    let commit = write(&agent, "1");
    agent.start(&[]);
    agent.wait_converged(&commit);
    assert_eq!(get(&address, "/").unwrap(), "1");
    let commit = write(&agent, "2");
    agent.signal(Signal::SIGHUP);
    agent.wait_converged(&commit);
    assert_eq!(get(&address, "/").unwrap(), "2");

    // Its process is killed: it is another user's, and that is seen all the same.
    let killed = podman.processes("/webapp");
    let server = *killed.iter().max().unwrap();
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    wait_for("it is back", || {
        get(&address, "/").ok().filter(|_| !podman.processes("/webapp").contains(&server))
    });
}
