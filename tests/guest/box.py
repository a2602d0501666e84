"""The box in the guest, as whoever installs and runs it sees it."""

import json
import os
import time

from machine import Failed, Guest
from services import ROOT, Images, Repository, Server

# How long the box may take on a busy machine without hardware virtualisation.
PATIENCE = 900

AGENT_TOML = """\
[device]
name = "lab/box"
[source]
url = "http://{address}/edge.git"
interval = "60s"
[trust]
mode = "signed"
# Elsewhere than by default, as docs/operations.md allows: the unit hides no folder and has few read-only ones.
[state]
dir = "/srv/state"
[drivers.podman]
[registries."{address}"]
plain_http = true
"""

# The steps of docs/operations.md ("Installing"), for a box with podman.
INSTALL = """\
set -e
fetch() {{ curl -fsS --retry 60 --retry-delay 1 --retry-all-errors -o "$2" "http://{address}/files/$1"; }}
mkdir -p /etc/holdfast
fetch holdfast /usr/bin/holdfast
chmod 0755 /usr/bin/holdfast
fetch holdfast.service /usr/lib/systemd/system/holdfast.service
fetch holdfast-workloads.service /usr/lib/systemd/system/holdfast-workloads.service
fetch holdfast.sysusers /usr/lib/sysusers.d/holdfast.conf
fetch holdfast.tmpfiles /usr/lib/tmpfiles.d/holdfast.conf
fetch agent.toml /etc/holdfast/agent.toml
fetch allowed_signers /etc/holdfast/allowed_signers
systemd-sysusers && systemd-tmpfiles --create
systemctl daemon-reload
systemctl enable --now podman.socket
systemctl enable --now holdfast
"""


def document(kind, name, spec, **more):
    """One of our documents, as JSON, which is YAML."""
    return json.dumps({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec, **more})


class Box:
    """Closed, nothing of it is left but its folder."""

    def __init__(self, base, binary, folder):
        self.guest = Guest(base, folder)
        self.repository = Repository(folder)
        self.images = Images(base.parent)
        self.server = Server(self.repository, self.images)
        self.binary = binary
        self.image = f"{self.server.address}/{self.images.make('1')}"

    def set_up(self, before, files):
        """Boots the guest, runs what must be done before, and installs the agent, whose first commit has the files."""
        self.repository.commit({
            "holdfast.yaml": document("Fleet", "guest", {"policy": {"prune": {"maxApps": 9, "maxShare": "100%"}}}),
            "sites/lab.yaml": document("Site", "lab", {}),
            "devices/lab/box.yaml": document("Device", "lab/box", {"site": "lab"}),
        } | files)
        systemd = {name: (ROOT / "systemd" / name).read_bytes() for name in os.listdir(ROOT / "systemd")}
        self.server.files = systemd | {
            "holdfast": self.binary.read_bytes(),
            "agent.toml": AGENT_TOML.format(address=self.server.address).encode(),
            "allowed_signers": self.repository.allowed_signers().encode(),
        }
        self.guest.copy_disk()
        self.guest.boot()
        self.run(before)
        self.run(INSTALL.format(address=self.server.address), limit=300)

    def close(self):
        self.guest.close()
        self.server.http.shutdown()

    def run(self, script, limit=120):
        return self.guest.run(script, limit)

    def status(self):
        code, text = self.guest.ask("holdfast status --json")
        if code not in (0, 2):
            raise Failed(f"holdfast status ended with {code}: {text}")
        return json.loads(text)

    def app(self, name):
        found = [app for app in self.status()["apps"] if app["name"] == name]
        return found[0] if found else None

    def wait(self, what, look, patience=PATIENCE):
        """Waits until `look` gives something, and gives that."""
        until = time.monotonic() + patience
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > until:
                raise Failed(f"not within {patience} s: {what}\n{self.guest.ask('holdfast status')[1]}")
            time.sleep(2)

    def converge(self, commit=None, patience=PATIENCE):
        """Waits until all of a commit, the newest unless it is named, runs and is good."""
        commit = commit or self.repository.git("rev-parse", "HEAD")

        def look():
            status = self.status()
            return status["revision"]["applied"] == commit and status["converged"]

        self.wait(f"commit {commit[:12]} is applied and converged", look, patience)

    def commit(self, files):
        """Commits, and has the box look at once."""
        commit = self.repository.commit(files)
        self.guest.ask("systemctl reload holdfast")
        return commit

    def get(self, url):
        """What a page says."""
        return self.run(f"curl -fsS --max-time 20 {url}")

    def pod(self, name, container, volumes=None, **spec):
        """The files of an app that is one Deployment with one container."""
        container = {"name": "main", "image": self.image} | container
        pod = {"containers": [container], "terminationGracePeriodSeconds": 1} | spec
        if volumes:
            pod["volumes"] = volumes
        manifest = {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": name}}, "strategy": {"type": "Recreate"},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
            },
        }
        return {f"apps/{name}/manifests/{name}.yaml": json.dumps(manifest)}

    def app_of(self, name, checks=(), soak="2s"):
        """The document of an app in containers."""
        return {f"apps/{name}/app.yaml": document("App", name, {
            "placement": {}, "container": {"namespace": "guest", "driver": "podman"},
            "health": {"startup": "15m", "deadline": "30m", "soak": soak, "checks": list(checks)},
        })}

    def main_pid(self):
        return self.run("systemctl show -p MainPID --value holdfast").strip()

    def tell(self):
        """What may help whoever looks for the cause."""
        if not self.guest.process:
            return "the guest is off"
        try:
            return self.guest.ask("holdfast status; holdfast events | tail -n 30; journalctl -u holdfast -n 40 --no-pager; "
                                  "podman ps -a", 120)[1]
        except Failed as error:
            return str(error)
