"""A podman of the bench's own, a registry on the loopback, and images of the tests' web server.

As in agent/tests/support/podman.rs: a store, runtime folder and network of its own, and the same lock, which says who
clears what a killed run left."""

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from datetime import datetime
from pathlib import Path

from box import FOLDER, UnixConnection, run
from process import _read, wait_until

LOCK = "/tmp/holdfast-podman-tests.lock"
API = "/v4.0.0/libpod"
SOURCE = Path(__file__).resolve().parents[2] / "agent/tests/support/webapp.rs"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Podman:
    """A podman service and its command line. Closed, it takes its containers, mounts and files with it.

    `alone`: no other podman of the tests runs meanwhile. Not needed where every app is on the box's own network: only
    bridges, DNS and rules of the firewall are the whole machine's."""

    def __init__(self, alone=True):
        self.lock, self.notes = None, False
        if alone:
            self.lock = open(LOCK, "a+", encoding="utf-8")
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            self.lock.seek(0)
            # What a killed test left is for the next test to clear: the note stays as it is, and nothing of it is in
            # the way.
            self.notes = not self.lock.read().strip()
        self.dir = Path(tempfile.mkdtemp(prefix="hf-podman-", dir=FOLDER))
        self.service = None
        self._note(f"{self.dir}\n" + "\n".join(traces()))
        for folder in ("root", "run", "tmp", "net", "copy"):
            (self.dir / folder).mkdir()
        (self.dir / "containers.conf").write_text(conf(self.dir))
        self.environment = {**os.environ, "CONTAINERS_CONF": f"{self.dir}/containers.conf", "TMPDIR": f"{self.dir}/copy"}
        for name in ("CONTAINER_HOST", "XDG_RUNTIME_DIR"):
            self.environment.pop(name, None)
        try:
            self.serve()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def socket(self):
        return self.dir / "podman.sock"

    def command(self, *arguments):
        """podman's command line on this store. No default of the machine matters."""
        folders = [("root", "root"), ("runroot", "run"), ("tmpdir", "tmp"), ("network-config-dir", "net")]
        return ["podman", *(f"--{flag}={self.dir / folder}" for flag, folder in folders), *map(str, arguments)]

    def cli(self, *arguments):
        # To files: a conmon that is started here lives on, and would keep a pipe open.
        with tempfile.TemporaryFile() as out:
            done = subprocess.run(self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.STDOUT, timeout=120)
            out.seek(0)
            text = out.read().decode(errors="replace").strip()
        if done.returncode != 0:
            raise RuntimeError(f"podman {' '.join(map(str, arguments))} ended with {done.returncode}: {text}")
        return text

    def serve(self):
        """Starts the service, killing one that runs."""
        self.kill_service()
        self.socket.unlink(missing_ok=True)
        with open(self.dir / "service.log", "ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", "--"]
            command += self.command("system", "service", "--time", "0", f"unix://{self.socket}")
            self.service = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("podman's service", self._answers)

    def _answers(self):
        if self.service.poll() is not None:
            raise RuntimeError(f"podman's service ended: {(self.dir / 'service.log').read_text()[-2000:]}")
        try:
            return self.api("GET", "/version")
        except OSError:
            return None

    def kill_service(self):
        if self.service is not None:
            self.service.kill()
            self.service.wait()
        self.service = None

    def api(self, method, path):
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, API + path)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"podman answered {method} {path} with {answer.status}: {text[:500]}")
            return json.loads(text) if text else None
        finally:
            connection.close()

    def containers(self):
        return self.api("GET", "/containers/json?all=true") or []

    def events(self):
        """What happened to containers: seconds since 1970, the action, the container's name."""
        found = []
        for line in (self.dir / "tmp/events/events.log").read_text().splitlines():
            event = json.loads(line)
            found.append((seconds(event["Time"]), event["Status"], event.get("Name", "")))
        return found

    def conmons(self):
        """The processes that watch over containers."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                line = _read(pid, "cmdline")
                if "conmon" in line.partition("\0")[0] and str(self.dir) in line:
                    found.append(int(pid))
        return found

    def power_cut(self):
        """No process, mount or file in memory is there any more; what is on disk stays. Starts no service."""
        there = self.containers()
        self.kill_service()
        for pid in [*self.conmons(), *(container["Pid"] for container in there if container["Pid"])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        for container in there:
            if os.path.exists(f"/run/runc/{container['Id']}"):
                subprocess.run(["runc", "delete", "--force", container["Id"]], capture_output=True)
        self._unmount()
        for folder in ("run", "tmp"):
            shutil.rmtree(self.dir / folder)
            (self.dir / folder).mkdir()

    def _unmount(self):
        below = [line.split()[1] for line in open("/proc/mounts") if line.split()[1].startswith(f"{self.dir}/")]
        for mount in sorted(below, key=len, reverse=True):
            subprocess.run(["umount", "-l", mount], capture_output=True)

    def close(self):
        try:
            self.kill_service()
            for _ in range(2):
                with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                    self.cli("rm", "--all", "--force", "--volumes", "--time", "0")
                    self.cli("pod", "rm", "--all", "--force")
            for pid in self.conmons():
                os.kill(pid, signal.SIGKILL)
            self._unmount()
            shutil.rmtree(self.dir)
            self._note("")
        finally:
            if self.lock is not None:
                self.lock.close()

    def _note(self, text):
        if not self.notes:
            return
        self.lock.seek(0)
        self.lock.truncate()
        self.lock.write(text)
        self.lock.flush()


def traces():
    """What there is for the whole machine, in the words of agent/tests/support/podman_traces.rs: whoever clears what
    this run leaves lets these be."""
    for kind, folder in (("netns", "/run/netns"), ("link", "/sys/class/net")):
        with contextlib.suppress(FileNotFoundError):
            yield from (f"{kind} {name}" for name in os.listdir(folder))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if _read(pid, "comm").strip() == "aardvark-dns":
                yield f"dns {pid}"
    rules = subprocess.run(["iptables", "-w", "-t", "nat", "-S"], capture_output=True, text=True).stdout.splitlines()
    yield from (f"rule {rule}" for rule in rules
                if rule.startswith(("-A NETAVARK-DN-", "-A NETAVARK-HOSTPORT-DNAT ")))


def conf(folder):
    return f"""[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
image_copy_tmp_dir = "{folder}/copy"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/net"
"""


def seconds(stamp):
    """A time in RFC 3339 as seconds since 1970."""
    return datetime.fromisoformat(stamp).timestamp()


class Registry:
    """Debian's docker-registry on a port of the loopback."""

    def __init__(self, port):
        self.port = port
        self.dir = Path(tempfile.mkdtemp(prefix="holdfast-registry-", dir=FOLDER))
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": f"{self.dir}/data"}},
            "http": {"addr": self.host, "secret": "bench"},
        }
        (self.dir / "config.yml").write_text(json.dumps(config))
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(["docker-registry", "serve", self.dir / "config.yml"], **quiet)
        wait_until("the registry", self._answers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)

    def _answers(self):
        try:
            return self._ask("GET", "/v2/") is not None
        except OSError:
            return False

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    def _ask(self, method, path, body=None, kind="application/octet-stream"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"the registry answered {method} {path} with {answer.status}: {text[:500]}")
            return answer.headers
        finally:
            connection.close()

    def push(self, name, version, program):
        """An image of the web server that answers this version; gives its reference by digest."""
        layer = tar({"webapp": (0o755, program), "version": (0o644, version.encode())})
        packed = gzip.compress(layer, mtime=0)
        config = json.dumps({
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": ["/webapp"], "Env": ["ANSWER_FILE=/version"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }).encode()
        for blob in (config, packed):
            location = self._ask("POST", f"/v2/{name}/blobs/uploads/")["Location"]
            path = location.partition(self.host)[2] or location
            self._ask("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest(blob)}", blob)
        described = lambda kind, blob: {"mediaType": kind, "digest": digest(blob), "size": len(blob)}
        manifest = json.dumps({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described("application/vnd.oci.image.config.v1+json", config),
            "layers": [described("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
        }).encode()
        self._ask("PUT", f"/v2/{name}/manifests/{version}", manifest, MANIFEST)
        return f"{self.host}/{name}@{digest(manifest)}"


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (mode, content) in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def web_server():
    """The tests' web server, compiled into one static file."""
    with tempfile.TemporaryDirectory(prefix="holdfast-webapp-", dir=FOLDER) as folder:
        made = Path(folder) / "webapp"
        flags = ["-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-C", "panic=abort"]
        run("rustc", "--edition", "2024", *flags, "--crate-name", "webapp", "-o", made, SOURCE)
        return made.read_bytes()
