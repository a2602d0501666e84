//! The demo's apps as containers: an image for each version, from a registry of the demo's own, and this program as
//! the web server in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::registry::Registry;
use super::web::{COMMAND, HEALTH_FILE, TEXT_FILE};

/// Where podman is served by itself.
const SOCKET: &str = "/run/podman/podman.sock";
/// How long a service may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where programs that aren't static find their libraries.
const LIBRARIES: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];

/// podman, and the registry that it gets its images from by way of the agent.
pub(super) struct Containers {
    socket: PathBuf,
    registry: Registry,
    /// The service, if the demo had to start one.
    service: Option<Child>,
}

impl Containers {
    /// Uses the podman at `socket`, or the box's own; where none is served, starts a service of the demo's own.
    pub(super) fn find(socket: Option<&Path>, dir: &Path) -> Result<Self> {
        let registry = Registry::start()?;
        let socket = socket.unwrap_or(Path::new(SOCKET));
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return Ok(Containers { socket: socket.to_owned(), registry, service: None });
        }
        if socket != Path::new(SOCKET) {
            bail!("nothing answers at {}: start podman there, or leave the socket out", socket.display());
        }
        let socket = dir.join("podman.sock");
        let service = Command::new("podman")
            .args(["system", "service", "--time", "0"])
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| {
                format!("nothing answers at {SOCKET}, and podman can't be started: install podman")
            })?;
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if began.elapsed() > PATIENCE {
                bail!(
                    "`podman system service` did not come up within {PATIENCE:?}: see what `podman info` says"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Containers { socket, registry, service: Some(service) })
    }

    /// Where podman is served.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The sections of agent.toml for it.
    pub(super) fn agent_toml(&self, dir: &Path) -> String {
        format!(
            "[drivers.podman]\nsocket = \"{}\"\nrun_dir = \"{}/podman\"\n[registries.\"{}\"]\nplain_http = true\n",
            self.socket.display(),
            dir.display(),
            self.registry.host()
        )
    }

    /// Makes an image that answers `text`, and gives the manifests of an app that runs it at `port`.
    pub(super) fn manifests(&self, name: &str, port: u16, text: &str, health: u16) -> Result<String> {
        let health = health.to_string();
        let files = [(TEXT_FILE, text.as_bytes()), (HEALTH_FILE, health.as_bytes())];
        let image = self.registry.push(name, &files)?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut mounts = "            - { name: program, mountPath: /holdfast, readOnly: true }\n".to_owned();
        let mut volumes = format!(
            "        - {{ name: program, hostPath: {{ path: \"{}\", type: File }} }}\n",
            program.display()
        );
        for (index, library) in LIBRARIES.iter().enumerate().filter(|(_, path)| fs::metadata(path).is_ok()) {
            mounts.push_str(&format!(
                "            - {{ name: lib-{index}, mountPath: {library}, readOnly: true }}\n"
            ));
            volumes
                .push_str(&format!("        - {{ name: lib-{index}, hostPath: {{ path: {library} }} }}\n"));
        }
        Ok(format!(
            r#"apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 5
      containers:
        - name: {name}
          image: {image}
          command: [/holdfast, {COMMAND}, "{port}"]
          readinessProbe: {{ httpGet: {{ path: /, port: {port} }}, periodSeconds: 1 }}
          volumeMounts:
{mounts}      volumes:
{volumes}"#
        ))
    }

    /// The service goes on when the demo ends.
    pub(super) fn leave_running(&mut self) {
        self.service = None;
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            // It may have ended by itself.
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}
